"""Stiennon et al. 2020: can a model surpass the demonstrations that it learned from?

Claim, from "Learning to summarize from human feedback" (arXiv:2009.01325): a model tuned on human preferences writes
better summaries than the human references and than a supervised model ten times its size. The 1.3B model is preferred
to the references 61% of the time, the supervised model ten times its size 43% (section 4.1, figure 1).

In miniature: the small assistant after PPO, against two opponents on the same held-out tasks. The first is demonstrations
of mixed quality. The second is the wide assistant, a model with at least ten times the parameters that was
fine-tuned on demonstrations of this kind. The simulated judge compares without noise; an equal score is half a win.

Reproduced if the ratio of sizes is at least 10, both intervals lie above one half, and the larger model is better than the
small assistants before PPO: its mean score is above each of theirs.
"""

import numpy as np

from chapters.ch10.headlines.experiment import Experiment, Headline, WinRate, task_wins
from chapters.world.requests import demonstrations


def stiennon(experiment: Experiment) -> Headline:
    """Stiennon et al. 2020: a small tuned model against its demonstrations and a larger supervised model."""
    seeds = experiment.settings.small_seeds
    supervised, tokenizer = experiment.assistant("wide")
    references = [text for _, text in demonstrations(experiment.world, experiment.tests, experiment.settings.seed + 1)]
    supervised_texts = experiment.responses(supervised, tokenizer)
    opponents = {
        "demonstrations": experiment.scores(references),
        "larger model": experiment.scores(supervised_texts),
    }  # (N,) each
    rates = experiment.win_rates(opponents)
    small_assistants = [experiment.assistant("small", seed) for seed in seeds]
    before = [
        float(experiment.scores(experiment.responses(*assistant, seed)).mean())
        for seed, assistant in zip(seeds, small_assistants, strict=True)
    ]
    means = {name: float(scores.mean()) for name, scores in opponents.items()}
    larger_is_better = means["larger model"] > max(before)
    correct = [experiment.correct(experiment.responses(*experiment.policy("small", seed), seed)) for seed in seeds]
    policy_size, supervised_size = small_assistants[0][0].num_parameters(), supervised.num_parameters()
    ratio = supervised_size / policy_size
    supervised_rate = WinRate.of(task_wins(opponents["larger model"], opponents["demonstrations"])[None])
    return Headline(
        paper="Stiennon et al. 2020",
        arxiv="2009.01325",
        claim="preferred to the reference demonstrations, and to a supervised model ten times its size",
        theirs="1.3B preferred to the references 61% of the time, a supervised model ten times its size 43% "
        "(section 4.1, figure 1)",
        measured="share of comparisons won against the demonstrations",
        ours=rates["demonstrations"].share,
        interval=rates["demonstrations"].interval,
        seeds=seeds,
        reproduced=ratio >= 10 and min(rate.interval[0] for rate in rates.values()) > 0.5 and larger_is_better,
        reason=f"{rates['larger model']} against a supervised model {ratio:.1f} times as large, which itself wins "
        f"{supervised_rate.share:.1%} against the demonstrations; the judge's mean score: the larger model "
        f"{means['larger model']:.2f}, the small assistants before PPO {', '.join(f'{score:.2f}' for score in before)}"
        + ("" if larger_is_better else ", so the larger model is not better")
        + f"; plain tasks done correctly: the policy {np.mean(correct):.1%}, the larger model "
        f"{experiment.correct(supervised_texts):.1%}",
        sizes={"policy": policy_size, "supervised": supervised_size},
        details={
            "preferred": {name: rate.as_json() for name, rate in rates.items()},
            "judge's mean score": {"small assistants before PPO": before, **means},
        },
        series={
            "the policy to the demonstrations": rates["demonstrations"].bar,
            f"the policy to a supervised model {ratio:.0f} times as large": rates["larger model"].bar,
            "that supervised model to the demonstrations": supervised_rate.bar,
        },
    )
