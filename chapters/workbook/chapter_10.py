"""The exercises of chapter 10: a class head, the prompt mask, low rank, and learning from preferences."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minigrad as mg
from chapters.workbook.exercise import Call, Exercise, Random, call
from minigrad import nn


def graded(rng: Random, *shape: int, scale: float = 1.0) -> mg.Tensor:
    """A random tensor whose gradient is compared, too."""
    return mg.tensor(scale * rng.standard_normal(shape), dtype=mg.float64, requires_grad=True)


def given(rng: Random, *shape: int) -> mg.Tensor:
    """A random tensor that needs no gradient."""
    return mg.tensor(rng.standard_normal(shape), dtype=mg.float64)


def ragged(rng: Random, B: int, T: int) -> np.ndarray:
    """A mask (B, T): a prompt, at least one token of a response, and nothing after it."""
    first = rng.integers(0, T - 1, B)[:, None]  # (B, 1)
    return (np.arange(T) >= first) & (np.arange(T) < rng.integers(first + 1, T))


# ── fine-tuning ──────────────────────────────────────────────────────────────────────────────────────────────────────


def padded_rows(rng: Random) -> Iterator[Call]:
    yield call(mg.tensor([[5, 3, 9, 0, 0], [7, 0, 0, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]]), 0)
    yield call(mg.tensor([[4, 8, 8], [8, 4, 4]]), 8)
    yield call(mg.tensor([[2, 0, 2, 0]]), 0)  # the padding token may stand inside a text, too


def letters(text: str) -> list[int]:
    """A tokenizer: a token for each letter."""
    return [ord(letter) for letter in text]


def examples(rng: Random) -> Iterator[Call]:
    yield call("Name a tool.", "A rake.", letters)
    yield call("Name a tool.", "A rake.", letters, eos_id=0)
    yield call("Add them.", "12", letters, input="5 and 7", eos_id=0)
    yield call("Name a tool.", "A rake.", letters, mask_prompt=False)


def low_rank(definition: Any) -> Callable:
    def adapted(x, weight, down, up, alpha):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=mg.float64)
        linear.weight.array[...] = weight
        adapter = definition(linear, len(down), alpha)
        adapter.down.weight.array, adapter.up.weight.array = down.copy(), up.copy()
        return adapter.forward(x), adapter.merged().weight.detach()

    return adapted


def adapters(rng: Random) -> Iterator[Call]:
    for rank, alpha in ((2, 4.0), (1, 3.0)):
        matrices = [rng.standard_normal(shape) for shape in ((4, 5), (rank, 5), (4, rank))]
        yield call(mg.as_tensor(rng.standard_normal((3, 5))), *matrices, alpha)


FINE_TUNING = [
    Exercise(
        title="the last token that is not padding",
        target="chapters.ch10.classify:last_positions",
        lesson="ch10.classify",
        calls=padded_rows,
        results=("columns",),
        hints=(
            "A class head reads each row where the whole text has been seen. Which column is that?",
            "Write every column's number where there is a token, 0 where there is padding, and take the largest of each row. "
            "mg.where and amax work on tensors.",
        ),
    ),
    Exercise(
        title="the prompt mask and its seam",
        target="chapters.ch10.sft:build_example",
        lesson="ch10.sft",
        calls=examples,
        results=("input_ids", "labels"),
        hints=(
            "Position i predicts token i + 1, so the labels are the tokens without the first, and a last label that is not "
            "graded. Both lists have the same length.",
            "The last prompt position predicts the first token of the response: it is graded. So a prompt of n tokens has "
            "n − 1 masked labels.",
        ),
    ),
    Exercise(
        title="a matrix plus a low-rank product",
        target="chapters.ch10.lora:LoRALinear",
        gaps=("LoRALinear.forward", "LoRALinear.merged"),
        lesson="ch10.lora",
        calls=adapters,
        play=low_rank,
        results=("y", "the merged weight"),
        note="Write the bodies of `forward` and `merged`. The check leaves activation at its default.",
        hints=(
            "self.down and self.up are linear layers without bias. self.scale is alpha / rank.",
            "The merged weight is W + scale · B A, (O, rank) times (rank, I). Change the array of linear.weight in place and "
            "return the layer.",
        ),
    ),
]


# ── learning from preferences ────────────────────────────────────────────────────────────────────────────────────────


def reward_pairs(rng: Random) -> Iterator[Call]:
    yield call(graded(rng, 5), graded(rng, 5))
    yield call(graded(rng, 3, scale=5000.0), graded(rng, 3, scale=5000.0))


def rewarded_tokens(rng: Random) -> Iterator[Call]:
    for B, T, settings in ((3, 6, {}), (2, 5, dict(gamma=0.9, lam=0.5)), (4, 7, dict(lam=1.0))):
        mask = ragged(rng, B, T)
        yield call(rng.standard_normal((B, T)) * mask, rng.standard_normal((B, T)), mask, **settings)


def ratios(rng: Random) -> Iterator[Call]:
    for B, T, settings in ((3, 6, {}), (2, 5, dict(clip=0.5)), (4, 7, dict(clip=0.05))):
        old = given(rng, B, T)
        new = mg.tensor(old.array + 0.3 * rng.standard_normal((B, T)), dtype=mg.float64, requires_grad=True)
        yield call(new, old, given(rng, B, T), ragged(rng, B, T), **settings)


def token_log_probs(rng: Random) -> Iterator[Call]:
    for B, T in ((3, 6), (1, 4)):
        yield call(graded(rng, B, T), given(rng, B, T))


def groups(rng: Random) -> Iterator[Call]:
    for k, settings in ((4, {}), (2, dict(divide=False)), (3, dict(divide=True))):
        yield call(rng.standard_normal(12) + np.repeat([0.0, 3.0], 6), k, **settings)
    yield call(np.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0]), 3)  # the second group has nothing to teach


def response_log_probs(rng: Random) -> Iterator[Call]:
    for P, beta in ((5, 0.1), (1, 2.0)):
        yield call(graded(rng, P), graded(rng, P), given(rng, P), given(rng, P), beta)


def candidates(rng: Random) -> Iterator[Call]:
    for N, n in ((6, 2), (6, 1), (6, 6), (9, 4)):
        yield call(rng.standard_normal(N), rng.standard_normal(N), n)


PREFERENCES = [
    Exercise(
        title="the loss of a reward model",
        target="chapters.ch10.reward:preference_loss",
        lesson="ch10.reward",
        calls=reward_pairs,
        results=("the loss",),
        hints=(
            "The model of Bradley and Terry: the probability of preferring the first response is σ of a difference.",
            "log(sigmoid(x)) is −∞ for a large negative x; F.logsigmoid is not.",
        ),
    ),
    Exercise(
        title="advantages by generalised advantage estimation",
        target="chapters.ch10.ppo:gae",
        lesson="ch10.ppo",
        calls=rewarded_tokens,
        results=("advantages", "returns"),
        hints=(
            "A_t needs A of column t + 1, so walk from the last column to the first, all rows at once.",
            "After the last token both V and A are 0: multiply both by the mask of their own column before column t − 1 uses "
            "them.",
        ),
    ),
    Exercise(
        title="PPO's clipped loss",
        target="chapters.ch10.ppo:policy_loss",
        lesson="ch10.ppo",
        calls=ratios,
        results=("the loss",),
        hints=(
            "The ratio is the exponential of a difference of log-probabilities.",
            "Of the two products, clipped and unclipped, the objective takes the smaller, so the loss takes the larger of the "
            "negative ones. The mean counts only tokens under the mask: `masked_mean`.",
        ),
    ),
    Exercise(
        title="an estimate of KL that is never negative",
        target="chapters.ch10.grpo:kl_by_token",
        lesson="ch10.grpo",
        calls=token_log_probs,
        results=("KL",),
        hints=(
            "π_ref / π is the exponential of a difference of log-probabilities.",
            "With d = log π_ref − log π, the estimate is e^d − d − 1. Its minimum is 0, at d = 0.",
        ),
    ),
    Exercise(
        title="advantages within a group",
        target="chapters.ch10.grpo:group_advantages",
        lesson="ch10.grpo",
        calls=groups,
        results=("advantages",),
        note="Write the body of `group_advantages`. The k responses of a group stand side by side in `rewards`. Divide by the "
        "standard deviation plus 1e-6.",
        hints=(
            "The k responses to a prompt are neighbours, so reshape(-1, k) makes each group a row.",
            "Subtract each row's mean with keepdims=True. Where all rewards of a row are equal, this is 0 already.",
        ),
    ),
    Exercise(
        title="the loss of DPO",
        target="chapters.ch10.dpo:dpo_loss",
        lesson="ch10.dpo",
        calls=response_log_probs,
        results=("the loss",),
        hints=(
            "It is the reward model's loss, with the reward β log(π / π_ref) in place of a learned one.",
            "Margin: how much the policy prefers the chosen response, less how much the reference does. The loss is the mean "
            "of −log σ(β · margin).",
        ),
    ),
    Exercise(
        title="the expected value of best of n",
        target="chapters.ch10.best_of_n:best_of_n",
        lesson="ch10.best_of_n",
        calls=candidates,
        results=("the expected value",),
        hints=(
            "Sort the responses by the proxy, worst first. In how many choices of n responses is the one of rank i the best?",
            "The other n − 1 come from the i responses below it: math.comb(i, n − 1) of the math.comb(N, n) choices.",
        ),
    ),
]

CHAPTER_10 = [*FINE_TUNING, *PREFERENCES]
