"""Code that the rows of the headline table share: comparisons of two models, the run's folder, and its models.

`Experiment.trained` saves a model in the run's folder, and `Experiment.cached` saves a result, so that other rows and later
runs can use them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, train_validation_split
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, evaluate, train
from chapters.ch10.assess import sample_responses
from chapters.ch10.comparisons import collect_rankings
from chapters.ch10.constitution.principles import Texts
from chapters.ch10.demonstrations import fine_tune
from chapters.ch10.harness import Learner, LoopConfig, Score, optimise, reward_scorer
from chapters.ch10.headlines.settings import Settings
from chapters.ch10.reward import ScalarModel, demonstrated_rows, load_scalar, train_reward
from chapters.ch10.rlhf import PPO, ptx_batches
from chapters.ch10.sft import Tasks
from chapters.support.json_files import read_json, write_result
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.judge import Judge, correctness, preference, score_of
from chapters.world.requests import mixed_tasks

TEMPERATURE = 0.6  # sampling temperature of base models; ch10/demonstrations builds the same value into assistants
GPTAndTokenizer: TypeAlias = tuple[GPT, Tokenizer]


@dataclass(kw_only=True)
class Headline:
    """One row of the table.  `ours`, `interval` and `level` share one unit; `series` goes into the figure."""

    paper: str  # authors and year
    arxiv: str
    claim: str
    theirs: str  # the paper's result, in words, with its place in the paper
    measured: str  # a noun phrase for `ours`
    ours: float
    interval: Sequence[float]  # 95%, [low, high]
    level: float = 0.5  # the value that `ours` is compared with
    unit: str = "share"  # or "points" of the judge's score
    seeds: Sequence[int]  # seeds of the models trained for this row
    reproduced: bool
    reason: str  # the numbers behind `reproduced`
    sizes: dict = field(default_factory=dict)  # sizes of models and data
    details: dict = field(default_factory=dict)
    series: dict = field(default_factory=dict)  # {name: [(x, y)]}, or for bars {name: [share, low, high]}

    def __post_init__(self):
        self.ours, self.reproduced = float(self.ours), bool(self.reproduced)  # NumPy's types are not JSON


# ── win rates and their intervals ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class WinRate:
    """A share of comparisons won, with its 95% interval."""

    share: float
    interval: list[float]
    by_seed: list[float]

    @classmethod
    def of(cls, wins: np.ndarray) -> "WinRate":
        """The win rate from `task_wins` for S seeds on N tasks, (S, N)."""
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


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Means of (S, N) values over seeds and tasks drawn with replacement, (draws,)."""
    values, rng = np.asarray(values, np.float64), np.random.default_rng(0)
    S, N = values.shape
    means = [values[rng.integers(0, S, S)].mean(axis=0)[rng.integers(0, N, N)].mean() for _ in range(2000)]
    return np.array(means)  # (draws,)


def interval(values: np.ndarray | Sequence) -> list[float]:
    """The 95% interval [low, high] of the mean of (S, N) values, for S seeds on N tasks.

    The bootstrap (Efron 1979) resamples seeds and tasks, so the interval covers other seeds as well as other tasks.
    A few seeds say little about how seeds vary, and a single seed says nothing. Resampling never draws an outcome that
    was not observed. So yes-or-no values get the score interval (Wilson 1927) if they have one seed or are all equal.
    """
    table = np.atleast_2d(values)
    if np.isin(table, (0, 1)).all() and (len(table) == 1 or table.min() == table.max()):
        n, share, z = table.size, table.mean(), 1.96
        middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        return [float((middle + side * half) / (1 + z * z / n)) for side in (-1, 1)]
    return [float(q) for q in np.quantile(resampled_means(table), [0.025, 0.975])]


def model_name(size: str, stage: str, seed: int | None) -> str:
    """The folder of a model, such as "small_assistant_0", or "medium" for a base model."""
    return "_".join(str(part) for part in (size, stage, seed) if part not in ("", None))


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Experiment:
    """The run's folder, the world, its judge, the held-out tasks, and models that are trained when a row needs them.

    The size of a model is "main" for the main job's models, and "small", "medium", "wide" or "large" for models trained
    here. Only small and wide models have a reward model and a policy.
    """

    def __init__(self, settings: Settings):
        self.settings, self.run = settings, Run(settings.run)
        self.world = World(settings.seed)
        self.judge = Judge(self.world)
        self.tests = mixed_tasks(self.world, "test", settings.held_out, settings.seed + 1)

    @cached_property
    def tasks(self) -> list[Instruction]:
        """Instructions from the training side of the split, as prompts."""
        return mixed_tasks(self.world, "train", self.settings.tasks, self.settings.seed)

    def cached(self, name: str, compute: Callable, *arguments) -> Any:
        """The result of compute(self, *arguments) as JSON, from found/name.json if an earlier call has written it."""
        path = self.run / "found" / f"{name}.json"
        if not path.exists():
            print(f"  {name}", flush=True)
            path.parent.mkdir(exist_ok=True)
            write_result(path, {"result": compute(self, *arguments)})
        found = read_json(path)
        return found["result"] if isinstance(found, dict) and found.keys() == {"result"} else found

    def trained(self, name: str, train_into: Callable[[Run], None], load: Callable = load_model) -> Any:
        """load(folder) of models/name; if the model is missing, train_into(run) first trains it and saves it there."""
        run = Run(self.run / "models" / name)
        done = run / "done"
        if not done.exists():
            print(f"  training {name}", flush=True)
            train_into(run)
            done.touch()
        return load(run.folder)

    # ── models of every size, through pretraining, demonstrations, and PPO ──

    @cached_property
    def pages(self) -> tuple[np.ndarray, np.ndarray]:
        """The world's documents as token ids, split for training and validation as in the main job."""
        tokenizer = self.base()[1]
        documents = self.world.documents(self.settings.corpus_bytes, seed=self.settings.seed)
        ids = [i for page in documents for i in (*tokenizer.encode(page), tokenizer.eos_id)]
        return train_validation_split(np.array(ids, np.uint16), 0.02)

    def page_loss(self, model: GPT) -> float:
        """Mean cross-entropy on validation pages, in nats per token."""
        validation = EveryTokenOnce(self.pages[1], model.config.context, 8)
        return evaluate(model, validation, min(40, len(validation)))

    def base(self, size: str = "main", seed: int | None = None) -> GPTAndTokenizer:
        """A base model, pretrained on the main job's pages; the seed is settings.seed if None."""
        if size == "main":
            return load_model(self.settings.base)

        def train_into(run: Run) -> None:
            config: TrainConfig = getattr(self.settings, f"pretrain_{size}")
            config = replace(config, seed=self.settings.seed if seed is None else seed, resume=True)
            shape, (_, tokenizer), (training_pages, validation_pages) = getattr(self.settings, size), self.base(), self.pages
            gpt = GPT(GPTConfig(tokenizer.vocab_size, **shape), generator=mg.Generator(config.seed))
            batches = NextTokenBatches(training_pages, gpt.config.context, config.batch_size, config.seed)
            validation = EveryTokenOnce(validation_pages, gpt.config.context, config.batch_size)
            train(gpt, batches, config, run, validation=validation)
            save_model(run, gpt, tokenizer)

        return self.trained(model_name(size, "", seed), train_into)

    def assistant(self, size: str = "main", seed: int | None = None) -> GPTAndTokenizer:
        """A base model fine-tuned on demonstrations of mixed quality: the SFT model."""
        if size == "main":
            return load_model(self.settings.sft)

        def train_into(run: Run) -> None:
            config = replace(self.settings.supervise, seed=self.settings.seed if seed is None else seed, resume=True)
            fine_tune(*self.base(size, seed), self.world, self.settings.demonstrations, config, run)

        return self.trained(model_name(size, "assistant", seed), train_into)

    def reward_model(self, size: str, seed: int) -> ScalarModel:
        """A reward model with an assistant's body, trained on comparisons of its own responses as in ch10/reward."""

        def train_into(run: Run) -> None:
            settings, (gpt, tokenizer) = self.settings, self.assistant(size, seed)
            tasks = mixed_tasks(self.world, "train", settings.compared, seed)
            rankings = collect_rankings(gpt, tokenizer, self.judge, tasks, 4, seed)
            demonstrated = demonstrated_rows(self.world, tokenizer, 300, gpt.config.context, seed)
            train_reward(gpt, rankings, demonstrated, replace(settings.rewarding, seed=seed), run)

        return self.trained(model_name(size, "reward", seed), train_into, load_scalar)

    def policy(self, size: str, seed: int) -> GPTAndTokenizer:
        """An assistant after PPO against its reward model, as in ch10/rlhf."""

        def train_into(run: Run) -> None:
            (policy, tokenizer), (reference, _) = self.assistant(size, seed), self.assistant(size, seed)
            config = replace(self.settings.ppo if size == "wide" else self.settings.ppo_small, seed=seed, resume=True)
            pages = ptx_batches(config, self.world, tokenizer, policy)
            learner = PPO(policy, self.reward_model(size, seed), config, pages)
            score = reward_scorer(self.reward_model(size, seed))
            tasks = mixed_tasks(self.world, "train", self.settings.tasks, seed)
            optimise(policy, reference, tokenizer, score, tasks, config, run, learner, self.judge)

        return self.trained(model_name(size, "policy", seed), train_into)

    def optimise(
        self, policy: GPTAndTokenizer, reference: GPT, score: Score, config: LoopConfig, learner: Learner, **options: Any
    ) -> list[dict]:
        """Tune the policy in place with `optimise` from ch10/harness, and keep only the records that it returns."""
        gpt, tokenizer = policy
        with TemporaryDirectory() as scratch:
            run = Run(scratch)
            return optimise(gpt, reference, tokenizer, score, self.tasks, config, run, learner, self.judge, **options)

    # ── responses and their scores ──

    def responses(self, model: GPT, tokenizer: Tokenizer, seed: int | None = None, tasks: Tasks | None = None) -> list[str]:
        """One response to each task (default: the held-out tasks) at temperature 1."""
        tasks, seed = self.tests if tasks is None else tasks, self.settings.seed if seed is None else seed
        return sample_responses(model, tokenizer, tasks, seed).texts(tokenizer)

    def scores(self, responses: Texts, tasks: Tasks | None = None) -> np.ndarray:
        """The judge's score of one response to each task (default: the held-out tasks), (N,)."""
        tasks = self.tests if tasks is None else tasks
        return np.array([score_of(self.judge, task, text) for task, text in zip(tasks, responses, strict=True)])

    def correct(self, responses: Texts) -> float:
        """The share of held-out plain tasks that the responses do correctly."""
        return correctness(self.world, self.tests, responses)

    def win_rates(self, opponents: dict[str, np.ndarray]) -> dict[str, WinRate]:
        """How often the judge, without noise, prefers the small policies to each opponent.

        opponents: {name: the judge's scores of its responses to the held-out tasks, (N,)}.
        """
        ours = [
            self.scores(self.responses(*self.policy("small", seed), seed)) for seed in self.settings.small_seeds
        ]  # (N,) each
        return {
            name: WinRate.of(np.array([task_wins(scores, theirs) for scores in ours])) for name, theirs in opponents.items()
        }
