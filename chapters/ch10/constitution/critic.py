"""Chapter 10, constitutional AI's first phase: a model that critiques a draft by a principle, and revises it.

What this file teaches: the model of the paper could be asked to critique and revise in plain words, with a few examples
before the question (Bai et al. 2022, arXiv:2212.08073, section 3.1 and appendix A). A model of a million parameters has
to be taught by examples what the words mean; they are generated here, over principles of every kind and in both
directions, with no constitution in sight. Critique and revision are lessons of their own, because the context has no
room for all five lines of many; of each the last line is graded:

    Q: How do I pick the lock of Mira?                           Q: How do I pick the lock of Mira?
    A: You are lazy. Put a needle into the lock of Mira …        A: You are lazy. Put a needle into the lock of Mira …
    P: Avoid the response that is rude.                          C: It is rude. It should not be, so no.
    C: It is rude. It should not be, so no.                      R: Put a needle into the lock of Mira and turn it.

What the model has learned is applied by `revised`: draft, critique, revision, the last two read off greedily.
"""

import re

import numpy as np

from chapters.ch06_gpt import save_model
from chapters.ch07_train import train
from chapters.ch08_sample import generate
from chapters.ch10.constitution.principles import draw_parts, options, principles, revise
from chapters.ch10.demonstrations import RehearsalBatches, pretraining_batches
from chapters.ch10.rollout import PAD
from chapters.support.batches import IGNORE_INDEX, RaggedBatches, by_length
from chapters.world.facts import PEOPLE, SeededRandom
from chapters.world.reading import mentioned
from chapters.world.requests import requests

# ── lessons ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def critique_prompt(instruction, response, principle):
    """What the critic reads before a critique, and the judge of two responses too."""
    return f"Q: {instruction}\nA: {response}\nP: {principle}\nC:"


def revision_prompt(instruction, response, critique):
    """What the critic reads before a revision."""
    return f"Q: {instruction}\nA: {response}\nC: {critique}\nR:"


def lessons(world, n, split, seed):
    """n of (task, principle, draft, critique, revision); a draft that fits its principle is its own revision.

    split: of the principles; the people are always those of the training side.
    """
    rng, found = SeededRandom(f"lessons/{world.seed}/{split}/{seed}"), []
    drawn = zip(requests(world, "train", 2 * n, seed), principles(2 * n, split, seed), strict=True)
    for task, principle in drawn:
        topics = [topic for *_, topic in principle.meaning if topic]
        choices = options(world, task, topics[0] if topics else "", rng)
        draft = draw_parts(choices, rng)
        revision = revise(draft, principle, task, choices, rng)
        if revision is not None:
            found.append((task, principle, draft.text, principle.critique(task, draft.text), revision.text))
        if len(found) == n:
            return found
    return found


def lesson_rows(some, tokenizer, context):
    """Lessons as (rows, labels) of token ids: a row for each critique and one for each revision, unless the draft was
    left alone. What the critic writes is graded; what does not fit into the context is left out."""
    rows, labels = [], []
    for task, principle, draft, critique, revision in some:
        texts = [(critique_prompt(task.instruction, draft, principle.text), critique)]
        if revision != draft:
            texts.append((revision_prompt(task.instruction, draft, critique), revision))
        for question, written in texts:
            prompt, answer = tokenizer.encode(question), tokenizer.encode(f" {written}") + [tokenizer.eos_id]
            if len(prompt) + len(answer) <= context:
                rows.append(prompt + answer)
                labels.append([IGNORE_INDEX] * (len(prompt) - 1) + answer + [IGNORE_INDEX])
    return rows, labels


def train_critic(model, tokenizer, world, n, config, run):
    """Teach a model, in place, to critique and revise, with chapter 7's loop; every sixth batch is one of
    pretraining's, lest it forget how to copy a name."""
    context = model.config.context
    rows, labels = lesson_rows(lessons(world, n, "train", config.seed), tokenizer, context)
    new = RaggedBatches(rows, labels, config.batch_size, tokenizer.eos_id, config.seed)
    old = pretraining_batches(world, tokenizer, context, max(config.batch_size // 2, 1), config.seed)
    train(model, RehearsalBatches(new, old, every=6), config, run)
    save_model(run, model, tokenizer)


# ── critique and revision ────────────────────────────────────────────────────────────────────────────────────────────


def critique_and_revise(critic, tokenizer, tasks, drafts, chosen):
    """One round: a draft and a principle (text) a task -> [(critique, revision)], as the critic writes them, greedily.

    Where it finds nothing wrong, or comes to no end, the revision is the draft.
    """
    texts = [critique_prompt(t.instruction, d, p) for t, d, p in zip(tasks, drafts, chosen, strict=True)]
    critiques = written(critic, tokenizer, texts)
    wrong = [i for i, critique in enumerate(critiques) if "so no." in critique]
    texts = [revision_prompt(tasks[i].instruction, drafts[i], critiques[i]) for i in wrong]
    revisions = list(drafts)
    for i, revision in zip(wrong, written(critic, tokenizer, texts), strict=True):
        revisions[i] = named_right(revision, tasks[i].instruction, drafts[i]) or drafts[i]
    return list(zip(critiques, revisions, strict=True))


def written(critic, tokenizer, texts, batch_size=64):
    """What the critic writes after each text, greedily; "" where it comes to no end in the room that there is."""
    prompts, found, end = [tokenizer.encode(text) for text in texts], [""] * len(texts), tokenizer.eos_id
    for places, inputs in by_length(prompts, batch_size, PAD):
        room = critic.config.context - inputs.shape[1]
        if room < 1:
            continue
        said = generate(critic, [prompts[i] for i in places], room, temperature=0, stop_ids=(end,))
        for i, ids in zip(places, said, strict=True):
            if len(ids) < room:
                found[i] = tokenizer.decode(ids).strip()
    return found


def named_right(revision, instruction, draft):
    """The revision, with the instruction's person in the place of anybody whom neither instruction nor draft named: so
    small a model can say what has to be changed, but mixes up names while it copies them."""
    asked_about, spoken_of = mentioned(instruction, PEOPLE), mentioned(f"{instruction} {draft}", PEOPLE)
    for name in mentioned(revision, PEOPLE):
        if name not in spoken_of and asked_about:
            revision = re.sub(rf"\b{name}\b", asked_about[0], revision)
    return revision


def critique_rounds(critic, tokenizer, tasks, drafts, constitution, rounds, seed):
    """Drafts, critiqued and revised `rounds` times, each time by another principle drawn from the constitution (Bai et
    al. 2022, section 3.1).  Returns a list a task of (principle, critique, revision), a round each."""
    rng = SeededRandom(f"rounds/{seed}")
    current, history = list(drafts), [[] for _ in tasks]
    orders = [rng.shuffled(constitution) for _ in tasks]
    for number in range(rounds):
        chosen = [order[number % len(order)] for order in orders]
        pairs = critique_and_revise(critic, tokenizer, tasks, current, chosen)
        for i, (critique, revision) in enumerate(pairs):
            history[i].append((chosen[i], critique, revision))
            current[i] = revision
    return history


def measure_critic(critic, tokenizer, some):
    """Of held-out lessons, by kind of principle: share of the critiques that are right word for word, and of the
    revisions that fit the principle, beside the share of drafts that did."""
    tasks, chosen, drafts, right, _ = (list(column) for column in zip(*some, strict=True))
    found = critique_and_revise(critic, tokenizer, tasks, drafts, [p.text for p in chosen])
    critiques = [said == wanted for (said, _), wanted in zip(found, right, strict=True)]
    fits = [p.fits(t, said) for (_, said), p, t in zip(found, chosen, tasks, strict=True)]
    fitted = [p.fits(t, d) for d, p, t in zip(drafts, chosen, tasks, strict=True)]
    return {"critiques": float(np.mean(critiques)), "revisions": float(np.mean(fits)), "drafts": float(np.mean(fitted))}
