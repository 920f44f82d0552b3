import numpy as np
import pytest

from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, load_tokens, train_validation_split, write_tokens
from chapters.support.readers import read_text


def test_targets_are_the_inputs_shifted_by_one():
    inputs, targets = NextTokenBatches(np.arange(100, dtype=np.uint16), context=7, batch_size=5).batch(3)
    assert inputs.shape == targets.shape == (5, 7)
    assert inputs.dtype == targets.dtype == np.int64
    np.testing.assert_array_equal(targets, inputs + 1)  # the tokens are 0, 1, 2, …


def test_a_batch_depends_on_seed_and_step_alone():
    tokens = np.random.default_rng(0).integers(0, 50, 1000)
    first, second = (NextTokenBatches(tokens, 16, 4, seed=5) for _ in range(2))
    for step in (9, 0, 3):  # in any order
        first.batch(step + 1)
        np.testing.assert_array_equal(first.batch(step)[0], second.batch(step)[0])
    assert (first.batch(0)[0] != first.batch(1)[0]).any()
    assert (first.batch(0)[0] != NextTokenBatches(tokens, 16, 4, seed=6).batch(0)[0]).any()


def test_every_window_can_be_drawn():
    batches = NextTokenBatches(np.arange(6), context=4, batch_size=64)  # exactly two windows: 0..4 and 1..5
    starts = {int(row[0]) for row in batches.batch(0)[0]}
    assert starts == {0, 1}
    assert batches.batch(0)[1].max() == 5  # the last token is a target


@pytest.mark.parametrize("largest, dtype", [(65535, np.uint16), (65536, np.uint32)])
def test_tokens_come_back_from_disk(tmp_path, largest, dtype):
    ids = np.array([0, 7, largest, 1])
    tokens = write_tokens(tmp_path / "tokens.bin", ids)
    assert isinstance(tokens, np.memmap) and tokens.dtype == dtype
    np.testing.assert_array_equal(tokens, ids)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.bin"]


def test_a_large_array_is_written_in_parts(tmp_path):
    ids = np.arange((1 << 20) + 3) % 70_000
    np.testing.assert_array_equal(write_tokens(tmp_path / "tokens.bin", ids), ids)


def test_every_token_once_covers_the_text():
    batches = EveryTokenOnce(np.arange(41), context=5, batch_size=2)  # 8 windows, 4 batches
    targets = np.concatenate([batches.batch(i)[1].ravel() for i in range(len(batches))])
    np.testing.assert_array_equal(targets, np.arange(1, 41))
    np.testing.assert_array_equal(batches.batch(len(batches))[0], batches.batch(0)[0])


def test_split_keeps_order_and_loses_nothing():
    train, validation = train_validation_split(np.arange(1000), 0.1)
    assert len(train) == 900
    np.testing.assert_array_equal(np.concatenate([train, validation]), np.arange(1000))


def test_signature_tells_texts_apart():
    def signature(tokens):
        return NextTokenBatches(tokens, 4, 2).signature

    assert signature(np.arange(50)) == signature(np.arange(50).astype(np.uint16))
    assert signature(np.arange(50)) != signature(np.arange(50)[::-1])


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least context \\+ 1 = 6 tokens for a window, got 5"):
        NextTokenBatches(np.arange(5), context=5, batch_size=1)
    with pytest.raises(ValueError, match="at least 1, got 2 and 0"):
        NextTokenBatches(np.arange(5), context=2, batch_size=0)
    with pytest.raises(ValueError, match="non-empty"):
        write_tokens(tmp_path / "t.bin", [])
    with pytest.raises(ValueError, match="expected ids from 0 to 4294967295, got -1 to 3"):
        write_tokens(tmp_path / "t.bin", [3, -1])
    with pytest.raises(FileNotFoundError, match="there is no token file"):
        load_tokens(tmp_path / "nowhere.bin")
    with pytest.raises(ValueError, match="between 0 and 1"):
        train_validation_split(np.arange(5), 1.0)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "tokens.bin"
    write_tokens(path, np.arange(100))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        load_tokens(path)
    write_tokens(path, np.arange(100))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\x07\x00", b"\x0f\x00"))
    with pytest.raises(ValueError, match="checksum does not fit its ids"):
        load_tokens(path)
    path.write_bytes(b"MGTOKENS" + whole[8:-8])  # a file of an earlier version
    np.testing.assert_array_equal(load_tokens(path), np.arange(100))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a token file"):
        load_tokens(path)


def test_unreadable_texts_are_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        read_text(path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="not UTF-8 text .byte 3 is 0xe9"):
        read_text(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_text(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8, 50])
def test_every_window_is_read_once_at_every_batch_size(batch_size):
    batches = EveryTokenOnce(np.arange(41), context=5, batch_size=batch_size)  # 8 windows
    inputs = np.concatenate([batches.batch(i)[0] for i in range(len(batches))])
    np.testing.assert_array_equal(inputs.ravel(), np.arange(40))
