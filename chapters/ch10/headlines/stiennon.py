"""Stiennon et al. 2020: can a model surpass the writers whom it imitates, and a supervised model ten times its size?

Claim, from "Learning to summarize from human feedback" (arXiv:2009.01325): a model tuned on human preferences writes better
summaries than the human references and than a supervised model ten times its size. The 1.3B model is preferred to the
references 61% of the time, the supervised model ten times its size 43% (section 4.1, figure 1).

In miniature: paragraphs about people, to be told in at most twelve words (chapters/world/summaries.py). Everything that a
summary needs stands in the prompt, and nothing of it can be recalled. The small base model learns from reference summaries,
whose writers omit, err and ramble. The simulated labeller compares its samples, a small reward model learns from the
comparisons, and PPO follows the reward model. The large base model, more than ten times as large, learns from 9,600 references,
each read once; the small one reads 20,000 references, 1.6 times on average. On held-out paragraphs the labeller compares
without noise; an equal score is half a win. The paragraphs depend on the seed alone; worlds differ in their base models and
samples.

All models are sampled at temperature 1, without the 0.6 that is built into other rows' assistants. So part of the policy's lead
is that PPO gives up unlikely tokens. The comparison at temperature 0 stands beside it. There even a perfect imitator omits a
fact (chapters/world/summaries.py).

Length is controlled in two ways. The paper's (appendix F) is a logistic regression of the comparisons on the logarithm of the
ratio of lengths, read off at equal length. It supposes that preference rises or falls with length, but here the short and the
rambling both lose. So the other way compares only summaries whose lengths differ by at most one word. Beside a complete summary
of twelve words this leaves the references that neither omit nor ramble, and the writers' mistakes decide.

Reproduced if the policy is preferred to the references and to the larger model more than half the time, and to the references
more often than the larger model is. The larger model must be an opponent: preferred to the references more than 40% of the
time, about as often as in the paper.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chapters.ch06_gpt import save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.bag_of_words import bradley_terry
from chapters.ch10.comparisons import Ranking, sample_rankings
from chapters.ch10.harness import optimise, reward_scorer
from chapters.ch10.headlines.experiment import Bound, Experiment, GPTAndTokenizer, Measurement, Row, task_wins
from chapters.ch10.headlines.settings import FEW, default, tuning
from chapters.ch10.reward import ScalarModel, compare_with_words, load_scalar, train_reward
from chapters.ch10.reward import measure as measure_reward
from chapters.ch10.rlhf import PPO, PPOConfig
from chapters.ch10.sft import InstructionBatches, Tasks, ask, response_loss
from chapters.support.run_folder import Run
from chapters.world.judge import score_of
from chapters.world.reading import words
from chapters.world.summaries import SummaryJudge, references, summary_tasks

LEAD = "lead over the larger model against the references (percentage points)"


@dataclass
class StiennonSettings:
    """Sizes and training of the summarising models."""

    shape: dict[str, Any] = field(  # shape of the policy, 0.125M parameters: the large model has 10.6 times as many
        default_factory=lambda: dict(n_layer=4, n_head=4, d_model=40, context=128, init_std=0.05)
    )
    pretraining: TrainConfig = default(  # its pretraining, without weight decay
        tuning, steps=2600, batch_size=8, lr=6e-3, muon_lr=0.03, min_lr=0.0
    )
    examples: int = 20000  # paragraphs with reference summaries to imitate
    imitate_small: TrainConfig = default(  # small model's imitation
        tuning, steps=1000, batch_size=32, lr=6e-3, muon_lr=0.02, min_lr=3e-4
    )
    imitate_large: TrainConfig = default(tuning, steps=600, batch_size=16, lr=2e-3, muon_lr=0.01, min_lr=1e-4)  # large model's
    compared: int = 3000  # paragraphs whose 4 summaries train the reward model
    rewarding: TrainConfig = default(tuning, steps=800, lr=2e-3, muon_lr=0.01, min_lr=1e-4)  # reward model's training
    prompts: int = 4000  # paragraphs that prompt the policy
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(iterations=60, lr=5e-4, kl_coefficient=0.1, kl_target=6.0, ptx_coefficient=0.0)
    )
    noise: float = 0.5  # labeller noise
    held_out: int = 400  # held-out paragraphs


QUICK = StiennonSettings(
    shape=dict(n_layer=1, n_head=2, d_model=16, context=128),
    pretraining=FEW,
    examples=20,
    imitate_small=FEW,
    imitate_large=FEW,
    compared=3,
    rewarding=FEW,
    prompts=8,
    held_out=4,
    ppo=PPOConfig(iterations=1, prompts=4, ptx_coefficient=0.0),
)

# ── the models ───────────────────────────────────────────────────────────────────────────────────────────────────────


def base(experiment: Experiment, settings: StiennonSettings, size: str) -> GPTAndTokenizer:
    """The base model that a "small" or "large" summariser starts from; both have seen the same number of tokens."""
    if size == "large":
        return experiment.base("large")
    return experiment.pretrained("summariser", settings.shape, settings.pretraining)


def imitator(experiment: Experiment, settings: StiennonSettings, size: str) -> GPTAndTokenizer:
    """The base model of this size, fine-tuned on the reference summaries: the supervised model."""

    def train_into(run: Run) -> None:
        (gpt, tokenizer), seed = base(experiment, settings, size), experiment.seed
        config: TrainConfig = replace(getattr(settings, f"imitate_{size}"), seed=seed, resume=True)
        tasks = summary_tasks("train", settings.examples, seed)
        written = [replace(task, output=text) for task, text in zip(tasks, references(tasks, seed), strict=True)]
        batches = InstructionBatches(written, tokenizer, gpt.config.context, config.batch_size, seed)
        train(gpt, batches, config, run, loss_fn=response_loss)
        save_model(run, gpt, tokenizer, "instruction")

    return experiment.trained(f"{size}_summaries", train_into)


def compared_summaries(experiment: Experiment, settings: StiennonSettings, split: str, n: int) -> list[Ranking]:
    """The labeller's comparisons of 4 summaries of each of n paragraphs by the small supervised model."""
    seed = experiment.seed + (split == "test")
    tasks = summary_tasks(split, n, seed)
    return sample_rankings(*imitator(experiment, settings, "small"), SummaryJudge(settings.noise), tasks, 4, seed)[1]


def reward_model(experiment: Experiment, settings: StiennonSettings) -> ScalarModel:
    """A reward model with the small supervised model's body, trained on comparisons of that model's summaries."""

    def train_into(run: Run) -> None:
        gpt, _ = imitator(experiment, settings, "small")
        rankings = compared_summaries(experiment, settings, "train", settings.compared)
        rows = [row for ranking in rankings[:100] for row in ranking.rows]
        train_reward(gpt, rankings, rows, replace(settings.rewarding, seed=experiment.seed, resume=True), run)

    return experiment.trained("summaries_reward", train_into, load_scalar)


def policy(experiment: Experiment, settings: StiennonSettings) -> GPTAndTokenizer:
    """The small supervised model after PPO against the reward model."""

    def train_into(run: Run) -> None:
        (gpt, tokenizer), (reference, _) = (imitator(experiment, settings, "small") for _ in range(2))
        config = replace(settings.ppo, seed=experiment.seed, resume=True)
        learner = PPO(gpt, reward_model(experiment, settings), config)
        score = reward_scorer(reward_model(experiment, settings))
        tasks = summary_tasks("train", settings.prompts, experiment.seed + 1)
        optimise(gpt, reference, tokenizer, score, tasks, config, run, learner, SummaryJudge())

    return experiment.trained("summaries_policy", train_into)


# ── the comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────


def share_at_equal_length(wins: np.ndarray, log_ratios: np.ndarray) -> float:
    """The share of wins that a logistic regression on the logarithm of the ratio of lengths predicts for equal lengths.

    wins: 1, ½ or 0, (N,).  log_ratios: log(our words / their words), (N,).  Half a win counts as half of each outcome.

    >>> round(share_at_equal_length(np.array([1, 1, 1, 0] * 50), np.zeros(200)), 2)
    0.75
    """
    design = np.stack([np.ones_like(log_ratios), log_ratios], axis=1)  # (N, 2)
    halves = np.rint(2 * wins).astype(int)  # (N,) half wins; the other 2 − halves are half defeats
    outcomes = np.concatenate([np.repeat(design, halves, axis=0), -np.repeat(design, 2 - halves, axis=0)])  # (2N, 2)
    intercept, _ = bradley_terry(outcomes, penalty=1e-3)
    return float(0.5 * (1 + np.tanh(0.5 * intercept)))


@dataclass
class Summaries:
    """One author's summaries of the held-out paragraphs."""

    texts: list[str]
    scores: np.ndarray  # (N,)
    lengths: np.ndarray  # words, (N,)

    @classmethod
    def of(cls, tasks: Tasks, texts: list[str]) -> "Summaries":
        scores = [score_of(SummaryJudge(), task, text) for task, text in zip(tasks, texts, strict=True)]
        return cls(texts, np.array(scores), np.array([max(len(words(text)), 1) for text in texts]))

    def preferred_to(self, other: "Summaries") -> float:
        """The share of paragraphs on which the labeller, without noise, prefers these summaries."""
        return float(task_wins(self.scores, other.scores).mean())

    def preferred_with_length_regressed_out(self, other: "Summaries") -> float:
        """`preferred_to` by the paper's regression on length."""
        return share_at_equal_length(task_wins(self.scores, other.scores), np.log(self.lengths / other.lengths))

    def preferred_at_the_same_length(self, other: "Summaries") -> float:
        """`preferred_to` on the paragraphs whose two summaries differ by at most one word; ½ if there are none."""
        same = np.abs(self.lengths - other.lengths) <= 1  # (N,)
        return float(task_wins(self.scores[same], other.scores[same]).mean()) if same.any() else 0.5

    def described(self, tasks: Tasks) -> dict[str, float]:
        """The mean of each criterion, the mean score, and the mean number of words."""
        marks = [SummaryJudge().explain(task, text) for task, text in zip(tasks, self.texts, strict=True)]
        means = {name: float(np.mean([mark[name] for mark in marks])) for name in marks[0]}
        return means | {"score": float(self.scores.mean()), "words": float(self.lengths.mean())}


def measure(experiment: Experiment, settings: StiennonSettings) -> Measurement:
    """One world's comparisons of the policy, the larger supervised model and the references."""
    tasks = summary_tasks("test", settings.held_out, experiment.seed + 1)
    models = {
        "the policy": policy(experiment, settings),
        "the larger model": imitator(experiment, settings, "large"),
        "the supervised model of the policy's size": imitator(experiment, settings, "small"),
    }
    authors = {name: Summaries.of(tasks, experiment.responses(*model, tasks)) for name, model in models.items()}
    authors["the references"] = Summaries.of(tasks, references(tasks, experiment.seed + 1))
    ours, larger, small, written = authors.values()
    likeliest = [Summaries.of(tasks, ask(*models[name], tasks)) for name in ("the policy", "the larger model")]
    quantities = {
        "preferred to the references": ours.preferred_to(written),
        "preferred to the larger model": ours.preferred_to(larger),
        LEAD: 100 * (ours.preferred_to(written) - larger.preferred_to(written)),
        "preferred to the references, length regressed out": ours.preferred_with_length_regressed_out(written),
        "preferred to the references of the same length": ours.preferred_at_the_same_length(written),
        "preferred to the larger model's summaries of the same length": ours.preferred_at_the_same_length(larger),
        "larger model preferred to the references": larger.preferred_to(written),
        "supervised small model preferred to the references": small.preferred_to(written),
        "preferred to the larger model, both at temperature 0": likeliest[0].preferred_to(likeliest[1]),
        "larger model at temperature 0 preferred to the references": likeliest[1].preferred_to(written),
    }
    return Measurement(
        quantities=quantities | reading(experiment, settings),
        details={
            "parameters": {name: model.num_parameters() for name, (model, _) in models.items()},
            "criteria": {name: author.described(tasks) for name, author in authors.items()},
            "examples": [
                {"paragraph": task.input} | {name: author.texts[i] for name, author in authors.items()}
                for i, task in enumerate(tasks[:5])
            ],
        },
    )


def reading(experiment: Experiment, settings: StiennonSettings) -> dict[str, float]:
    """How many held-out comparisons the reward model and a bag of words predict, beside the best that the noise allows."""
    compared = compared_summaries(experiment, settings, "train", settings.compared)
    held_out = compared_summaries(experiment, settings, "test", settings.held_out)
    learned = measure_reward(reward_model(experiment, settings), held_out)
    _, words_alone = compare_with_words(compared, held_out, imitator(experiment, settings, "small")[1], experiment.seed)
    return {
        "comparisons right, reward model": learned["expected accuracy"],
        "comparisons right, bag of words": words_alone["expected accuracy"],
        "comparisons right, ceiling": learned["ceiling"],
    }


STIENNON = Row(
    name="stiennon",
    paper="Stiennon et al. 2020",
    arxiv="2009.01325",
    claim="a model tuned on preferences surpasses the human references and a supervised model ten times its size: preferred to "
    "the references 61% of the time, the larger model 43% (section 4.1, figure 1)",
    criterion=(
        Bound("preferred to the references", above=0.5),
        Bound("preferred to the larger model", above=0.5),
        Bound(LEAD, above=0.0),
        Bound("larger model preferred to the references", above=0.4),
    ),
    sizes=("large",),
    minutes=8,
    settings=StiennonSettings(),
    quick=QUICK,
    measure=measure,
)
