"""Taori et al. 2023, Alpaca: what does a cheap student take over from pairs that a larger model wrote?

Claim, from the Alpaca page (crfm.stanford.edu/2023/03/13/alpaca.html; github.com/tatsu-lab/stanford_alpaca): from 175
seed tasks a teacher, text-davinci-003, wrote and answered 52 thousand instructions. A 7B model fine-tuned on these pairs
is on a par with its teacher: it won 90 comparisons against 89 ("Preliminary evaluation"). It cost less than 600 dollars.

In miniature: the teacher is the main job's model after PPO. It cannot read examples in its prompt, so a copy of it learns from
the 175 seeds to write instructions. A sieve keeps instructions that are complete, different from each other, and about
nothing that is held out. The teacher answers each of them twice, and a base model with less than a fifth of its parameters
is fine-tuned on the pairs alone. The simulated judge, without noise, compares student and teacher on held-out tasks; an equal
score is half a win. The judge's points are also counted by criterion. Manners are courtesy and brevity, 3 points of 8.

What a student says and how it says it need not come over equally well: imitation brings the manner rather than the knowledge
(Gudibande et al. 2023, "The False Promise of Imitating Proprietary LLMs", arXiv:2305.15717). So the criterion is parity in
manners alone, and a "yes" says nothing about the paper's 90 against 89. The comparisons won stand beside it, with the plain
tasks done correctly and the points for refusing harmful requests with a reason. On-policy distillation then mends what it can:
the student answers the same instructions itself, and the teacher grades every token (ch10/distillation).

Reproduced if the student's manners are less than 0.1 points below the teacher's, the teacher has more than five times as many
parameters, and there are more than 12,000 pairs: two answers to each instruction, equal answers included. Whether the student
is on a par altogether, as the paper says, is for "preferred to the teacher" to say.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10.constitution.principles import Texts
from chapters.ch10.demonstrations import pretraining_batches, sharpen, tune_with_rehearsal
from chapters.ch10.distillation import distill
from chapters.ch10.headlines.experiment import TEMPERATURE, Bound, Experiment, GPTAndTokenizer, Measurement, Row, task_wins
from chapters.ch10.headlines.settings import FEW, tuning
from chapters.ch10.sft import Tasks, ask
from chapters.support.batches import IGNORE_INDEX, RaggedBatches
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.facts import FOODS, PEOPLE, Facts, is_held_out
from chapters.world.judge import points_by_criterion
from chapters.world.reading import mentioned, numbers, words
from chapters.world.requests import mixed_tasks

INSTRUCTION_HEADER, INPUT_HEADER = "### Instruction:\n", "\n\n### Input:\n"
MANNERS = "polite", "concise"  # the judge's criteria that ask how something is said
REFUSING = "refuses", "says_why"  # those that ask whether a harmful request is refused


@dataclass
class TaoriSettings:
    """Pairs by the teacher, and the student that learns from them."""

    seed_tasks: int = 175  # tasks the teacher starts from
    written: int = 80000  # instructions by the writer, before the sieve
    answers: int = 2  # answers by the teacher to each instruction that passes the sieve
    writing: TrainConfig = field(default_factory=lambda: tuning(steps=150, lr=1e-3, muon_lr=5e-3))  # training of the writer
    studying: TrainConfig = field(  # training of the student on the pairs
        default_factory=lambda: tuning(steps=2000, batch_size=32, lr=8e-3, muon_lr=0.03, min_lr=4e-4)
    )
    distilling: TrainConfig = field(  # on-policy distillation of the student
        default_factory=lambda: tuning(steps=200, batch_size=64, lr=1e-3, muon_lr=0.004, min_lr=1e-4)
    )


QUICK = TaoriSettings(seed_tasks=12, written=64, writing=tuning(steps=150, batch_size=8, lr=5e-3), studying=FEW, distilling=FEW)


def measure(experiment: Experiment, settings: TaoriSettings) -> Measurement:
    """Compare the student, before and after on-policy distillation, with its teacher."""
    data = experiment.cached("taori_pairs", write_pairs, settings)
    models = {
        "teacher": experiment.policy("main"),
        "student": student_model(experiment, data["pairs"], settings),
        "distilled student": distilled_model(experiment, data["pairs"], settings),
    }
    texts = {name: experiment.responses(*model) for name, model in models.items()}
    scores = {name: experiment.scores(answers) for name, answers in texts.items()}  # (N,) each
    points = {name: points_by_criterion(experiment.judge, experiment.tests, answers) for name, answers in texts.items()}
    return Measurement(
        quantities={
            "student's lead in manners (points)": lead(points["student"], points["teacher"], MANNERS),
            "student's lead in refusing (points)": lead(points["student"], points["teacher"], REFUSING),
            "preferred to the teacher": float(task_wins(scores["student"], scores["teacher"]).mean()),
            "preferred to the teacher, distilled": float(task_wins(scores["distilled student"], scores["teacher"]).mean()),
            **{f"plain tasks correct, {name}": experiment.correct(answers) for name, answers in texts.items()},
            "size of the teacher (times the student)": parameters(models["teacher"]) / parameters(models["student"]),
            "pairs (count)": float(len(data["pairs"])),
            "different instructions (count)": float(len({(instruction, input) for instruction, input, _ in data["pairs"]})),
        },
        details={
            "written": data["written"],
            "points by criterion": points,
            "judge's mean score": {name: float(values.mean()) for name, values in scores.items()},
            "pairs": data["pairs"][:8],
        },
    )


def lead(ours: Mapping[str, float], theirs: Mapping[str, float], criteria: Sequence[str]) -> float:
    """The difference of two models' points for some criteria, results of `points_by_criterion`."""
    return sum(ours[criterion] - theirs[criterion] for criterion in criteria)


def parameters(model: GPTAndTokenizer) -> int:
    return model[0].num_parameters()


# ── the pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_pairs(experiment: Experiment, settings: TaoriSettings) -> dict[str, Any]:
    """{"pairs": [[instruction, input, response]] by the teacher, "written": number of instructions before the sieve}."""
    (teacher, tokenizer), world, rng = experiment.policy("main"), experiment.world, mg.Generator(experiment.seed)
    seeds = mixed_tasks(world, "train", settings.seed_tasks, experiment.seed + 7)
    writer, _ = experiment.trained("writer", lambda run: train_writer(experiment, seeds, settings.writing, run))
    texts = write_instructions(writer, tokenizer, settings.written, rng)
    tasks = [task for task in sieve(texts, seeds, world) for _ in range(settings.answers)]
    responses = ask(teacher, tokenizer, tasks, temperature=1.0, generator=rng, batch_size=512)
    hidden = world.facts.test["person"] + world.facts.test["dish"]
    pairs = [
        [task.instruction, task.input, response]
        for task, response in zip(tasks, responses, strict=True)
        if response and not mentioned(response, hidden)
    ]
    return {"pairs": pairs, "written": len(texts)}


def write_instructions(writer: GPT, tokenizer: Tokenizer, n: int, generator: mg.Generator, batch_size: int = 1024) -> list[str]:
    """n texts that the writer puts after the header of an instruction."""
    header, texts = tokenizer.encode(INSTRUCTION_HEADER), list[str]()
    while len(texts) < n:
        prompts = [header] * min(batch_size, n - len(texts))
        rows = generate(writer, prompts, 48, temperature=1.0, stop_ids=(tokenizer.eos_id,), generator=generator)
        texts += [tokenizer.decode(ids) for ids in rows]
    return texts


def train_writer(experiment: Experiment, seeds: Tasks, config: TrainConfig, run: Run) -> None:
    """Teach a copy of the teacher to write instructions like the seeds, whose answers it does not see."""
    model, tokenizer = experiment.policy("main")
    config = replace(config, seed=experiment.seed)
    texts = [INSTRUCTION_HEADER + task.instruction + (INPUT_HEADER + task.input if task.input else "") for task in seeds]
    rows = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    targets = [row[1:] + [IGNORE_INDEX] for row in rows]
    train(model, RaggedBatches(rows, targets, config.batch_size, tokenizer.eos_id, config.seed), config, run)
    save_model(run, model, tokenizer)


def sieve(texts: Texts, seeds: Tasks, world: World) -> list[Instruction]:
    """An Instruction with an empty output for each different text that is complete and mentions nothing held out.

    Every word has to occur in the seeds or in the world's pages; any other word is a slip of the writer.
    """
    pages, tasks = world.documents(400_000, world.seed), {}
    vocabulary = set(words("\n".join([*pages, *(f"{task.instruction} {task.input}" for task in seeds)])))
    for text in texts:
        instruction, _, input = (part.strip() for part in text.partition(INPUT_HEADER.strip()))
        complete = re.fullmatch(r"[A-Z][^#\n]{5,80}[.?]", instruction) and re.fullmatch(r"([A-Z][^#\n]*\.)?", input)
        known = set(words(f"{instruction} {input}")) <= vocabulary
        if complete and known and not mentions_held_out(world.facts, f"{instruction} {input}"):
            tasks[instruction, input] = Instruction(instruction, input, "", "written", "")
    return list(tasks.values())


def mentions_held_out(facts: Facts, text: str) -> bool:
    """Does a text mention anything on the test side of the split?

    That can be a person, dish, town, trade, food or thing by itself, two foods to compare, two numbers to add, a whole
    list, or a whole sentence about today.
    """
    hidden, part = facts.test, re.search(r"The list is ([^.]*)\.|(Today [^.]*\.)", text)
    if part:  # the split assigns a list or sentence as a whole to one side, not the things in it
        if is_held_out(part[1] or part[2]):
            return True
        text = text.replace(part[0], "" if part[1] else " ".join(mentioned(part[0], PEOPLE)))
    foods, pairs = mentioned(text, FOODS), [sorted(pair) for pair in combinations(numbers(text), 2)]
    if len(foods) == 2:
        food_is_hidden = "/".join(sorted(foods)) in hidden["pair"]
    else:
        food_is_hidden = bool(set(foods) & set(hidden["food"]))
    entities = [entity for kind in ("person", "dish", "group", "thing") for entity in hidden[kind]]
    return food_is_hidden or bool(mentioned(text, entities)) or any(f"{a}+{b}" in hidden["sum"] for a, b in pairs)


# ── the student ──────────────────────────────────────────────────────────────────────────────────────────────────────


def as_tasks(pairs: Sequence[Texts]) -> list[Instruction]:
    return [Instruction(instruction, input, response, "written", "") for instruction, input, response in pairs]


def student_model(experiment: Experiment, pairs: Sequence[Texts], settings: TaoriSettings) -> GPTAndTokenizer:
    """The small base model, fine-tuned on the pairs as the assistant was fine-tuned on demonstrations."""

    def train_into(run: Run) -> None:
        model, tokenizer = experiment.base("small")
        config = replace(settings.studying, seed=experiment.seed, resume=True)
        tune_with_rehearsal(model, tokenizer, experiment.world, as_tasks(pairs), config, run)
        sharpen(model, TEMPERATURE)
        save_model(run, model, tokenizer, "instruction")

    return experiment.trained("student", train_into)


def distilled_model(experiment: Experiment, pairs: Sequence[Texts], settings: TaoriSettings) -> GPTAndTokenizer:
    """The student after on-policy distillation: it answers the instructions of the pairs, and the teacher grades its tokens."""

    def train_into(run: Run) -> None:
        (student, tokenizer), (teacher, _) = student_model(experiment, pairs, settings), experiment.policy("main")
        config = replace(settings.distilling, seed=experiment.seed, resume=True)
        context, batch_size = student.config.context, max(config.batch_size // 4, 1)
        pages = pretraining_batches(experiment.world, tokenizer, context, batch_size, experiment.seed)
        distill(student, teacher, tokenizer, as_tasks(pairs), config, run, pages)
        save_model(run, student, tokenizer, "instruction")

    return experiment.trained("student_distilled", train_into)


TAORI = Row(
    name="taori",
    paper="Taori et al. 2023",
    arxiv="crfm.stanford.edu/2023/03/13/alpaca",
    claim="Alpaca 7B, fine-tuned on 52 thousand pairs that text-davinci-003 made from 175 seeds, wins 90 comparisons against "
    "text-davinci-003's 89",
    criterion=(
        Bound("student's lead in manners (points)", above=-0.1),
        Bound("size of the teacher (times the student)", above=5.0),
        Bound("pairs (count)", above=12000.0),
    ),
    sizes=("main", "small"),
    minutes=5,
    settings=TaoriSettings(),
    quick=QUICK,
    measure=measure,
)
