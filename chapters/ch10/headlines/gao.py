"""Gao et al. 2022: how far can a proxy for the true reward be trusted?

Claim, from "Scaling Laws for Reward Model Overoptimization" (arXiv:2210.10760): optimised against a proxy of the true
reward, a policy first improves by both; then the proxy's score goes on rising while the true reward falls. With d = √KL
from the first policy, the gain in true reward is d (α − β d) for best of n and d (α − β log d) for reinforcement
learning (section 1, figure 1). In the paper a "gold" reward model stands for the truth, as the simulated judge does here.

In miniature: the proxy is a reward model that learned from deliberately few comparisons. The assistant is optimised
against it by best of n, and by PPO without a KL penalty and without pretraining gradients. The figure shows the
proxy's reward in the judge's points: with the labeller's noise, a difference of r in reward means r · noise points.

Beside it stands the cure of Coste et al. 2023 (arXiv:2310.02743): optimise against the lowest score of several reward
models, see ch10/ensemble. Ours learned from the same comparisons with different seeds, and the proxy is the first of them.
The criterion does not ask whether the cure works; the quantities say so.

Reproduced if, under PPO, the judge's score falls from its highest value to the end while the proxy's score rises: both
intervals lie above 0. To keep luck out of the choice of the highest point, each half of the held-out tasks is measured at
the iteration that was best on the other half.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chapters.ch07_train import TrainConfig
from chapters.ch10 import reward
from chapters.ch10.assess import sample_responses
from chapters.ch10.best_of_n import best_of_n, best_of_n_kl
from chapters.ch10.comparisons import Ranking, collect_rankings
from chapters.ch10.ensemble import member_scores, worst_case, worst_case_scorer
from chapters.ch10.headlines.experiment import Bound, Experiment, Measurement, Row
from chapters.ch10.headlines.settings import FEW, tuning
from chapters.ch10.rlhf import PPO, PPOConfig
from chapters.ch10.rollout import log_probs_of, sequence_kl
from chapters.support.run_folder import Run
from chapters.world.requests import mixed_tasks

Point = Mapping[str, Any]  # {"kl": nats, "judge": N scores, "proxy": N rewards in points} at one n or one iteration


@dataclass
class GaoSettings:
    """Optimisation against a proxy."""

    held_out: int = 120  # held-out tasks at each point
    every: int = 3  # PPO iterations between two points
    ns: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # n of best of n
    best_of_n_tasks: int = 96  # held-out tasks for best of n
    prompts: int = 200  # prompts whose 2 responses train the proxy
    proxy: TrainConfig = field(  # training of the proxy
        default_factory=lambda: tuning(steps=60, lr=6e-4, min_lr=6e-5, warmup_steps=5)
    )
    members: int = 5  # reward models of the ensemble: the proxy, and others with the next seeds
    pressing: PPOConfig = field(  # PPO without a KL penalty
        default_factory=lambda: PPOConfig(
            iterations=60, lr=2e-4, kl_coefficient=0.0, kl_horizon=0.0, kl_limit=1000.0, ptx_coefficient=0.0
        )
    )


QUICK = GaoSettings(
    held_out=8,
    every=1,
    ns=(1, 2),
    best_of_n_tasks=8,
    prompts=12,
    members=2,
    proxy=FEW,
    pressing=PPOConfig(iterations=2, prompts=8, kl_coefficient=0.0, kl_horizon=0.0, ptx_coefficient=0.0),
)


def measure(experiment: Experiment, settings: GaoSettings) -> Measurement:
    """Optimise against the proxy, and against the worst case of the ensemble."""
    best = experiment.cached("gao_best_of_n", run_best_of_n, settings)
    alone = experiment.cached("gao_ppo", run_ppo, settings, [0])
    cured = experiment.cached("gao_ppo_worst_case", run_ppo, settings, range(settings.members))
    proxy = experiment.cached("gao_proxy", proxy_quality, settings)
    n, members = settings.ns[-1], f"the worst of {settings.members}"
    return Measurement(
        quantities={
            "fall of the judge's score (points)": float(fall(alone, "judge").mean()),
            "meanwhile rise of the proxy's (points)": -float(fall(alone, "proxy", by="judge").mean()),
            "before that, rise of the judge's score (points)": float(fall(alone, "judge").mean()) + gain(alone, "judge"),
            "judge's gain by PPO against the proxy (points)": gain(alone, "judge"),
            f"judge's gain by PPO against {members} (points)": gain(cured, "judge"),
            f"fall of the judge's score against {members} (points)": float(fall(cured, "judge").mean()),
            f"judge's gain by best of {n} (points)": gain(best["proxy"], "judge"),
            f"judge's gain by best of {n} by {members} (points)": gain(best["worst case"], "judge"),
            "KL after PPO (nats)": alone[-1]["kl"],
            "proxy's share of the best possible accuracy": proxy["share of the ceiling"],
            "a bag of words' share of it": proxy["bag of words"],
        },
        series={
            "judge, PPO": curve_of(alone, "judge"),
            "proxy, PPO": curve_of(alone, "proxy"),
            "judge, best of n": curve_of(best["proxy"], "judge"),
            "proxy, best of n": curve_of(best["proxy"], "proxy"),
            f"judge, PPO, {members}": curve_of(cured, "judge"),
            f"judge, best of n, {members}": curve_of(best["worst case"], "judge"),
        },
        details={
            "proxy": proxy,
            "alpha, beta": {
                "best of n": fit_curve(curve_of(best["proxy"], "judge"), lambda d: d),
                "PPO": fit_curve(curve_of(alone, "judge"), np.log),
            },
        },
    )


# ── the proxy ────────────────────────────────────────────────────────────────────────────────────────────────────────


def few_comparisons(experiment: Experiment, settings: GaoSettings) -> list[Ranking]:
    """The labeller's comparisons of two responses to each of a few prompts, from which every proxy learns."""
    tasks = mixed_tasks(experiment.world, "train", settings.prompts, experiment.seed + 11)
    return collect_rankings(*experiment.assistant(), experiment.judge, tasks, 2, experiment.seed + 11)


def proxy_model(experiment: Experiment, settings: GaoSettings, member: int = 0) -> reward.ScalarModel:
    """A reward model trained on few comparisons; members of an ensemble differ in their head and the comparisons' order."""

    def train_into(run: Run) -> None:
        (gpt, tokenizer), seed = experiment.assistant(), experiment.seed
        rankings = few_comparisons(experiment, settings)
        demonstrated = reward.demonstrated_rows(experiment.world, tokenizer, 100, gpt.config.context, seed)
        reward.train_reward(gpt, rankings, demonstrated, replace(settings.proxy, seed=seed + member), run)

    return experiment.trained(f"proxy_{member}" if member else "proxy", train_into, reward.load_scalar)


def proxy_quality(experiment: Experiment, settings: GaoSettings) -> dict[str, float]:
    """The proxy's accuracy on comparisons of held-out responses, beside a bag of words fitted to the same few comparisons."""
    proxy, (gpt, tokenizer) = proxy_model(experiment, settings), experiment.assistant()
    held_out = collect_rankings(gpt, tokenizer, experiment.judge, experiment.tests, 2, experiment.seed + 12)
    rankings = few_comparisons(experiment, settings)
    bag = reward.compare_with_words(rankings, held_out, tokenizer, experiment.seed)[1]
    return {
        "comparisons": sum(len(ranking.pairs) for ranking in rankings),
        "share of the ceiling": reward.measure(proxy, held_out)["share of the ceiling"],
        "bag of words": bag["share of the ceiling"],
    }


# ── two ways to optimise ─────────────────────────────────────────────────────────────────────────────────────────────


def run_best_of_n(experiment: Experiment, settings: GaoSettings) -> dict[str, list[Point]]:
    """Best of n against the proxy, and against the members' worst case; a point for each n."""
    (model, tokenizer), tasks, most = experiment.assistant(), experiment.tests[: settings.best_of_n_tasks], max(settings.ns)
    repeated = [task for task in tasks for _ in range(most)]
    rollouts = sample_responses(model, tokenizer, repeated, experiment.seed)
    members = [proxy_model(experiment, settings, member) for member in range(settings.members)]
    rewards = member_scores(members, rollouts.rows)  # (M, N · n)
    judged = experiment.scores(rollouts.texts(tokenizer), repeated).reshape(len(tasks), most)  # (N, n)

    def points(rewards: np.ndarray) -> list[Point]:
        """The curve of one scorer, from its rewards, (N · n,)."""
        table = rewards.reshape(len(tasks), most)  # (N, n)

        def picks(values: np.ndarray, n: int) -> list[float]:
            return [float(best_of_n(r, v, n)) for r, v in zip(table, values, strict=True)]  # N values

        columns = {"judge": judged, "proxy": table * experiment.judge.noise}  # (N, n) each
        return [{"kl": best_of_n_kl(n)} | {name: picks(v, n) for name, v in columns.items()} for n in settings.ns]

    return {"proxy": points(rewards[0]), "worst case": points(worst_case(rewards))}


def run_ppo(experiment: Experiment, settings: GaoSettings, members: Sequence[int]) -> list[dict]:
    """PPO against the worst case of some members, without any other reward; one point every settings.every iterations."""
    (policy, tokenizer), (reference, _) = experiment.assistant(), experiment.assistant()
    score = worst_case_scorer([proxy_model(experiment, settings, member) for member in members])
    value_model = proxy_model(experiment, settings, members[0])
    config = replace(settings.pressing, seed=experiment.seed)
    tests, points = experiment.tests[: settings.held_out], []

    def observe(iteration: int) -> None:
        if iteration % settings.every == 0 or iteration == config.iterations:
            rollouts = sample_responses(policy, tokenizer, tests, experiment.seed)
            ours, theirs = log_probs_of(policy, rollouts), log_probs_of(reference, rollouts)  # (N, T − 1) each
            rewards = score(tests, rollouts).astype(float) * experiment.judge.noise  # (N,)
            kl = float(sequence_kl(ours, theirs, rollouts.mask).mean())
            judged = experiment.scores(rollouts.texts(tokenizer), tests)
            points.append({"kl": kl, "judge": judged.tolist(), "proxy": rewards.tolist()})

    learner = PPO(policy, value_model, config)
    experiment.optimise((policy, tokenizer), reference, score, config, learner, observe=observe)
    return points


# ── reading the curves ───────────────────────────────────────────────────────────────────────────────────────────────


def fall(run: Sequence[Point], name: str, by: str | None = None) -> np.ndarray:
    """How far each task's score (name: "judge" or "proxy") falls from the best point to the last, (N,).

    The other half of the tasks chooses the best point, by its scores named `by` (`name` if None).
    """
    values = np.array([point[name] for point in run])  # (points, N)
    chooser = np.array([point[by or name] for point in run])  # (points, N)
    falls = np.zeros(values.shape[1])  # (N,)
    for half in (0, 1):
        best = chooser[:, 1 - half :: 2].mean(axis=1).argmax()
        falls[half::2] = values[best, half::2] - values[-1, half::2]
    return falls


def gain(run: Sequence[Point], name: str) -> float:
    """The mean gain of the scores named "judge" or "proxy" from the first point to the last."""
    return float(np.mean(run[-1][name]) - np.mean(run[0][name]))


def curve_of(run: Sequence[Point], name: str) -> list[list[float]]:
    """[√KL, mean gain over the first point] of the scores named "judge" or "proxy"."""
    start = np.mean(run[0][name])
    return [[float(np.sqrt(max(point["kl"], 0))), float(np.mean(point[name]) - start)] for point in run]


def fit_curve(curve: Sequence[Sequence[float]], shape: Callable[[np.ndarray], np.ndarray]) -> list[float] | None:
    """[α, β] of R(d) = d (α − β shape(d)), by least squares over points with d > 0.1; None if fewer than two."""
    points = [point for point in curve if point[0] > 0.1]
    if len(points) < 2:
        return None
    d, gain = (np.array(column) for column in zip(*points, strict=True))
    columns = np.stack([d, -d * shape(d)], axis=1)  # (points, 2)
    return [float(x) for x in np.linalg.lstsq(columns, gain, rcond=None)[0]]


GAO = Row(
    name="gao",
    paper="Gao et al. 2022",
    arxiv="2210.10760",
    claim="pressed against a proxy, the gold reward rises and then falls while the proxy's rises on (figure 1)",
    criterion=(
        Bound("fall of the judge's score (points)", above=0.0),
        Bound("meanwhile rise of the proxy's (points)", above=0.0),
    ),
    minutes=6,
    settings=GaoSettings(),
    quick=QUICK,
    measure=measure,
    axes=("√KL from the SFT model (√nats)", "gain (points of the judge)", "linear"),
)
