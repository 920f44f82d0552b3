"""Chapter 10, RLOO: PPO's result without a value model, clipping or several steps on the same rollouts.

    python -m chapters.ch10.rloo       # from the main job's models, into runs/rloo

What this file teaches: what a response is worth can be told from its siblings. The policy answers each prompt k times;
the expectation that PPO learns with a second network is here the mean reward of the other k − 1 responses, and the
whole response is one action. Compare `RLOO` with `PPO` in ch10/rlhf: the loop around both is the same.
Source: Ahmadian et al. 2024, "Back to Basics" (arXiv:2402.14740), equations 6 and 7; Kool et al. 2019.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch07_train import TrainConfig, as_floats, make_optimizer
from chapters.ch10 import ppo
from chapters.ch10.rlhf import LoopConfig, action_columns, optimise, optimizer_step, train_and_assess
from chapters.ch10.rollout import chosen_log_probs, sequence_kl
from chapters.support.command import OnDevice, command
from chapters.support.run_folder import Run


@dataclass
class RLOOConfig(LoopConfig):
    """How RLOO learns from a batch of rollouts."""

    k: int = 4  # responses to each prompt
    lr: float = 3e-4  # of the policy; one step a batch bears more than PPO's several

    def __post_init__(self):
        super().__post_init__()
        if self.k < 2 or self.prompts % self.k:
            raise ValueError(f"RLOO needs k of at least 2 that divides prompts={self.prompts}, got k={self.k}")


def leave_one_out(rewards, k):
    """Each response's reward less the mean of its k − 1 siblings': (B,), the k of a prompt in a row -> (B,)."""
    groups = rewards.reshape(-1, k)  # (B / k, k)
    return ((groups - groups.mean(axis=1, keepdims=True)) * k / (k - 1)).reshape(-1)  # (B,)


def rloo_loss(log_probs, advantages):
    """−E[A · log π(response)]: Tensor (B, T), 0 where no token was chosen, and Tensor (B,) -> scalar Tensor."""
    return -(log_probs.sum(-1) * advantages).mean()


class RLOO:
    """learn() as the loop in ch10/rlhf calls it."""

    def __init__(self, policy, config):
        self.policy, self.config = policy, config
        self.optimizer = make_optimizer(policy, TrainConfig(weight_decay=0.0, beta2=0.99))
        self.trained = [(policy, self.optimizer)]  # what a checkpoint keeps

    def learn(self, rollouts, final, reference_log_probs, kl, lr):
        """One step. The KL penalty belongs to the whole response's reward: final − β Σ (log π − log π_ref)."""
        config = self.config
        penalty = sequence_kl(rollouts.log_probs, reference_log_probs, rollouts.mask)  # (B,)
        advantages = leave_one_out(final - config.kl_coefficient * penalty, config.k)  # (B,)
        advantages = (advantages / (advantages.std() + 1e-8)).astype(np.float32)  # (B,)  so that lr has one meaning
        logits = self.policy(action_columns(rollouts))  # (B, T − 1, V)
        log_probs = chosen_log_probs(logits, mg.as_tensor(rollouts.targets))  # (B, T − 1)
        loss = rloo_loss(log_probs, mg.as_tensor(advantages))
        with mg.no_grad():
            entropy = ppo.entropy(logits, rollouts.mask)
        optimizer_step(self.optimizer, self.policy.parameters(), loss, lr, config.grad_clip)
        ratio = float(np.exp(log_probs.numpy(force=True) - rollouts.log_probs)[rollouts.mask].mean())
        policy_loss, entropy = as_floats(loss, entropy)
        return {"policy_loss": policy_loss, "entropy": entropy, "first_ratio": ratio,
                "kl_coefficient": config.kl_coefficient}  # fmt: skip


@dataclass
class Settings(OnDevice):
    """Tune the SFT model with RLOO against a reward model, and let the simulated judge compare the two."""

    sft: Path = Path("runs/main/assistant")  # the run folder of the SFT model: where the policy starts, and the reference
    reward: Path = Path("runs/main/reward")  # the run folder of the reward model
    run: Path = Path("runs/rloo")  # the folder for everything
    tasks: int = 4000  # instructions to draw prompts from
    held_out: int = 320  # instructions, about entities never trained on, to compare the two models on
    training: RLOOConfig = field(default_factory=RLOOConfig)
    world: int = 0  # the seed of the world whose tasks are asked
    seed: int = 0  # of everything random
    quick: bool = False  # fewer rollouts


QUICK = {"held_out": 64, "training": RLOOConfig(iterations=5, prompts=16)}


def main(settings):
    config = replace(settings.training, seed=settings.seed)

    def train(policy, reference, tokenizer, score, tasks, run, judge, value_model):
        optimise(policy, reference, tokenizer, score, tasks, config, run, RLOO(policy, config), judge, config.k)

    train_and_assess(settings, Run(settings.run), "RLOO", train)


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
