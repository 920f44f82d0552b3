"""Chapter 10, best of n: sample n responses and return the one with the highest reward. No training at all.

    python -m chapters.ch10.best_of_n       # from the main job's models, into runs/best_of_n

Best of n is max(responses, key=reward). It shows what a reward model is worth by itself, and it is the yardstick for every
method that trains against a reward model. Each answer costs n times as much computing. Its KL from the SFT model is at most
log n − (n − 1) / n, with equality if no two responses are equal; for n = 100 that is less than four nats.

Sources: Stiennon et al. 2020 (arXiv:2009.01325), appendix G.3, for the KL; Nakano et al. 2021 (arXiv:2112.09332),
appendix I, for the estimate that uses every response.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chapters.ch06_gpt import GPT
from chapters.ch10.assess import sample_responses
from chapters.ch10.harness import Harness, judge_scorer
from chapters.ch10.reward import ScalarModel, load_scalar, reward_scores
from chapters.support.command import InShards, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import Instruction
from chapters.world.judge import LABELS, Judge, gains_text, points_by_criterion, preference


def best_of_n_kl(n: int) -> float:
    """KL(best of n ‖ one sample) in nats: log n − (n − 1) / n."""
    return math.log(n) - (n - 1) / n


def best_of_n(proxy: np.ndarray, values: np.ndarray, n: int) -> float:
    """The expected value of the response with the highest proxy among n, averaged over all ways to choose n of N.

    proxy, values: (N,). The response of rank i (from 0, worst first) is the best in C(i, n − 1) of the C(N, n) choices.
    Equal proxies rank in the order of sampling.
    """
    N = len(proxy)
    if not 1 <= n <= N:
        raise ValueError(f"best_of_n: expected n between 1 and the {N} responses, got {n}")
    weights = np.array([math.comb(i, n - 1) for i in range(N)], np.float64) / math.comb(N, n)  # (N,)
    return float(weights @ np.asarray(values, np.float64)[np.argsort(proxy, kind="stable")])


def curve(
    policy: GPT,
    tokenizer: Any,
    reward_model: ScalarModel,
    judge: Judge,
    tasks: Sequence[Instruction],
    ns: Sequence[int],
    seed: int = 0,
    max_new_tokens: int = 48,
) -> list[dict[str, Any]]:
    """{"n", "kl", "judge", "reward", "wins", "criteria"} for each n, from max(ns) responses to each task.

    The points in "criteria" add up to "judge".
    """
    if not ns or min(ns) < 1:
        raise ValueError(f"curve: expected one or more ns >= 1, got {ns}")
    N = max(ns)
    repeated = [task for task in tasks for _ in range(N + 1)]  # the last response is the opponent in `wins`
    rollouts = sample_responses(policy, tokenizer, repeated, seed, max_new_tokens)
    proxy = reward_scores(reward_model, rollouts.rows).reshape(len(tasks), N + 1)  # (tasks, N + 1)
    judged = judge_scorer(judge, tokenizer)(repeated, rollouts).reshape(len(tasks), N + 1)  # (tasks, N + 1)
    wins = np.array([[preference(score, scores[-1], 0) for score in scores[:-1]] for scores in judged])  # (tasks, N)
    table = {"judge": judged[:, :-1], "reward": proxy[:, :-1], "wins": wins}  # (tasks, N) each
    each = [points_by_criterion(judge, [t], [text]) for t, text in zip(repeated, rollouts.texts(tokenizer), strict=True)]
    points = {c: np.array([p[c] for p in each]).reshape(len(tasks), N + 1)[:, :-1] for c in LABELS}  # (tasks, N) each

    def mean(values: np.ndarray, n: int) -> float:
        return float(np.mean([best_of_n(p, v, n) for p, v in zip(proxy[:, :-1], values, strict=True)]))

    def means(table: dict[str, np.ndarray], n: int) -> dict[str, float]:
        return {name: mean(values, n) for name, values in table.items()}

    return [{"n": n, "kl": best_of_n_kl(n), **means(table, n), "criteria": means(points, n)} for n in ns]


@dataclass
class Settings(InShards):
    """Let the reward model choose among n responses of the SFT model, and show the gain as n grows."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model
    reward: Path = Path("runs/main/reward")  # run folder of the reward model
    run: Path = Path("runs/best_of_n")  # folder for all results
    ns: tuple[int, ...] = (1, 2, 4, 8, 16)  # numbers of responses to choose from
    held_out: int = 160  # held-out tasks, about unseen entities
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    quick: bool = False  # fewer responses and held-out tasks


QUICK = {"ns": (1, 2, 4), "held_out": 32}


def main(settings: Settings) -> None:
    at_least_one(settings, "held_out")
    harness, reward_model = Harness(settings), load_scalar(settings.reward)
    models = harness.reference, harness.tokenizer, reward_model, harness.judge
    points = curve(*models, harness.tests, settings.ns, settings.seed)
    first, last = points[0], points[-1]
    Run(settings.run).write_scores(points)
    print("   n   KL (nats)   reward   simulated judge   preferred to one sample")
    for point in points:
        print(f"{point['n']:4}{point['kl']:12.2f}{point['reward']:9.2f}{point['judge']:18.3f}{point['wins']:26.1%}")
    print(f"gain by criterion, best of {last['n']} over {first['n']}: {gains_text(first['criteria'], last['criteria'])}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
