"""Chapter 10, how any two models of the second bend are compared: held-out tasks, a simulated judge, and KL.

What this file teaches: three numbers belong together. How often the judge prefers the new model's response; whether
the plain tasks are still done correctly; and how far the new model had to go for it, in KL from where it started.
"""

import numpy as np

import minigrad as mg
from chapters.ch10.demonstrations import measure, measurement_text
from chapters.ch10.reward import reward_scores
from chapters.ch10.rollout import log_probs_of, roll_out_many, sequence_kl
from chapters.world.judge import win_rate


def sample_responses(model, tokenizer, tasks, seed, max_new_tokens=48):
    """One response a task at temperature 1 -> Rollouts."""
    return roll_out_many(model, tokenizer, tasks, max_new_tokens, mg.Generator(seed))


def kl_between(policy, reference, rollouts):
    """Mean KL(policy ‖ reference) in nats a response, estimated on rollouts drawn from the policy at temperature 1."""
    ours, theirs = log_probs_of(policy, rollouts), log_probs_of(reference, rollouts)  # (B, T − 1) each
    return float(sequence_kl(ours, theirs, rollouts.mask).mean())


def assess(judge, tasks, after, before, tokenizer, reference, policy=None, reward_model=None, seed=0):
    """Compare one response a task of the tuned model (after) with one of the SFT model (before), both Rollouts.

    Returns {"judge", "correct", "obeyed", "evaded", "refused", "wins", "interval", "length", "before": {…}}, with "kl"
    where the policy is given and "reward" where a reward model is.
    """
    ours, theirs = after.texts(tokenizer), before.texts(tokenizer)
    found = measure(judge, tasks, ours)
    found["wins"] = win_rate(judge, tasks, ours, theirs)
    each = [win_rate(judge, *([one] for one in three)) for three in zip(tasks, ours, theirs, strict=True)]
    found["interval"], found["of each task"] = bootstrap_interval(each, seed), each  # 1 for a win, a half for an equal score
    found["length"] = float(after.lengths.mean())
    found["before"] = measure(judge, tasks, theirs) | {"length": float(before.lengths.mean())}
    if policy is not None:
        found["kl"] = kl_between(policy, reference, after)
    if reward_model is not None:
        found["reward"] = float(reward_scores(reward_model, after.rows).mean())
        found["before"]["reward"] = float(reward_scores(reward_model, before.rows).mean())
    return found


def bootstrap_interval(values, seed=0, draws=2000):
    """The 95% interval of the mean of (N,) values, by resampling them with replacement (Efron 1979): [low, high]."""
    values = np.asarray(values, np.float64)  # (N,)
    picks = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))  # (draws, N)
    return [float(q) for q in np.quantile(values[picks].mean(axis=1), [0.025, 0.975])]


def assessment_text(found, name):
    """What `assess` found, for the terminal."""
    low, high = found["interval"]
    return "\n".join([
        f"SFT:  {measurement_text(plain(found['before']))}",
        f"{name}:  {measurement_text(plain(found))}",
        f"the simulated judge prefers {name} to SFT on {found['wins']:.1%} of held-out tasks "
        f"[{low:.1%}, {high:.1%}], an equal score counted as half",
        *([f"KL from the SFT model: {found['kl']:.2f} nats a response"] if "kl" in found else []),
    ])  # fmt: skip


def pooled_assessment_text(founds, name):
    """What `assess` found of several policies, one a seed, as one figure: all tasks of all of them."""
    each = np.concatenate([found["of each task"] for found in founds])  # (seeds · tasks,)
    low, high = bootstrap_interval(each)
    wins = ", ".join(f"{found['wins']:.1%}" for found in founds)
    change = [found["correct"] - found["before"]["correct"] for found in founds]
    return (
        f"{len(founds)} seeds: the simulated judge prefers {name} to SFT on {each.mean():.1%} of held-out tasks "
        f"[{low:.1%}, {high:.1%}] ({wins}); plain tasks done correctly {np.mean(change):+.1%} "
        f"({', '.join(f'{one:+.1%}' for one in change)}); "
        f"KL {np.mean([found['kl'] for found in founds]):.2f} nats a response"
    )


def plain(found):
    """Only what `measure` measured."""
    names = ("judge", "correct", "obeyed", "evaded", "refused")
    return {name: found[name] for name in names if name in found}
