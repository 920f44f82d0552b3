"""Chapter 10, all methods on one page: how much does the judge like it, and how far from the SFT model is it?

    python -m chapters.ch10.frontier       # from the main job's models, into runs/frontier

What this file teaches: a score alone says little, since every method buys it with divergence from the SFT model. PPO
and RLOO draw a line as they train; DPO is a dot for each β; best of n is a line in n. All start from the same model,
learn from the same labeller's comparisons, and are measured on the same held-out tasks, none of which any of them saw.
Source of the picture: Gao, Schulman and Hilton 2022 (arXiv:2210.10760), figures 1 and 8.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from chapters.ch06_gpt import load_model
from chapters.ch07_train import TrainConfig
from chapters.ch10.assess import assess, assessment_text, sample_responses
from chapters.ch10.best_of_n import curve
from chapters.ch10.dpo import train_dpo
from chapters.ch10.preference_figures import draw_frontier
from chapters.ch10.reward import collect_rankings, load_scalar
from chapters.ch10.rlhf import PPO, PPOConfig, optimise, ptx_batches, reward_scorer
from chapters.ch10.rloo import RLOO, RLOOConfig
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import Judge
from chapters.world.requests import mixed_tasks


@dataclass
class Settings(OnDevice):
    """Train with PPO, RLOO and DPO, draw best of n, and put all of them into one figure and one table."""

    sft: Path = Path("runs/main/assistant")  # the run folder of the SFT model: where all start, and the reference
    reward: Path = Path("runs/main/reward")  # the run folder of the reward model
    run: Path = Path("runs/frontier")  # the folder for everything
    tasks: int = 4000  # instructions to draw prompts from
    held_out: int = 200  # instructions, about entities never trained on, to measure on
    every: int = 10  # iterations between two measurements of PPO and RLOO
    ppo: PPOConfig = field(default_factory=PPOConfig)
    rloo: RLOOConfig = field(default_factory=RLOOConfig)
    betas: tuple[float, ...] = (0.5, 0.1, 0.03)  # of DPO
    comparisons: int = 2000  # instructions whose responses are compared for DPO, four to each
    dpo: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=200, batch_size=32, lr=1e-4, min_lr=1e-5, warmup_steps=10, weight_decay=0.0)
    )
    ns: tuple[int, ...] = (1, 2, 4, 8, 16)  # of best of n
    world: int = 0  # the seed of the world whose tasks are asked
    seed: int = 0  # of everything random
    quick: bool = False  # much less of everything


QUICK = {
    "tasks": 200, "held_out": 32, "every": 2, "betas": (0.1,), "comparisons": 60, "ns": (1, 2, 4),
    "ppo": PPOConfig(iterations=4, prompts=16),
    "rloo": RLOOConfig(iterations=4, prompts=16),
    "dpo": TrainConfig(steps=10, batch_size=16, lr=1e-4, warmup_steps=2, weight_decay=0.0),
}  # fmt: skip


class Stand:
    """What all methods share: the SFT model, the reward model, the judge, the tasks, and one way of measuring."""

    def __init__(self, settings):
        self.settings, self.run = settings, Run(settings.run)
        self.reference, self.tokenizer = load_model(settings.sft)
        self.reward_model = load_scalar(settings.reward)
        self.world = World(settings.world)
        self.judge = Judge(self.world)
        self.tasks = mixed_tasks(self.world, "train", settings.tasks, settings.seed)
        self.tests = mixed_tasks(self.world, "test", settings.held_out, settings.seed + 1)
        self.before = sample_responses(self.reference, self.tokenizer, self.tests, settings.seed)

    def policy(self):
        """A fresh copy of the SFT model."""
        return load_model(self.settings.sft)[0]

    def measure(self, policy):
        """What `assess` finds in a policy's responses to the held-out tasks."""
        after = sample_responses(policy, self.tokenizer, self.tests, self.settings.seed)
        found = assess(self.judge, self.tests, after, self.before, self.tokenizer, self.reference, policy,
                       self.reward_model)  # fmt: skip
        del found["of each task"]
        return found

    def online(self, name, policy, config, learner, repeat=1):
        """Train with the loop of ch10/rlhf, measuring as it goes: [what assess found]."""
        found = []

        def observe(iteration):
            if iteration % self.settings.every == 0 or iteration == config.iterations:
                found.append({"iteration": iteration} | self.measure(policy))

        score = reward_scorer(self.reward_model)
        run = Run(self.run / name)
        optimise(policy, self.reference, self.tokenizer, score, self.tasks, config, run, learner, self.judge, repeat,
                 observe)  # fmt: skip
        return found


def main(settings):
    at_least_one(settings, "tasks", "held_out", "every", "comparisons")
    stand, found = Stand(settings), {}
    seeded = {name: replace(getattr(settings, name), seed=settings.seed) for name in ("ppo", "rloo", "dpo")}

    policy, value_model = stand.policy(), load_scalar(settings.reward)
    pages = ptx_batches(seeded["ppo"], stand.world, stand.tokenizer, policy)
    found["PPO"] = stand.online("ppo", policy, seeded["ppo"], PPO(policy, value_model, seeded["ppo"], pages))
    policy = stand.policy()
    found["RLOO"] = stand.online("rloo", policy, seeded["rloo"], RLOO(policy, seeded["rloo"]), seeded["rloo"].k)

    compared = stand.tasks[: settings.comparisons]
    rankings = collect_rankings(stand.reference, stand.tokenizer, stand.judge, compared, 4, settings.seed)
    found["DPO"] = []
    for beta in settings.betas:
        policy, run = stand.policy(), Run(stand.run / f"dpo_{beta}")
        train_dpo(policy, stand.reference, stand.tokenizer, rankings, seeded["dpo"], run, beta)
        found["DPO"].append({"beta": beta} | stand.measure(policy))
    args = stand.reference, stand.tokenizer, stand.reward_model, stand.judge, stand.tests, settings.ns, settings.seed
    found["best of n"] = curve(*args)

    (stand.run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    curves = {name: [(one["kl"], one["judge"], note(one)) for one in points] for name, points in found.items()}
    for name in ("PPO", "RLOO", "DPO"):
        best = max(found[name], key=lambda one: one["judge"])
        print(assessment_text(found[name][-1] if name != "DPO" else best, name) + "\n")
    for one in found["best of n"]:
        print(f"best of {one['n']}: judge {one['judge']:.3f}, KL {one['kl']:.2f}, preferred {one['wins']:.1%}")
    print(f"figure: {draw_frontier(stand.run / 'figures' / 'frontier.png', curves)}")


def note(one):
    """What tells a point of the figure from the others of its method."""
    return f"β {one['beta']}" if "beta" in one else f"n {one['n']}" if "n" in one else ""


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
