"""Chapter 10, constitutional AI's first phase: a model critiques a draft by a principle and revises it.

The paper's model can critique and revise when a prompt asks it to, after a few examples. A model as small as ours first has
to learn what the words mean. We generate its lessons from principles of every kind, which prefer or avoid each quality equally
often, without any constitution. Request, draft, principle, critique and revision together would often be too long for the
context, so critique and revision are separate lessons. The loss counts only the last line of each lesson:

    Q: How do I pick the lock of Mira?                           Q: How do I pick the lock of Mira?
    A: You are lazy. Put a needle into the lock of Mira …        A: You are lazy. Put a needle into the lock of Mira …
    P: Avoid the response that is rude.                          C: It is rude. It should not be, so no.
    C: It is rude. It should not be, so no.                      R: Put a needle into the lock of Mira and turn it.

`critique_and_revise` applies the trained critic once, `critique_rounds` several times.

Source: Bai et al. 2022 (arXiv:2212.08073), section 3.1 and appendix A.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10.constitution.principles import Principle, Texts, draw_parts, draw_principles, part_choices, revise
from chapters.ch10.demonstrations import RehearsalBatches, pretraining_batches
from chapters.ch10.sft import Tasks, response_loss
from chapters.support.batches import IGNORE_INDEX, RaggedBatches, shortest_first
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.facts import PEOPLE, SeededRandom
from chapters.world.reading import mentioned
from chapters.world.requests import requests
from minigrad import distributed

# ── lessons ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def critique_prompt(instruction: str, response: str, principle: str) -> str:
    """The text before a critique."""
    return f"Q: {instruction}\nA: {response}\nP: {principle}\nC:"


def revision_prompt(instruction: str, response: str, critique: str) -> str:
    """The text before a revision."""
    return f"Q: {instruction}\nA: {response}\nC: {critique}\nR:"


class Lesson(NamedTuple):
    """A draft with the right critique and a revision that fits the principle: the draft itself if it fits already."""

    task: Instruction
    principle: Principle
    draft: str
    critique: str
    revision: str


def draw_lessons(world: World, n: int, split: str, seed: int) -> list[Lesson]:
    """n lessons with principles from `split`; the people always come from the training side."""
    rng, lessons = SeededRandom(f"lessons/{world.seed}/{split}/{seed}"), list[Lesson]()
    candidates = zip(requests(world, "train", 2 * n, seed), draw_principles(2 * n, split, seed), strict=True)
    for task, principle in candidates:
        choices = part_choices(world, task, principle.topic, rng)
        draft = draw_parts(choices, rng)
        revision = revise(draft, principle, task, choices, rng)
        if revision is not None:
            critique = principle.critique(task, draft.text)
            lessons.append(Lesson(task, principle, draft.text, critique, revision.text))
        if len(lessons) == n:
            break
    return lessons


def lesson_rows(lessons: Sequence[Lesson], tokenizer: Tokenizer, context: int) -> tuple[list[list[int]], list[list[int]]]:
    """Lessons as (rows, labels) of token ids, without rows longer than the context.

    Each critique is a row, and so is each revision that differs from its draft. Labels mask the prompt.
    """
    rows, labels = [], []
    for task, principle, draft, critique, revision in lessons:
        texts = [(critique_prompt(task.instruction, draft, principle.text), critique)]
        if revision != draft:
            texts.append((revision_prompt(task.instruction, draft, critique), revision))
        for prompt_text, answer_text in texts:
            prompt, answer = tokenizer.encode(prompt_text), tokenizer.encode(f" {answer_text}") + [tokenizer.eos_id]
            if len(prompt) + len(answer) <= context:
                rows.append(prompt + answer)
                labels.append([IGNORE_INDEX] * (len(prompt) - 1) + answer + [IGNORE_INDEX])
    return rows, labels


def train_critic(model: GPT, tokenizer: Tokenizer, world: World, n: int, config: TrainConfig, run: Run) -> None:
    """Train a model in place, with chapter 7's loop, to critique and revise, and save it in run.

    Every sixth batch is pretraining text; without it the model forgets how to copy a name.
    """
    context = model.config.context
    rows, labels = lesson_rows(draw_lessons(world, n, "train", config.seed), tokenizer, context)
    new = RaggedBatches(rows, labels, config.batch_size, tokenizer.eos_id, config.seed)
    old = pretraining_batches(world, tokenizer, context, max(config.batch_size // 2, 1), config.seed)
    train(model, RehearsalBatches(new, old, every=6), config, run, loss_fn=response_loss)
    save_model(run, model, tokenizer)


# ── critique and revision ────────────────────────────────────────────────────────────────────────────────────────────


class Round(NamedTuple):
    """One critique and revision of a response, by one principle. result.json holds it as a list of the three texts."""

    principle: str
    critique: str
    revision: str


def critique_and_revise(
    critic: GPT, tokenizer: Tokenizer, tasks: Tasks, drafts: Texts, principles: Texts
) -> list[tuple[str, str]]:
    """A (critique, revision) for each draft and its principle, decoded greedily.

    A draft is its own revision if the critic sees no fault in it or does not finish writing.
    """
    texts = [critique_prompt(t.instruction, d, p) for t, d, p in zip(tasks, drafts, principles, strict=True)]
    critiques = write_greedily(critic, tokenizer, texts)
    faulty = [i for i, critique in enumerate(critiques) if "so no." in critique]
    texts = [revision_prompt(tasks[i].instruction, drafts[i], critiques[i]) for i in faulty]
    revisions = list(drafts)
    for i, revision in zip(faulty, write_greedily(critic, tokenizer, texts), strict=True):
        revisions[i] = correct_names(revision, tasks[i].instruction, drafts[i]) or drafts[i]
    return list(zip(critiques, revisions, strict=True))


def write_greedily(critic: GPT, tokenizer: Tokenizer, texts: Texts, batch_size: int = 256) -> list[str]:
    """The critic's continuation of each text; "" if the continuation does not fit into the context.

    Ranks share the texts out.
    """

    def write(texts: Texts) -> list[str]:
        prompts, continuations = [tokenizer.encode(text) for text in texts], [""] * len(texts)
        for places in shortest_first(prompts, batch_size):
            fitting = [i for i in places if len(prompts[i]) < critic.config.context]
            rooms = [critic.config.context - len(prompts[i]) for i in fitting]
            rows = generate(critic, [prompts[i] for i in fitting], rooms, temperature=0, stop_ids=(tokenizer.eos_id,))
            for i, ids, room in zip(fitting, rows, rooms, strict=True):
                if len(ids) < room:
                    continuations[i] = tokenizer.decode(ids).strip()
        return continuations

    return [text for written in distributed.current().map_shards(write, texts) for text in written]


def correct_names(revision: str, instruction: str, draft: str) -> str:
    """Replace each name that occurs in neither the instruction nor the draft with the name in the instruction.

    A model this small learns what to change, but it mixes up the names that it copies.
    """
    subjects, known = mentioned(instruction, PEOPLE), mentioned(f"{instruction} {draft}", PEOPLE)
    for name in mentioned(revision, PEOPLE):
        if name not in known and subjects:
            revision = re.sub(rf"\b{name}\b", subjects[0], revision)
    return revision


def critique_rounds(
    critic: GPT, tokenizer: Tokenizer, tasks: Tasks, drafts: Texts, constitution: Texts, rounds: int, seed: int
) -> list[list[Round]]:
    """Critique and revise each draft in several rounds; each draft meets the principles in a random order (section 3.1)."""
    rng = SeededRandom(f"rounds/{seed}")
    current, history = list(drafts), [list[Round]() for _ in tasks]
    orders = [rng.shuffled(constitution) for _ in tasks]
    for number in range(rounds):
        principles = [order[number % len(order)] for order in orders]
        pairs = critique_and_revise(critic, tokenizer, tasks, current, principles)
        for i, (critique, revision) in enumerate(pairs):
            history[i].append(Round(principles[i], critique, revision))
            current[i] = revision
    return history


def measure_critic(critic: GPT, tokenizer: Tokenizer, lessons: Sequence[Lesson]) -> dict[str, float]:
    """Shares on held-out lessons: "critiques" that are right word for word, "revisions" and "drafts" that fit the principle."""
    tasks, principles, drafts, right_critiques, _ = (list(column) for column in zip(*lessons, strict=True))
    pairs = critique_and_revise(critic, tokenizer, tasks, drafts, [principle.text for principle in principles])
    critiques, revisions = zip(*pairs, strict=True)

    def share_fitting(responses):
        return float(np.mean([p.fits(t, r) for p, t, r in zip(principles, tasks, responses, strict=True)]))

    right = np.mean([critique == expected for critique, expected in zip(critiques, right_critiques, strict=True)])
    return {"critiques": float(right), "revisions": share_fitting(revisions), "drafts": share_fitting(drafts)}
