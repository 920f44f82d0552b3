"""Chapter 10, DPO: the comparisons themselves as a loss, without a reward model and without drawing a single response.

    python -m chapters.ch10.dpo                     # from the main job's assistant, into runs/dpo
    python -m chapters.ch10.dpo --data pairs.json   # your own chosen and rejected responses

What this file teaches: the policy that is best for a reward r with the KL penalty β is π ∝ π_ref exp(r / β); turned
around, every policy is the best one for the reward β log(π / π_ref). Put that into the reward model's loss, and the
policy is trained on comparisons by chapter 7's loop, like a classifier. What it cannot do is learn about responses that
nobody compared: the comparisons are those of the SFT model's responses, and stay so.
Source: Rafailov et al. 2023 (arXiv:2305.18290), equations 4 and 7.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import minigrad.nn.functional as F
from chapters.ch06_gpt import load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.assess import assess, assessment_text, sample_responses
from chapters.ch10.reward import collect_rankings, from_pairs
from chapters.ch10.rollout import PAD, chosen_log_probs, log_probs_of, to_rollouts
from chapters.support.batches import IGNORE_INDEX, RaggedBatches, pad_right
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.readers import read_pairs
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import Judge
from chapters.world.requests import mixed_tasks


def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta):
    """−E[log σ(β ((log π − log π_ref)(chosen) − (log π − log π_ref)(rejected)))].  Tensors (P,): log-probabilities of
    whole responses -> scalar.  Rafailov et al. 2023, equation 7."""
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)  # (P,)
    return -F.logsigmoid(beta * margin).mean()


class DPOBatches:
    """Comparisons as chapter 7's batches: batch(step) -> inputs (2P, T), targets (2P, T), reference (2P,).

    The first P rows are the chosen responses, the others the rejected ones in the same order; reference holds the
    frozen SFT model's log-probability of each response, computed once.  rankings: [Ranking] as ch10/reward collects
    them; every comparison of a ranking is one element.
    """

    def __init__(self, rankings, reference, batch_size, seed=0):
        if not rankings:
            raise ValueError("there is no comparison to learn from; give at least one prompt with two responses.")
        prompts, responses, pairs = [], [], []
        for ranking in rankings:
            pairs += [(len(prompts) + better, len(prompts) + worse) for better, worse in ranking.pairs]
            start = len(shared(ranking.rows))
            prompts += [row[:start] for row in ranking.rows]
            responses += [row[start:] for row in ranking.rows]
        rollouts = to_rollouts(prompts, responses, [True] * len(prompts))
        self.rows, self.pairs = rollouts.rows, pairs
        self.starts = [len(prompt) for prompt in prompts]
        self.reference = log_probs_of(reference, rollouts).sum(axis=1)  # (N,)
        longest = [max(self.rows[a], self.rows[b], key=len) for a, b in pairs]
        self.order = RaggedBatches(longest, np.arange(len(pairs)), batch_size, PAD, seed)

    def batch(self, step):
        _, places = self.order.batch(step)  # (P,)
        chosen, rejected = zip(*(self.pairs[i] for i in places), strict=True)
        numbers = [*chosen, *rejected]
        inputs = pad_right([self.rows[i] for i in numbers], PAD)  # (2P, T)
        hidden = [[IGNORE_INDEX] * (self.starts[i] - 1) + self.rows[i][self.starts[i] :] for i in numbers]
        targets = pad_right([[*labels, IGNORE_INDEX] for labels in hidden], IGNORE_INDEX)  # (2P, T)
        return inputs, targets, self.reference[numbers]

    @property
    def signature(self):
        return f"{self.order.signature}, comparisons for DPO"


def shared(rows):
    """The tokens that begin all rows of a ranking, at most all but one of the shortest.

    They are the prompt, and where all responses begin alike the beginning of those too; in a difference of
    log-probabilities what is shared cancels, so that nothing is lost.
    """
    start = 0
    while start < min(map(len, rows)) - 1 and len({row[start] for row in rows}) == 1:
        start += 1
    return rows[0][:start]


def loss_with(beta):
    """The loss_fn for chapter 7's `train`."""

    def preference_loss(model, inputs, targets, reference):
        log_probs = chosen_log_probs(model(inputs), targets).sum(-1)  # (2P,)
        P = inputs.shape[0] // 2
        return dpo_loss(log_probs[:P], log_probs[P:], reference[:P], reference[P:], beta)

    return preference_loss


def train_dpo(policy, reference, tokenizer, rankings, config, run, beta=0.1):
    """Chapter 7's loop with DPO's loss: trains policy in place and saves it in run.  Returns the History."""
    if beta <= 0:
        raise ValueError(f"beta, the price of divergence from the SFT model, must be above 0, got {beta}.")
    batches = DPOBatches(rankings, reference, config.batch_size, config.seed)
    history = train(policy, batches, config, run, loss_fn=loss_with(beta))
    save_model(run, policy, tokenizer)
    return history


@dataclass
class Settings(OnDevice):
    """Tune the SFT model with DPO on comparisons, and let the simulated judge compare the two."""

    sft: Path = Path("runs/main/assistant")  # the run folder of the SFT model: where the policy starts, and the reference
    data: Path | None = None  # a JSON file of chosen and rejected responses instead of the simulated labeller's
    run: Path = Path("runs/dpo")  # the folder for everything
    prompts: int = 2000  # instructions whose responses are compared
    k: int = 4  # responses to each
    held_out: int = 320  # instructions, about entities never trained on, to compare the two models on
    noise: float = 0.5  # of the simulated labeller
    beta: float = 0.1  # the price of divergence from the SFT model
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=200, batch_size=32, lr=1e-4, min_lr=1e-5, warmup_steps=10, weight_decay=0.0)
    )
    world: int = 0  # the seed of the world whose tasks are asked
    seed: int = 0  # of everything random
    quick: bool = False  # fewer comparisons and steps


QUICK = {
    "prompts": 100,
    "held_out": 64,
    "training": TrainConfig(steps=20, batch_size=16, lr=1e-4, warmup_steps=5, weight_decay=0.0),
}


def main(settings):
    at_least_one(settings, "prompts", "held_out")
    (policy, tokenizer), (reference, _) = load_model(settings.sft), load_model(settings.sft)
    world, run, config = World(settings.world), Run(settings.run), replace(settings.training, seed=settings.seed)
    judge = Judge(world, settings.noise)
    if settings.data:
        pairs, equal = read_pairs(settings.data)
        rankings, long = from_pairs(pairs, tokenizer, policy.config.context)
        print(f"{len(rankings)} pairs; left out: {equal} of equal responses, {long} too long for the context")
    else:
        tasks = mixed_tasks(world, "train", settings.prompts, settings.seed)
        rankings = collect_rankings(reference, tokenizer, judge, tasks, settings.k, settings.seed)
    train_dpo(policy, reference, tokenizer, rankings, config, run, settings.beta)
    tests = mixed_tasks(world, "test", settings.held_out, settings.seed + 1)
    before = sample_responses(reference, tokenizer, tests, settings.seed)
    after = sample_responses(policy, tokenizer, tests, settings.seed)
    found = assess(judge, tests, after, before, tokenizer, reference, policy)
    (run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    print(assessment_text(found, "DPO"))


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
