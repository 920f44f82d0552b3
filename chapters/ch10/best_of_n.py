"""Chapter 10, best of n: no training at all. Draw n responses, and say the one that the reward model likes most.

    python -m chapters.ch10.best_of_n       # from the main job's models, into runs/best_of_n

What this file teaches: what a reward model is worth by itself, and the yardstick for everything that trains against
one. It costs n times the computing at every answer, and reaches KL log n − (n − 1) / n from the SFT model (an upper
bound, and exact while no two responses are equal), so that a hundredfold effort buys less than four nats.
Sources: Stiennon et al. 2020 (arXiv:2009.01325), appendix G.3, for the KL; Nakano et al. 2021 (arXiv:2112.09332),
appendix I, for the estimate that uses every response drawn.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chapters.ch06_gpt import load_model
from chapters.ch10.assess import sample_responses
from chapters.ch10.reward import load_scalar, reward_scores
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import Judge, preference, score_of
from chapters.world.requests import mixed_tasks


def best_of_n_kl(n):
    """KL(best of n ‖ one draw) in nats: log n − (n − 1) / n."""
    return math.log(n) - (n - 1) / n


def best_of_n(proxy, values, n):
    """The mean value of the response that the proxy likes most among n, averaged over all ways to draw n of N.

    proxy, values: (N,).  The response of rank i (from 0, worst first) is the best of n others' company in
    C(i, n − 1) of the C(N, n) draws; equal proxies stand in the order in which they were drawn.
    """
    N = len(proxy)
    if not 1 <= n <= N:
        raise ValueError(f"n must be between 1 and the {N} responses drawn, got {n}")
    weights = np.array([math.comb(i, n - 1) for i in range(N)], np.float64) / math.comb(N, n)  # (N,)
    return float(weights @ np.asarray(values, np.float64)[np.argsort(proxy, kind="stable")])


def curve(policy, tokenizer, reward_model, judge, tasks, ns, seed=0, max_new_tokens=48):
    """For each n: {"n", "kl", "judge", "reward", "wins"}, with max(ns) responses drawn to each task."""
    if not ns or min(ns) < 1:
        raise ValueError(f"ns must be one or more numbers of at least 1, got {ns}")
    N = max(ns)
    repeated = [task for task in tasks for _ in range(N + 1)]  # the last of each stands for the SFT model's one answer
    rollouts = sample_responses(policy, tokenizer, repeated, seed, max_new_tokens)
    proxy = reward_scores(reward_model, rollouts.rows).reshape(len(tasks), N + 1)  # (tasks, N + 1)
    said = zip(repeated, rollouts.texts(tokenizer), strict=True)
    judged = np.array([score_of(judge, task, text) for task, text in said]).reshape(len(tasks), N + 1)
    wins = np.array([[preference(score, one[-1], 0) for score in one[:-1]] for one in judged])  # (tasks, N)
    table = {"judge": judged[:, :-1], "reward": proxy[:, :-1], "wins": wins}  # (tasks, N) each
    found = []
    for n in ns:
        means = {
            name: float(np.mean([best_of_n(p, v, n) for p, v in zip(proxy[:, :-1], values, strict=True)]))
            for name, values in table.items()
        }
        found.append({"n": n, "kl": best_of_n_kl(n), **means})
    return found


@dataclass
class Settings(OnDevice):
    """Let the SFT model draw n responses and the reward model choose; show what that buys as n grows."""

    sft: Path = Path("runs/main/assistant")  # the run folder of the SFT model
    reward: Path = Path("runs/main/reward")  # the run folder of the reward model
    run: Path = Path("runs/best_of_n")  # the folder for everything
    ns: tuple[int, ...] = (1, 2, 4, 8, 16)  # how many to choose from
    held_out: int = 160  # instructions, about entities never trained on
    world: int = 0  # the seed of the world whose tasks are asked
    seed: int = 0  # of everything random
    quick: bool = False  # fewer of everything


QUICK = {"ns": (1, 2, 4), "held_out": 32}


def main(settings):
    at_least_one(settings, "held_out")
    policy, tokenizer = load_model(settings.sft)
    world, run = World(settings.world), Run(settings.run)
    tests = mixed_tasks(world, "test", settings.held_out, settings.seed + 1)
    found = curve(policy, tokenizer, load_scalar(settings.reward), Judge(world), tests, settings.ns, settings.seed)
    (run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    print("   n   KL (nats)   reward   simulated judge   preferred to one draw")
    for one in found:
        print(f"{one['n']:4}{one['kl']:12.2f}{one['reward']:9.2f}{one['judge']:18.3f}{one['wins']:24.1%}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
