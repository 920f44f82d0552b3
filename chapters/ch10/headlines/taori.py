"""Taori et al. 2023, Alpaca: a cheap student of pairs that a machine made."""

import re
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import save_model
from chapters.ch07_train import train
from chapters.ch08_sample import generate
from chapters.ch10.demonstrations import RehearsalBatches, pretraining_batches, sharpen
from chapters.ch10.headlines.experiment import TEMPERATURE, Headline, interval, size, wins
from chapters.ch10.sft import InstructionBatches, ask
from chapters.support.batches import IGNORE_INDEX, RaggedBatches
from chapters.world import Instruction
from chapters.world.facts import FOODS, PEOPLE, is_held_out
from chapters.world.reading import mentioned, numbers, words
from chapters.world.requests import mixed_tasks

HEADER, GIVEN = "### Instruction:\n", "\n\n### Input:\n"


def taori(stand):
    """Alpaca (Taori et al. 2023, crfm.stanford.edu/2023/03/13/alpaca.html; github.com/tatsu-lab/stanford_alpaca).

    Claim: 175 seed tasks are enough for a teacher to write 52 thousand instructions and answer them, and a 7B model
    fine-tuned on these pairs is on a par with the teacher, text-davinci-003: 90 comparisons won against 89
    ("Preliminary evaluation"). It cost less than 600 dollars.

    In miniature: the teacher is the assistant tuned with PPO. It cannot be shown examples in its prompt, so a copy of
    it learns to write instructions from the 175 seeds; what it writes is sieved (whole, each once, nothing that is held
    out), the teacher answers, and a base model a fifth of its size or less is fine-tuned on the pairs alone. The
    simulated judge compares student and teacher on held-out tasks, asked without noise; an equal score is half a win.
    Reproduced where the ratio is at least 5, the student wins at least 45% and the interval reaches a half.
    """
    settings, seed = stand.settings, stand.settings.seed
    teacher, tokenizer = stand.policy(settings.seeds[0])
    pairs = stand.noted("taori_pairs", written, stand, teacher, tokenizer)
    taught = stand.responses(teacher, tokenizer, seed)
    theirs = stand.scores(taught)  # (N,)
    found, judged, right = [], [], []
    for one in settings.student_seeds:
        student = stand.kept(f"student_{one}", partial(learn, stand, pairs["pairs"], one))
        said = stand.responses(*student, one)
        right.append(stand.correct(said))
        judged.append(stand.scores(said))  # (N,)
        found.append(wins(judged[-1], theirs))
    low, high = interval(found)
    won = float(np.mean(found))
    ratio = size(teacher) / size(student[0])
    outcomes = {
        name: np.equal(found, value)  # (S, N)
        for name, value in (("the student's is preferred", 1), ("neither", 0.5), ("the teacher's is preferred", 0))
    }
    return Headline(
        paper="Taori et al. 2023",
        arxiv="crfm.stanford.edu/2023/03/13/alpaca",
        claim="a cheap student of a teacher's pairs, made from 175 seeds, is on a par with the teacher",
        theirs="Alpaca 7B wins 90 comparisons against text-davinci-003's 89",
        measured=f"share of a student's answers preferred to those of a teacher {ratio:.1f} times as large",
        ours=won,
        interval=[low, high],
        level=0.5,
        unit="share",
        seeds=list(settings.student_seeds),
        reproduced=ratio >= 5 and won >= 0.45 and high >= 0.5,
        reason=f"{len(pairs['pairs'])} pairs of {pairs['written']} instructions written from {settings.seed_tasks} "
        f"seeds; the judge's mean score: student {np.mean(judged):.2f}, teacher {theirs.mean():.2f} of 8; "
        f"plain tasks done correctly: {np.mean(right):.1%} and {stand.correct(taught):.1%}",
        sizes={"student": size(student[0]), "teacher": size(teacher), "pairs": len(pairs["pairs"])},
        details={
            "each seed": [float(one.mean()) for one in found],
            "judge's mean score": {"student": float(np.mean(judged)), "teacher": float(theirs.mean())},
            "examples": pairs["pairs"][:8],
        },
        series={name: [float(those.mean()), *interval(those)] for name, those in outcomes.items()},
    )  # fmt: skip


def written(stand, teacher, tokenizer):
    """{"pairs": [[instruction, input, response]], "written": how many before the sieve}, all by the teacher."""
    settings = stand.settings
    seeds = mixed_tasks(stand.world, "train", settings.seed_tasks, settings.seed + 7)
    writer = stand.kept("writer", lambda run: teach_writing(stand, seeds, run))[0]
    header, rng = tokenizer.encode(HEADER), mg.Generator(settings.seed)
    texts = []
    for first in range(0, settings.written, 64):
        prompts = [header] * min(64, settings.written - first)
        said = generate(writer, prompts, 48, temperature=1.0, stop_ids=(tokenizer.eos_id,), generator=rng)
        texts += [tokenizer.decode(one) for one in said]
    tasks = sieve(texts, seeds, stand.world)
    said = ask(teacher, tokenizer, tasks, temperature=1.0, generator=rng)
    hidden = stand.world.facts.test["person"] + stand.world.facts.test["dish"]
    pairs = [[task.instruction, task.input, one] for task, one in zip(tasks, said, strict=True)
             if one and not mentioned(one, hidden)]  # fmt: skip
    return {"pairs": pairs, "written": len(texts)}


def teach_writing(stand, seeds, run):
    """A copy of the teacher learns to write instructions from the seeds'; their answers are not needed."""
    model, tokenizer = stand.policy(stand.settings.seeds[0])
    config = replace(stand.settings.writing, seed=stand.settings.seed)
    texts = [HEADER + task.instruction + (GIVEN + task.input if task.input else "") for task in seeds]
    rows = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    targets = [row[1:] + [IGNORE_INDEX] for row in rows]
    train(model, RaggedBatches(rows, targets, config.batch_size, tokenizer.eos_id, config.seed), config, run)
    save_model(run, model, tokenizer)


def sieve(texts, seeds, world):
    """The written instructions that are whole and new, each once, of words that the seeds or the pages have (others are
    slips of the writer's), and that ask about nothing that is held out."""
    pages, kept = world.documents(400_000, world.seed), {}
    vocabulary = set(words("\n".join([*pages, *(f"{task.instruction} {task.input}" for task in seeds)])))
    for text in texts:
        instruction, _, given = (part.strip() for part in text.partition(GIVEN.strip()))
        whole = re.fullmatch(r"[A-Z][^#\n]{5,80}[.?]", instruction) and re.fullmatch(r"([A-Z][^#\n]*\.)?", given)
        known = set(words(f"{instruction} {given}")) <= vocabulary
        if whole and known and not asks_what_is_held_out(world.facts, f"{instruction} {given}"):
            kept[instruction, given] = Instruction(instruction, given, "", "written", "")
    return list(kept.values())


def asks_what_is_held_out(facts, text):
    """Does a text name anything of the test's side: a person, dish, town, trade, food or thing by itself, two foods to
    compare, two numbers to add, a list or a sentence?"""
    hidden, part = facts.test, re.search(r"The list is ([^.]*)\.|(Today [^.]*\.)", text)
    if part:  # the things of a list or a sentence are not on a side of their own, only all of it together
        if is_held_out(part[1] or part[2]):
            return True
        text = text.replace(part[0], "" if part[1] else " ".join(mentioned(part[0], PEOPLE)))
    foods, added = mentioned(text, FOODS), [sorted(two) for two in combinations(numbers(text), 2)]
    if len(foods) == 2:
        asked = "/".join(sorted(foods)) in hidden["pair"]
    else:
        asked = bool(set(foods) & set(hidden["food"]))
    entities = [entity for kind in ("person", "dish", "group", "thing") for entity in hidden[kind]]
    return asked or bool(mentioned(text, entities)) or any(f"{a}+{b}" in hidden["sum"] for a, b in added)


def learn(stand, pairs, seed, run):
    """The medium base model, fine-tuned on the pairs as the assistant was on demonstrations."""
    model, tokenizer = stand.medium()
    config = replace(stand.settings.studying, seed=seed, resume=True)
    tasks = [Instruction(*pair, family="written", key="") for pair in pairs]
    context = model.config.context
    new = InstructionBatches(tasks, tokenizer, context, config.batch_size, seed)
    old = pretraining_batches(stand.world, tokenizer, context, max(config.batch_size // 2, 1), seed)
    train(model, RehearsalBatches(new, old), config, run)
    sharpen(model, TEMPERATURE)
    save_model(run, model, tokenizer)
