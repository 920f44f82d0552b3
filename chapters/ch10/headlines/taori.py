"""Taori et al. 2023, Alpaca: a cheap student learns from pairs that a larger model wrote.

Claim, from the Alpaca page (crfm.stanford.edu/2023/03/13/alpaca.html; github.com/tatsu-lab/stanford_alpaca): from 175
seed tasks a teacher, text-davinci-003, wrote and answered 52 thousand instructions. A 7B model fine-tuned on these pairs
is on a par with its teacher: it won 90 comparisons against 89 ("Preliminary evaluation"). It cost less than 600 dollars.

In miniature: the teacher is the wide assistant after PPO. It cannot read examples in its prompt, so a copy of it learns from
the 175 seeds to write instructions. A sieve keeps instructions that are complete, different from each other, and about
nothing that is held out. The teacher answers them, and a base model with at most a fifth of its parameters is fine-tuned
on the pairs alone. The simulated judge, without noise, compares student and teacher on held-out tasks; an equal score is
half a win.

Reproduced if the ratio of sizes is at least 5, the student wins at least 45%, and the interval reaches one half.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, save_model
from chapters.ch07_train import train
from chapters.ch08_sample import generate
from chapters.ch10.constitution.principles import Texts
from chapters.ch10.demonstrations import sharpen, tune_with_rehearsal
from chapters.ch10.headlines.experiment import TEMPERATURE, Experiment, Headline, WinRate, task_wins
from chapters.ch10.sft import Tasks, ask
from chapters.support.batches import IGNORE_INDEX, RaggedBatches
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.facts import FOODS, PEOPLE, Facts, is_held_out
from chapters.world.reading import mentioned, numbers, words
from chapters.world.requests import mixed_tasks

INSTRUCTION_HEADER, INPUT_HEADER = "### Instruction:\n", "\n\n### Input:\n"


def taori(experiment: Experiment) -> Headline:
    """Taori et al. 2023: a student that learned from machine-written pairs, against its teacher."""
    settings = experiment.settings
    teacher, tokenizer = experiment.policy("wide", settings.seeds[0])
    data = experiment.cached("taori_pairs", write_pairs, teacher, tokenizer)
    teacher_texts = experiment.responses(teacher, tokenizer)
    teacher_scores = experiment.scores(teacher_texts)  # (N,)
    scores, correct = [], []
    for seed in settings.student_seeds:
        student, _ = experiment.trained(f"student_{seed}", partial(train_student, experiment, data["pairs"], seed))
        texts = experiment.responses(student, tokenizer, seed)
        correct.append(experiment.correct(texts))
        scores.append(experiment.scores(texts))  # (N,)
    wins = np.array([task_wins(ours, teacher_scores) for ours in scores])  # (S, N)
    rate, mean_score = WinRate.of(wins), float(np.mean(scores))
    teacher_size, student_size = teacher.num_parameters(), student.num_parameters()
    ratio = teacher_size / student_size
    outcomes = {"the student's is preferred": 1, "neither": 0.5, "the teacher's is preferred": 0}
    return Headline(
        paper="Taori et al. 2023",
        arxiv="crfm.stanford.edu/2023/03/13/alpaca",
        claim="a cheap student, tuned on pairs that a teacher made from 175 seeds, is on a par with the teacher",
        theirs="Alpaca 7B wins 90 comparisons against text-davinci-003's 89",
        measured=f"share of comparisons that a student wins against a teacher {ratio:.1f} times as large",
        ours=rate.share,
        interval=rate.interval,
        seeds=settings.student_seeds,
        reproduced=ratio >= 5 and rate.share >= 0.45 and rate.interval[1] >= 0.5,
        reason=f"{len(data['pairs'])} pairs remain of {data['written']} instructions that the teacher wrote from "
        f"{settings.seed_tasks} seeds; the judge's mean score: student {mean_score:.2f}, teacher "
        f"{teacher_scores.mean():.2f} of 8; plain tasks done correctly: student {np.mean(correct):.1%}, "
        f"teacher {experiment.correct(teacher_texts):.1%}",
        sizes={"student": student_size, "teacher": teacher_size, "pairs": len(data["pairs"])},
        details={
            "each seed": rate.by_seed,
            "judge's mean score": {"student": mean_score, "teacher": float(teacher_scores.mean())},
            "examples": data["pairs"][:8],
        },
        series={name: WinRate.of(np.equal(wins, value)).bar for name, value in outcomes.items()},
    )


def write_pairs(experiment: Experiment, teacher: GPT, tokenizer: Tokenizer) -> dict:
    """{"pairs": [[instruction, input, response]] by the teacher, "written": number of instructions before the sieve}."""
    settings = experiment.settings
    seeds = mixed_tasks(experiment.world, "train", settings.seed_tasks, settings.seed + 7)
    writer = experiment.trained("writer", lambda run: train_writer(experiment, seeds, run))[0]
    header, rng = tokenizer.encode(INSTRUCTION_HEADER), mg.Generator(settings.seed)
    texts = []
    for first in range(0, settings.written, 64):
        prompts = [header] * min(64, settings.written - first)
        rows = generate(writer, prompts, 48, temperature=1.0, stop_ids=(tokenizer.eos_id,), generator=rng)
        texts += [tokenizer.decode(ids) for ids in rows]
    tasks = sieve(texts, seeds, experiment.world)
    responses = ask(teacher, tokenizer, tasks, temperature=1.0, generator=rng)
    hidden = experiment.world.facts.test["person"] + experiment.world.facts.test["dish"]
    pairs = [
        [task.instruction, task.input, response]
        for task, response in zip(tasks, responses, strict=True)
        if response and not mentioned(response, hidden)
    ]
    return {"pairs": pairs, "written": len(texts)}


def train_writer(experiment: Experiment, seeds: Tasks, run: Run) -> None:
    """Teach a copy of the teacher to write instructions like the seeds, whose answers it does not see."""
    model, tokenizer = experiment.policy("wide", experiment.settings.seeds[0])
    config = replace(experiment.settings.writing, seed=experiment.settings.seed)
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


def train_student(experiment: Experiment, pairs: Sequence[Texts], seed: int, run: Run) -> None:
    """Fine-tune the medium base model on the pairs, as the assistant was fine-tuned on demonstrations."""
    model, tokenizer = experiment.base("medium")
    config = replace(experiment.settings.studying, seed=seed, resume=True)
    tasks = [Instruction(instruction, input, response, "written", "") for instruction, input, response in pairs]
    tune_with_rehearsal(model, tokenizer, experiment.world, tasks, config, run)
    sharpen(model, TEMPERATURE)
    save_model(run, model, tokenizer, "instruction")
