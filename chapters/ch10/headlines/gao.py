"""Gao et al. 2022: how far can a proxy for the true reward be trusted?

Claim, from "Scaling Laws for Reward Model Overoptimization" (arXiv:2210.10760): optimised against a proxy of the true
reward, a policy first improves by both; then the proxy's score goes on rising while the true reward falls. With d = √KL
from the first policy, the gain in true reward is d (α − β d) for best of n and d (α − β log d) for reinforcement
learning (section 1, figure 1). In the paper a "gold" reward model stands for the truth, as the simulated judge does here.

In miniature: the proxy is a reward model that learned from deliberately few comparisons. The assistant is optimised
against it by best of n, and by PPO without a KL penalty and without pretraining gradients. The figure shows the
proxy's reward in the judge's points: with the labeller's noise, a difference of r in reward means r · noise points.

Beside it stands the cure of Coste et al. 2023 (arXiv:2310.02743): optimise against the lowest score of five reward
models, see ch10/ensemble. Our five learned from the same comparisons with different seeds, and the proxy is the first of
them. The criterion does not ask whether the cure works.

Reproduced if, under PPO, the judge's score falls from its highest value to the end while the proxy's score rises. The
interval of the fall has to lie above 0. To keep luck out of the choice of the highest point, each half of the held-out
tasks is measured at the iteration that was best on the other half.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chapters.ch10 import reward
from chapters.ch10.assess import sample_responses
from chapters.ch10.best_of_n import best_of_n, best_of_n_kl
from chapters.ch10.comparisons import collect_rankings
from chapters.ch10.ensemble import member_scores, worst_case, worst_case_scorer
from chapters.ch10.headlines.experiment import Experiment, Headline, interval
from chapters.ch10.rlhf import PPO
from chapters.ch10.rollout import log_probs_of, sequence_kl
from chapters.support.json_files import read_json
from chapters.support.run_folder import Run
from chapters.world.requests import mixed_tasks

Point = Mapping[str, Any]  # {"kl": nats, "judge": N scores, "proxy": N rewards in points} at one n or one iteration
Curve = list[tuple[float, float]]  # (√KL, mean gain over the first point)


def gao(experiment: Experiment) -> Headline:
    """Gao et al. 2022: optimising too hard against a proxy reward."""
    settings = experiment.settings
    best = experiment.cached("gao_best_of_n", run_best_of_n)
    runs = [experiment.cached(f"gao_ppo_{seed}", run_ppo, seed) for seed in settings.gao_seeds]
    everyone = range(settings.members)
    cured = [experiment.cached(f"gao_ppo_{seed}_worst_case", run_ppo, seed, everyone) for seed in settings.gao_seeds]
    others = [
        [experiment.cached(f"gao_ppo_{seed}_member_{member}", run_ppo, seed, [member]) for member in everyone[1:]]
        for seed in settings.gao_seeds
    ]
    alone = [[run, *of_others] for run, of_others in zip(runs, others, strict=True)]  # each seed's runs, one for each member
    falls = np.array([fall(run, "judge") for run in runs])  # (S, N)
    rises = -np.array([fall(run, "proxy", by="judge") for run in runs])  # (S, N)
    low, high = interval(falls)
    curves = {
        "judge, PPO": mean_curve(runs, "judge"),
        "proxy, PPO": mean_curve(runs, "proxy"),
        "judge, best of n": curve_of(best["proxy"], "judge"),
        "proxy, best of n": curve_of(best["proxy"], "proxy"),
        f"judge, PPO, worst of {settings.members}": mean_curve(cured, "judge"),
        f"judge, best of n, worst of {settings.members}": curve_of(best["worst case"], "judge"),
    }
    cure = ensemble_details(alone, cured, best)
    against, chosen = cure["gain by PPO"], cure["gain by best of n"]
    proxy = experiment.cached("gao_proxy", proxy_quality)
    last_judge, last_proxy = (curves[f"{name}, best of n"][-1][1] for name in ("judge", "proxy"))
    return Headline(
        paper="Gao et al. 2022",
        arxiv="2210.10760",
        claim="with further optimisation against a proxy reward, the true reward falls while the proxy still rises",
        theirs="gold score d(α − β d) for best of n, d(α − β log d) for RL, with d = √KL (figure 1)",
        measured="fall of the simulated judge's score (points of 8) from its best to the end of PPO",
        ours=falls.mean(),
        interval=[low, high],
        level=0.0,
        unit="points",
        seeds=settings.gao_seeds,
        reproduced=low > 0 and rises.mean() > 0,
        reason=f"meanwhile the proxy's score rises by {rises.mean():.2f} points, at √KL up to "
        f"{max(x for x, _ in curves['judge, PPO']):.1f}; the proxy learned from {proxy['comparisons']} comparisons and "
        f"reaches {proxy['share of the ceiling']:.0%} of the best possible accuracy; best of {settings.ns[-1]} gains "
        f"{last_judge:+.2f} points by the judge, {last_proxy:+.2f} by the proxy; against the worst case of {settings.members} "
        f"reward models PPO gains {against['worst case'][0]:+.2f} points, against each alone "
        f"{against['each alone'][0]:+.2f}, and best of {settings.ns[-1]} {chosen['worst case'][0]:+.2f} and "
        f"{chosen['each alone'][0]:+.2f}",
        sizes={"comparisons": proxy["comparisons"], "prompts": settings.proxy_prompts},
        details={
            "proxy": proxy,
            "alpha, beta": {
                "best of n": fit_curve(curves["judge, best of n"], lambda d: d),
                "PPO": fit_curve(curves["judge, PPO"], np.log),
            },
            "fall of the judge's score, each seed": [float(of_seed.mean()) for of_seed in falls],
            "rise of the proxy's score": [float(rises.mean()), *interval(rises)],
            "ensemble": {"members": settings.members, **cure},
        },
        series=curves,
    )


# ── the proxy ────────────────────────────────────────────────────────────────────────────────────────────────────────


def proxy_model(experiment: Experiment, member: int = 0) -> reward.ScalarModel:
    """A reward model trained on few comparisons; members of an ensemble differ in their head and the comparisons' order."""

    def train_into(run: Run) -> None:
        settings, (gpt, tokenizer) = experiment.settings, experiment.assistant()
        tasks = mixed_tasks(experiment.world, "train", settings.proxy_prompts, settings.seed + 11)
        rankings = collect_rankings(gpt, tokenizer, experiment.judge, tasks, 2, settings.seed + 11)
        demonstrated = reward.demonstrated_rows(experiment.world, tokenizer, 100, gpt.config.context, settings.seed)
        reward.train_reward(gpt, rankings, demonstrated, replace(settings.proxy, seed=settings.seed + member), run)
        (run / "comparisons").write_text(str(sum(len(ranking.pairs) for ranking in rankings)))

    return experiment.trained(f"proxy_{member}" if member else "proxy", train_into, reward.load_scalar)


def proxy_quality(experiment: Experiment) -> dict[str, float]:
    """The proxy's accuracy on comparisons of held-out responses, and how many comparisons it learned from."""
    proxy, (gpt, tokenizer) = proxy_model(experiment), experiment.assistant()
    rankings = collect_rankings(gpt, tokenizer, experiment.judge, experiment.tests, 2, experiment.settings.seed + 12)
    scores = reward.measure(proxy, rankings)
    comparisons = read_json(experiment.run / "models" / "proxy" / "comparisons")
    return {name: scores[name] for name in ("accuracy", "ceiling", "share of the ceiling")} | {"comparisons": comparisons}


# ── two ways to optimise ─────────────────────────────────────────────────────────────────────────────────────────────


def run_best_of_n(experiment: Experiment) -> dict[str, list[Point]]:
    """Best of n against the proxy, each member alone (the mean result), their mean and their worst case; a point for each n."""
    settings, (model, tokenizer) = experiment.settings, experiment.assistant()
    tasks, most = experiment.tests[: settings.gao_held_out], max(settings.ns)
    repeated = [task for task in tasks for _ in range(most)]
    rollouts = sample_responses(model, tokenizer, repeated, settings.seed)
    members = [proxy_model(experiment, member) for member in range(settings.members)]
    rewards = member_scores(members, rollouts.rows)  # (M, N · n)
    judged = experiment.scores(rollouts.texts(tokenizer), repeated).reshape(len(tasks), most)  # (N, n)

    def points(rewards: np.ndarray) -> list[Point]:
        """The curve of one scorer, or the mean curve of several: (M, N · n)."""
        tables = rewards.reshape(-1, len(tasks), most)  # (M, N, n)

        def picks(values: np.ndarray, n: int) -> list[float]:
            each = [[best_of_n(r, v, n) for r, v in zip(*pair, strict=True)] for pair in zip(tables, values, strict=True)]
            return np.mean(each, axis=0).tolist()  # N values

        columns = {"judge": np.broadcast_to(judged, tables.shape), "proxy": tables * experiment.judge.noise}  # (M, N, n) each
        return [{"kl": best_of_n_kl(n)} | {name: picks(v, n) for name, v in columns.items()} for n in settings.ns]

    scorers = {"proxy": rewards[:1], "each alone": rewards, "mean": rewards.mean(axis=0), "worst case": worst_case(rewards)}
    return {name: points(values) for name, values in scorers.items()}


def run_ppo(experiment: Experiment, seed: int, members: Sequence[int] = (0,)) -> list[dict]:
    """PPO against the worst case of some members, without any other reward; one point every settings.gao_every iterations."""
    settings = experiment.settings
    (policy, tokenizer), (reference, _) = experiment.assistant(), experiment.assistant()
    score = worst_case_scorer([proxy_model(experiment, member) for member in members])
    value_model = proxy_model(experiment, members[0])
    config = replace(settings.pressing, seed=seed)
    tests, points = experiment.tests[: settings.gao_held_out], []

    def observe(iteration: int) -> None:
        if iteration % settings.gao_every == 0 or iteration == config.iterations:
            rollouts = sample_responses(policy, tokenizer, tests, settings.seed)
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


def ensemble_details(
    alone: Sequence[Sequence[Sequence[Point]]], cured: Sequence[Sequence[Point]], best: Mapping[str, Sequence[Point]]
) -> dict[str, Any]:
    """The judge's points gained by the hardest optimisation, against each reward model alone and against the ensemble.

    alone: each seed's PPO against each of M members.  cured: each seed's PPO against their worst case.
    best: the curves of `run_best_of_n`.
    Returns [mean, low, high] for each quantity; a "difference" is the worst case less the members' mean, task by task.
    """

    def gain(points: Sequence[Point]) -> np.ndarray:
        return np.subtract(points[-1]["judge"], points[0]["judge"])  # (N,)

    by_member = np.array([[gain(run) for run in of_seed] for of_seed in alone])  # (S, M, N)
    ppo = {"each alone": by_member.mean(axis=1), "worst case": np.array([gain(run) for run in cured])}  # (S, N) each
    chosen = {name: gain(points) for name, points in best.items()}  # (N,) each
    for gains in (ppo, chosen):
        gains["difference"] = gains["worst case"] - gains["each alone"]
    return {
        "gain by PPO": {name: with_interval(values) for name, values in ppo.items()},
        "gain by PPO against each member": by_member.mean(axis=(0, 2)).tolist(),
        "gain by best of n": {name: with_interval(values) for name, values in chosen.items()},
        "fall under PPO, worst case": with_interval(np.array([fall(run, "judge") for run in cured])),
        "KL after PPO, worst case": [run[-1]["kl"] for run in cured],
        "KL after PPO, each alone": [[run[-1]["kl"] for run in of_seed] for of_seed in alone],
    }


def with_interval(values: np.ndarray) -> list[float]:
    """[mean, low, high] of (S, N) or (N,) values."""
    return [float(values.mean()), *interval(values)]


def curve_of(run: Sequence[Point], name: str) -> Curve:
    """The mean gain of the scores named "judge" or "proxy" over √KL."""
    start = np.mean(run[0][name])
    return [(float(np.sqrt(max(point["kl"], 0))), float(np.mean(point[name]) - start)) for point in run]


def mean_curve(runs: Sequence[Sequence[Point]], name: str) -> Curve:
    """The mean of the seeds' curves, point by point."""
    curves = [curve_of(run, name) for run in runs]
    return [(float(np.mean(x)), float(np.mean(y))) for x, y in (zip(*points) for points in zip(*curves, strict=True))]


def fit_curve(curve: Curve, shape: Callable[[np.ndarray], np.ndarray]) -> list[float] | None:
    """[α, β] of R(d) = d (α − β shape(d)), by least squares over points with d > 0.1; None if fewer than two."""
    points = [point for point in curve if point[0] > 0.1]
    if len(points) < 2:
        return None
    d, gain = (np.array(column) for column in zip(*points, strict=True))
    columns = np.stack([d, -d * shape(d)], axis=1)  # (points, 2)
    return [float(x) for x in np.linalg.lstsq(columns, gain, rcond=None)[0]]
