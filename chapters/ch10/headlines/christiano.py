"""Christiano et al. 2017: how few comparisons does it take to learn a reward?

Claim, from "Deep reinforcement learning from human preferences" (arXiv:1706.03741): an agent that learns its reward while it
acts, from comparisons on less than one percent of its interactions, solves complex tasks (abstract). On simulated robots 700
labels nearly match the true reward, and 1,400 synthetic labels are slightly better (section 3.1.1).

In miniature: the same policy gradient (RLOO) tunes the assistant on equally many of its own samples, with the same adaptive KL
target, on three rewards. The first is the judge's own score, which nobody has in practice. The second is learned online: at
a few iterations the noisy labeller compares the policy's four responses to each of a few prompts, and the reward is fitted
anew. The third is learned in the same way, but it is only a bag of words. ch10/headlines/online_reward explains the rewards.

The labeller sees a quarter of the prompts before training begins, as in the paper (appendix A.1), and none in the second half
of training. Within a run, held-out comparisons alone set how closely a reward fits; the judge's score decides nothing.

The gain is the rise of the judge's mean score on held-out tasks. Each policy is measured at 0, 70 and 100 % of the way from the
SFT model in parameters, and the gains are compared at the smaller of the two final KLs.

Reproduced if the learned reward brings more than 90 % of the true reward's gain at equal KL, from comparisons of less than 1 %
of the policy's samples (which restates the settings). Its policy must end more than 1 nat from the SFT model, so that there is
a gain to compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT
from chapters.ch10.headlines.experiment import Bound, Experiment, Measurement, Row
from chapters.ch10.headlines.online_reward import OnlineConfig, OnlineReward, TrueReward, asked_at
from chapters.ch10.ppo import adapted_kl_coefficient
from chapters.ch10.rloo import RLOO, RLOOConfig
from chapters.ch10.rollout import Rollouts, log_probs_of, roll_out, sequence_kl
from chapters.support.command import above, at_least_one
from chapters.world.judge import gains_text, points_by_criterion

REWARDS = {"judge": "the judge's own score", "learned": "the learned reward", "words": "a bag of words"}  # name: label
RATIO, SHARE = "learned reward's gain over the true reward's", "compared share of the samples"
KL = "KL with the learned reward (nats)"


@dataclass
class ChristianoSettings:
    """A reward learned online."""

    size: str = "main"  # size of the assistant
    prompts: tuple[int, ...] = (252,)  # prompts whose responses are compared, for each set of policies; the first counts
    training: RLOOConfig = field(  # policy gradient; the number of iterations follows from the number of prompts
        default_factory=lambda: RLOOConfig(prompts=256, lr=5e-4)
    )
    kl_target: float = 2.0  # KL in nats per response at which the KL coefficient stays constant
    kl_horizon: float = 1000.0  # responses in which the KL coefficient can change by a fifth
    share: float = 0.01  # the compared samples are fewer than this share of the policy's samples
    online: OnlineConfig = field(default_factory=OnlineConfig)  # how a reward is learned
    answers: int = 8  # responses to each held-out task

    def __post_init__(self) -> None:
        at_least_one(self, "answers")
        above(self, 0, "kl_target", "share")
        if not self.prompts or min(self.prompts) < 1:
            raise ValueError(f"christiano: expected at least one prompt to compare responses to, got prompts={self.prompts}")
        most, batch = max(max(self.plan(n).values()) for n in self.prompts), self.training.prompts // self.training.k
        if most > batch:
            raise ValueError(
                f"christiano: expected at most the {batch} prompts of a batch in a round, got {most}; give more rounds, or a "
                "larger batch by training.prompts"
            )

    def iterations(self, prompts: int) -> int:
        """The fewest iterations that keep the compared samples below their share."""
        return int(prompts * self.training.k / self.share / self.training.prompts) + 1

    def plan(self, prompts: int) -> dict[int, int]:
        """{iteration: prompts whose responses the labeller compares}."""
        return asked_at(prompts, self.iterations(prompts), self.online.rounds)


QUICK = ChristianoSettings(
    prompts=(3,),
    training=RLOOConfig(prompts=8, max_new_tokens=8),
    share=0.5,
    online=OnlineConfig(rounds=2, members=2),
    answers=1,
)


def measure(experiment: Experiment, settings: ChristianoSettings) -> Measurement:
    """The gain from each learned reward as a share of the true reward's gain at equal KL."""
    runs = {
        (prompts, reward): experiment.cached(f"christiano_{reward}_{prompts}", tune, reward, prompts, settings)
        for prompts in settings.prompts
        for reward in REWARDS
    }
    ratios = {key: gain_ratio(run["curve"], runs[key[0], "judge"]["curve"]) for key, run in runs.items()}
    first = settings.prompts[0]
    judge, learned = runs[first, "judge"], runs[first, "learned"]
    return Measurement(
        quantities={
            RATIO: ratios[first, "learned"],
            "bag of words' gain over the true reward's": ratios[first, "words"],
            SHARE: max(run["compared"] / run["samples"] for run in runs.values()),
            "comparisons (count)": float(learned["comparisons"]),
            "gain from the true reward (points)": judge["curve"][-1][1],
            "KL with the true reward (nats)": judge["curve"][-1][0],
            KL: learned["curve"][-1][0],
        }
        | {f"{RATIO}, {prompts} prompts": ratios[prompts, "learned"] for prompts in settings.prompts[1:]},
        series={REWARDS[reward]: runs[first, reward]["curve"] for reward in REWARDS},
        details={f"{prompts} prompts, {REWARDS[reward]}": run for (prompts, reward), run in runs.items()},
    )


# ── one policy ───────────────────────────────────────────────────────────────────────────────────────────────────────


class SteeredRLOO(RLOO):
    """RLOO whose KL coefficient adapts until the KL meets its target, as PPO's does."""

    def __init__(self, policy: GPT, config: RLOOConfig, kl_target: float, kl_horizon: float):
        super().__init__(policy, config)
        self.kl_target, self.kl_horizon = kl_target, kl_horizon

    def learn(
        self, rollouts: Rollouts, final: np.ndarray, reference_log_probs: np.ndarray, kl: float, lr: float
    ) -> dict[str, float]:
        record, beta = super().learn(rollouts, final, reference_log_probs, kl, lr), self.config.kl_coefficient
        adapted = adapted_kl_coefficient(beta, kl, self.kl_target, len(final), self.kl_horizon)
        self.config = replace(self.config, kl_coefficient=adapted)
        return record


def tune(experiment: Experiment, reward: str, prompts: int, settings: ChristianoSettings) -> dict[str, Any]:
    """Tune the assistant on one of the REWARDS, with comparisons of the responses to some prompts.

    Returns:
        {"curve": see `curve_of`, "training": [samples, KL, judge's mean score] of each iteration, "gain by criterion": a text,
        "samples", "compared" and "comparisons": counts, "penalties": each member's at the end, "heaviest words"}.
    """
    (policy, tokenizer), (reference, _) = experiment.assistant(settings.size), experiment.assistant(settings.size)
    config = replace(settings.training, seed=experiment.seed, iterations=settings.iterations(prompts))
    judge, plan, reads = experiment.judge, settings.plan(prompts), reward == "learned"
    online = OnlineReward(judge, tokenizer, settings.online, plan, config.k, experiment.seed, reads)
    score = TrueReward(judge, tokenizer, config.k) if reward == "judge" else online
    learner = SteeredRLOO(policy, config, settings.kl_target, settings.kl_horizon)
    records = experiment.optimise((policy, tokenizer), reference, score, config, learner, repeat=config.k)
    curve, criteria = curve_of(experiment, policy, reference, tokenizer, settings)
    return {
        "curve": curve,
        "training": [[record["iteration"] * config.prompts, record["kl"], record["judge"]] for record in records],
        "gain by criterion": criteria,
        "samples": config.iterations * config.prompts,
        "compared": sum(len(compared.texts) for compared in online.compared),
        "comparisons": sum(len(compared.pairs) for compared in online.compared),
        "penalties": online.penalties,
        "heaviest words": online.heaviest(10),
    }


# ── gain at equal KL ─────────────────────────────────────────────────────────────────────────────────────────────────


def between(reference: GPT, policy: GPT, share: float, model: GPT) -> GPT:
    """Give `model` the parameters reference + share · (policy − reference)."""
    for into, start, end in zip(model.parameters(), reference.parameters(), policy.parameters(), strict=True):
        into.array[...] = start.array + np.float32(share) * (end.array - start.array)
        into.changed()
    return model


def curve_of(
    experiment: Experiment, policy: GPT, reference: GPT, tokenizer: Tokenizer, settings: ChristianoSettings
) -> tuple[list[list[float]], str]:
    """[KL in nats, gain of the judge's mean score] on the way from the SFT model to the policy; the policy's gain by criterion.

    The way is the straight line between the two models' parameters, as in Ramé et al. 2024, WARP (arXiv:2406.16768).
    """
    model, generator, judge = experiment.assistant(settings.size)[0], mg.Generator(experiment.seed), experiment.judge
    tasks, points, criteria = list(experiment.tests) * settings.answers, [], []
    for share in (0.0, 0.7, 1.0):
        between(reference, policy, share, model)
        texts, kls = [], []
        for _ in range(settings.answers):
            rollouts = roll_out(model, tokenizer, experiment.tests, settings.training.max_new_tokens, generator)
            kls.append(sequence_kl(rollouts.old_log_probs, log_probs_of(reference, rollouts), rollouts.mask).mean())
            texts += rollouts.texts(tokenizer)
        criteria.append(points_by_criterion(judge, tasks, texts))
        points.append([float(np.mean(kls)), sum(criteria[-1].values()) - sum(criteria[0].values())])
    return points, gains_text(criteria[0], criteria[-1])


def gain_at(curve: Sequence[Sequence[float]], kl: float) -> float:
    """The gain at a KL, on straight lines in √KL: near the SFT model gain grows like the step and KL like its square.

    >>> gain_at([[0.0, 0.0], [4.0, 1.0]], 1.0)
    0.5
    """
    kls, gains = np.array(curve).T  # (P,) each
    return float(np.interp(max(kl, 0) ** 0.5, np.maximum(kls, 0) ** 0.5, gains))


def gain_ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Our gain over their gain at the largest KL that both curves reach; 0 if their gain is not positive.

    >>> gain_ratio([[0.0, 0.0], [1.0, 0.9]], [[0.0, 0.0], [1.0, 1.0], [2.0, 1.4]])
    0.9
    """
    shared = min(ours[-1][0], theirs[-1][0])
    gain, their_gain = gain_at(ours, shared), gain_at(theirs, shared)
    return gain / their_gain if their_gain > 0 else 0.0


CHRISTIANO = Row(
    name="christiano",
    paper="Christiano et al. 2017",
    arxiv="1706.03741",
    claim="a reward learned online from comparisons of less than 1 % of the interactions solves complex tasks (abstract); on "
    "simulated robots 700 labels nearly match the true reward, and 1,400 synthetic labels are slightly better (section 3.1.1)",
    criterion=(Bound(RATIO, above=0.9), Bound(SHARE, below=0.01), Bound(KL, above=1.0)),
    sizes=("main", "small"),
    minutes=23,
    settings=ChristianoSettings(),
    quick=QUICK,
    measure=measure,
    axes=("KL from the SFT model (nats)", "gain (points of the judge)", "linear"),
)
