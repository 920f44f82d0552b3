import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import TrainConfig
from chapters.ch10 import classify
from chapters.ch10.classify import (
    GPTClassifier,
    encode_texts,
    label_loss,
    last_positions,
    predict,
    scores,
    stratified_split,
    train_classifier,
)
from chapters.support.batches import IGNORE_INDEX, RaggedBatches, by_length, pad_right
from chapters.support.readers import read_labelled
from chapters.support.run_folder import Run
from chapters.world import LABELS, World

SMS = Path(__file__).parents[4] / "shared" / "data" / "sms_spam_collection.tsv"
PAD = 15


def small_gpt(vocab_size=16, context=12):
    return GPT(GPTConfig(vocab_size, context, n_layer=2, n_head=2, d_model=16), generator=mg.Generator(0))


def ids(*rows):
    return mg.from_numpy(np.array(rows))


# ── the head ──


def test_without_padding_the_head_reads_the_last_column():
    gpt = small_gpt()
    classifier = GPTClassifier(gpt, 16, 3, generator=mg.Generator(1))
    assert isinstance(gpt.lm_head, nn.Identity)
    idx = ids([1, 2, 3, 4], [5, 6, 7, 8])
    h = gpt(idx)
    assert tuple(h.shape) == (2, 4, 16)
    np.testing.assert_array_equal(classifier(idx).array, classifier.class_head(h[:, -1, :]).array)


def test_padding_does_not_change_a_rows_logits():
    classifier = GPTClassifier(small_gpt(), 16, 3, pad_id=PAD, generator=mg.Generator(1))
    rows = [[1, 2, 3, 4, 5, 6], [7, 8], [9]]
    together = classifier(mg.from_numpy(pad_right(rows, PAD))).array
    for row, logits in zip(rows, together, strict=True):
        np.testing.assert_allclose(classifier(ids(row)).array[0], logits, rtol=1e-4, atol=1e-6)


def test_last_positions_with_a_row_of_nothing_but_padding():
    idx = np.array([[3, PAD, PAD], [1, 2, PAD], [1, 2, 3], [PAD, PAD, PAD], [1, PAD, 2]])
    np.testing.assert_array_equal(last_positions(mg.from_numpy(idx), PAD).numpy(), [0, 1, 2, 0, 2])


def test_gradients_reach_body_and_head_but_not_the_padding():
    classifier = GPTClassifier(small_gpt(), 16, 2, pad_id=PAD, generator=mg.Generator(1))
    label_loss(classifier, ids([1, 2, PAD], [3, 4, 5]), mg.tensor([0, 1])).backward()
    grads = {name: p.grad for name, p in classifier.named_parameters()}
    assert all(grad is not None for grad in grads.values()) and "gpt.lm_head.weight" not in grads
    assert np.abs(grads["gpt.wte.weight"].array[[1, 2, 3, 4, 5]]).min(axis=0).max() > 0
    assert not grads["gpt.wte.weight"].array[PAD].any(), "no real token attends to the padding on its right"


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes"):
        GPTClassifier(small_gpt(), 16, 1)


# ── batches of ragged rows ──


def test_a_batch_depends_on_seed_and_step_alone():
    rows = [[i] * (1 + i % 5) for i in range(23)]
    first, second = (RaggedBatches(rows, list(range(23)), 4, PAD, seed=7) for _ in range(2))
    for step in (0, 9, 3, 9, 100):
        for a, b in zip(first.batch(step), second.batch(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.batch(0)[1], RaggedBatches(rows, list(range(23)), 4, PAD, seed=8).batch(0)[1])


def test_an_epoch_holds_every_row_once_and_each_row_keeps_its_target():
    rows = [[i] * (1 + i % 5) for i in range(24)]
    batches = RaggedBatches(rows, list(range(24)), 4, 99)
    epochs = [[batches.batch(step) for step in range(6 * e, 6 * e + 6)] for e in range(2)]
    for epoch in epochs:
        assert sorted(int(t) for _, targets in epoch for t in targets) == list(range(24))
        for inputs, targets in epoch:
            assert inputs.dtype == targets.dtype == np.int64
            for row, target in zip(inputs, targets, strict=True):
                assert row[row != 99].tolist() == rows[target]
    assert not np.array_equal(epochs[0][0][1], epochs[1][0][1]), "every epoch has its own order"


def test_label_rows_are_padded_with_the_ignored_index():
    inputs, targets = RaggedBatches([[1, 2, 3], [4]], [[2, 3, 5], [6]], 2, PAD).batch(0)
    order = np.argsort(inputs[:, 0])
    assert inputs[order].tolist() == [[1, 2, 3], [4, PAD, PAD]]
    assert targets[order].tolist() == [[2, 3, 5], [6, IGNORE_INDEX, IGNORE_INDEX]]


@pytest.mark.parametrize(
    ("rows", "targets", "size", "message"),
    [([], [], 1, "no example"), ([[1]], [1, 2], 1, "as many targets"), ([[1]], [1], 0, "at least 1")],
)
def test_wrong_batches_are_refused(rows, targets, size, message):
    with pytest.raises(ValueError, match=message):
        RaggedBatches(rows, targets, size, PAD)


def test_the_signature_tells_data_apart():
    def signature(*data):
        return RaggedBatches(*data, 2, PAD).signature

    rows, targets = [[1, 2], [3]], [0, 1]
    assert signature(rows, targets) == signature([[1, 2], [3]], [0, 1])
    assert signature(rows, targets) not in (signature([[1, 2], [4]], targets), signature(rows, [1, 1]))


def test_by_length_yields_every_row_once():
    rows = [[1] * n for n in (5, 1, 4, 2, 3)]
    batches = [(places.tolist(), inputs.shape) for places, inputs in by_length(rows, 2, PAD)]
    assert batches == [([1, 3], (2, 2)), ([4, 2], (2, 4)), ([0], (1, 5))]


# ── files ──


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "messages.tsv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_labelled_file_may_have_any_line_ends(tmp_path):
    path = write(tmp_path, "\ufeffham\tHello there \r\n\r\nspam\tWIN\tnow\r\nham\tSo\u2028long")
    assert read_labelled(path) == [("Hello there", "ham"), ("WIN\tnow", "spam"), ("So\u2028long", "ham")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("ham\tone\nno tab here\n", "line 2: expected a label, a tab and a text, got 'no tab here'"),
        ("ham\t\n", "line 1"),
        ("\ttext\n", "line 1"),
        ("ham\tone\nham\ttwo\n", "one label only, 'ham'"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labelled(write(tmp_path, text))


def test_a_missing_file_and_a_file_that_is_not_utf8(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_labelled(tmp_path / "nothing.tsv")
    with pytest.raises(ValueError, match="not UTF-8 text .byte 4"):
        read_labelled(write(tmp_path, "ham\té", "latin-1"))


def test_the_split_is_stratified_deterministic_and_keeps_copies_together():
    examples = [(f"text {i % 90}", "spam" if i % 90 % 9 == 0 else "ham") for i in range(100)]  # ten texts come twice
    train, held_out = stratified_split(examples)
    assert (train, held_out) == stratified_split(examples)
    assert not {text for text, _ in train} & {text for text, _ in held_out}
    assert sorted(train + held_out) == sorted(examples)
    labels = [label for _, label in dict.fromkeys(held_out)]
    assert (labels.count("spam"), labels.count("ham")) == (2, 16)  # a fifth of 10 and of 80 different texts
    assert stratified_split(examples, seed=1)[1] != held_out


def test_a_label_with_a_single_text_cannot_be_split():
    with pytest.raises(ValueError, match="'rare' has a single text"):
        stratified_split([("a", "x"), ("b", "x"), ("c", "rare"), ("c", "rare")])


def test_a_long_text_keeps_its_end():
    tokenizer = Tokenizer.characters("abcdef")
    rows, cropped = encode_texts(["abcdef", "ab"], tokenizer, 4)
    assert [tokenizer.decode(row) for row in rows] == ["cdef", "ab"] and cropped == 1


# ── measuring ──


def test_scores_by_hand():
    truth = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    predicted = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 0])
    result = scores(predicted, truth, ["ham", "spam"])
    assert result["confusion"] == [[5, 1], [1, 3]] and result["accuracy"] == 0.8
    assert result["f1_of"] == "spam" and result["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))

    result = scores(np.array([0, 1, 1, 0]), np.array([0, 1, 2, 2]), ["a", "b", "c"])
    assert result["f1"] == pytest.approx(np.mean([2 / 3, 2 / 3, 0])) and result["f1_of"] == "mean over labels"


def test_an_unseen_label_has_an_f1_of_zero():
    assert scores(np.array([0, 0]), np.array([0, 0]), ["a", "b", "c"])["f1"] == pytest.approx(1 / 3)


# ── training ──

CONFIG = TrainConfig(steps=40, batch_size=16, lr=1e-2, min_lr=1e-3, warmup_steps=5, checkpoint_every=40)
EXAMPLES = [(f"{'yes' if i % 3 else 'no'} {'ab' * (i % 4)}{i % 7}", "good" if i % 3 else "bad") for i in range(84)]


def test_a_tiny_classifier_learns_and_writes_its_scores(tmp_path):
    tokenizer = Tokenizer.characters("".join(text for text, _ in EXAMPLES))
    gpt = small_gpt(tokenizer.vocab_size, context=16)
    before = gpt.wte.weight.array.copy()
    train_set, test_set = stratified_split(EXAMPLES)
    run = Run(tmp_path / "run")
    _, result = train_classifier(gpt, train_set, test_set, ["bad", "good"], tokenizer, CONFIG, run)
    assert result["accuracy"] == 1.0 and result["f1"] == 1.0 and result["cropped"] == 0
    assert json.loads((run / "scores.json").read_text()) == result
    assert np.abs(gpt.wte.weight.array - before).max() > 0, "the body learns too, not only the head"


def test_a_prediction_does_not_depend_on_the_other_rows_of_its_batch():
    classifier = GPTClassifier(small_gpt(), 16, 3, pad_id=PAD, generator=mg.Generator(1))
    rows = [np.random.default_rng(i).integers(0, PAD, 1 + i % 9).tolist() for i in range(20)]
    np.testing.assert_array_equal(predict(classifier, rows, 64), [predict(classifier, [row])[0] for row in rows])


def test_the_command_on_a_file(tmp_path, capsys, monkeypatch):
    """The body is pretrained on the training part alone, and two classifiers are compared."""
    path = write(tmp_path, "".join(f"{label}\t{text} {i}\n" for i, (text, label) in enumerate(EXAMPLES)))
    train_sets, pretrain_body = [], classify.pretrain_body

    def spy(settings, train_set):
        train_sets.append(train_set)
        return pretrain_body(settings, train_set)

    monkeypatch.setattr(classify, "pretrain_body", spy)
    model, few = GPTConfig(context=24, n_layer=1, n_head=2, d_model=16), replace(CONFIG, steps=5)
    run = tmp_path / "run"
    classify.main(classify.Settings(data=path, run=run, vocab_size=280, model=model, pretraining=few, training=few))
    held_out = stratified_split(read_labelled(path))[1]
    assert not set(held_out) & set(train_sets[0])
    output = capsys.readouterr().out
    assert "pretrained body" in output and "untrained body" in output
    for name in ("body/model.safetensors", "pretrained/scores.json", "untrained/scores.json"):
        assert (run / name).is_file()
    for name in ("confusion.svg", "gap.svg"):
        assert (run / "figures" / name).read_bytes().startswith(b"<?xml")


def test_the_worlds_snippets_have_all_three_labels():
    examples = classify.snippets(World(0), "train", 30, seed=0)
    assert {label for _, label in examples} == set(LABELS) and len(examples) == 30


@pytest.mark.skipif(not SMS.is_file(), reason="the SMS spam collection is not at hand")
def test_the_real_message_file():
    examples = read_labelled(SMS)
    assert len(examples) == 5574 and sum(label == "spam" for _, label in examples) == 747
    train, held_out = stratified_split(examples)
    assert len(held_out) == pytest.approx(5574 / 5, rel=0.05)
    assert not {text for text, _ in train} & {text for text, _ in held_out}
