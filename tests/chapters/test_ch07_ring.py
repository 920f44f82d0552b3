import numpy as np
import pytest

from chapters.ch07_ring import (
    Link,
    Settings,
    all_reduce_at_root,
    all_reduce_in_a_ring,
    all_reduce_in_order,
    in_order_bytes,
    main,
    ring_bytes,
    ring_seconds,
    root_bytes,
    root_seconds,
)
from kernels.collectives.reference import run

RANKS = (1, 2, 3, 4, 7)


def ring(arrays):
    """The bytes that each rank of a ring sends, in all steps together."""
    return np.sum([sent for _, sent in all_reduce_in_a_ring(arrays)], axis=0, dtype=int)


def integers(ranks, n):
    return list(np.random.default_rng(0).integers(-1000, 1000, (ranks, n)))


def floats(ranks, n):
    return list(np.random.default_rng(1).standard_normal((ranks, n), np.float32))


@pytest.mark.parametrize("all_reduce", [all_reduce_at_root, ring, all_reduce_in_order])
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("n", [2, 7, 84])
def test_every_rank_gets_numpys_sum(all_reduce, ranks, n):
    arrays = integers(ranks, n)
    total = np.sum(arrays, axis=0)
    all_reduce(arrays)
    np.testing.assert_array_equal(arrays, [total] * ranks)


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_each_rank_sends_as_many_bytes_as_the_formulas_say(ranks):
    n = 84 * 8  # bytes; 84 int64 numbers can be cut into any of these numbers of parts
    root = [root_bytes(ranks, n)] + [n] * (ranks - 1)
    assert all_reduce_at_root(integers(ranks, 84)) == root
    assert ring(integers(ranks, 84)).tolist() == [ring_bytes(ranks, n)] * ranks
    assert all_reduce_in_order(integers(ranks, 84)) == [in_order_bytes(ranks, n)] * ranks
    assert ring_bytes(ranks, n) == 2 * (ranks - 1) / ranks * n == in_order_bytes(ranks, n, terms=1)
    assert in_order_bytes(ranks, n, terms=3) == 2 * ring_bytes(ranks, n)


def test_parts_of_unequal_length_are_all_sent():
    assert ring(integers(4, 7)).sum() == 2 * 3 * 7 * 8 == sum(all_reduce_in_order(integers(4, 7)))


@pytest.mark.parametrize("ranks", RANKS)
def test_a_ring_takes_one_step_less_than_ranks_for_either_phase(ranks):
    phases = [phase for phase, _ in all_reduce_in_a_ring(floats(ranks, 8))]
    assert phases == ["reduce-scatter"] * (ranks - 1) + ["all-gather"] * (ranks - 1)


def test_each_step_sends_one_part_to_the_right_neighbour():
    ranks = 5
    arrays = [np.array([letter] * ranks, object) for letter in "abcde"]
    before = np.array(arrays)
    for step, (_, sent) in enumerate(all_reduce_in_a_ring(arrays), 1):
        changed = np.array(arrays) != before
        assert changed.sum() == ranks and (changed.sum(axis=1) == 1).all()
        assert len(set(sent)) == 1
        if step < ranks:  # reduce-scatter: the newest part of a rank is the sum of step + 1 arrays, the last of them its own
            assert {len(text) for text in np.array(arrays)[changed]} == {step + 1}
            assert [text[-1] for text in np.array(arrays)[changed]] == list("abcde")
        before = np.array(arrays)
    assert (before == ["abcde", "bcdea", "cdeab", "deabc", "eabcd"]).all()  # part i is added from rank i on


def test_the_fixed_order_equals_kernels_collectives_and_a_ring_only_nearly():
    arrays = floats(5, 1001)
    expected = run(5, lambda group: group.all_reduce(arrays[group.rank].copy()))
    in_order, in_a_ring = [array.copy() for array in arrays], [array.copy() for array in arrays]
    all_reduce_in_order(in_order)
    ring(in_a_ring)
    np.testing.assert_array_equal(in_order, expected)
    np.testing.assert_allclose(in_a_ring, expected, atol=1e-5)
    assert (in_a_ring[0] != expected[0]).any()
    np.testing.assert_array_equal(in_a_ring, [in_a_ring[0]] * 5)  # but all ranks agree


def test_the_slowest_link_sets_the_time_of_a_ring():
    link, slow = Link(latency=0.5, bandwidth=100.0), Link(latency=0.5, bandwidth=20.0)
    assert ring_seconds(400.0, [link] * 4) == 2 * 3 * (0.5 + 400 / 4 / 100)
    assert ring_seconds(400.0, [link, link, slow, link]) == ring_seconds(400.0, [slow] * 4) == 2 * 3 * (0.5 + 5)
    assert ring_seconds(400.0, [link]) == root_seconds(400.0, link, 1) == 0
    assert root_seconds(400.0, link, 4) == 2 * 3 * (0.5 + 4)


def test_the_command_prints_steps_bytes_and_times(tmp_path, capsys):
    main(Settings(ranks=3, numbers=300_000, run=tmp_path))
    printed = capsys.readouterr().out
    assert "step 4, all-gather" in printed and "step 5" not in printed
    assert "in a ring      4      1.60    1.60    1.60   2(N − 1)/N · n = 1.60" in printed
    assert "at rank 0      4      2.40    1.20    1.20   (N − 1) n at rank 0 = 2.40" in printed
    assert "in order     0% of the sums differ, by up to 0.0e+00" in printed
    assert (tmp_path / "figures" / "bytes.svg").stat().st_size > 1000


@pytest.mark.parametrize("wrong", [dict(ranks=1), dict(ranks=9), dict(numbers=3), dict(latency=-1.0), dict(bandwidth=0.0)])
def test_settings_that_make_no_ring_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        main(Settings(run=tmp_path, **wrong))
