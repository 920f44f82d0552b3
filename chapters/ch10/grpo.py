"""Chapter 10, GRPO: PPO's clipped loss, with the group of responses to a prompt in place of a value model.

    python -m chapters.ch10.grpo                                     # from the main job's assistant, into runs/grpo
    python -m chapters.ch10.grpo --training.dr --run runs/dr_grpo    # with the corrections of Dr. GRPO

The reward need not be a model. Here a program checks each answer to a plain task and gives 1 point or none: a *verifiable*
reward. No learned model stands between the policy and the rule, so there is none to exploit. Look at figures/watch.svg: the
mean reward, which is the share of right answers, rises, and KL stays small.

ch10/reflex_grpo has a second verifiable reward. ch10/one_word shows within a minute that GRPO and PPO learn what they should.

The formulas stand first, in the order in which training uses them. Shapes are those of ch10/ppo: a row is a prompt with its
response, a column the choice of a token, and `mask` is True where the policy chose one. A prompt's k responses are adjacent.

Sources: Shao et al. 2024, DeepSeekMath (arXiv:2402.03300), §4.1; Liu et al. 2025, "Understanding R1-Zero-Like Training: A
Critical Perspective" (arXiv:2503.20783), §3, the corrections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import GPT, load_model
from chapters.ch10 import harness, ppo
from chapters.ch10.assess import bootstrap_interval, kl_between, sample_responses
from chapters.ch10.harness import GroupConfig, Parts, optimizer_step, rl_optimizer
from chapters.ch10.rollout import Rollouts, score_targets
from chapters.support.command import InShards, above, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.judge import Judge, correct, gains_text, points_by_criterion

# ── step 1: advantages ───────────────────────────────────────────────────────────────────────────────────────────────


def group_advantages(rewards: np.ndarray, k: int, divide: bool = True) -> np.ndarray:
    """Each response's reward less the mean of its group, divided by the group's standard deviation if `divide`.

    (B,) -> (B,).  Dr. GRPO does not divide: the division makes a prompt count more the more its responses agree. A group
    whose responses all earn the same has nothing to teach, and its advantages are 0.

    >>> group_advantages(np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), 3, divide=False).round(2)
    array([ 0.67, -0.33, -0.33,  0.  ,  0.  ,  0.  ])
    """
    groups = rewards.reshape(-1, k)  # (B / k, k)
    centred = groups - groups.mean(axis=1, keepdims=True)  # (B / k, k)
    if divide:
        centred = centred / (groups.std(axis=1, keepdims=True) + 1e-6)
    return centred.reshape(-1)  # (B,)


# ── step 2: the distance from the reference ──────────────────────────────────────────────────────────────────────────


def kl_by_token(log_probs: mg.Tensor, reference_log_probs: mg.Tensor) -> mg.Tensor:
    """π_ref / π − log(π_ref / π) − 1 of each chosen token: never negative, and on average the KL divergence.

    Twice (B, T) -> (B, T).  Source: Shao et al. 2024, equation 4; Schulman, "Approximating KL Divergence".
    """
    difference = reference_log_probs - log_probs  # (B, T)
    return mg.exp(difference) - difference - 1  # (B, T)


# ── step 3: the loss ─────────────────────────────────────────────────────────────────────────────────────────────────


def grpo_loss(
    log_probs: mg.Tensor,
    old_log_probs: mg.Tensor,
    reference_log_probs: mg.Tensor,
    advantages: mg.Tensor,
    mask: np.ndarray,
    clip: float = 0.2,
    kl_coefficient: float = 0.04,
    length: int | None = None,
) -> mg.Tensor:
    """−E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) − β KL], with the ratio ρ = π(a) / π_old(a).

    GRPO averages over the tokens of each response, then over responses, so a token of a long response counts less, and long
    wrong responses cost little. Dr. GRPO divides every response's sum by the same `length`.

    Args:
        log_probs, old_log_probs, reference_log_probs: (B, T); only log_probs has a gradient.
        advantages: (B,), one for all tokens of a response.
        mask: (B, T).
        length: the limit on a response's tokens, for Dr. GRPO; None: each response's own length.

    Returns:
        A scalar.
    """
    ratio = mg.exp(log_probs - old_log_probs)  # (B, T)
    advantages = advantages.view(-1, 1)  # (B, 1)
    surrogate = mg.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)  # (B, T)
    objective = surrogate - kl_coefficient * kl_by_token(log_probs, reference_log_probs)  # (B, T)
    lengths = np.maximum(mask.sum(axis=1, keepdims=True), 1) if length is None else length  # (B, 1)
    weights = (mask / lengths / len(mask)).astype(log_probs.dtype)  # (B, T)
    return -(objective * mg.as_tensor(weights)).sum()


# ── the learner ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class GRPOConfig(GroupConfig):
    """Settings of GRPO."""

    prompts: int = 128  # rollouts per batch
    k: int = 8  # responses to each prompt
    lr: float = 3e-4  # peak learning rate of the policy
    steps: int = 2  # optimizer steps on each batch of rollouts
    clip: float = 0.2  # ε of the policy's ratio
    kl_coefficient: float = 0.04  # β: weight of the KL divergence from the SFT model in the loss
    missing_end: float = 0.0  # reward of a response that the length limit cut off
    dr: bool = False  # Dr. GRPO: no division by the group's standard deviation, nor by each response's length

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "steps")
        above(self, 0, "clip")


class GRPO:
    """A Learner for `optimise`."""

    def __init__(self, policy: GPT, config: GRPOConfig):
        self.policy, self.config = policy, config
        self.optimizer = rl_optimizer(policy)
        self.trained = [(policy, self.optimizer)]  # for the checkpoint

    def learn(
        self, rollouts: Rollouts, final: np.ndarray, reference_log_probs: np.ndarray, kl: float, lr: float
    ) -> dict[str, float]:
        """Take config.steps optimizer steps on one batch of rollouts."""
        config, mask, old = self.config, rollouts.mask, rollouts.old_log_probs
        advantages = group_advantages(final, config.k, divide=not config.dr)  # (B,)  step 1
        arrays = [array.astype(np.float32) for array in (old, reference_log_probs, advantages)]
        settings = config.clip, config.kl_coefficient, config.max_new_tokens if config.dr else None

        def parts_of(rows: np.ndarray) -> Parts:
            """The part of b rows in the loss, a mean over all responses, and in the diagnostics, means over all tokens."""
            log_probs, logits = score_targets(self.policy, rollouts.action_inputs(rows), rollouts.targets[rows])
            old_t, reference_t, advantages_t = (mg.as_tensor(array[rows]) for array in arrays)
            loss = grpo_loss(log_probs, old_t, reference_t, advantages_t, mask[rows], *settings)  # steps 2 and 3
            with mg.no_grad():
                entropy = ppo.entropy(logits)
            diagnostics = {"entropy": entropy.item()}
            diagnostics |= ppo.ratio_statistics(log_probs.numpy(force=True), old[rows], mask[rows], config.clip)
            share = rollouts.token_share(rows)
            return loss * (len(rows) / len(final)), {name: share * value for name, value in diagnostics.items()}

        rows, records = np.arange(len(final)), []
        for _ in range(config.steps):
            loss, diagnostics = optimizer_step(self.policy, self.optimizer, [rows], parts_of, lr, config.grad_clip)
            records.append({"policy_loss": loss} | diagnostics)
        means = {name: float(np.mean([record[name] for record in records])) for name in records[0]}
        mixed = float(np.ptp(final.reshape(-1, config.k), axis=1).astype(bool).mean())  # the other groups teach nothing
        return means | {"first_ratio": records[0]["ratio"], "kl_coefficient": config.kl_coefficient, "mixed_groups": mixed}


# ── a verifiable reward, and the command ─────────────────────────────────────────────────────────────────────────────


def verified(world: World, tokenizer: Any) -> harness.Score:
    """1 for a response that does its plain task by the world's own rule, 0 for any other."""

    def score(tasks: Sequence[Instruction], rollouts: Rollouts) -> np.ndarray:
        texts = rollouts.texts(tokenizer)
        return np.array([correct(world, task, text) for task, text in zip(tasks, texts, strict=True)])  # (B,)

    return score


@dataclass
class Settings(InShards):
    """Train the SFT model with GRPO on plain tasks whose answers a program checks, and measure it on held-out tasks."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model: initial policy and reference
    run: Path = Path("runs/grpo")  # folder for all results
    tasks: int = 4000  # training tasks to draw prompts from
    held_out: int = 1000  # held-out tasks, about unseen entities
    training: GRPOConfig = field(default_factory=GRPOConfig)
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    quick: bool = False  # fewer rollouts


QUICK = {"held_out": 100, "training": GRPOConfig(iterations=4, prompts=32)}


def main(settings: Settings) -> None:
    at_least_one(settings, "tasks", "held_out")
    config, run, world = replace(settings.training, seed=settings.seed), Run(settings.run), World(settings.world)
    (policy, tokenizer), (reference, _) = load_model(settings.sft), load_model(settings.sft)
    run.describe(command=settings)
    tasks = world.instructions("train", settings.tasks, settings.seed)
    score = verified(world, tokenizer)
    harness.optimise(policy, reference, tokenizer, score, tasks, config, run, GRPO(policy, config), repeat=config.k)
    tests = world.instructions("test", settings.held_out, settings.seed + 1)
    scores: dict[str, Any] = {}
    for name, model in {"SFT model": reference, "GRPO": policy}.items():
        rollouts = sample_responses(model, tokenizer, tests, settings.seed)
        texts = rollouts.texts(tokenizer)
        right = [correct(world, task, text) for task, text in zip(tests, texts, strict=True)]
        scores[name] = {"right": float(np.mean(right)), "interval": bootstrap_interval(right)}
        scores[name]["kl"] = kl_between(model, reference, rollouts)
        scores[name]["criteria"] = points_by_criterion(Judge(world), tests, texts)
        low, high = scores[name]["interval"]
        print(f"{name:<10} {scores[name]['right']:6.1%} of held-out tasks right [{low:.1%}, {high:.1%}]", end="; ")
        print(f"KL {scores[name]['kl']:.2f} nats per response")
    gains = gains_text(scores["SFT model"]["criteria"], scores["GRPO"]["criteria"])
    print(f"gain by criterion, though the simulated judge took no part: {gains}")
    run.write_scores(scores)


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
