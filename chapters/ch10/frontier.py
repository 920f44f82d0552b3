"""Chapter 10, the frontier: the judge's score of every method over its KL from the SFT model.

    python -m chapters.ch10.frontier       # from the main job's models, into runs/frontier

A score alone says little, because every method pays for it with divergence from the SFT model. The figure plots the judge's
score over KL: PPO, RLOO and GRPO as lines over training, DPO as a dot for each β, best of n as a line over n. All methods start
from the same model, learn from the same labeller and are measured on the same held-out tasks.

Source of the picture: Gao, Schulman and Hilton 2022 (arXiv:2210.10760), figures 1 and 8.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chapters.ch06_gpt import GPT
from chapters.ch07_train import TrainConfig
from chapters.ch10.assess import assessment_text
from chapters.ch10.best_of_n import curve
from chapters.ch10.comparisons import collect_rankings
from chapters.ch10.dpo import train_dpo
from chapters.ch10.grpo import GRPO, GRPOConfig
from chapters.ch10.harness import Harness, Learner, LoopConfig
from chapters.ch10.preference_figures import draw_frontier
from chapters.ch10.reward import load_scalar
from chapters.ch10.rlhf import PPO, PPOConfig, ptx_batches
from chapters.ch10.rloo import RLOO, RLOOConfig
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.run_folder import Run


@dataclass
class Settings(OnDevice):
    """Compare PPO, RLOO, GRPO, DPO and best of n in one figure and a printed summary."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model: initial policy and reference
    reward: Path = Path("runs/main/reward")  # run folder of the reward model
    run: Path = Path("runs/frontier")  # folder for all results
    tasks: int = 4000  # training tasks to draw prompts from
    held_out: int = 200  # held-out tasks, about unseen entities
    every: int = 10  # iterations between two assessments of PPO, RLOO and GRPO
    ppo: PPOConfig = field(default_factory=PPOConfig)
    rloo: RLOOConfig = field(default_factory=RLOOConfig)
    grpo: GRPOConfig = field(default_factory=lambda: GRPOConfig(prompts=64, kl_coefficient=0.2, missing_end=-4.0))
    betas: tuple[float, ...] = (0.5, 0.1, 0.03)  # values of β for DPO
    comparisons: int = 2000  # training tasks for DPO, with four compared responses each
    dpo: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=200, batch_size=32, lr=1e-4, min_lr=1e-5, warmup_steps=10, weight_decay=0.0)
    )
    ns: tuple[int, ...] = (1, 2, 4, 8, 16)  # values of n for best of n
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    quick: bool = False  # far fewer tasks and training steps


QUICK = {
    **{"tasks": 200, "held_out": 32, "every": 2, "betas": (0.1,), "comparisons": 60, "ns": (1, 2, 4)},
    "ppo": PPOConfig(iterations=4, prompts=16),
    "rloo": RLOOConfig(iterations=4, prompts=16),
    "grpo": GRPOConfig(iterations=4, prompts=16, kl_coefficient=0.2, missing_end=-4.0),
    "dpo": TrainConfig(steps=10, batch_size=16, lr=1e-4, warmup_steps=2, weight_decay=0.0),
}


class Frontier(Harness):
    """Trains policies with every method and assesses them."""

    settings: Settings

    def point(self, policy: GPT) -> dict[str, Any]:
        """The policy's assessment without the results of single tasks."""
        scores = self.assess(policy)
        del scores["of each task"]
        return scores

    def online(self, name: str, policy: GPT, config: LoopConfig, learner: Learner, repeat: int = 1) -> list[dict[str, Any]]:
        """Train with ch10/harness's loop, and assess the policy every `every` iterations."""
        points = []

        def observe(iteration: int) -> None:
            if iteration % self.settings.every == 0 or iteration == config.iterations:
                points.append({"iteration": iteration} | self.point(policy))

        self.optimise(policy, config, Run(self.settings.run / name), learner, repeat=repeat, observe=observe)
        return points


def main(settings: Settings) -> None:
    at_least_one(settings, "tasks", "held_out", "every", "comparisons")
    reward_model, run = load_scalar(settings.reward), Run(settings.run)
    harness, points = Frontier(settings, reward_model), {}
    reference, tokenizer, judge = harness.reference, harness.tokenizer, harness.judge
    ppo, rloo = replace(settings.ppo, seed=settings.seed), replace(settings.rloo, seed=settings.seed)
    grpo, dpo = replace(settings.grpo, seed=settings.seed), replace(settings.dpo, seed=settings.seed)

    policy = harness.policy()
    learner = PPO(policy, load_scalar(settings.reward), ppo, ptx_batches(ppo, judge.world, tokenizer, policy))
    points["PPO"] = harness.online("ppo", policy, ppo, learner)
    policy = harness.policy()
    points["RLOO"] = harness.online("rloo", policy, rloo, RLOO(policy, rloo), rloo.k)
    policy = harness.policy()
    points["GRPO"] = harness.online("grpo", policy, grpo, GRPO(policy, grpo), grpo.k)

    tasks = harness.tasks(settings.tasks)[: settings.comparisons]
    rankings = collect_rankings(reference, tokenizer, judge, tasks, 4, settings.seed)
    points["DPO"] = []
    for beta in settings.betas:
        policy = harness.policy()
        train_dpo(policy, reference, tokenizer, rankings, dpo, Run(run / f"dpo_{beta}"), beta)
        points["DPO"].append({"beta": beta} | harness.point(policy))
    points["best of n"] = curve(reference, tokenizer, reward_model, judge, harness.tests, settings.ns, settings.seed)

    run.write_scores(points)
    curves = {name: [(p["kl"], p["judge"], label(p)) for p in line] for name, line in points.items()}
    for name in ("PPO", "RLOO", "GRPO", "DPO"):
        best = max(points[name], key=lambda p: p["judge"])
        print(assessment_text(points[name][-1] if name != "DPO" else best, name) + "\n")
    for p in points["best of n"]:
        print(f"best of {p['n']}: judge {p['judge']:.3f}, KL {p['kl']:.2f}, preferred {p['wins']:.1%}")
    print(f"figure: {draw_frontier(run / 'figures' / 'frontier.svg', curves)}")


def label(point: dict[str, Any]) -> str:
    """The label beside a point of the figure."""
    return f"β {point['beta']}" if "beta" in point else f"n {point['n']}" if "n" in point else ""


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
