"""Gao et al. 2022: how far can a proxy for what is wanted be trusted?"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from chapters.ch10.assess import sample_responses
from chapters.ch10.best_of_n import best_of_n, best_of_n_kl
from chapters.ch10.headlines.experiment import Headline, interval
from chapters.ch10.reward import (
    collect_rankings,
    demonstrated_rows,
    load_scalar,
    measure,
    reward_scores,
    train_reward,
)
from chapters.ch10.rlhf import PPO, optimise, reward_scorer
from chapters.ch10.rollout import log_probs_of, sequence_kl
from chapters.support.run_folder import Run
from chapters.world.requests import mixed_tasks


def gao(stand):
    """ "Scaling Laws for Reward Model Overoptimization" (arXiv:2210.10760).

    Claim: pressed against a proxy of the true reward, a policy improves by both at first; then the proxy's score goes
    on rising while the true one falls. With d = √KL from the first policy the gain in true reward is d (α − β d) for
    best of n and d (α − β log d) for reinforcement learning (section 1, figure 1), a simulated "gold" reward model
    standing for the truth, as the simulated judge does here.

    In miniature: the proxy is a reward model that saw deliberately few comparisons. The assistant is pressed against it
    by best of n and by PPO without a KL penalty and without pretraining's gradients mixed in. The proxy's reward is
    shown in the judge's points: a difference of r in reward is, by the labeller's own noise, r · noise points.
    Reproduced where PPO's true score at the end lies below its highest while the proxy's does not. So that the highest
    point is not chosen by its own luck, each half of the held-out tasks is measured at the iteration that was best on
    the other half, and the interval of the fall has to lie above 0.
    """
    found = stand.noted("gao_best_of_n", best_of, stand)
    runs = [stand.noted(f"gao_ppo_{seed}", pressed, stand, seed) for seed in stand.settings.gao_seeds]
    fallen = np.array([fall(run, "judge") for run in runs])  # (S, N)
    risen = -np.array([fall(run, "proxy", by="judge") for run in runs])  # (S, N)
    low, high = interval(fallen)
    curves = {"judge, PPO": mean_curve(runs, "judge"), "proxy, PPO": mean_curve(runs, "proxy"),
              "judge, best of n": curve_of(found, "judge"), "proxy, best of n": curve_of(found, "proxy")}  # fmt: skip
    fits = {
        "best of n": fitted(curves["judge, best of n"], lambda d: d),
        "PPO": fitted(curves["judge, PPO"], np.log),
    }
    proxy = stand.noted("gao_proxy", quality, stand)
    last = max(x for x, _ in curves["judge, PPO"])
    return Headline(
        paper="Gao et al. 2022",
        arxiv="2210.10760",
        claim="pressing on against a proxy reward, the true one falls while the proxy still rises",
        theirs="gold score d(α − β d) for best of n, d(α − β log d) for RL, with d = √KL (figure 1)",
        measured="fall of the simulated judge's score (points of 8) from its best to the end of PPO",
        ours=float(fallen.mean()),
        interval=[low, high],
        level=0.0,
        unit="points",
        seeds=list(stand.settings.gao_seeds),
        reproduced=low > 0 and risen.mean() > 0,
        reason=f"meanwhile the proxy's rises by {risen.mean():.2f} points, to √KL {last:.1f}; the proxy saw "
        f"{proxy['comparisons']} comparisons and reaches {proxy['share of the ceiling']:.0%} of the ceiling; best of "
        f"{stand.settings.ns[-1]}: judge {curves['judge, best of n'][-1][1]:+.2f}, "
        f"proxy {curves['proxy, best of n'][-1][1]:+.2f}",
        sizes={"comparisons": proxy["comparisons"], "prompts": stand.settings.proxy_prompts},
        details={
            "proxy": proxy,
            "alpha, beta": fits,
            "fall of the judge's score, each seed": [float(one.mean()) for one in fallen],
            "rise of the proxy's score": [float(risen.mean()), *interval(risen)],
        },
        series=curves,
    )


# ── the proxy ────────────────────────────────────────────────────────────────────────────────────────────────────────


def proxy_model(stand):
    """A reward model trained on few comparisons; kept in models/proxy."""
    folder = stand.run / "models" / "proxy"
    if not (folder / "reward.safetensors").exists():
        settings, (gpt, tokenizer) = stand.settings, stand.assistant()
        tasks = mixed_tasks(stand.world, "train", settings.proxy_prompts, settings.seed + 11)
        rankings = collect_rankings(gpt, tokenizer, stand.judge, tasks, 2, settings.seed + 11)
        shown = demonstrated_rows(stand.world, tokenizer, 100, gpt.config.context, settings.seed)
        config = replace(settings.proxy, seed=settings.seed)
        with TemporaryDirectory() as scratch:
            model = train_reward(gpt, rankings, shown, config, Run(scratch))
            reward = (Path(scratch) / "reward.safetensors").read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparisons").write_text(str(sum(len(ranking.pairs) for ranking in rankings)))
        (folder / "reward.safetensors").write_bytes(reward)
        return model
    return load_scalar(folder)


def quality(stand):
    """How good the proxy is at comparing held-out responses, and how many comparisons it saw."""
    proxy, (gpt, tokenizer) = proxy_model(stand), stand.assistant()
    rankings = collect_rankings(gpt, tokenizer, stand.judge, stand.tests, 2, stand.settings.seed + 12)
    found = measure(proxy, rankings)
    seen = int((stand.run / "models" / "proxy" / "comparisons").read_text())
    return {name: found[name] for name in ("accuracy", "ceiling", "share of the ceiling")} | {"comparisons": seen}


# ── two ways to press ────────────────────────────────────────────────────────────────────────────────────────────────


def best_of(stand):
    """[{"kl", "judge": (N,), "proxy": (N,)}], one for each n."""
    settings, (model, tokenizer), proxy = stand.settings, stand.assistant(), proxy_model(stand)
    tasks, most = stand.tests[: settings.gao_held_out], max(settings.ns)
    repeated = [task for task in tasks for _ in range(most)]
    rollouts = sample_responses(model, tokenizer, repeated, settings.seed)
    rewards = reward_scores(proxy, rollouts.rows).reshape(len(tasks), most)  # (N, n)
    judged = stand.scores(rollouts.texts(tokenizer), repeated).reshape(len(tasks), most)  # (N, n)
    return [
        {"kl": best_of_n_kl(n)}
        | {name: [best_of_n(r, v, n) for r, v in zip(rewards, values, strict=True)]
           for name, values in (("judge", judged), ("proxy", rewards * stand.judge.noise))}
        for n in settings.ns
    ]  # fmt: skip


def pressed(stand, seed):
    """[{"kl", "judge": (N,), "proxy": (N,)}] as PPO goes on, pressing against the proxy alone."""
    settings, (policy, tokenizer), (reference, _) = stand.settings, stand.assistant(), stand.assistant()
    proxy, value_model = proxy_model(stand), proxy_model(stand)
    config = replace(settings.pressing, seed=seed)
    tasks, found = stand.tests[: settings.gao_held_out], []

    def observe(iteration):
        if iteration % settings.gao_every == 0 or iteration == config.iterations:
            rollouts = sample_responses(policy, tokenizer, tasks, settings.seed)
            ours, theirs = log_probs_of(policy, rollouts), log_probs_of(reference, rollouts)  # (N, T − 1) each
            found.append({
                "kl": float(sequence_kl(ours, theirs, rollouts.mask).mean()),
                "judge": stand.scores(rollouts.texts(tokenizer), tasks).tolist(),
                "proxy": (reward_scores(proxy, rollouts.rows).astype(float) * stand.judge.noise).tolist(),
            })  # fmt: skip

    with TemporaryDirectory() as scratch:
        optimise(policy, reference, tokenizer, reward_scorer(proxy), stand.tasks, config, Run(scratch),
                 PPO(policy, value_model, config), stand.judge, observe=observe)  # fmt: skip
    return found


# ── reading the curves ───────────────────────────────────────────────────────────────────────────────────────────────


def fall(run, what, by=None):
    """(N,): what each task loses between the best point and the last, the point being the best on the other half."""
    values = np.array([point[what] for point in run])  # (points, N)
    chooser = np.array([point[by or what] for point in run])  # (points, N)
    lost = np.zeros(values.shape[1])  # (N,)
    for half in (0, 1):
        best = chooser[:, 1 - half :: 2].mean(axis=1).argmax()
        lost[half::2] = values[best, half::2] - values[-1, half::2]
    return lost


def curve_of(run, what):
    """[(√KL, mean gain over where all began)]."""
    start = np.mean(run[0][what])
    return [(float(np.sqrt(max(point["kl"], 0))), float(np.mean(point[what]) - start)) for point in run]


def mean_curve(runs, what):
    """The seeds' curves, point by point."""
    return [tuple(float(x) for x in np.mean(points, axis=0)) for points in zip(*(curve_of(run, what) for run in runs),
                                                                               strict=True)]  # fmt: skip


def fitted(curve, shape):
    """[α, β] of R(d) = d (α − β shape(d)), by least squares where d > 0.1; None where that is too seldom."""
    points = [point for point in curve if point[0] > 0.1]
    if len(points) < 2:
        return None
    d, gain = (np.array(column) for column in zip(*points, strict=True))
    columns = np.stack([d, -d * shape(d)], axis=1)  # (points, 2)
    return [float(x) for x in np.linalg.lstsq(columns, gain, rcond=None)[0]]
