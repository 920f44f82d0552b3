"""Chapter 10, comparisons: the data of a reward model, and of DPO.

A labeller compares responses to one prompt, two at a time. The simulated labeller compares responses of the policy
(`collect_rankings`); a user's file holds one chosen and one rejected response for each prompt (`from_pairs`).
Ouyang et al. 2022 (arXiv:2203.02155), section 3.5, let a labeller rank K responses, which gives K (K − 1) / 2 comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import minigrad as mg
from chapters.ch06_gpt import GPT
from chapters.ch10.rollout import Rollouts, roll_out_many
from chapters.ch10.sft import format_prompt
from chapters.world import Instruction
from chapters.world.facts import SeededRandom


@dataclass(frozen=True)
class Ranking:
    """K responses to one prompt, and a labeller's P comparisons of them."""

    rows: list[list[int]]  # K rows of token ids, each the prompt and a response
    pairs: list[tuple[int, int]]  # P pairs: (number of the preferred response, number of the other)
    probabilities: list[float]  # P probabilities of the labeller's choices if it is a simulation, else empty


class Labeller(Protocol):
    """A simulated labeller, such as `Judge`."""

    def probability(self, task: Instruction, a: str, b: str) -> float:
        """The probability of preferring response a to response b."""


def rank_responses(
    labeller: Labeller, task: Instruction, prompt: list[int], responses: list[list[int]], texts: list[str], rng: SeededRandom
) -> Ranking | None:
    """Let the labeller compare every two different responses, passed as ids and as texts.  None if all texts are equal."""
    different = [i for i, text in enumerate(texts) if text not in texts[:i]]
    pairs, probabilities = [], []
    for a, b in combinations(range(len(different)), 2):
        p = labeller.probability(task, texts[different[a]], texts[different[b]])
        first = rng.random() < p
        pairs.append((a, b) if first else (b, a))
        probabilities.append(p if first else 1 - p)
    return Ranking([prompt + responses[i] for i in different], pairs, probabilities) if pairs else None


def collect_rankings(
    policy: GPT, tokenizer: Any, judge: Labeller, tasks: Sequence[Instruction], k: int, seed: int, max_new_tokens: int = 48
) -> list[Ranking]:
    """Sample k responses of the policy to each task, and let the simulated labeller compare them."""
    return sample_rankings(policy, tokenizer, judge, tasks, k, seed, max_new_tokens)[1]


def sample_rankings(
    policy: GPT, tokenizer: Any, judge: Labeller, tasks: Sequence[Instruction], k: int, seed: int, max_new_tokens: int = 48
) -> tuple[Rollouts, list[Ranking]]:
    """`collect_rankings` with all k responses to each task beside their rankings, the equal ones too."""
    if k < 2:
        raise ValueError(f"comparisons: expected at least 2 responses to a prompt, got k={k}")
    repeated = [task for task in tasks for _ in range(k)]
    rollouts = roll_out_many(policy, tokenizer, repeated, max_new_tokens, mg.Generator(seed))
    rng = SeededRandom(f"comparisons/{seed}")
    return rollouts, rank_rollouts([judge] * len(tasks), tasks, rollouts, rollouts.texts(tokenizer), rng)


def rank_rollouts(
    labellers: Sequence[Labeller], tasks: Sequence[Instruction], rollouts: Rollouts, texts: list[str], rng: SeededRandom
) -> list[Ranking]:
    """Let each task's labeller rank its responses.  The responses to a task are adjacent, and each task has equally many."""
    k = len(texts) // max(len(tasks), 1)
    groups = [slice(i * k, (i + 1) * k) for i in range(len(tasks))]
    rankings = (
        rank_responses(labeller, task, rollouts.prompts[group.start], rollouts.responses[group], texts[group], rng)
        for labeller, task, group in zip(labellers, tasks, groups, strict=True)
    )
    return [ranking for ranking in rankings if ranking is not None]


def encode_pair(task: Instruction, response: str, tokenizer: Any) -> list[int]:
    """The token ids of a task's prompt, a response and the end-of-text token."""
    return tokenizer.encode(format_prompt(task.instruction, task.input)) + tokenizer.encode(response) + [tokenizer.eos_id]


def from_pairs(pairs: Sequence[tuple[Instruction, str, str]], tokenizer: Any, context: int) -> tuple[list[Ranking], int]:
    """The rankings of (task, chosen, rejected) triples, and the number of triples too long for the context.

    Raises ValueError if all triples are too long.
    """
    rankings = [Ranking([encode_pair(task, r, tokenizer) for r in both], [(0, 1)], []) for task, *both in pairs]
    lengths = [max(map(len, ranking.rows)) for ranking in rankings]
    fitting = [ranking for ranking, length in zip(rankings, lengths, strict=True) if length <= context]
    if not fitting:
        raise ValueError(
            f"pairs: expected some that fit the model's context of {context} tokens, got {len(rankings)} longer pairs, the "
            f"shortest of {min(lengths)} tokens; give shorter responses or a model with a longer context"
        )
    return fitting, len(rankings) - len(fitting)
