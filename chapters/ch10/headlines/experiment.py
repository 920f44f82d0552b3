"""What the rows of the headline table share: the folder, the models that several rows use, and how two are compared.

Every model is trained once and kept in the run's folder, so that a second call, or another row, finds it there.
"""

import json
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

import minigrad as mg
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, train_validation_split
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import evaluate, train
from chapters.ch10.assess import sample_responses
from chapters.ch10.demonstrations import fine_tune
from chapters.ch10.reward import collect_rankings, demonstrated_rows, load_scalar, train_reward
from chapters.ch10.rlhf import PPO, optimise, ptx_batches, reward_scorer
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import Judge, correctness, preference, score_of
from chapters.world.requests import mixed_tasks
from minigrad.serialization import write_atomically

TEMPERATURE = 0.6  # what ch10/demonstrations builds into an assistant, and what a base model is drawn from at


@dataclass
class Headline:
    """One row of the table. `ours`, `interval` and `level` are in the same unit; `series` and `details` are for the
    figure and for whoever wants to know more."""

    paper: str  # authors and year
    arxiv: str
    claim: str
    theirs: str  # the paper's figure, in words, with its place
    measured: str  # what our figure is
    ours: float
    interval: list  # 95%, [low, high]
    level: float  # what ours is held against
    unit: str  # of the three: "share" or "points", the judge's
    seeds: list  # of what was trained for this row
    reproduced: bool
    reason: str  # why, or why not
    sizes: dict = field(default_factory=dict)  # of models and data
    details: dict = field(default_factory=dict)
    series: dict = field(default_factory=dict)  # {name: [(x, y)]}, or of bars {name: [share, low, high]}

    def __post_init__(self):
        self.ours, self.reproduced = float(self.ours), bool(self.reproduced)  # plain ones, for JSON


class Stand:
    """The run's folder, the world, its judge, the held-out tasks, and models by name, each trained when first needed.

    settings: `chapters.ch10.headlines.__main__.Settings`.
    """

    def __init__(self, settings):
        self.settings, self.run = settings, Run(settings.run)
        self.world = World(settings.seed)
        self.judge = Judge(self.world)
        self.tests = mixed_tasks(self.world, "test", settings.held_out, settings.seed + 1)

    @property
    def tasks(self):
        """Instructions to draw prompts from, about entities of the training side."""
        return mixed_tasks(self.world, "train", self.settings.tasks, self.settings.seed)

    # ── the models that other commands left ──

    def base(self):
        return load_model(self.settings.base)

    def assistant(self):
        return load_model(self.settings.sft)

    def reward_model(self):
        return load_scalar(self.settings.reward)

    # ── what this command finds ──

    def noted(self, name, find, *arguments):
        """What find(*arguments) returns, JSON, looked up where an earlier call has noted it."""
        path = self.run / "found" / f"{name}.json"
        if not path.exists():
            print(f"  {name}", flush=True)
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, json.dumps(find(*arguments)).encode())
        return json.loads(path.read_text())

    def kept(self, name, make, load=load_model):
        """load(folder) of models/<name>, (model, tokenizer); make(run) trains and saves it there where it is missing."""
        run = Run(self.run / "models" / name)
        done = run / "done"
        if not done.exists():
            print(f"  training {name}", flush=True)
            make(run)
            done.touch()
        return load(run.folder)

    def pages(self):
        """The world's documents in tokens: (to learn from, kept back), (N,) ids each; the base model's own split."""
        if not hasattr(self, "_pages"):
            tokenizer = self.base()[1]
            documents = self.world.documents(self.settings.corpus_bytes, seed=self.settings.seed)
            ids = [i for page in documents for i in (*tokenizer.encode(page), tokenizer.eos_id)]
            self._pages = train_validation_split(np.array(ids, np.uint16), 0.02)
        return self._pages

    def pretrained(self, name, shape, config, seed):
        """A base model of another size, on the pages that the base model had."""
        tokenizer = self.base()[1]

        def make(run):
            gpt = GPT(GPTConfig(tokenizer.vocab_size, **shape), generator=mg.Generator(seed))
            learned, kept_back = self.pages()
            batches = NextTokenBatches(learned, gpt.config.context, config.batch_size, seed)
            validation = EveryTokenOnce(kept_back, gpt.config.context, config.batch_size)
            train(gpt, batches, replace(config, seed=seed, resume=True), run, validation=validation)
            save_model(run, gpt, tokenizer)

        return self.kept(name, make)

    def page_loss(self, model, batches=40):
        """Mean cross-entropy, in nats a token, on pages that were kept back."""
        kept_back = EveryTokenOnce(self.pages()[1], model.config.context, 8)
        return evaluate(model, kept_back, min(batches, len(kept_back)))

    def small(self, seed):
        """The small base model of a seed: an eleventh of the main job's model, a fiftieth of the large one."""
        return self.pretrained(f"small_{seed}", self.settings.small, self.settings.pretrain_small, seed)

    def medium(self):
        """A base model of a fifth of the main job's model."""
        return self.pretrained("medium", self.settings.medium, self.settings.pretrain_medium, self.settings.seed)

    def large(self):
        return self.pretrained("large", self.settings.large, self.settings.pretrain_large, self.settings.seed)

    def small_assistant(self, seed):
        return self.supervised(f"small_assistant_{seed}", partial(self.small, seed), seed)

    def medium_assistant(self):
        return self.supervised("medium_assistant", self.medium, self.settings.seed)

    def supervised(self, name, base, seed):
        """A base model, base() -> (model, tokenizer), fine-tuned on demonstrations of mixed quality."""

        def make(run):
            model, tokenizer = base()
            config = replace(self.settings.supervise, seed=seed, resume=True)
            fine_tune(model, tokenizer, self.world, self.settings.demonstrations, config, run)

        return self.kept(name, make)

    def small_reward(self, seed):
        """A reward model on the small assistant's body, from comparisons of its own responses, as ch10/reward's."""

        def make(run):
            settings, (gpt, tokenizer) = self.settings, self.small_assistant(seed)
            tasks = mixed_tasks(self.world, "train", settings.compared, seed)
            rankings = collect_rankings(gpt, tokenizer, self.judge, tasks, 4, seed)
            shown = demonstrated_rows(self.world, tokenizer, 300, gpt.config.context, seed)
            train_reward(gpt, rankings, shown, replace(settings.rewarding, seed=seed), run)

        return self.kept(f"small_reward_{seed}", make, load_scalar)

    def tuned(self, name, start, reward, config, seed):
        """A policy tuned with PPO from start(), (model, tokenizer), against the reward model reward()."""

        def make(run):
            (policy, tokenizer), (reference, _) = start(), start()
            config_ = replace(config, seed=seed, resume=True)
            learner = PPO(policy, reward(), config_, ptx_batches(config_, self.world, tokenizer, policy))
            score = reward_scorer(reward())
            tasks = mixed_tasks(self.world, "train", self.settings.tasks, seed)
            optimise(policy, reference, tokenizer, score, tasks, config_, run, learner, self.judge)

        return self.kept(name, make)

    def policy(self, seed):
        """The assistant, tuned with PPO, as ch10/rlhf does it: several rows begin with it."""
        if self.settings.policies is not None:
            return load_model(self.settings.policies / f"seed_{seed}")
        return self.tuned(f"policy_{seed}", self.assistant, self.reward_model, self.settings.ppo, seed)

    def small_policy(self, seed):
        """The small model of a seed after all three steps: pretraining, demonstrations, PPO."""
        assistant, reward = partial(self.small_assistant, seed), partial(self.small_reward, seed)
        return self.tuned(f"small_policy_{seed}", assistant, reward, self.settings.ppo_small, seed)

    # ── comparing ──

    def responses(self, model, tokenizer, seed=None, tasks=None):
        """One response a held-out task, drawn at temperature 1."""
        tasks = self.tests if tasks is None else tasks
        return sample_responses(model, tokenizer, tasks, self.settings.seed if seed is None else seed).texts(tokenizer)

    def scores(self, responses, tasks=None):
        """The judge's score of one response a task: (N,)."""
        tasks = self.tests if tasks is None else tasks
        return np.array([score_of(self.judge, task, said) for task, said in zip(tasks, responses, strict=True)])

    def correct(self, responses):
        """The share of the held-out plain tasks that the responses do correctly."""
        return correctness(self.world, self.tests, responses)


def preferred(stand, policy, seeds, theirs):
    """How often the judge, asked without noise, prefers the policies of several seeds to others on the held-out tasks.

    policy(seed) -> (model, tokenizer); theirs: {name: (N,) scores of the other's responses}.  An equal score is half a
    win.  Returns {name: {"wins": share, "interval": [low, high], "each seed": [share]}}.
    """
    ours = [stand.scores(stand.responses(*policy(seed), seed)) for seed in seeds]  # an (N,) a seed
    found = {}
    for name, scores in theirs.items():
        won = np.array([wins(one, scores) for one in ours])  # (S, N)
        found[name] = {"wins": float(won.mean()), "interval": interval(won),
                       "each seed": [float(one.mean()) for one in won]}  # fmt: skip
    return found


def percent(found):
    """{"wins", "interval"} as "61.2% [58.0%, 64.1%]"."""
    low, high = found["interval"]
    return f"{found['wins']:.1%} [{low:.1%}, {high:.1%}]"


def listed(numbers, places):
    return ", ".join(f"{number:.{places}f}" for number in numbers)


def bar(found):
    """{"wins", "interval"} as a bar of the figure: [share, low, high]."""
    return [found["wins"], *found["interval"]]


def wins(ours, theirs):
    """(N,) and (N,) scores -> (N,): 1 where ours is higher, ½ where they are equal, 0 elsewhere."""
    return np.array([preference(a, b, 0) for a, b in zip(ours, theirs, strict=True)])


def resampled(values, seed=0, draws=2000):
    """(S, N) values, of S seeds on N tasks -> (draws,) means, each over seeds and tasks drawn with replacement."""
    values, rng = np.asarray(values, np.float64), np.random.default_rng(seed)
    S, N = values.shape
    means = [values[rng.integers(0, S, S)].mean(axis=0)[rng.integers(0, N, N)].mean() for _ in range(draws)]
    return np.array(means)  # (draws,)


def interval(values, seed=0):
    """The 95% interval of the mean of (S, N) values, of S seeds on N tasks: [low, high].

    Seeds and tasks are both resampled, so that it covers what other seeds would have given as well as other tasks. So
    few seeds tell little of how seeds vary, and a single one nothing.  Efron 1979, the bootstrap.  For the yes and no
    of a single seed, or of several that all agree, where resampling makes nothing of what was seen once or never:
    Wilson 1927, the score interval.
    """
    values = np.atleast_2d(values)
    if np.isin(values, (0, 1)).all() and (len(values) == 1 or values.min() == values.max()):
        n, share, z = values.size, values.mean(), 1.96
        middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        return [float((middle + side * half) / (1 + z * z / n)) for side in (-1, 1)]
    return [float(q) for q in np.quantile(resampled(values, seed), [0.025, 0.975])]


def size(model):
    """Parameters, each once."""
    return sum(parameter.array.size for parameter in model.parameters())
