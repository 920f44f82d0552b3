"""The reflex rewarded: the last house is what counts, and GRPO makes the way that earns more likelier."""

import json
from dataclasses import replace

import numpy as np
import pytest

from chapters.ch06_gpt import load_model
from chapters.ch10 import reflex, reflex_grpo
from chapters.ch10.grpo import GRPOConfig
from chapters.ch10.reflex import STEPS, WAYS, Trail, TrailBatches, answer, question, trail_tokenizer
from chapters.ch10.reflex_grpo import ASKED, DOTS, QUICK, Settings, last_house_right, main, practise, way_of
from chapters.ch10.rollout import to_rollouts
from chapters.support.batches import IGNORE_INDEX
from chapters.support.run_folder import Run

TRAIL = Trail("BCDEFGHIJA", "C", 3)  # C, D, E, F


@pytest.fixture(scope="module")
def tokenizer():
    return trail_tokenizer()


def test_the_last_house_counts_whatever_stands_before_it(tokenizer):
    texts = [" F", " D E F", " . . F", " A A F", " F D", "", " F ."]
    responses = [tokenizer.encode(text) for text in texts]
    prompts = [tokenizer.encode(question(TRAIL, ASKED))] * len(texts)
    ended = to_rollouts(prompts, [[*ids, tokenizer.eos_id] for ids in responses], [True] * len(texts))
    assert last_house_right([TRAIL] * len(texts), ended, tokenizer).tolist() == [1, 1, 1, 1, 0, 0, 0]
    cut_off = to_rollouts(prompts[:1], responses[1:2], [False])
    assert last_house_right([TRAIL], cut_off, tokenizer).tolist() == [0]


def test_every_answer_has_the_way_in_which_it_was_written():
    assert [way_of(answer(TRAIL, way)) for way in WAYS] == list(WAYS)


def test_every_question_asks_in_the_same_way_and_the_answers_vary(tokenizer):
    inputs, labels = TrailBatches(tokenizer, 64, 0, asked=ASKED).batch(0)
    ways = set()
    for row, label in zip(inputs, labels, strict=True):
        graded = np.flatnonzero(label != IGNORE_INDEX)
        assert tokenizer.decode(row[: graded[0] + 1]).endswith(" ?")
        ways.add(way_of(tokenizer.decode(label[graded][:-1])))
    assert ways == set(WAYS)


@pytest.fixture(scope="module")
def imitator(tmp_path_factory):
    """The folder of a model that has learned the three ways of answering, but not yet to follow notes."""
    folder = tmp_path_factory.mktemp("imitator")
    reflex.learn(reflex.Settings(training=replace(reflex.FAST, steps=100)), 0, Run(folder), asked=ASKED)
    return folder


def test_grpo_chooses_the_way_that_earns_more(imitator, monkeypatch):
    def dots(trails, rollouts, tokenizer):
        return np.array([float("." in text) for text in rollouts.texts(tokenizer)])

    monkeypatch.setattr(reflex_grpo, "last_house_right", dots)
    (policy, tokenizer), (reference, _) = load_model(imitator), load_model(imitator)
    records = practise(policy, reference, tokenizer, GRPOConfig(iterations=12, prompts=64, lr=3e-3))
    assert 0.05 < records[0][DOTS] < 0.6 and records[-1][DOTS] > 0.9
    assert all(sum(record[way] for way in WAYS) == pytest.approx(1) for record in records)


def test_the_command_writes_a_figure_and_scores(tmp_path, capsys):
    main(Settings(run=tmp_path, **{**QUICK, "seeds": 2, "held_out": 4, "imitation": replace(reflex.FAST, steps=5)}))
    scores = json.loads((tmp_path / "scores.json").read_text())
    for name in ("before", "after"):
        assert len(scores["accuracy"][name]) == len(STEPS)
        assert sum(share["mean"] for share in scores["ways"][name].values()) == pytest.approx(1)
    assert [len(records) for records in scores["histories"]] == [4, 4]
    assert (tmp_path / "figures" / "reflex_grpo.svg").stat().st_size > 1000
    assert "every stop written out" in capsys.readouterr().out
    load_model(tmp_path / "seed1" / "grpo")
