"""The reflex: trails of notes, answered at once, with every stop written out, and with dots."""

import json

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import TrainConfig
from chapters.ch10.reflex import (
    HOUSES,
    STEPS,
    WAYS,
    Settings,
    Trail,
    TrailBatches,
    answer,
    draw_trail,
    main,
    question,
    trail_tokenizer,
    verdicts,
)
from chapters.support.batches import IGNORE_INDEX
from chapters.world.facts import is_held_out


@pytest.fixture(scope="module")
def tokenizer():
    return trail_tokenizer()


def test_notes_form_one_cycle_and_no_cycle_is_in_both_splits():
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for steps in STEPS:
            trail = draw_trail(steps, split, rng)
            assert is_held_out(trail.notes) == (split == "test")
            whole = trail._replace(steps=len(HOUSES)).stops()
            assert sorted(whole) == list(HOUSES) and whole[-1] == trail.start
            assert trail.stops() == whole[:steps]


def test_starts_are_drawn_evenly():
    rng = np.random.default_rng(0)
    drawn = [draw_trail(1, "train", rng) for _ in range(2000)]
    for houses in ([trail.start for trail in drawn], [trail.stops() for trail in drawn]):
        counts = [houses.count(house) for house in HOUSES]
        assert 140 < min(counts) and max(counts) < 260


def test_the_length_of_a_question_does_not_tell_the_number_of_steps(tokenizer):
    trail = Trail("BCDEFGHIJA", "C", 1)
    lengths = {len(tokenizer.encode(question(trail._replace(steps=steps), way))) for steps in STEPS for way in WAYS}
    assert lengths == {3 * len(HOUSES) + 3}
    assert all(len(tokenizer.encode(f" {house}")) == 1 for house in HOUSES)  # at once is one pass
    for steps in STEPS:  # dots take as many passes as stops
        _, stops, dots = (len(tokenizer.encode(answer(trail._replace(steps=steps), way))) for way in WAYS)
        assert stops == dots == steps


def test_batches_mask_the_question_and_depend_on_the_step_alone(tokenizer):
    batches = TrailBatches(tokenizer, 16, 0)
    inputs, labels = batches.batch(3)
    for again, expected in zip(batches.batch(3), (inputs, labels), strict=True):
        np.testing.assert_array_equal(again, expected)
    assert (batches.batch(4)[0] != inputs).any()
    signs = set()
    for row, label in zip(inputs, labels, strict=True):
        graded = np.flatnonzero(label != IGNORE_INDEX)
        prompt, response = tokenizer.decode(row[: graded[0] + 1]), tokenizer.decode(label[graded][:-1])
        assert label[graded[-1]] == tokenizer.eos_id and (np.diff(graded) == 1).all()
        notes, start, steps, sign = prompt[5:59:6] + prompt[59], prompt[-5], int(prompt[-3]), prompt[-1]
        way = next(way for way, s in WAYS.items() if s == sign)
        assert response == answer(Trail(notes, start, steps), way)
        np.testing.assert_array_equal(row[graded[1:]], label[graded[:-1]])  # teacher forcing
        signs.add(sign)
    assert signs == set(WAYS.values())


def test_an_answer_must_be_right_and_in_the_form_of_its_way(tokenizer, monkeypatch):
    trails = [Trail("BCDEFGHIJA", "C", 2), Trail("BCDEFGHIJA", "A", 1)]
    responses = iter([[" E", " D E"], [" D E", " C"], [" . E", " . B"]])
    monkeypatch.setattr("chapters.ch10.reflex.generate", lambda *a, **k: [tokenizer.encode(t) for t in next(responses)])
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 48, 1, 1, 8), generator=mg.Generator(0))
    assert [verdicts(gpt, tokenizer, trails, way) for way in WAYS] == [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("controls", [False, True])
def test_the_command_writes_a_figure_and_scores(controls, tmp_path, capsys):
    model = GPTConfig(context=48, n_layer=1, n_head=2, d_model=16)
    training = TrainConfig(steps=5, batch_size=8, warmup_steps=1)
    main(Settings(run=tmp_path, held_out=4, seeds=2, model=model, training=training, controls=controls))
    results = json.loads((tmp_path / "scores.json").read_text())
    assert list(results)[:3] == list(WAYS) and len(results) == (6 if controls else 3)
    points = [point for points in results.values() for point in points]
    assert len(points) == len(results) * len(STEPS)
    assert all(point["interval"][0] <= point["accuracy"] <= point["interval"][1] for point in points)
    assert (tmp_path / "figures" / "reflex.svg").stat().st_size > 1000 and "notes to follow" in capsys.readouterr().out
