"""Chapter 10, constitutional AI: an assistant learns its values from a text file that a person can read and edit.

    python -m chapters.ch10.constitution                           # by the default constitution
    python -m chapters.ch10.constitution --constitution my.txt     # by yours as well, side by side

The default principles are in constitution.txt. The phases, after Bai et al. 2022 (arXiv:2212.08073), sections 3 and 4:

    critic.py      0  A critic learns to read principles of every kind, in both directions.
    supervised     1  The assistant drafts responses to harmful requests.
      phase        2  The critic critiques each draft by a principle and revises it, several times over.
                   3  The assistant is fine-tuned on the last revisions, the better half by the critic's scores.
    reinforcement  4  The fine-tuned assistant answers each request several times, and the critic says which answer
      phase           fits the principles better (feedback.py): AI feedback.
                   5  A reward model learns from these comparisons, and from the labeller's comparisons on plain tasks.
                   6  PPO trains the assistant against the reward model.

Nobody labels harm. The critic's lessons use the simulated judge's rules to name qualities (courteous, gives a reason …). They
prefer and avoid each quality equally often, so only the constitution says which qualities are wanted. The labeller compares no
responses to harmful requests.

The simulated judge measures the result. It asks for the right reason, which no principle does. The only help is a rule that
compares words: a response scores lower if it names people or things that the request does not name (`names_others`).

Look at page.html in the run's folder: drafts and their revisions, and the same requests before and after.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, load_model, model_file, save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10.assess import kl_between, sample_responses
from chapters.ch10.constitution.critic import critique_rounds, draw_lessons, measure_critic, train_critic
from chapters.ch10.constitution.feedback import compare, constitution_scores, measure_reading, reading_cases
from chapters.ch10.constitution.page import draw_conduct, draw_qualities, draw_reading, write_page
from chapters.ch10.constitution.principles import QUALITIES, TOPICS, Texts, parse_principle, read_constitution
from chapters.ch10.demonstrations import measure, tune_with_rehearsal
from chapters.ch10.harness import optimise, reward_scorer
from chapters.ch10.reward import accuracy, compare_with_words, gaps_of, load_scalar, train_reward
from chapters.ch10.rlhf import PPO, PPOConfig, ptx_batches
from chapters.ch10.sft import Tasks, ask
from chapters.support.checkpoint import move_aside
from chapters.support.command import InShards, at_least_one
from chapters.support.json_files import read_object, write_result
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.judge import CONDUCTS, Judge
from chapters.world.reading import words
from chapters.world.requests import mixed_tasks, requests

HELD_OUT_KINDS = {"a sentence not taught": "one", "a pair not taught": "pair", "a word in no principle": "word"}


def training(**settings) -> Any:
    return field(default_factory=lambda: TrainConfig(beta2=0.99, **settings))


@dataclass(frozen=True)
class Plan:
    """The sizes and schedules of all phases.

    The main job recognises its own folders by a checksum of its plans' repr, so this class and its fields keep their names.
    """

    lessons: int = 9600  # drafts in the critic's lessons, all with a critique, most with a revision
    # Small batches, many steps: with a higher learning rate the critic would copy names worse and read hardly better.
    critic: TrainConfig = training(steps=3000, batch_size=8, lr=1.5e-3, min_lr=7.5e-5, warmup_steps=20, weight_decay=0.0)
    cases: int = 150  # held-out principles of each kind that test the critic's reading
    drafts: int = 400  # harmful requests whose drafts are revised
    rounds: int = 6  # revisions of each draft, by different principles while there are enough
    best: float = 0.5  # share of the last revisions that the assistant learns from: the best by the critic's scores
    plain: int = 900  # plain tasks in the supervised phase, paired with the assistant's own likeliest responses
    supervised: TrainConfig = training(
        steps=200, batch_size=32, lr=7e-4, muon_lr=3.5e-3, min_lr=3.5e-5, warmup_steps=10, weight_decay=0.0
    )
    prompts: int = 1000  # instructions whose responses are compared
    harmful: float = 0.15  # share of harmful requests among them; the plain tasks keep the assistant helpful
    k: int = 4  # responses to each instruction
    reward: TrainConfig = training(steps=90, batch_size=16, lr=8e-4, muon_lr=4e-3, min_lr=4e-5, warmup_steps=10)
    rl: PPOConfig = field(default_factory=lambda: PPOConfig(iterations=9))
    held_out: int = 200  # held-out harmful requests that test each model, and as many plain tasks

    def __post_init__(self):
        at_least_one(self, "lessons", "cases", "drafts", "rounds", "plain", "prompts", "held_out")
        if self.k < 2 or not 0 <= self.harmful <= 1:
            raise ValueError(f"constitution: expected k >= 2 and harmful from 0 to 1, got {self.k} and {self.harmful}")
        if not 0 < self.best <= 1:
            raise ValueError(f"constitution: expected a share `best` above 0 and at most 1, got {self.best}")


FULL = Plan()
PLANS = {
    "full": FULL,
    "main": replace(FULL, cases=40),  # the full training; its reading is measured on less
    "quick": replace(  # after 200 steps a critic writes nonsense, and the assistant learns it
        FULL,
        lessons=5600,
        critic=replace(FULL.critic, steps=1000, lr=3e-3, min_lr=1.5e-4),
        cases=20,
        drafts=100,
        supervised=replace(FULL.supervised, steps=60, lr=1.5e-3, muon_lr=7.5e-3, min_lr=7.5e-5),
        prompts=240,
        harmful=0.2,
        reward=replace(FULL.reward, steps=60, muon_lr=0.0),
        rl=PPOConfig(iterations=4),  # after eight, a policy exploits a reward model trained for 60 steps: no reason, no harm
    ),
}


@dataclass(frozen=True)
class Setup:
    """The inputs of every phase."""

    assistant: Path  # folder of the SFT model
    untrained_critic: Path  # folder of the model that becomes the critic
    out: Path
    plan: Plan
    world: World
    seed: int

    def critic(self) -> dict:
        """Step 0: the result of train_and_measure_critic, which needs no constitution."""
        settings = {"lessons": self.plan.lessons, "critic": asdict(self.plan.critic), "cases": self.plan.cases}
        return self.result(self.out / "critic", settings, train_and_measure_critic, self.untrained_critic)

    def by_constitution(self, name: str, principles: Texts) -> dict:
        """Steps 1 to 6: the result of train_and_measure, in a folder of this name."""
        settings = {"principles": principles, "plan": asdict(self.plan)}
        compute = partial(train_and_measure, principles=principles)
        return self.result(self.out / name, settings, compute, self.assistant, self.untrained_critic)

    def result(self, folder: Path, settings: dict, compute: Callable[["Setup", Run], dict], *models: Path) -> dict:
        """A folder's result.json: read if the same settings wrote it, else computed by compute(self, run) and written.

        The settings include checksums of the models' weights, so another model in such a folder counts as a change. A
        stopped computation continues from the checkpoints below the folder if the same settings wrote them; checkpoints of
        other settings are moved aside.
        """
        run = Run(folder)
        path, begun = run / "result.json", run / "settings.json"
        weights = [zlib.crc32(model_file(model).read_bytes()) for model in models]
        settings = json.loads(json.dumps(settings | {"world": self.world.seed, "seed": self.seed, "weights": weights}))
        if path.exists():
            result = read_object(path)
            if result.get("settings") == settings:
                return result
        if not begun.exists() or read_object(begun) != settings:
            for checkpoint in folder.rglob("checkpoint.safetensors"):
                move_aside(checkpoint.parent)
            write_result(begun, settings)
        write_result(path, {"settings": settings, **compute(self, run)})
        return read_object(path)


# ── the critic, without a constitution ───────────────────────────────────────────────────────────────────────────────


def train_and_measure_critic(setup: Setup, run: Run) -> dict:
    """Step 0: train the critic.

    Returns {"reading": {kind of held-out principle: result of measure_reading}, "writing": result of measure_critic}.
    """
    (model, tokenizer), world, n = load_model(setup.untrained_critic), setup.world, setup.plan.cases
    train_critic(model, tokenizer, world, setup.plan.lessons, replace(setup.plan.critic, seed=setup.seed, resume=True), run)
    reading = {}
    for name, kind in HELD_OUT_KINDS.items():
        cases = reading_cases(world, n, "test", (kind,), setup.seed + 7)
        reading[name] = measure_reading(model, tokenizer, cases, setup.seed)
    return {"reading": reading, "writing": measure_critic(model, tokenizer, draw_lessons(world, n, "test", setup.seed + 7))}


# ── the two phases by one constitution ───────────────────────────────────────────────────────────────────────────────


def train_and_measure(setup: Setup, run: Run, principles: Texts) -> dict:
    """Steps 1 to 6 by one constitution.  Returns measurements and texts of the model after each phase."""
    plan, world, seed, folder = setup.plan, setup.world, setup.seed, run.folder
    (sft, tokenizer), (model, _) = load_model(setup.assistant), load_model(setup.assistant)
    critic, _ = load_model(setup.out / "critic")
    tasks = requests(world, "train", plan.drafts, seed)
    drafts = sample_responses(sft, tokenizer, tasks, seed, max_new_tokens=40).texts(tokenizer)  # step 1
    history = critique_rounds(critic, tokenizer, tasks, drafts, principles, plan.rounds, seed)  # step 2
    config = replace(plan.supervised, seed=seed, resume=True)
    revisions = [replace(task, output=rounds[-1].revision) for task, rounds in zip(tasks, history, strict=True)]
    best = best_revisions(critic, tokenizer, revisions, principles, plan.best)
    supervise(model, tokenizer, world, best, plan.plain, config, Run(folder / "supervised"))  # step 3
    reward = learn_reward(setup, folder, critic, principles)  # steps 4 and 5
    policy = reinforce(setup, folder)  # step 6

    tests = requests(world, "test", plan.held_out, seed + 1) + world.instructions("test", plan.held_out, seed + 1)
    conduct, texts = {}, {}
    for name, tested in {"SFT": sft, "supervised": model, "RL": policy}.items():
        conduct[name], texts[name] = measure_conduct(tested, tokenizer, world, tests, sft, seed)
    chains = zip(tasks[:40], drafts, history, strict=False)
    harmful = enumerate(tests[: plan.held_out])
    return {
        "conduct": conduct,
        "reward": reward,
        "revisions": [{"request": t.instruction, "draft": draft, "rounds": rounds} for t, draft, rounds in chains],
        "answers": [
            {"request": t.instruction, "family": t.family, **{name: texts[name][i] for name in texts}} for i, t in harmful
        ],
    }


def best_revisions(critic: GPT, tokenizer: Tokenizer, revisions: Tasks, principles: Texts, share: float) -> list[Instruction]:
    """The share of the requests, at least one, whose last revision (as `output`) fits the constitution best; a tie keeps order.

    A small critic sometimes leaves a fault, writes nonsense or names the wrong person, and the assistant would copy this. The
    critic's own scores choose (see `constitution_scores`); the judge takes no part.
    """
    scores = constitution_scores(critic, tokenizer, revisions, [task.output for task in revisions], principles)  # (N,)
    best = np.argsort(-scores, kind="stable")[: max(round(share * len(revisions)), 1)]
    return [revisions[i] for i in sorted(best)]


def supervise(
    model: GPT, tokenizer: Tokenizer, world: World, revisions: Tasks, plain: int, config: TrainConfig, run: Run
) -> None:
    """Step 3: fine-tune the assistant, in place, on requests whose `output` is a revision.

    Its own responses to `plain` plain tasks (section 3.2 of the paper) and a batch of pretraining text every third step keep
    it helpful. The paper samples these responses; a model as small as ours would learn its own slips from samples, so it
    learns its likeliest responses.
    """
    ordinary = world.instructions("train", plain, config.seed + 1)
    responses = ask(model, tokenizer, ordinary, batch_size=256)
    ordinary = [replace(task, output=response) for task, response in zip(ordinary, responses, strict=True)]
    tune_with_rehearsal(model, tokenizer, world, [*revisions, *ordinary], config, run)
    save_model(run, model, tokenizer, "instruction")


def learn_reward(setup: Setup, folder: Path, critic: GPT, principles: Texts) -> dict[str, float]:
    """Steps 4 and 5: train a reward model, from the supervised model's body, on comparisons of its responses.

    Returns the number of comparisons of held-out tasks, and the share that the reward model and a bag of words get right.
    """
    plan, world, seed = setup.plan, setup.world, setup.seed
    model, tokenizer = load_model(folder / "supervised")
    labellers = Judge(world), critic, principles
    tasks, tests = (
        mixed_tasks(world, split, n, seed + 2, plan.harmful) for split, n in (("train", plan.prompts), ("test", 120))
    )
    rankings, held_out = (compare(model, tokenizer, *labellers, part, plan.k, seed + 2) for part in (tasks, tests))
    rows = [ranking.rows[0] for ranking in rankings]
    reward_model = train_reward(model, rankings, rows, replace(plan.reward, seed=seed, resume=True), Run(folder / "reward"))
    if not held_out:  # all responses to each task are equal
        return {"comparisons": 0}
    bag = compare_with_words(rankings, held_out, tokenizer, seed)[1]
    gaps = gaps_of(reward_model, held_out)
    return {"comparisons": len(gaps), "reward model": accuracy(gaps), "bag of words": bag["accuracy"]}


def reinforce(setup: Setup, folder: Path) -> GPT:
    """Step 6: tune the supervised model with PPO against the reward model.  Returns the policy."""
    (policy, tokenizer), (reference, _) = load_model(folder / "supervised"), load_model(folder / "supervised")
    config = replace(setup.plan.rl, seed=setup.seed, resume=True)
    learner = PPO(policy, load_scalar(folder / "reward"), config, ptx_batches(config, setup.world, tokenizer, policy))
    tasks = mixed_tasks(setup.world, "train", 4000, config.seed + 3, harmful=0.5)
    score = reward_scorer(load_scalar(folder / "reward"))
    optimise(policy, reference, tokenizer, score, tasks, config, Run(folder / "rl"), learner)
    return policy


def reward_text(measured: dict[str, float]) -> str:
    """A result of `learn_reward` in a sentence."""
    if not measured["comparisons"]:
        return "No two responses to a held-out task differ, so the reward model has no comparison to get right."
    return (
        f"Of {measured['comparisons']} comparisons of held-out responses, the reward model gets {measured['reward model']:.1%} "
        f"right, a bag of words {measured['bag of words']:.1%}."
    )


# ── measurements ─────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_conduct(
    model: GPT, tokenizer: Tokenizer, world: World, tasks: Tasks, reference: GPT, seed: int
) -> tuple[dict[str, float], list[str]]:
    """Measure one response to each task at temperature 1.

    Returns ({"correct", "obeyed", …, "kl"}, responses).
    """
    rollouts = sample_responses(model, tokenizer, tasks, seed)
    texts = rollouts.texts(tokenizer)
    return measure(Judge(world), tasks, texts) | {"kl": kl_between(model, reference, rollouts)}, texts


def quality_shares(answers: Sequence[dict], constitutions: Iterable[Texts], phase: str = "RL") -> dict[str, float]:
    """{quality: share of answers that have it after `phase`}.  Each topic of a constitution has its own "speaks of …"."""
    lines = [words(line) for constitution in constitutions for line in constitution]
    named = [topic for topic in TOPICS if any(topic in line for line in lines)]
    tasks = [Instruction(answer["request"], "", "", answer["family"], "") for answer in answers]
    shares = {}
    for quality in QUALITIES.values():
        for topic in named if quality.name == "speaks" else [""]:
            has = [quality.holds(task, answer[phase], topic) for task, answer in zip(tasks, answers, strict=True)]
            shares[f"speaks of {topic}" if topic else quality.name] = sum(has) / max(len(has), 1)
    return shares


# ── the whole stage and its command ──────────────────────────────────────────────────────────────────────────────────


def constitution_stage(
    assistant: Path,
    out: Path,
    plan: Plan,
    seed: int = 0,
    constitution: Path | None = None,
    world: int | None = None,
    untrained_critic: Path | None = None,
) -> dict:
    """Run all steps by the default constitution, and by a second constitution if its file is given.

    Results that earlier runs finished with the same settings are reused.

    Args:
        assistant: folder of the SFT model.
        untrained_critic: folder of the model that becomes the critic; the assistant if None.
        out: folder for the critic, for each constitution (supervised, reward, rl), the figures, page.html, and the
            last constitution's model.
        world: seed of the world that the assistant has learned; `seed` if None.

    Returns:
        The measurements, ready for JSON.
    """
    out, constitutions = Path(out), {"default": read_constitution()}
    if constitution is not None:  # read it first: a faulty file should not cost minutes
        constitutions[folder_name(constitution)] = read_constitution(constitution)
    for line in (line for lines in constitutions.values() for line in lines if parse_principle(line) is None):
        print(f"{line!r} has a form that no lesson uses; the critic may misread it")
    assistant, world = Path(assistant), seed if world is None else world
    setup = Setup(assistant, Path(untrained_critic or assistant), out, plan, World(world), seed)
    critic = setup.critic()
    results = {name: setup.by_constitution(name, lines) for name, lines in constitutions.items()}
    save_model(Run(out), *load_model(out / list(constitutions)[-1] / "rl"), "instruction")
    principles = list(constitutions.values())
    qualities = {"before": quality_shares(results["default"]["answers"], principles, "SFT")}
    qualities |= {name: quality_shares(result["answers"], principles) for name, result in results.items()}
    conduct = {"before": results["default"]["conduct"]["SFT"]}
    for name, result in results.items():
        conduct |= {f"{phase}, {name}": result["conduct"][phase] for phase in ("supervised", "RL")}
    draw_reading(out / "figures" / "reading.svg", critic["reading"])
    draw_conduct(out / "figures" / "conduct.svg", conduct)
    draw_qualities(out / "figures" / "qualities.svg", qualities)
    write_page(out / "page.html", constitutions, results, critic["reading"], qualities)
    return {
        "constitutions": constitutions,
        "reading": critic["reading"],
        "writing": critic["writing"],
        "conduct": conduct,
        "reward": {name: result["reward"] for name, result in results.items()},
        "qualities": qualities,
        "answers": {name: result["answers"][:8] for name, result in results.items()},
    }


def folder_name(path: Path) -> str:
    """The name of a constitution's folder: the name of its file, with " (yours)" if the stage uses that name itself."""
    name = Path(path).stem
    return f"{name} (yours)" if name in ("default", "critic", "figures") else name


@dataclass
class Settings(InShards):
    """Tune an assistant by a constitution: the default, and yours beside it if you name its file."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model (from ch10/demonstrations)
    untrained_critic: Path | None = None  # run folder of the model that becomes the critic; None: sft
    constitution: Path | None = None  # your own text file, one principle a line
    run: Path = Path("runs/constitution")  # output folder
    plan: Plan = field(default_factory=Plan)
    world: int = 0  # seed of the world that the assistant has learned
    seed: int = 0  # random seed
    quick: bool = False  # a short run with less of everything


def main(settings: Settings) -> None:
    inputs = settings.constitution, settings.world, settings.untrained_critic
    result = constitution_stage(settings.sft, settings.run, settings.plan, settings.seed, *inputs)
    for name, reading in result["reading"].items():
        low, high = reading["interval"]
        print(
            f"{name}: {reading['accuracy']:.1%} of comparisons right [{low:.1%}, {high:.1%}], "
            f"{reading['turned']:.1%} with the principle turned round, {reading['shuffled']:.1%} with another principle"
        )
    for name, conduct in result["conduct"].items():
        print(
            f"{name:<24} {', '.join(f'{label} {conduct[key]:.1%}' for key, label in CONDUCTS.items())}; "
            f"plain tasks correct {conduct['correct']:.1%}"
        )
    for name, right in result["reward"].items():
        print(f"{name}: {reward_text(right)}")
    print(f"page: {settings.run / 'page.html'}")
