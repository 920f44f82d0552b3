"""Code that the rows of the headline table share: what a row is, and the world, judge and models of one replicate.

One replicate is one world with one seed. The world's number is also the seed of everything random in it. Two replicates differ
in their people's facts, prices, recipes, models and tasks; they share the language, the names, and arithmetic.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, train_validation_split
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.assess import sample_responses, t_interval
from chapters.ch10.comparisons import collect_rankings
from chapters.ch10.constitution.principles import Texts
from chapters.ch10.demonstrations import fine_tune
from chapters.ch10.harness import Learner, LoopConfig, Score, optimise, reward_scorer
from chapters.ch10.headlines.settings import Models
from chapters.ch10.reward import ScalarModel, demonstrated_rows, load_scalar, train_reward
from chapters.ch10.rlhf import PPO, ptx_batches
from chapters.ch10.sft import Tasks, learn_tokenizer
from chapters.support.json_files import from_object, read_object, write_result
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.judge import Judge, correctness, preference, score_of
from chapters.world.requests import mixed_tasks

TEMPERATURE = 0.6  # sampling temperature of base models; ch10/demonstrations builds the same value into assistants
MAIN_JOB = {"main": "pretrain", "main_assistant": "assistant", "main_reward": "reward", "main_policy": "rlhf"}  # its folders
GPTAndTokenizer: TypeAlias = tuple[GPT, Tokenizer]

# ── what a row is ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Bound:
    """A part of a criterion: the whole 95 % interval of a quantity lies above or below a value."""

    quantity: str
    above: float | None = None
    below: float | None = None

    def holds(self, summary: "Summary") -> bool:
        return (self.above is None or summary.low > self.above) and (self.below is None or summary.high < self.below)

    def __str__(self) -> str:
        sides = [f"{name} {value:g}" for name, value in (("above", self.above), ("below", self.below)) if value is not None]
        return f"{self.quantity} {' and '.join(sides)}"


@dataclass
class Measurement:
    """The result of one replicate."""

    quantities: dict[str, float]  # shares, or other numbers whose names end with their unit: "KL (nats)"
    series: dict[str, list[list[float]]] = field(default_factory=dict)  # {name: [[x, y], …]}: lines for the figure
    details: dict[str, Any] = field(default_factory=dict)  # anything else worth keeping, such as examples of responses
    registered: str | None = None  # on a test world: the digest of the registration under which it was measured


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table before it is measured."""

    name: str
    paper: str  # authors and year
    arxiv: str
    claim: str  # the paper's claim in its own numbers
    criterion: tuple[Bound, ...]  # all must hold
    sizes: tuple[str, ...] = ("main",)  # the sizes of the models that it starts from: "main", "small", "large"
    minutes: int  # processor time of one replicate on one core (Zen 4), without the base models; long rows start first
    settings: Any  # a dataclass, with the values that are registered
    quick: Any  # the same with small values, for tests
    measure: Callable[["Experiment", Any], Measurement]  # one replicate
    axes: tuple[str, str, str] = ("", "", "linear")  # of the series: x label, y label, scale of the x axis


def claim_and_criterion(row: Row) -> dict[str, Any]:
    """A row's claim, with its paper, and its criterion as text: what a registration says besides settings."""
    return {"claim": f"{row.paper} ({row.arxiv}): {row.claim}", "criterion": [str(bound) for bound in row.criterion]}


# ── several replicates ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Summary:
    """A quantity over several worlds: its mean and the 95 % t-interval of the mean, whose ends are equal for one world."""

    mean: float
    low: float
    high: float
    by_world: dict[str, float]

    @classmethod
    def of(cls, by_world: dict[str, float]) -> "Summary":
        values = list(by_world.values())
        low, high = t_interval(values) if len(values) > 1 else values * 2
        return cls(float(np.mean(values)), low, high, by_world)


@dataclass(frozen=True)
class Headline:
    """A row of the table with its measurements, {world: measurement}."""

    row: Row
    measurements: dict[int, Measurement]

    @cached_property
    def quantities(self) -> dict[str, Summary]:
        """{quantity: its summary over the worlds}."""
        names = next(iter(self.measurements.values())).quantities
        return {name: Summary.of({str(world): m.quantities[name] for world, m in self.measurements.items()}) for name in names}

    @cached_property
    def reproduced(self) -> bool:
        """Whether the whole interval of every quantity in the criterion passes its bound."""
        return all(bound.holds(self.quantities[bound.quantity]) for bound in self.row.criterion)

    @property
    def verdict(self) -> str:
        """ "yes" or "no"; a single world has no interval, so it says that it is one."""
        return ("yes" if self.reproduced else "no") + ", in one world" * (len(self.measurements) == 1)

    @property
    def series(self) -> dict[str, list[tuple[float, float]]]:
        """{name: [(x, y), …]}, the mean of the worlds' lines, point by point."""
        by_world = [measurement.series for measurement in self.measurements.values()]
        lines = {name: [series[name] for series in by_world] for name in by_world[0]}
        return {
            name: [tuple(np.mean(points, axis=0)) for points in zip(*of_worlds, strict=True)]
            for name, of_worlds in lines.items()
        }


def task_wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """1 where our score is higher, ½ where the scores are equal, 0 elsewhere; all (N,)."""
    return np.array([preference(a, b, 0) for a, b in zip(ours, theirs, strict=True)])


# ── one replicate ────────────────────────────────────────────────────────────────────────────────────────────────────


class Experiment:
    """One world: its folder, its judge, the held-out tasks, and models that are trained when a row needs them.

    The size of a model is "main" for the main job's, or "small" or "large". If `main` is the folder of a main job,
    its base model, assistant, reward model and policy are used; otherwise they are trained here by the same recipe.
    """

    def __init__(self, world: int, folder: Path, models: Models, main: Path | None = None):
        self.seed, self.folder, self.models, self.main = world, Run(folder).folder, models, main
        self.world = World(world)
        self.judge = Judge(self.world)
        self.tests = mixed_tasks(self.world, "test", models.held_out, world + 1)

    @cached_property
    def tasks(self) -> list[Instruction]:
        """Instructions from the training side of the split, as prompts."""
        return mixed_tasks(self.world, "train", self.models.tasks, self.seed)

    def measurement(self, row: Row, settings: Any, registered: str | None = None) -> Measurement:
        """The row's result in this world, from its file if an earlier run has finished it.

        Raises ValueError if that file was measured under another registration.
        """
        path = self.folder / f"{row.name}.json"
        if not path.exists():
            print(f"world {self.seed}, {row.name}: {row.paper}", flush=True)
            start = time.process_time()
            write_result(path, asdict(replace(row.measure(self, settings), registered=registered)))
            with open(self.folder / "timing.jsonl", "a") as clock:  # separate, because all other files are reproducible
                seconds = round(time.process_time() - start)
                clock.write(json.dumps({"row": row.name, "processor seconds": seconds}) + "\n")
        found = from_object(Measurement, read_object(path), str(path))
        if found.registered != registered:
            raise ValueError(
                f"headlines: {path} was measured under registration {found.registered}, and registered.json has {registered}; "
                "restore that file, or measure in another folder with --run"
            )
        return found

    def cached(self, name: str, compute: Callable, *arguments: Any) -> Any:
        """The result of compute(self, *arguments) as JSON, from found/name.json if an earlier call has written it."""
        path = self.folder / "found" / f"{name}.json"
        if not path.exists():
            print(f"  world {self.seed}: {name}", flush=True)
            path.parent.mkdir(exist_ok=True)
            write_result(path, {"result": compute(self, *arguments)})
        return read_object(path)["result"]

    def trained(self, name: str, train_into: Callable[[Run], None], load: Callable = load_model) -> Any:
        """load(folder) of a model; if the model is missing, train_into(run) first trains it and saves it there."""
        folder = self.model_folder(name)
        if folder.parent == self.main:
            return load(folder)
        done = folder / "done"
        if not done.exists():
            print(f"  world {self.seed}: training {name}", flush=True)
            train_into(Run(folder))
            done.touch()
        return load(folder)

    def model_folder(self, name: str) -> Path:
        """The folder of a model such as "small", "main_assistant", "main_reward" or "main_policy"."""
        return self.main / MAIN_JOB[name] if self.main and name in MAIN_JOB else self.folder / "models" / name

    # ── models of every size, through pretraining, demonstrations, and PPO ──

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The main job's tokenizer, learned from the world's pages."""
        if self.main:
            return load_model(self.model_folder("main"))[1]
        path = self.folder / "models" / "tokenizer.tiktoken"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            learn_tokenizer(self.documents, self.models.vocab_size).save(path)
        return Tokenizer.load(path)

    @cached_property
    def documents(self) -> list[str]:
        """The pages of the main job."""
        return self.world.documents(self.models.corpus_bytes, seed=self.seed)

    @cached_property
    def pages(self) -> tuple[np.ndarray, np.ndarray]:
        """The world's documents as token ids, split for training and validation as in the main job."""
        ids = [i for page in self.documents for i in (*self.tokenizer.encode(page), self.tokenizer.eos_id)]
        return train_validation_split(np.array(ids, np.uint16), self.models.validation)

    def base(self, size: str = "main") -> GPTAndTokenizer:
        """A GPT that has learned the world's pages; every size sees equally many tokens."""
        return self.pretrained(size, getattr(self.models, size), getattr(self.models, f"pretrain_{size}"))

    def pretrained(self, name: str, shape: dict[str, Any], recipe: TrainConfig) -> GPTAndTokenizer:
        """A GPT of this shape that has learned the world's pages by this recipe."""

        def train_into(run: Run) -> None:
            config = replace(recipe, seed=self.seed, resume=True)
            training_pages, validation_pages = self.pages
            gpt = GPT(GPTConfig(self.tokenizer.vocab_size, **shape), generator=mg.Generator(config.seed))
            batches = NextTokenBatches(training_pages, gpt.config.context, config.batch_size, config.seed)
            validation = EveryTokenOnce(validation_pages, gpt.config.context, config.batch_size)
            train(gpt, batches, config, run, validation=validation)
            save_model(run, gpt, self.tokenizer)

        return self.trained(name, train_into)

    def assistant(self, size: str = "main") -> GPTAndTokenizer:
        """A base model fine-tuned on demonstrations of mixed quality: the SFT model."""

        def train_into(run: Run) -> None:
            config = replace(self.models.stage("supervise", size), seed=self.seed, resume=True)
            fine_tune(*self.base(size), self.world, self.models.demonstrations, config, run)

        return self.trained(f"{size}_assistant", train_into)

    def reward_model(self, size: str = "main") -> ScalarModel:
        """A reward model with an assistant's body, trained on comparisons of its own responses as in ch10/reward."""

        def train_into(run: Run) -> None:
            (gpt, tokenizer), seed = self.assistant(size), self.seed
            tasks = mixed_tasks(self.world, "train", self.models.stage("compared", size), seed)
            rankings = collect_rankings(gpt, tokenizer, self.judge, tasks, 4, seed)
            demonstrated = demonstrated_rows(self.world, tokenizer, 300, gpt.config.context, seed)
            train_reward(gpt, rankings, demonstrated, replace(self.models.stage("rewarding", size), seed=seed), run)

        return self.trained(f"{size}_reward", train_into, load_scalar)

    def policy(self, size: str = "main") -> GPTAndTokenizer:
        """An assistant after PPO against its reward model, as in ch10/rlhf."""

        def train_into(run: Run) -> None:
            (policy, tokenizer), (reference, _) = self.assistant(size), self.assistant(size)
            config = replace(self.models.stage("ppo", size), seed=self.seed, resume=True)
            pages = ptx_batches(config, self.world, tokenizer, policy)
            learner = PPO(policy, self.reward_model(size), config, pages)
            score = reward_scorer(self.reward_model(size))
            optimise(policy, reference, tokenizer, score, self.tasks, config, run, learner, self.judge)

        return self.trained(f"{size}_policy", train_into)

    def optimise(
        self, policy: GPTAndTokenizer, reference: GPT, score: Score, config: LoopConfig, learner: Learner, **options: Any
    ) -> list[dict]:
        """Tune the policy in place with `optimise` from ch10/harness, and keep only the records that it returns."""
        gpt, tokenizer = policy
        with TemporaryDirectory() as scratch:
            run = Run(scratch)
            return optimise(gpt, reference, tokenizer, score, self.tasks, config, run, learner, self.judge, **options)

    # ── responses and their scores ──

    def responses(self, model: GPT, tokenizer: Tokenizer, tasks: Tasks | None = None) -> list[str]:
        """One response to each task (default: the held-out tasks) at temperature 1."""
        return sample_responses(model, tokenizer, self.tests if tasks is None else tasks, self.seed).texts(tokenizer)

    def scores(self, responses: Texts, tasks: Tasks | None = None) -> np.ndarray:
        """The judge's score of one response to each task (default: the held-out tasks), (N,)."""
        tasks = self.tests if tasks is None else tasks
        return np.array([score_of(self.judge, task, text) for task, text in zip(tasks, responses, strict=True)])

    def correct(self, responses: Texts) -> float:
        """The share of held-out plain tasks that the responses do correctly."""
        return correctness(self.world, self.tests, responses)
