"""Chapter 10, RLOO: the baseline of a response is the mean reward of its siblings, so no value model is needed.

    python -m chapters.ch10.rloo       # from the main job's models, into runs/rloo

The policy answers each prompt k times. A response's advantage is its reward less the mean reward of the other k − 1
responses. PPO instead trains a value model to predict the reward. The whole response counts as one action. Each batch of
rollouts serves one optimizer step, so RLOO needs no clip either. RLOO and PPO share ch10/harness's loop: compare `RLOO` with
ch10/rlhf's `PPO`.

Source: Ahmadian et al. 2024, "Back to Basics" (arXiv:2402.14740), equations 6 and 7; Kool et al. 2019.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import GPT
from chapters.ch10 import ppo
from chapters.ch10.harness import GroupConfig, Harness, Parts, optimizer_step, rl_optimizer
from chapters.ch10.reward import load_scalar
from chapters.ch10.rollout import Rollouts, score_targets, sequence_kl
from chapters.support.command import InShards, at_least_one, command
from chapters.support.run_folder import Run


def leave_one_out(rewards: np.ndarray, k: int) -> np.ndarray:
    """Each response's reward less the mean of its k − 1 siblings' rewards, (B,); a prompt's k responses are adjacent.

    >>> leave_one_out(np.array([1.0, 2.0, 6.0]), 3)
    array([-3. , -1.5,  4.5])
    """
    groups = rewards.reshape(-1, k)  # (B / k, k)
    return ((groups - groups.mean(axis=1, keepdims=True)) * k / (k - 1)).reshape(-1)  # (B,)


def rloo_loss(log_probs: mg.Tensor, advantages: mg.Tensor) -> mg.Tensor:
    """−E[A · log π(response)].  log_probs: (B, T), 0 where the policy chose no token.  advantages: (B,)."""
    return -(log_probs.sum(-1) * advantages).mean()


@dataclass
class RLOOConfig(GroupConfig):
    """Settings of RLOO."""

    lr: float = 3e-4  # peak learning rate of the policy; one step per batch tolerates more than PPO's several


class RLOO:
    """A Learner for `optimise`: one policy-gradient step per batch of rollouts."""

    def __init__(self, policy: GPT, config: RLOOConfig):
        self.policy, self.config = policy, config
        self.optimizer = rl_optimizer(policy)
        self.trained = [(policy, self.optimizer)]  # for the checkpoint

    def learn(
        self, rollouts: Rollouts, final: np.ndarray, reference_log_probs: np.ndarray, kl: float, lr: float
    ) -> dict[str, float]:
        """Take one step. A response's reward includes its KL penalty: final − β Σ (log π − log π_ref)."""
        config, mask, old = self.config, rollouts.mask, rollouts.old_log_probs
        penalty = sequence_kl(old, reference_log_probs, mask)  # (B,)
        advantages = leave_one_out(final - config.kl_coefficient * penalty, config.k)  # (B,)
        advantages /= advantages.std() + 1e-8  # so the scale of the rewards does not change the step

        def parts_of(rows: np.ndarray) -> Parts:
            """The part of b rows in the loss, a mean over all responses, and in the diagnostics, means over all tokens."""
            log_probs, logits = score_targets(self.policy, rollouts.action_inputs(rows), rollouts.targets[rows])
            loss = rloo_loss(log_probs, mg.as_tensor(advantages[rows].astype(np.float32)))
            with mg.no_grad():
                entropy = ppo.entropy(logits)
            ratio = np.exp(log_probs.numpy(force=True) - old[rows])[mask[rows]].mean()
            share = rollouts.token_share(rows)
            return loss * (len(rows) / len(final)), {"entropy": share * entropy.item(), "first_ratio": share * ratio}

        rows = np.arange(len(final))
        loss, diagnostics = optimizer_step(self.policy, self.optimizer, [rows], parts_of, lr, config.grad_clip)
        return {"policy_loss": loss} | diagnostics | {"kl_coefficient": config.kl_coefficient}


@dataclass
class Settings(InShards):
    """Fine-tune the SFT model with RLOO against a reward model, and let the simulated judge compare the two."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model: initial policy and reference
    reward: Path = Path("runs/main/reward")  # run folder of the reward model
    run: Path = Path("runs/rloo")  # folder for all results
    tasks: int = 4000  # training tasks to draw prompts from
    held_out: int = 320  # held-out tasks, about unseen entities, for the comparison
    training: RLOOConfig = field(default_factory=RLOOConfig)
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    quick: bool = False  # fewer rollouts


QUICK = {"held_out": 64, "training": RLOOConfig(iterations=5, prompts=16)}


def main(settings: Settings) -> None:
    def train(policy: GPT) -> None:
        harness.optimise(policy, config, run, RLOO(policy, config), repeat=config.k)

    at_least_one(settings, "tasks", "held_out")
    config, run = replace(settings.training, seed=settings.seed), Run(settings.run)
    harness = Harness(settings, load_scalar(settings.reward))
    run.describe(command=settings)
    harness.train_and_assess(run, "RLOO", train)


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
