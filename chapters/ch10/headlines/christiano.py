"""Christiano et al. 2017: how few comparisons does it take to learn a reward?

Claim, from "Deep reinforcement learning from human preferences" (arXiv:1706.03741): an agent that learns its reward
while it acts, from comparisons on less than one percent of its interactions, does about as well as with the true reward
(abstract). With 700 comparisons it comes close to the true reward on simulated robots (section 3.1.1).

In miniature: the same policy gradient (RLOO) tunes the medium assistant twice, on equally many samples: once on the
judge's own score, which nobody has in practice, and once on a reward that is learned online. At a few iterations the noisy
labeller compares the policy's four responses to each of a few prompts, and the reward is trained anew. As in the paper, the
reward is the mean of several models (section 2.2.3), and the labeller sees the prompts on which the models differ most
(2.2.4). The gain is the rise of the judge's mean score on held-out tasks.

Reproduced if less than 1% of the policy's samples were compared and the learned reward brings at least 90% of the gain.
"""

from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT
from chapters.ch07_train import train
from chapters.ch10.assess import kl_between, sample_responses
from chapters.ch10.comparisons import Ranking, rank_responses
from chapters.ch10.harness import Score, judge_scorer
from chapters.ch10.headlines.experiment import Experiment, Headline, resampled_means
from chapters.ch10.reward import ComparisonBatches, ScalarModel, reward_loss, reward_scores
from chapters.ch10.rloo import RLOO
from chapters.ch10.rollout import Rollouts
from chapters.ch10.sft import Tasks
from chapters.support.run_folder import Run
from chapters.world.facts import SeededRandom
from chapters.world.requests import demonstrations, mixed_tasks


def christiano(experiment: Experiment) -> Headline:
    """Christiano et al. 2017: a reward learned online from few comparisons."""
    seeds = experiment.settings.online_seeds
    runs = {
        reward: [experiment.cached(f"christiano_{reward}_{seed}", tune, reward, seed) for seed in seeds]
        for reward in ("judge", "learned")
    }
    before = np.array([result["before"] for result in runs["judge"]])  # (S, N), like the next two
    judged = np.array([result["after"] for result in runs["judge"]])
    learned = np.array([result["after"] for result in runs["learned"]])
    ratio, ends = ratio_of_means(learned - before, judged - before)
    share = max(result["compared"] / result["samples"] for result in runs["learned"])
    first, gains = runs["learned"][0], zip(learned - before, judged - before, strict=True)
    return Headline(
        paper="Christiano et al. 2017",
        arxiv="1706.03741",
        claim="a reward learned online, from comparisons on under 1% of the interactions, does as well as the true reward",
        theirs="less than 1% of interactions (abstract); 700 comparisons nearly match the true reward (section 3.1.1)",
        measured="gain from the learned reward, as a share of the gain from the judge's own score",
        ours=ratio,
        interval=ends,
        level=0.9,
        seeds=seeds,
        reproduced=share < 0.01 and ratio >= 0.9,
        reason=f"{share:.2%} of {first['samples']:,} samples were compared, in {first['comparisons']} comparisons; the "
        f"judge's mean score rose from {before.mean():.2f} to {learned.mean():.2f} with the learned reward "
        f"and to {judged.mean():.2f} with the judge's own score",
        sizes={"policy": experiment.assistant("medium")[0].num_parameters()},
        details={
            "each seed": [ratio_of_means(ours[None], theirs[None])[0] for ours, theirs in gains],
            "kl": {reward: [result["kl"] for result in results] for reward, results in runs.items()},
            "comparisons": first["comparisons"],
            "share compared": share,
        },
        series={
            "the judge's own score": mean_curve([result["curve"] for result in runs["judge"]]),
            "the learned reward": mean_curve([result["curve"] for result in runs["learned"]]),
        },
    )


def tune(experiment: Experiment, reward: str, seed: int) -> dict:
    """Tune the medium assistant on one reward, "judge" or "learned".

    Returns:
        {"before" and "after": the judge's scores of N held-out responses, "curve": the judge's mean score over the
        samples, "kl": nats per response, "samples", "compared" and "comparisons": counts}.
    """
    (policy, tokenizer), (reference, _) = experiment.assistant("medium"), experiment.assistant("medium")
    config = replace(experiment.settings.online, seed=seed)
    online = OnlineReward(experiment, seed, config.k) if reward == "learned" else None
    score = online or judge_reward(experiment, tokenizer)
    learner = RLOO(policy, config)
    records = experiment.optimise((policy, tokenizer), reference, score, config, learner, repeat=config.k)
    after = sample_responses(policy, tokenizer, experiment.tests, seed)
    rankings = online.rankings if online else []
    return {
        "before": experiment.scores(experiment.responses(reference, tokenizer, seed)).tolist(),
        "after": experiment.scores(after.texts(tokenizer)).tolist(),
        "kl": kl_between(policy, reference, after),
        "curve": [(record["iteration"] * config.prompts, record["judge"]) for record in records],
        "samples": config.iterations * config.prompts,  # excluding the final policy's samples, from which it did not learn
        "compared": online.compared if online else 0,
        "comparisons": sum(len(ranking.pairs) for ranking in rankings),
    }


def judge_reward(experiment: Experiment, tokenizer: Tokenizer) -> Score:
    """The judge's score in the units of a perfect reward model.

    Demonstrations score 0 on average. If the scores of two responses differ by 1, the labeller prefers the better response
    with odds of e to 1.
    """
    tasks = mixed_tasks(experiment.world, "train", 300, experiment.settings.seed + 1)
    texts = [text for _, text in demonstrations(experiment.world, tasks, experiment.settings.seed + 1)]
    mean, judge = np.mean(experiment.scores(texts, tasks)), judge_scorer(experiment.judge, tokenizer)
    return lambda tasks, rollouts: (judge(tasks, rollouts) - mean) / experiment.judge.noise


class SummedRewards(ScalarModel):
    """A reward model with a reward for each token; its output is their running sum, (B, T) ids -> (B, T).

    At a response's last token it is the sum over all tokens, as equation 1 of the paper sums the rewards of a clip's
    steps. The prompt's tokens add the same amount to all its responses; in a comparison it cancels. From few
    comparisons a sum learns more than a single number at the end, because a single word anywhere can please or offend.
    """

    def __init__(self, gpt: GPT, generator: mg.Generator):
        super().__init__(gpt, generator)
        with mg.no_grad():
            self.head.weight.mul_(0.1)  # because many rewards are summed

    def forward(self, idx: mg.Tensor) -> mg.Tensor:
        rewards, T = super().forward(idx), idx.shape[1]  # (B, T)
        return rewards @ mg.as_tensor(np.triu(np.ones((T, T), np.float32)))  # (B, T)


class OnlineReward:
    """score(tasks, rollouts) for `optimise`: reward models that learn from comparisons of the responses they score.

    At the calls in settings.online_rounds, {call: number of prompts}, the labeller compares the k responses to that many
    prompts. Then all models are trained anew on all comparisons so far. Each model has the medium assistant's body and a
    head of its own. The reward is the models' mean.
    """

    def __init__(self, experiment: Experiment, seed: int, k: int):
        self.experiment, self.seed, self.k = experiment, seed, k
        self.calls, self.compared = 0, 0
        self.rankings: list[Ranking] = []
        self.models: list[ScalarModel] = []
        self.tokenizer, self.rng = experiment.assistant("medium")[1], SeededRandom(f"online/{seed}")

    def __call__(self, tasks: Tasks, rollouts: Rollouts) -> np.ndarray:
        prompts = self.experiment.settings.online_rounds.get(self.calls, 0)
        if prompts:
            self.ask(tasks, rollouts, self.disputed(rollouts, prompts))
            self.learn()
        self.calls += 1
        return self.rewards(rollouts).mean(axis=0)  # (B,)

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """Each model's reward of each response, minus the mean over the prompt's k responses, (models, B).

        The models learned only differences between a prompt's responses, and RLOO uses nothing else.
        """
        rewards = np.array([reward_scores(model, rollouts.rows) for model in self.models])  # (models, B)
        groups = rewards.reshape(len(self.models), -1, self.k)  # (models, prompts, k)
        return (groups - groups.mean(axis=2, keepdims=True)).reshape(rewards.shape)  # (models, B)

    def disputed(self, rollouts: Rollouts, n: int) -> Sequence[int] | np.ndarray:
        """Indices of the n prompts on whose responses the models differ most; the first n before there are models."""
        if not self.models:
            return range(n)
        disagreement = self.rewards(rollouts).var(axis=0).reshape(-1, self.k).mean(axis=1)  # (prompts,)
        return np.argsort(-disagreement, kind="stable")[:n]

    def ask(self, tasks: Tasks, rollouts: Rollouts, prompts: Sequence[int] | np.ndarray) -> None:
        """Let the labeller compare the responses to some prompts; a prompt's k responses are consecutive rollouts."""
        texts, judge = rollouts.texts(self.tokenizer), self.experiment.judge
        for prompt in prompts:
            first, group = prompt * self.k, slice(prompt * self.k, (prompt + 1) * self.k)
            responses = rollouts.responses[group]
            ranking = rank_responses(judge, tasks[first], rollouts.prompts[first], responses, texts[group], self.rng)
            self.compared += self.k
            self.rankings += [ranking] if ranking else []

    def learn(self) -> None:
        """Train every model anew, each with its own seed, on all comparisons so far."""
        settings, self.models = self.experiment.settings, []
        progress = len(self.rankings) / sum(settings.online_rounds.values())
        for i in range(settings.online_models):
            config = replace(settings.online_reward, seed=settings.online_models * self.seed + i)
            config = replace(config, steps=max(round(progress * config.steps), 1))
            model = SummedRewards(self.experiment.assistant("medium")[0], mg.Generator(config.seed))
            batches = ComparisonBatches(self.rankings, config.batch_size, config.seed)
            with TemporaryDirectory() as scratch:
                train(model, batches, config, Run(scratch), loss_fn=reward_loss)
            self.models.append(scale_head(model, self.rankings))


def scale_head(model: ScalarModel, rankings: Sequence[Ranking]) -> ScalarModel:
    """Divide the head, in place, so that the compared responses' rewards have a standard deviation of 1 within prompts.

    The model soon memorises so few comparisons, and then nothing bounds its rewards. But the KL penalty has to balance them.
    The paper normalises its rewards, too (section 2.2.1).
    """
    rewards = [reward_scores(model, ranking.rows) for ranking in rankings]
    spread = np.concatenate([each - each.mean() for each in rewards]).std()
    for parameter in model.head.parameters():
        parameter.array /= np.float32(max(spread, 1e-6))
        parameter.changed()
    return model


def ratio_of_means(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, list[float]]:
    """mean(ours) / mean(theirs) of two (S, N) arrays over seeds and tasks, and its 95% interval [low, high].

    Both are resampled alike. If the mean of theirs is not positive, the ratio counts as 0.
    """
    means, their_means = (np.append(values.mean(), resampled_means(values)) for values in (ours, theirs))  # (1 + draws,)
    ratios = np.where(their_means > 0, means / np.where(their_means > 0, their_means, 1), 0.0)  # (1 + draws,)
    return float(ratios[0]), [float(q) for q in np.quantile(ratios[1:], [0.025, 0.975])]


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of several curves [(x, y)] with the same x."""
    return [(points[0][0], float(np.mean([y for _, y in points]))) for points in zip(*curves, strict=True)]
