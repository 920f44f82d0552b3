"""Chapter 10, DPO: a loss on the comparisons themselves, without a reward model and without sampling.

    python -m chapters.ch10.dpo                     # from the main job's assistant, into runs/dpo
    python -m chapters.ch10.dpo --data pairs.json   # your own chosen and rejected responses

The best policy for a reward r with the KL penalty β is π ∝ π_ref exp(r / β). Solved for r, this says that every policy is the
best policy for the reward β log(π / π_ref). DPO puts that reward into the reward model's loss, and chapter 7's loop trains the
policy on comparisons like a classifier. DPO samples no new responses, so it learns only about the responses in the comparisons.

Source: Rafailov et al. 2023 (arXiv:2305.18290), equations 4 and 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch06_gpt import GPT, save_model
from chapters.ch07_train import LossFunction, TrainConfig, train
from chapters.ch10.comparisons import Ranking, collect_rankings, from_pairs
from chapters.ch10.harness import Harness
from chapters.ch10.rollout import PAD, chosen_log_probs, log_probs_of, to_rollouts
from chapters.support.batches import IGNORE_INDEX, RaggedBatches, pad_right
from chapters.support.command import InShards, at_least_one, command
from chapters.support.readers import read_pairs
from chapters.support.run_folder import History, Run
from chapters.support.shared_training import Shard, shards_of


def dpo_loss(
    chosen: mg.Tensor, rejected: mg.Tensor, reference_chosen: mg.Tensor, reference_rejected: mg.Tensor, beta: float
) -> mg.Tensor:
    """−E[log σ(β ((log π − log π_ref)(chosen) − (log π − log π_ref)(rejected)))].

    The four arguments are log-probabilities of whole responses, (P,) each.  Source: Rafailov et al. 2023, equation 7.
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)  # (P,)
    return -F.logsigmoid(beta * margin).mean()


class DPOBatches:
    """Comparisons as chapter 7's batches: batch(step) -> inputs (2P, T), targets (2P, T), reference (2P,).

    The first P rows are chosen responses, the other P their rejected counterparts in the same order. `reference` holds the
    frozen SFT model's log-probability of each response, computed once.
    """

    def __init__(self, rankings: Sequence[Ranking], reference: GPT, batch_size: int, seed: int = 0):
        if not rankings:
            raise ValueError("DPOBatches: expected at least one comparison, got none; give a prompt with two responses")
        prompts, responses = list[list[int]](), list[list[int]]()
        self.pairs: list[tuple[int, int]] = []
        for ranking in rankings:
            self.pairs += [(len(prompts) + better, len(prompts) + worse) for better, worse in ranking.pairs]
            start = len(shared(ranking.rows))
            prompts += [row[:start] for row in ranking.rows]
            responses += [row[start:] for row in ranking.rows]
        rollouts = to_rollouts(prompts, responses, [True] * len(prompts))
        self.rows = rollouts.rows
        self.starts = [len(prompt) for prompt in prompts]
        self.reference = log_probs_of(reference, rollouts).sum(axis=1)  # (N,)
        longest = [max(self.rows[a], self.rows[b], key=len) for a, b in self.pairs]
        self.order = RaggedBatches(longest, range(len(longest)), batch_size, PAD, seed)

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        return self.arrays(self.order.batch(step)[1])

    def shards(self, step: int, count: int) -> list[Shard]:
        """The batch's comparisons in `count` parts; see support/shared_training."""
        return shards_of(self.order.batch(step)[1], self.arrays, count)

    def arrays(self, places: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arrays of some comparisons, (P,) numbers."""
        chosen, rejected = zip(*(self.pairs[i] for i in places), strict=True)
        numbers = [*chosen, *rejected]
        inputs = pad_right([self.rows[i] for i in numbers], PAD)  # (2P, T)
        hidden = [[IGNORE_INDEX] * (self.starts[i] - 1) + self.rows[i][self.starts[i] :] for i in numbers]
        targets = pad_right([[*labels, IGNORE_INDEX] for labels in hidden], IGNORE_INDEX)  # (2P, T)
        return inputs, targets, self.reference[numbers]

    @property
    def signature(self) -> str:
        return f"{self.order.signature}, comparisons for DPO"


def shared(rows: Sequence[list[int]]) -> list[int]:
    """The longest common prefix of a ranking's rows that leaves each row a token of its own.

    The prefix is the prompt and any common beginning of the responses, whose tokens would cancel in the loss.
    """
    start = 0
    while start < min(map(len, rows)) - 1 and len({row[start] for row in rows}) == 1:
        start += 1
    return rows[0][:start]


def loss_with(beta: float) -> LossFunction:
    """The loss function for chapter 7's `train`."""

    def preference_loss(model: GPT, inputs: mg.Tensor, targets: mg.Tensor, reference: mg.Tensor) -> mg.Tensor:
        log_probs = chosen_log_probs(model(inputs), targets).sum(-1)  # (2P,)
        P = inputs.shape[0] // 2
        return dpo_loss(log_probs[:P], log_probs[P:], reference[:P], reference[P:], beta)

    return preference_loss


def train_dpo(
    policy: GPT, reference: GPT, tokenizer: Any, rankings: Sequence[Ranking], config: TrainConfig, run: Run, beta: float = 0.1
) -> History:
    """Train the policy in place with DPO's loss in chapter 7's loop, and save it in `run`."""
    if beta <= 0:
        raise ValueError(f"train_dpo: expected beta > 0, got {beta}")
    batches = DPOBatches(rankings, reference, config.batch_size, config.seed)
    history = train(policy, batches, config, run, loss_fn=loss_with(beta))
    save_model(run, policy, tokenizer, "instruction")
    return history


@dataclass
class Settings(InShards):
    """Fine-tune the SFT model with DPO on comparisons, and let the simulated judge compare the two."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model: initial policy and reference
    data: Path | None = None  # JSON file of chosen and rejected responses; replaces the simulated labeller
    run: Path = Path("runs/dpo")  # folder for all results
    prompts: int = 2000  # training tasks whose responses are compared
    k: int = 4  # responses to each prompt
    held_out: int = 320  # held-out tasks, about unseen entities, for the comparison
    noise: float = 0.5  # labeller noise (0 = always picks the better response)
    beta: float = 0.1  # β: price of one nat of divergence from the SFT model
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=200, batch_size=32, lr=1e-4, min_lr=1e-5, warmup_steps=10, weight_decay=0.0)
    )
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    quick: bool = False  # fewer comparisons and steps


QUICK = {
    "prompts": 100,
    "held_out": 64,
    "training": TrainConfig(steps=20, batch_size=16, lr=1e-4, warmup_steps=5, weight_decay=0.0),
}


def main(settings: Settings) -> None:
    def train_policy(policy: GPT) -> None:
        reference, tokenizer = harness.reference, harness.tokenizer
        if settings.data:
            pairs, equal = read_pairs(settings.data)
            rankings, long = from_pairs(pairs, tokenizer, policy.config.context)
            print(f"{len(rankings)} pairs; left out: {equal} with equal responses, {long} too long for the context")
        else:
            tasks = harness.tasks(settings.prompts)
            rankings = collect_rankings(reference, tokenizer, harness.judge, tasks, settings.k, settings.seed)
        train_dpo(policy, reference, tokenizer, rankings, config, run, settings.beta)

    at_least_one(settings, "prompts", "held_out")
    harness, run = Harness(settings, noise=settings.noise), Run(settings.run)
    config = replace(settings.training, seed=settings.seed)
    harness.train_and_assess(run, "DPO", train_policy)


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
