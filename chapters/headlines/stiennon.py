"""Stiennon et al. 2020: can a model surpass those who showed it how?"""

import numpy as np

from chapters.ch10_assess import interval
from chapters.headlines.stand import Headline, size, wins
from chapters.world.requests import demonstrations


def stiennon(stand):
    """ "Learning to summarize from human feedback" (arXiv:2009.01325).

    Claim: what a model tuned on human preferences writes is preferred to the human reference summaries, and to what a
    supervised model ten times its size writes: the 1.3B model is preferred to the references 61% of the time, the
    supervised model ten times its size 43% (section 4.1, figure 1).

    In miniature: the assistant tuned with PPO, against the demonstrations of mixed quality for the very same held-out
    tasks, and against a model at least ten times its size that was fine-tuned on such demonstrations. The simulated
    judge compares, asked without noise; an equal score is half a win.
    The larger model is pretrained for 1500 batches of 8 × 128 tokens and fine-tuned for 300 of 16 demonstrations; the
    main job's assistant had 4400 and 700 of 32.
    Reproduced where the ratio is at least 10, both intervals lie above a half, and the larger model is really the better
    one: its mean score by the judge is not below that of the assistant before PPO.
    """
    settings = stand.settings
    references = [said for _, said in demonstrations(stand.world, stand.tests, settings.seed + 1)]
    supervised, tokenizer = stand.large_assistant()
    spoken = stand.responses(supervised, tokenizer)
    theirs = {"demonstrations": stand.scores(references), "larger model": stand.scores(spoken)}  # (N,) each
    found = {name: [] for name in theirs}
    for seed in settings.seeds:
        policy, tokenizer = stand.policy(seed)
        ours = stand.scores(stand.responses(policy, tokenizer, seed))  # (N,)
        for name, scores in theirs.items():
            found[name].append(wins(ours, scores))  # (N,)
    mean = {name: np.mean(each, axis=0) for name, each in found.items()}  # (N,) each: of a task, over the seeds
    intervals = {name: interval(values) for name, values in mean.items()}
    ratio = size(supervised) / size(policy)
    supervised_wins = wins(theirs["larger model"], theirs["demonstrations"])  # (N,)
    before = stand.scores(stand.responses(*stand.assistant()))  # (N,)
    worse = theirs["larger model"].mean() < before.mean()
    low, high = intervals["larger model"]
    return Headline(
        paper="Stiennon et al. 2020",
        arxiv="2009.01325",
        claim="preferred to the reference demonstrations, and to a supervised model ten times its size",
        theirs="1.3B preferred to the references 61% of the time, a supervised model ten times its size 43% "
        "(section 4.1, figure 1)",
        measured="preferred by the simulated judge to the demonstrations",
        ours=float(mean["demonstrations"].mean()),
        interval=intervals["demonstrations"],
        level=0.5,
        seeds=list(settings.seeds),
        reproduced=ratio >= 10 and min(low for low, _ in intervals.values()) > 0.5 and not worse,
        reason=f"preferred to a supervised model {ratio:.1f} times as large {mean['larger model'].mean():.1%} "
        f"[{low:.1%}, {high:.1%}]; that model to the demonstrations {supervised_wins.mean():.1%}; mean score "
        f"{theirs['larger model'].mean():.2f}, the assistant's {before.mean():.2f}"
        + ", so that the larger one is not better" * bool(worse),
        sizes={
            "policy": size(policy), "supervised": size(supervised),
            "supervised, pretraining steps": settings.pretrain_large.steps,
            "supervised, fine-tuning steps": settings.supervise_large.steps,
        },
        details={
            "wins": {name: float(values.mean()) for name, values in mean.items()},
            "intervals": intervals,
            "each seed": {name: [float(values.mean()) for values in each] for name, each in found.items()},
            "larger model against the demonstrations": [float(supervised_wins.mean()), *interval(supervised_wins)],
            "judge's mean score": {
                "assistant before PPO": float(before.mean()),
                **{name: float(scores.mean()) for name, scores in theirs.items()},
            },
        },
        series={
            "the policy": [(size(policy), float(mean["demonstrations"].mean()))],
            "the supervised model": [(size(supervised), float(supervised_wins.mean()))],
        },
    )
