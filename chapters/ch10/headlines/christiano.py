"""Christiano et al. 2017: how few comparisons does it take to say what is wanted?"""

from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

import minigrad as mg
from chapters.ch07_train import train
from chapters.ch10.assess import kl_between, sample_responses
from chapters.ch10.headlines.experiment import Headline, resampled, size
from chapters.ch10.reward import ComparisonBatches, ScalarModel, rank_responses, reward_loss, reward_scores
from chapters.ch10.rlhf import judge_scorer, optimise
from chapters.ch10.rloo import RLOO
from chapters.support.run_folder import Run
from chapters.world.facts import SeededRandom
from chapters.world.requests import demonstrations, mixed_tasks


def christiano(stand):
    """ "Deep reinforcement learning from human preferences" (arXiv:1706.03741).

    Claim: a reward learned while the agent learns, from comparisons on less than one percent of its interactions, does
    about as well as the true one (abstract; with 700 comparisons nearly as well on simulated robots, section 3.1.1).

    In miniature: the medium assistant is tuned twice by the same policy gradient (RLOO) on as many samples: once by the
    judge's own score, which nobody could have in earnest, and once by a reward that is learned anew whenever new
    comparisons have come in: of the responses that the policy has just given to a few prompts, four to each. As in the
    paper it is the mean of several models (section 2.2.3), and those prompts are chosen on whose responses the models
    differ most (2.2.4). The labeller's answers are noisy, as always. The gain is that of the judge's mean score on
    held-out tasks over the policy before either.
    Reproduced where less than 1% of the policy's samples were ever compared and the gain is at least 90%.
    """
    runs = {
        seed: [stand.noted(f"christiano_{how}_{seed}", tuned, stand, how, seed) for how in ("judge", "learned")]
        for seed in stand.settings.online_seeds
    }
    before, judged, learned = (
        np.array([pick(runs[seed]) for seed in runs])  # (S, N) of a seed and a task
        for pick in (lambda two: two[0]["before"], lambda two: two[0]["after"], lambda two: two[1]["after"])
    )
    ratio, ends = ratio_of_means(learned - before, judged - before)
    share = max(two[1]["compared"] / two[1]["samples"] for two in runs.values())
    one = next(iter(runs.values()))[1]
    return Headline(
        paper="Christiano et al. 2017",
        arxiv="1706.03741",
        claim="a reward learned online, from comparisons on under 1% of the interactions, does as well as the true one",
        theirs="less than 1% of interactions (abstract); 700 comparisons nearly match the true reward (section 3.1.1)",
        measured="gain that the learned reward brings, as a share of the gain from the judge's own score",
        ours=ratio,
        interval=ends,
        level=0.9,
        unit="share",
        seeds=list(runs),
        reproduced=share < 0.01 and ratio >= 0.9,
        reason=f"{share:.2%} of {one['samples']:,} samples were compared, in {one['comparisons']} comparisons; "
        f"the judge's mean score rose from {before.mean():.2f} to {learned.mean():.2f}, "
        f"on its own to {judged.mean():.2f}",
        sizes={"policy": size(stand.medium_assistant()[0])},
        details={
            "each seed": [ratio_of_means(learned[[i]] - before[[i]], judged[[i]] - before[[i]])[0]
                          for i in range(len(runs))],
            "kl": {how: [two[i]["kl"] for two in runs.values()] for i, how in enumerate(("judge", "learned"))},
            "comparisons": one["comparisons"], "share compared": share,
        },
        series={how: mean_curve([two[i]["curve"] for two in runs.values()])
                for i, how in enumerate(("the judge's own score", "the learned reward"))},
    )  # fmt: skip


def tuned(stand, how, seed):
    """Tune the medium assistant on the judge's own score or on the learned reward.

    Returns {"before": (N,), "after": (N,) scores of held-out responses, "curve", "kl", "samples", "compared" …}.
    """
    (policy, tokenizer), (reference, _) = stand.medium_assistant(), stand.medium_assistant()
    config = replace(stand.settings.online, seed=seed)
    score = OnlineReward(stand, seed, config.k) if how == "learned" else own_score(stand, tokenizer)
    with TemporaryDirectory() as scratch:
        records = optimise(policy, reference, tokenizer, score, stand.tasks, config, Run(scratch), RLOO(policy, config),
                           stand.judge, config.k)  # fmt: skip
    after = sample_responses(policy, tokenizer, stand.tests, seed)
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
    tasks = mixed_tasks(stand.world, "train", 300, stand.settings.seed + 1)
    shown = demonstrations(stand.world, tasks, stand.settings.seed + 1)
    mean, judge = np.mean(stand.scores([said for _, said in shown], tasks)), judge_scorer(stand.judge, tokenizer)
    return lambda tasks, rollouts: (judge(tasks, rollouts) - mean) / stand.judge.noise


class SummedRewards(ScalarModel):
    """A reward for each token, and at each position their sum so far: idx (B, T) -> (B, T).

    Read at a response's last token it is the sum over all, as in equation 1 of the paper, where the rewards of a clip's
    steps are added up. What the prompt's tokens add is the same for all its responses, and cancels. From few
    comparisons this learns more than one number read off the end: what pleases or offends is a word somewhere.
    """

    def __init__(self, gpt, generator):
        super().__init__(gpt, generator)
        self.head.weight.array *= np.float32(0.1)  # so many are added up

    def forward(self, idx):
        rewards, T = super().forward(idx), idx.shape[1]  # (B, T)
        return rewards @ mg.as_tensor(np.triu(np.ones((T, T), np.float32)))  # (B, T)


class OnlineReward:
    """score(tasks, rollouts) for `optimise`: reward models that learn from comparisons of what they are shown.

    At the calls named in settings.online_rounds, {call: prompts}, the labeller compares the k responses to so many of
    the prompts, and the models, each the medium assistant's body under a head of its own, are trained anew on all
    comparisons so far. The reward is their mean.
    """

    def __init__(self, stand, seed, k):
        self.stand, self.seed, self.k = stand, seed, k
        self.calls, self.compared, self.rankings, self.models = 0, 0, [], []
        self.tokenizer, self.dice = stand.medium_assistant()[1], SeededRandom(f"online/{seed}")

    @property
    def comparisons(self):
        return sum(len(ranking.pairs) for ranking in self.rankings)

    def __call__(self, tasks, rollouts):
        prompts = self.stand.settings.online_rounds.get(self.calls, 0)
        if prompts:
            self.ask(tasks, rollouts, self.disputed(rollouts, prompts))
            self.learn()
        self.calls += 1
        return self.rewards(rollouts).mean(axis=0)  # (B,)

    def rewards(self, rollouts):
        """Each model's reward of each response, less the mean of the prompt's k: (models, B).

        Only differences between siblings were learned, and RLOO uses no others.
        """
        rewards = np.array([reward_scores(model, rollouts.rows) for model in self.models])  # (models, B)
        groups = rewards.reshape(len(self.models), -1, self.k)  # (models, prompts, k)
        return (groups - groups.mean(axis=2, keepdims=True)).reshape(rewards.shape)  # (models, B)

    def disputed(self, rollouts, n):
        """Numbers of the n prompts on whose k responses the models differ most; of any n while there is no model."""
        if not self.models:
            return range(n)
        disagreement = self.rewards(rollouts).var(axis=0).reshape(-1, self.k).mean(axis=1)  # (prompts,)
        return np.argsort(-disagreement, kind="stable")[:n]

    def ask(self, tasks, rollouts, prompts):
        """Show the labeller the responses to the prompts numbered; the k responses to each are in a row."""
        texts = rollouts.texts(self.tokenizer)
        for prompt in prompts:
            mine = slice(prompt * self.k, (prompt + 1) * self.k)
            ranking = rank_responses(self.stand.judge, tasks[mine.start], rollouts.prompts[mine.start], rollouts.responses[mine],
                           texts[mine], self.dice)  # fmt: skip
            self.compared += self.k
            self.rankings += [ranking] if ranking else []

    def learn(self):
        """Train all models anew, each under another seed, on all comparisons so far."""
        settings, self.models = self.stand.settings, []
        done = len(self.rankings) / sum(settings.online_rounds.values())
        for i in range(settings.online_models):
            config = replace(settings.online_reward, seed=settings.online_models * self.seed + i)
            config = replace(config, steps=max(round(done * config.steps), 1))
            model = SummedRewards(self.stand.medium_assistant()[0], mg.Generator(config.seed))
            batches = ComparisonBatches(self.rankings, config.batch_size, config.seed)
            with TemporaryDirectory() as scratch:
                train(model, batches, config, Run(scratch), loss_fn=reward_loss)
            self.models.append(scaled(model, self.rankings))


def scaled(model, rankings):
    """The model, its head divided by what gives the responses that it learned from, beside their siblings, a standard
    deviation of 1 (section 2.2.1). So few comparisons are soon learned by heart, and then nothing else holds the size
    of the rewards, beside which the KL penalty has to count.  In place."""
    rewards = [reward_scores(model, ranking.rows) for ranking in rankings]
    spread = np.concatenate([each - each.mean() for each in rewards]).std()
    for parameter in model.head.parameters():
        parameter.array /= np.float32(max(spread, 1e-6))
        parameter.changed()
    return model


def ratio_of_means(ours, theirs):
    """mean(ours) / mean(theirs), two (S, N) of seeds and tasks, and its 95% interval: (ratio, [low, high]).

    Seeds and tasks are resampled, the same ones for both. Where theirs is no gain at all there is nothing to have a
    share of, and the ratio counts as 0.
    """
    means = [np.append(values.mean(), resampled(values)) for values in (ours, theirs)]  # (1 + draws,) each
    ours, theirs = means
    ratios = np.where(theirs > 0, ours / np.where(theirs > 0, theirs, 1), 0.0)  # (1 + draws,)
    return float(ratios[0]), [float(q) for q in np.quantile(ratios[1:], [0.025, 0.975])]


def mean_curve(curves):
    """Several curves [(x, y)] with the same x -> their mean."""
    return [(points[0][0], float(np.mean([y for _, y in points]))) for points in zip(*curves, strict=True)]
