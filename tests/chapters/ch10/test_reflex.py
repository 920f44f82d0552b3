"""The reflex: sums at once and with the steps written out."""

import json
from itertools import accumulate

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import TrainConfig
from chapters.ch10.reflex import (
    LARGEST,
    STEPS,
    WAYS,
    Settings,
    answer,
    draw_sum,
    examples,
    final_answer,
    main,
    number_tokenizer,
    question,
    sum_text,
    verdicts,
)
from chapters.support.batches import IGNORE_INDEX
from chapters.world.facts import is_held_out


@pytest.fixture(scope="module")
def numbers_only():
    return number_tokenizer()


def test_a_sum_both_ways(numbers_only):
    terms, ways = [7, 4, -3, 9], list(WAYS)
    assert question(terms, ways[0]) + answer(terms, ways[0]) == "7 + 4 - 3 + 9 ? 17"
    assert question(terms, ways[1]) + answer(terms, ways[1]) == "7 + 4 - 3 + 9 : 7 + 4 = 11 - 3 = 8 + 9 = 17"
    assert [final_answer(text) for text in (" 17", " 8 + 9 = 17", " 8 +", "")] == [17, 17, None, None]
    assert all(len(numbers_only.encode(f" {total}")) == 1 for total in range(LARGEST + 1))  # at once is one pass


def test_no_sum_is_in_both_splits():
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for steps in STEPS:
            terms = draw_sum(steps, split, rng)
            assert len(terms) == steps + 1 and all(1 <= abs(term) <= 9 for term in terms) and terms[0] > 0
            assert all(0 <= total <= LARGEST for total in accumulate(terms))
            assert is_held_out(sum_text(terms)) == (split == "test")


def test_every_sum_is_answered_both_ways_and_the_question_is_masked(numbers_only):
    rows, labels = examples(12, numbers_only, np.random.default_rng(0))
    assert len(rows) == 24
    for row, label, other in zip(rows[::2], labels[::2], rows[1::2], strict=True):
        text, with_steps = numbers_only.decode(row[:-1]), numbers_only.decode(other[:-1])
        assert text.partition(" ?")[0] == with_steps.partition(" :")[0]
        assert final_answer(text) == final_answer(with_steps)
        assert set(label[:-3]) == {IGNORE_INDEX} and label[-3:-1] == row[-2:] and row[-1] == numbers_only.eos_id


def test_final_answers_are_judged(numbers_only, monkeypatch):
    sums = [[1, 2], [9, -4, 5]]
    responses = iter([[" 3", " 10"], [" 3", " 5 + 5 = 11"]])
    monkeypatch.setattr("chapters.ch10.reflex.generate", lambda *a, **k: [numbers_only.encode(t) for t in next(responses)])
    gpt = GPT(GPTConfig(numbers_only.vocab_size, 64, 1, 1, 8), generator=mg.Generator(0))
    assert [verdicts(gpt, numbers_only, sums, way) for way in WAYS] == [[1.0, 1.0], [1.0, 0.0]]


def test_the_command_writes_a_figure_and_scores(tmp_path, capsys):
    model = GPTConfig(context=64, n_layer=1, n_head=2, d_model=16)
    training = TrainConfig(steps=5, batch_size=8, warmup_steps=1)
    main(Settings(run=tmp_path, sums=60, held_out=4, seeds=2, model=model, training=training))
    results = json.loads((tmp_path / "scores.json").read_text())
    assert list(results) == list(WAYS) and all(len(points) == len(STEPS) for points in results.values())
    points = [point for points in results.values() for point in points]
    assert all(point["interval"][0] <= point["accuracy"] <= point["interval"][1] for point in points)
    assert (tmp_path / "figures" / "reflex.png").stat().st_size > 1000 and "steps" in capsys.readouterr().out
