"""Chapter 10: compare a tuned model with the SFT model, by held-out tasks, a simulated judge, and KL.

Three numbers belong together: how often the judge prefers the tuned model's response, how many plain tasks the model still
does correctly, and its KL from the SFT model. The gain by criterion says what the judge prefers it for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import GPT
from chapters.ch10.demonstrations import measure, measurement_text
from chapters.ch10.reward import ScalarModel, reward_scores
from chapters.ch10.rollout import Rollouts, log_probs_of, roll_out_many, sequence_kl
from chapters.ch10.sft import Tasks
from chapters.world.judge import Judge, gains_text, points_by_criterion, win_rate


def sample_responses(model: GPT, tokenizer: Any, tasks: Tasks, seed: int, max_new_tokens: int = 48) -> Rollouts:
    """Sample one response for each task at temperature 1."""
    return roll_out_many(model, tokenizer, tasks, max_new_tokens, mg.Generator(seed))


def kl_between(policy: GPT, reference: GPT, rollouts: Rollouts) -> float:
    """Mean KL(policy ‖ reference) in nats per response, estimated on rollouts of the policy at temperature 1."""
    ours, theirs = log_probs_of(policy, rollouts), log_probs_of(reference, rollouts)  # (B, T − 1) each
    return float(sequence_kl(ours, theirs, rollouts.mask).mean())


def assess(
    judge: Judge,
    tasks: Tasks,
    after: Rollouts,
    before: Rollouts,
    tokenizer: Any,
    reference: GPT,
    policy: GPT,
    reward_model: ScalarModel | None = None,
) -> dict[str, Any]:
    """Compare a tuned model's responses (after) with the SFT model's (before), one for each task.

    Returns:
        {"judge", "correct", *CONDUCTS, "wins", "interval", "of each task", "length", "criteria", "before": {…}, "kl"}, and
        "reward" if there is a reward model. A win counts 1, an equal score ½. The points in "criteria" add up to "judge".
    """
    ours, theirs = after.texts(tokenizer), before.texts(tokenizer)
    result = measure(judge, tasks, ours)
    result["wins"] = win_rate(judge, tasks, ours, theirs)
    each = [win_rate(judge, [task], [a], [b]) for task, a, b in zip(tasks, ours, theirs, strict=True)]
    result["interval"], result["of each task"] = bootstrap_interval(each), each
    result["length"] = float(after.lengths.mean())
    result["before"] = measure(judge, tasks, theirs) | {"length": float(before.lengths.mean())}
    result["criteria"] = points_by_criterion(judge, tasks, ours)
    result["before"]["criteria"] = points_by_criterion(judge, tasks, theirs)
    result["kl"] = kl_between(policy, reference, after)
    if reward_model is not None:
        result["reward"] = float(reward_scores(reward_model, after.rows).mean())
        result["before"]["reward"] = float(reward_scores(reward_model, before.rows).mean())
    return result


def bootstrap_interval(values: Sequence[float] | np.ndarray, seed: int = 0, draws: int = 2000) -> list[float]:
    """The 95 % interval [low, high] of the mean of (N,) values, by resampling with replacement (Efron 1979)."""
    values = np.asarray(values, np.float64)  # (N,)
    picks = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))  # (draws, N)
    return [float(q) for q in np.quantile(values[picks].mean(axis=1), [0.025, 0.975])]


# Student's t: 97.5 % quantiles for 1 to 9 degrees of freedom.
_T_QUANTILES = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262


def t_interval(values: Sequence[float] | np.ndarray) -> list[float]:
    """The 95 % interval [low, high] of the mean of a few independent values, such as one for each model, by Student's t.

    More than ten values get the quantile for ten, which is a little wide.

    >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        raise ValueError(f"t_interval: expected at least two values, got {n}; bootstrap the answers of a single model")
    half = _T_QUANTILES[min(n - 1, len(_T_QUANTILES)) - 1] * float(np.std(values, ddof=1)) / n**0.5
    return [mean - half, mean + half]


def assessment_text(result: dict[str, Any], name: str) -> str:
    """A result of `assess` for the terminal.  name: the name of the tuned model."""
    low, high = result["interval"]
    return (
        f"SFT:  {measurement_text(result['before'])}\n"
        f"{name}:  {measurement_text(result)}\n"
        f"the simulated judge prefers {name} to SFT on {result['wins']:.1%} of held-out tasks "
        f"[{low:.1%}, {high:.1%}], a tie counted as half\n"
        f"gain by criterion: {gains_text(result['before']['criteria'], result['criteria'])}\n"
        f"KL from the SFT model: {result['kl']:.2f} nats per response"
    )


def pooled_assessment_text(results: Sequence[dict[str, Any]], name: str) -> str:
    """The results of several seeds as one measurement over all their tasks, for the terminal."""
    each = np.concatenate([result["of each task"] for result in results])  # (seeds · tasks,)
    low, high = bootstrap_interval(each)
    wins = ", ".join(f"{result['wins']:.1%}" for result in results)
    changes = [result["correct"] - result["before"]["correct"] for result in results]
    before, after = (mean_criteria(sides) for sides in ([result["before"] for result in results], results))
    return (
        f"{len(results)} seeds: the simulated judge prefers {name} to SFT on {each.mean():.1%} of held-out tasks "
        f"[{low:.1%}, {high:.1%}] ({wins}); plain tasks done correctly {np.mean(changes):+.1%} "
        f"({', '.join(f'{change:+.1%}' for change in changes)}); "
        f"KL {np.mean([result['kl'] for result in results]):.2f} nats per response\n"
        f"gain by criterion: {gains_text(before, after)}"
    )


def mean_criteria(sides: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The judge's points for each criterion, averaged over several seeds."""
    return {name: float(np.mean([side["criteria"][name] for side in sides])) for name in sides[0]["criteria"]}
