"""What the headline table's rows share: a run folder, models that several rows use, and comparisons of two models.

Every model is trained once and saved in the run's folder, where a second run or another row finds it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, train_validation_split
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, evaluate, train
from chapters.ch10.assess import sample_responses
from chapters.ch10.constitution.principles import Tasks, Texts
from chapters.ch10.demonstrations import fine_tune
from chapters.ch10.harness import optimise, reward_scorer
from chapters.ch10.headlines.settings import Settings
from chapters.ch10.reward import ScalarModel, collect_rankings, demonstrated_rows, load_scalar, train_reward
from chapters.ch10.rlhf import PPO, PPOConfig, ptx_batches
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.judge import Judge, correctness, preference, score_of
from chapters.world.requests import mixed_tasks
from minigrad.serialization import write_atomically

TEMPERATURE = 0.6  # sampling temperature that ch10/demonstrations builds into an assistant; base models sample at it too
GPTAndTokenizer: TypeAlias = tuple[GPT, Tokenizer]


@dataclass
class Headline:
    """One row of the table.  `ours`, `interval` and `level` share one unit; `series` goes into the figure."""

    paper: str  # authors and year
    arxiv: str
    claim: str
    theirs: str  # the paper's figure, in words, with its place
    measured: str  # a noun phrase for `ours`
    ours: float
    interval: list  # 95%, [low, high]
    level: float  # the value that `ours` is compared with
    unit: str  # "share", or "points" of the judge's score
    seeds: list  # seeds of the models trained for this row
    reproduced: bool
    reason: str  # the numbers behind `reproduced`
    sizes: dict = field(default_factory=dict)  # of models and data
    details: dict = field(default_factory=dict)
    series: dict = field(default_factory=dict)  # {name: [(x, y)]}, or for bars {name: [share, low, high]}

    def __post_init__(self):
        self.ours, self.reproduced = float(self.ours), bool(self.reproduced)  # NumPy's types are not JSON


class Experiment:
    """The run's folder, the world, its judge, the held-out tasks, and models that are trained when a row needs them."""

    def __init__(self, settings: Settings):
        self.settings, self.run = settings, Run(settings.run)
        self.world = World(settings.seed)
        self.judge = Judge(self.world)
        self.tests = mixed_tasks(self.world, "test", settings.held_out, settings.seed + 1)

    @cached_property
    def tasks(self) -> list[Instruction]:
        """Instructions about the training side's people and things, as prompts."""
        return mixed_tasks(self.world, "train", self.settings.tasks, self.settings.seed)

    # ── the main job's models ──

    def base(self) -> GPTAndTokenizer:
        return load_model(self.settings.base)

    def assistant(self) -> GPTAndTokenizer:
        return load_model(self.settings.sft)

    def reward_model(self) -> ScalarModel:
        return load_scalar(self.settings.reward)

    # ── results and models that outlast the command ──

    def cached(self, name: str, compute: Callable, *arguments) -> Any:
        """compute(*arguments), as JSON: read from found/name.json, or computed and written there."""
        path = self.run / "found" / f"{name}.json"
        if not path.exists():
            print(f"  {name}", flush=True)
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, json.dumps(compute(*arguments)).encode())
        return json.loads(path.read_text())

    def trained(self, name: str, train_into: Callable[[Run], None], load: Callable = load_model) -> Any:
        """load(folder) of models/name, after train_into(run) has trained and saved the model there if it was missing."""
        run = Run(self.run / "models" / name)
        done = run / "done"
        if not done.exists():
            print(f"  training {name}", flush=True)
            train_into(run)
            done.touch()
        return load(run.folder)

    # ── models of other sizes, through pretraining, demonstrations, and PPO ──

    @cached_property
    def pages(self) -> tuple[np.ndarray, np.ndarray]:
        """The world's documents as token ids, split for training and validation as in the main job."""
        tokenizer = self.base()[1]
        documents = self.world.documents(self.settings.corpus_bytes, seed=self.settings.seed)
        ids = [i for page in documents for i in (*tokenizer.encode(page), tokenizer.eos_id)]
        return train_validation_split(np.array(ids, np.uint16), 0.02)

    def pretrained(self, name: str, shape: dict, config: TrainConfig, seed: int) -> GPTAndTokenizer:
        """A base model of another shape, trained on the main job's pages."""
        tokenizer = self.base()[1]

        def train_into(run):
            gpt = GPT(GPTConfig(tokenizer.vocab_size, **shape), generator=mg.Generator(seed))
            training_pages, validation_pages = self.pages
            batches = NextTokenBatches(training_pages, gpt.config.context, config.batch_size, seed)
            validation = EveryTokenOnce(validation_pages, gpt.config.context, config.batch_size)
            train(gpt, batches, replace(config, seed=seed, resume=True), run, validation=validation)
            save_model(run, gpt, tokenizer)

        return self.trained(name, train_into)

    def page_loss(self, model: GPT, batches: int = 40) -> float:
        """Mean cross-entropy on validation pages, in nats per token."""
        validation = EveryTokenOnce(self.pages[1], model.config.context, 8)
        return evaluate(model, validation, min(batches, len(validation)))

    def small(self, seed: int) -> GPTAndTokenizer:
        """A base model with an eleventh of the main job's parameters."""
        return self.pretrained(f"small_{seed}", self.settings.small, self.settings.pretrain_small, seed)

    def medium(self) -> GPTAndTokenizer:
        """A base model with a fifth of the main job's parameters."""
        return self.pretrained("medium", self.settings.medium, self.settings.pretrain_medium, self.settings.seed)

    def large(self) -> GPTAndTokenizer:
        """A base model with 51 times the small one's parameters."""
        return self.pretrained("large", self.settings.large, self.settings.pretrain_large, self.settings.seed)

    def supervised(self, name: str, base: Callable[[], GPTAndTokenizer], seed: int) -> GPTAndTokenizer:
        """A base model fine-tuned on demonstrations of mixed quality."""

        def train_into(run):
            model, tokenizer = base()
            config = replace(self.settings.supervise, seed=seed, resume=True)
            fine_tune(model, tokenizer, self.world, self.settings.demonstrations, config, run)

        return self.trained(name, train_into)

    def small_assistant(self, seed: int) -> GPTAndTokenizer:
        return self.supervised(f"small_assistant_{seed}", partial(self.small, seed), seed)

    def medium_assistant(self) -> GPTAndTokenizer:
        return self.supervised("medium_assistant", self.medium, self.settings.seed)

    def small_reward(self, seed: int) -> ScalarModel:
        """A reward model from the small assistant's body and comparisons of its own responses, as in ch10/reward."""

        def train_into(run):
            settings, (gpt, tokenizer) = self.settings, self.small_assistant(seed)
            tasks = mixed_tasks(self.world, "train", settings.compared, seed)
            rankings = collect_rankings(gpt, tokenizer, self.judge, tasks, 4, seed)
            demonstrated = demonstrated_rows(self.world, tokenizer, 300, gpt.config.context, seed)
            train_reward(gpt, rankings, demonstrated, replace(settings.rewarding, seed=seed), run)

        return self.trained(f"small_reward_{seed}", train_into, load_scalar)

    def tuned_policy(
        self, name: str, start: Callable[[], GPTAndTokenizer], reward: Callable[[], ScalarModel], ppo: PPOConfig, seed: int
    ) -> GPTAndTokenizer:
        """A policy that PPO tunes from start() against the reward model reward()."""

        def train_into(run):
            (policy, tokenizer), (reference, _) = start(), start()
            config = replace(ppo, seed=seed, resume=True)
            learner = PPO(policy, reward(), config, ptx_batches(config, self.world, tokenizer, policy))
            score = reward_scorer(reward())
            tasks = mixed_tasks(self.world, "train", self.settings.tasks, seed)
            optimise(policy, reference, tokenizer, score, tasks, config, run, learner, self.judge)

        return self.trained(name, train_into)

    def policy(self, seed: int) -> GPTAndTokenizer:
        """The main job's assistant after PPO, as in ch10/rlhf."""
        if self.settings.policies is not None:
            return load_model(self.settings.policies / f"seed_{seed}")
        return self.tuned_policy(f"policy_{seed}", self.assistant, self.reward_model, self.settings.ppo, seed)

    def small_policy(self, seed: int) -> GPTAndTokenizer:
        """The small model after all three steps: pretraining, demonstrations, PPO."""
        assistant, reward = partial(self.small_assistant, seed), partial(self.small_reward, seed)
        return self.tuned_policy(f"small_policy_{seed}", assistant, reward, self.settings.ppo_small, seed)

    # ── responses and their scores ──

    def responses(self, model: GPT, tokenizer: Tokenizer, seed: int | None = None, tasks: Tasks | None = None) -> list[str]:
        """One response to each task (by default the held-out ones) at temperature 1."""
        tasks, seed = self.tests if tasks is None else tasks, self.settings.seed if seed is None else seed
        return sample_responses(model, tokenizer, tasks, seed).texts(tokenizer)

    def scores(self, responses: Texts, tasks: Tasks | None = None) -> np.ndarray:
        """The judge's score of one response to each task, (N,)."""
        tasks = self.tests if tasks is None else tasks
        return np.array([score_of(self.judge, task, text) for task, text in zip(tasks, responses, strict=True)])

    def correct(self, responses: Texts) -> float:
        """The share of held-out plain tasks that the responses do correctly."""
        return correctness(self.world, self.tests, responses)

    def win_rates(
        self, policy: Callable[[int], GPTAndTokenizer], seeds: Sequence[int], opponents: dict[str, np.ndarray]
    ) -> dict[str, "WinRate"]:
        """How often the judge, without noise, prefers the policies of several seeds to each opponent.

        Args:
            policy: policy(seed) loads the model of a seed.
            opponents: {name: the judge's scores of its responses to the held-out tasks, (N,)}.
        """
        ours = [self.scores(self.responses(*policy(seed), seed)) for seed in seeds]  # an (N,) for each seed
        return {
            name: WinRate.of(np.array([task_wins(scores, theirs) for scores in ours])) for name, theirs in opponents.items()
        }


# ── win rates and their intervals ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class WinRate:
    """A share of comparisons won, with its 95% interval."""

    share: float
    interval: list[float]
    by_seed: list[float]

    @classmethod
    def of(cls, wins: np.ndarray) -> "WinRate":
        """From `task_wins` of S seeds on N tasks, (S, N)."""
        return cls(float(wins.mean()), interval(wins), [float(of_seed.mean()) for of_seed in wins])

    @property
    def bar(self) -> list[float]:
        """[share, low, high], for the figure."""
        return [self.share, *self.interval]

    def as_json(self) -> dict:
        return {"wins": self.share, "interval": self.interval, "each seed": self.by_seed}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:.1%} [{low:.1%}, {high:.1%}]"


def task_wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """1 where our score is higher, ½ where the scores are equal, 0 elsewhere; all (N,)."""
    return np.array([preference(a, b, 0) for a, b in zip(ours, theirs, strict=True)])


def resampled_means(values: np.ndarray, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """Means of (S, N) values over seeds and tasks drawn with replacement, (draws,)."""
    values, rng = np.asarray(values, np.float64), np.random.default_rng(seed)
    S, N = values.shape
    means = [values[rng.integers(0, S, S)].mean(axis=0)[rng.integers(0, N, N)].mean() for _ in range(draws)]
    return np.array(means)  # (draws,)


def interval(values: np.ndarray | Sequence, seed: int = 0) -> list[float]:
    """The 95% interval [low, high] of the mean of (S, N) values, for S seeds on N tasks.

    The bootstrap (Efron 1979) resamples seeds and tasks, so the interval covers other seeds as well as other tasks.
    A few seeds say little about how seeds vary, and a single seed says nothing. Resampling never draws an outcome that
    was not observed. So yes-or-no values of one seed, or of seeds that all agree, get the score interval (Wilson 1927).
    """
    values = np.atleast_2d(values)
    if np.isin(values, (0, 1)).all() and (len(values) == 1 or values.min() == values.max()):
        n, share, z = values.size, values.mean(), 1.96
        middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        return [float((middle + side * half) / (1 + z * z / n)) for side in (-1, 1)]
    return [float(q) for q in np.quantile(resampled_means(values, seed), [0.025, 0.975])]


def decimals(numbers: Sequence[float], places: int) -> str:
    """
    >>> decimals([0.5, 1], 2)
    '0.50, 1.00'
    """
    return ", ".join(f"{number:.{places}f}" for number in numbers)


def parameter_count(model: Any) -> int:
    return sum(parameter.array.size for parameter in model.parameters())
