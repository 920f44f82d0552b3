"""Stiennon et al. 2020: can a model surpass those who showed it how?"""

import numpy as np

from chapters.ch10.headlines.experiment import Headline, bar, interval, listed, percent, preferred, size, wins
from chapters.world.requests import demonstrations


def stiennon(stand):
    """ "Learning to summarize from human feedback" (arXiv:2009.01325).

    Claim: what a model tuned on human preferences writes is preferred to the human reference summaries, and to what a
    supervised model ten times its size writes: the 1.3B model is preferred to the references 61% of the time, the
    supervised model ten times its size 43% (section 4.1, figure 1).

    In miniature: the small assistant tuned with PPO, against the demonstrations of mixed quality for the very same
    held-out tasks, and against a model at least ten times its size that was fine-tuned on such demonstrations: the main
    job's assistant. The simulated judge compares, asked without noise; an equal score is half a win.
    Reproduced where the ratio is at least 10, both intervals lie above a half, and the larger model is the better one:
    its mean score by the judge is above that of every small assistant before PPO.
    """
    settings = stand.settings
    supervised, tokenizer = stand.assistant()
    references = [said for _, said in demonstrations(stand.world, stand.tests, settings.seed + 1)]
    spoken = stand.responses(supervised, tokenizer)
    theirs = {"demonstrations": stand.scores(references), "larger model": stand.scores(spoken)}  # (N,) each
    found = preferred(stand, stand.small_policy, settings.small_seeds, theirs)
    smalls = [stand.small_assistant(seed) for seed in settings.small_seeds]
    before = [
        float(stand.scores(stand.responses(*small, seed)).mean())
        for seed, small in zip(settings.small_seeds, smalls, strict=True)
    ]
    means = {name: float(scores.mean()) for name, scores in theirs.items()}
    better = means["larger model"] > max(before)
    right = [stand.correct(stand.responses(*stand.small_policy(seed), seed)) for seed in settings.small_seeds]
    ratio = size(supervised) / size(smalls[0][0])
    copying = wins(theirs["larger model"], theirs["demonstrations"])  # (N,)
    return Headline(
        paper="Stiennon et al. 2020",
        arxiv="2009.01325",
        claim="preferred to the reference demonstrations, and to a supervised model ten times its size",
        theirs="1.3B preferred to the references 61% of the time, a supervised model ten times its size 43% "
        "(section 4.1, figure 1)",
        measured="share that the simulated judge prefers to the demonstrations",
        ours=found["demonstrations"]["wins"],
        interval=found["demonstrations"]["interval"],
        level=0.5,
        unit="share",
        seeds=list(settings.small_seeds),
        reproduced=ratio >= 10 and min(one["interval"][0] for one in found.values()) > 0.5 and better,
        reason=f"preferred to a supervised model {ratio:.1f} times as large {percent(found['larger model'])}; "
        f"that model to the demonstrations {copying.mean():.1%}; the judge's mean score: "
        f"the larger one {means['larger model']:.2f}, the small assistants before PPO {listed(before, 2)}; plain tasks "
        f"done correctly: the policy {np.mean(right):.1%}, the larger one {stand.correct(spoken):.1%}"
        + ("" if better else ", so that the larger one is not better"),
        sizes={"policy": size(smalls[0][0]), "supervised": size(supervised)},
        details={
            "preferred": found,
            "judge's mean score": {"small assistants before PPO": before, **means},
        },
        series={
            "the policy to the demonstrations": bar(found["demonstrations"]),
            f"the policy to a supervised model {ratio:.0f} times as large": bar(found["larger model"]),
            "that supervised model to the demonstrations": [float(copying.mean()), *interval(copying[None])],
        },
    )
