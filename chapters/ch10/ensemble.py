"""Chapter 10, an ensemble: several reward models score a response, and the lowest of their scores is its reward.

A policy that is optimised hard finds responses that its reward model overrates. Reward models trained with different seeds
agree where they saw comparisons, and may err differently elsewhere. The minimum rewards a response only if every member likes
it. Coste et al. call this worst-case optimisation (WCO).

All members learn from the same comparisons and start from the same SFT model. Only the initial weights of the head and the
order of the comparisons differ. `chapters/ch10/headlines/gao.py` optimises against one member and against all of them. In five
worlds the minimum does not help there: it is no cure for an error that all members share (Eisenstein et al. 2023).

Sources: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization" (arXiv:2310.02743), section 4; Eisenstein
et al. 2023, "Helping or Herding?" (arXiv:2312.09244).
"""

from collections.abc import Sequence

import numpy as np

from chapters.ch10.harness import Score
from chapters.ch10.reward import ScalarModel, reward_scores


def worst_case(rewards: np.ndarray) -> np.ndarray:
    """The lowest of M members' rewards for each of N responses: (M, N) -> (N,).

    The members' zeros must agree, as they do after `reward.normalise` on the same rows.

    >>> worst_case(np.array([[1.0, 2.0, 0.0], [0.5, 3.0, -4.0]]))
    array([ 0.5,  2. , -4. ])
    """
    return rewards.min(axis=0)


def member_scores(models: Sequence[ScalarModel], rows: Sequence[list[int]]) -> np.ndarray:
    """Each member's reward for each of N rows of token ids: (M, N) float32."""
    return np.stack([reward_scores(model, rows) for model in models])


def worst_case_scorer(models: Sequence[ScalarModel]) -> Score:
    """Score whole responses for `harness.optimise` with the worst case of the members; one model scores as by itself."""
    return lambda tasks, rollouts: worst_case(member_scores(models, rollouts.rows))
