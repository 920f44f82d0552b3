"""Christiano et al. 2017: how few comparisons does it take to say what is wanted?"""

from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

from chapters.ch07_train import Run
from chapters.ch10_assess import kl_between, sampled
from chapters.ch10_reward import demonstrated_rows, rank, reward_scores, train_reward
from chapters.ch10_rlhf import judged_by, optimise
from chapters.ch10_rloo import RLOO
from chapters.headlines.stand import Headline, size
from chapters.world.facts import Dice
from chapters.world.requests import demonstrations, everything


def christiano(stand):
    """ "Deep reinforcement learning from human preferences" (arXiv:1706.03741).

    Claim: a reward learned while the agent learns, from comparisons on less than one percent of its interactions, does
    about as well as the true one (abstract; with 700 comparisons nearly as well on simulated robots, section 3.1.1).

    In miniature: the small assistant is tuned twice by the same policy gradient (RLOO) for as many samples: once on the
    judge's own score, which nobody could have in earnest, and once on a reward model that is trained anew whenever new
    comparisons have come in: of the responses that the policy has just given to a few prompts, four to each, in rounds
    that become rarer. The judge's answers are noisy, as always. The gain is that of the judge's mean score on held-out
    tasks over the policy before either.
    Reproduced where less than 1% of the policy's samples were ever compared and the gain is at least 90%.
    """
    runs = {
        seed: [stand.noted(f"christiano_{how}_{seed}", tuned, stand, how, seed) for how in ("judge", "learned")]
        for seed in stand.settings.online_seeds
    }
    before, judged, learned = (
        np.mean([pick(runs[seed]) for seed in runs], axis=0)  # (N,) of a task, over the seeds
        for pick in (lambda two: two[0]["before"], lambda two: two[0]["after"], lambda two: two[1]["after"])
    )
    ratio, (low, high) = ratio_of_means(learned - before, judged - before)
    share = max(two[1]["compared"] / two[1]["samples"] for two in runs.values())
    one = next(iter(runs.values()))[1]
    return Headline(
        paper="Christiano et al. 2017",
        arxiv="1706.03741",
        claim="a reward learned online, from comparisons on under 1% of the interactions, does as well as the true one",
        theirs="less than 1% of interactions (abstract); 700 comparisons nearly match the true reward (section 3.1.1)",
        measured="the gain that the learned reward brings, as a share of the gain from the judge's own score",
        ours=ratio,
        interval=[low, high],
        level=0.9,
        seeds=list(runs),
        reproduced=share < 0.01 and ratio >= 0.9,
        reason=f"{share:.2%} of {one['samples']:,} samples were compared, in {one['comparisons']} comparisons; "
        f"the judge's mean score rose from {before.mean():.2f} to {learned.mean():.2f}, "
        f"on its own to {judged.mean():.2f}",
        sizes={"policy": size(stand.small()[0]), "reward model": size(stand.base()[0])},
        details={
            "each seed": [
                ratio_of_means(*(np.subtract(one["after"], one["before"]) for one in reversed(two)))[0]
                for two in runs.values()],
            "kl": {how: [two[i]["kl"] for two in runs.values()] for i, how in enumerate(("judge", "learned"))},
            "comparisons": one["comparisons"], "share compared": share,
        },
        series={how: mean_curve([two[i]["curve"] for two in runs.values()])
                for i, how in enumerate(("the judge's own score", "the learned reward"))},
    )  # fmt: skip


def tuned(stand, how, seed):
    """Tune the small assistant on the judge's own score or on the learned reward.

    Returns {"before": (N,), "after": (N,) scores of held-out responses, "curve", "kl", "samples", "compared" …}.
    """
    settings, (policy, tokenizer), (reference, _) = stand.settings, stand.small_assistant(), stand.small_assistant()
    config = replace(settings.online, seed=seed)
    score = OnlineReward(stand, seed, config.k) if how == "learned" else own_score(stand, tokenizer)
    with TemporaryDirectory() as scratch:
        records = optimise(policy, reference, tokenizer, score, stand.tasks, config, Run(scratch), RLOO(policy, config),
                           stand.judge, config.k)  # fmt: skip
    after = sampled(policy, tokenizer, stand.tests, seed)
    return {
        "before": stand.scores(stand.responses(reference, tokenizer, seed)).tolist(),
        "after": stand.scores(after.texts(tokenizer)).tolist(),
        "kl": kl_between(policy, reference, after),
        "curve": [(record["iteration"] * config.prompts, record["judge"]) for record in records],
        "samples": config.iterations * config.prompts,  # learned from; the last record is of the final policy
        "compared": getattr(score, "compared", 0),
        "comparisons": getattr(score, "comparisons", 0),
    }


def own_score(stand, tokenizer):
    """The judge's score in the units that a perfect reward model would have: 0 for a demonstration on average, and a
    difference of 1 worth odds of e to 1."""
    tasks = everything(stand.world, "train", 300, stand.settings.seed + 1)
    shown = demonstrations(stand.world, tasks, stand.settings.seed + 1)
    mean, judge = np.mean(stand.scores([said for _, said in shown], tasks)), judged_by(stand.judge, tokenizer)
    return lambda tasks, rollouts: (judge(tasks, rollouts) - mean) / stand.judge.noise


class OnlineReward:
    """score(tasks, rollouts) for `optimise`: a reward model that learns from comparisons of what it is shown.

    At the calls named in settings.online_rounds, {call: prompts}, the labeller compares the k responses to so many of
    the prompts; the assistant's body is then trained anew on all comparisons so far.
    """

    def __init__(self, stand, seed, k):
        self.stand, self.seed, self.k = stand, seed, k
        self.calls, self.compared, self.rankings, self.model = 0, 0, [], None
        self.dice = Dice(f"online/{seed}")

    @property
    def comparisons(self):
        return sum(len(ranking.pairs) for ranking in self.rankings)

    def __call__(self, tasks, rollouts):
        prompts = self.stand.settings.online_rounds.get(self.calls, 0)
        if prompts:
            self.ask(tasks, rollouts, prompts)
            self.learn()
        self.calls += 1
        return reward_scores(self.model, rollouts.rows)

    def ask(self, tasks, rollouts, prompts):
        """Show the labeller the responses to the first prompts of the batch; the k responses to each are in a row."""
        texts = rollouts.texts(self.stand.assistant()[1])
        for first in range(0, prompts * self.k, self.k):
            mine = slice(first, first + self.k)
            ranking = rank(self.stand.judge, tasks[first], rollouts.prompts[first], rollouts.responses[mine],
                           texts[mine], self.dice)  # fmt: skip
            self.compared += self.k
            self.rankings += [ranking] if ranking else []

    def learn(self):
        gpt, tokenizer = self.stand.assistant()
        settings = self.stand.settings
        shown = demonstrated_rows(self.stand.world, tokenizer, 100, gpt.config.context, settings.seed)
        with TemporaryDirectory() as scratch:
            self.model = train_reward(gpt, self.rankings, shown, replace(settings.online_reward, seed=self.seed),
                                      Run(scratch))  # fmt: skip


def ratio_of_means(ours, theirs, seed=0, draws=2000):
    """mean(ours) / mean(theirs), two (N,), and its 95% interval from resampling the tasks: (ratio, [low, high]).

    Where theirs is no gain at all there is nothing to have a share of, and the ratio counts as 0.
    """
    picks = np.random.default_rng(seed).integers(0, len(ours), (draws, len(ours)))  # (draws, N)
    picks = np.concatenate([np.arange(len(ours))[None], picks])  # (1 + draws, N)  as they are, then resampled
    ours, theirs = ours[picks].mean(axis=1), theirs[picks].mean(axis=1)  # (1 + draws,) each
    ratios = np.where(theirs > 0, ours / np.where(theirs > 0, theirs, 1), 0.0)  # (1 + draws,)
    return float(ratios[0]), [float(q) for q in np.quantile(ratios[1:], [0.025, 0.975])]


def mean_curve(curves):
    """Several curves [(x, y)] with the same x -> their mean."""
    return [(points[0][0], float(np.mean([y for _, y in points]))) for points in zip(*curves, strict=True)]
