"""The ensemble: the lowest member decides, and a single member scores as by itself."""

from types import SimpleNamespace
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch10.ensemble import member_scores, worst_case, worst_case_scorer
from chapters.ch10.reward import ScalarModel, reward_scores

ROWS = [[5, 6, 7], [5, 6, 8, 9], [3, 2], [4, 1]]


def test_the_lowest_member_decides(make_gpt):
    models = [ScalarModel(make_gpt(seed), mg.Generator(seed)) for seed in range(3)]
    alone = np.array([reward_scores(model, ROWS) for model in models])  # (M, N)
    np.testing.assert_array_equal(member_scores(models, ROWS), alone)
    rollouts: Any = SimpleNamespace(rows=ROWS)
    scores = worst_case_scorer(models)([], rollouts)
    assert scores.tolist() == [min(column) for column in alone.T.tolist()] == worst_case(alone).tolist()
    assert len({int(member) for member in alone.argmin(axis=0)}) > 1  # members differ, so no single one decides
    np.testing.assert_array_equal(worst_case_scorer(models[:1])([], rollouts), alone[0])
