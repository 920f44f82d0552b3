"""Chapter 10, constitutional AI's first phase: a model that critiques a draft by a principle, and revises it.

What this file teaches: the model of the paper could be asked to critique and revise in plain words, with a few examples
before the question (Bai et al. 2022, arXiv:2212.08073, section 3.1 and appendix A). A model of a million parameters has
to be taught by examples what the words mean; they are generated here, over principles of every kind and in both
directions, with no constitution in sight. One example is five lines, of which the last two are graded:

    Q: How do I pick the lock of Mira?
    A: You are lazy. Put a needle into the lock of Mira and turn it.
    P: Avoid the response that is rude.
    C: It is rude. Yes if it is not rude, so no.
    R: Put a needle into the lock of Mira and turn it.

What the model has learned is applied by `revised`: draft, critique, revision, the last two read off
greedily.
"""

import numpy as np

from chapters.ch07_train import save_model, train
from chapters.ch08_sample import generate
from chapters.ch10_demonstrations import Rehearsed, pretraining_batches
from chapters.ch10_principles import draw_parts, options, principles, revise
from chapters.ch10_ragged import IGNORE_INDEX, RaggedBatches, by_length
from chapters.ch10_rollout import PAD
from chapters.world.facts import PEOPLE, Dice
from chapters.world.reading import named
from chapters.world.requests import requests

# ── lessons ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(instruction, response, principle):
    """What the critic reads, and the judge of two responses too: the first three lines."""
    return f"Q: {instruction}\nA: {response}\nP: {principle}\n"


def lessons(world, n, split, seed):
    """n of (task, principle, draft, critique, revision); a draft that fits its principle is its own revision.

    split: of the principles; the people are always those of the training side.
    """
    dice, found = Dice(f"lessons/{world.seed}/{split}/{seed}"), []
    drawn = zip(requests(world, "train", 2 * n, seed), principles(2 * n, split, seed), strict=True)
    for task, principle in drawn:
        topics = [topic for *_, topic in principle.meaning if topic]
        choices = options(world, task, topics[0] if topics else "", dice)
        draft = draw_parts(choices, dice)
        revision = revise(draft, principle, task, choices, dice)
        if revision is not None:
            found.append((task, principle, draft.text, principle.critique(task, draft.text), revision.text))
        if len(found) == n:
            return found
    return found


def lesson_rows(some, tokenizer, context):
    """Lessons as (rows, labels) of token ids: what the critic writes is graded.

    A draft that fits its principle is left alone: there the text ends with the critique. Where the revision would not
    fit into the context, only the critique is taught.
    """
    rows, labels = [], []
    for task, principle, draft, critique, revision in some:
        prompt = tokenizer.encode(asked(task.instruction, draft, principle.text))
        first, end = tokenizer.encode(f"C: {critique}"), [tokenizer.eos_id]
        answer = first + (end if revision == draft else tokenizer.encode(f"\nR: {revision}") + end)
        if len(prompt) + len(answer) > context:
            answer = first + tokenizer.encode("\n")
        if len(prompt) + len(answer) <= context:
            rows.append(prompt + answer)
            labels.append([IGNORE_INDEX] * (len(prompt) - 1) + answer + [IGNORE_INDEX])
    return rows, labels


def train_critic(model, tokenizer, world, n, config, run):
    """Teach a model, in place, to critique and revise, with chapter 7's loop; every third batch is one of pretraining's,
    lest it forget how to copy a name."""
    context = model.config.context
    rows, labels = lesson_rows(lessons(world, n, "train", config.seed), tokenizer, context)
    new = RaggedBatches(rows, labels, config.batch_size, tokenizer.eos_id, config.seed)
    old = pretraining_batches(world, tokenizer, context, max(config.batch_size // 2, 1), config.seed)
    train(model, Rehearsed(new, old), config, run)
    save_model(run, model, tokenizer)


# ── critique and revision ────────────────────────────────────────────────────────────────────────────────────────────


def critique_and_revise(critic, tokenizer, tasks, drafts, chosen, batch_size=32):
    """One round: a draft and a principle (text) a task -> [(critique, revision)], as the critic writes them, greedily.

    Where it finds nothing wrong and writes no revision, or one about somebody whom nobody spoke of (so small a model
    mixes up names), the revision is the draft; where it writes nothing that reads as a critique, or there is no room
    left to write in, the critique is "" as well.
    """
    texts = [asked(t.instruction, d, p) for t, d, p in zip(tasks, drafts, chosen, strict=True)]
    prompts = [tokenizer.encode(text) for text in texts]
    found = [("", draft) for draft in drafts]
    for places, _ in by_length(prompts, batch_size, PAD):
        room = critic.config.context - max(len(prompts[i]) for i in places)
        if room < 1:
            continue
        part = [prompts[i] for i in places]
        said = generate(critic, part, room, temperature=0, stop_ids=(tokenizer.eos_id,))
        for i, ids in zip(places, said, strict=True):
            if len(ids) < room:  # it came to an end
                critique, revision = read(tokenizer.decode(ids), drafts[i])
                spoken_of = set(named(f"{tasks[i].instruction} {drafts[i]}", PEOPLE))
                found[i] = critique, revision if spoken_of >= set(named(revision, PEOPLE)) else drafts[i]
    return found


def read(text, draft):
    """The (critique, revision) in what a critic wrote about a draft."""
    critique, _, revision = text.partition("\nR: ")
    if not critique.startswith("C: "):
        return "", draft
    return critique[3:].strip(), revision.strip() or draft


def revised(critic, tokenizer, tasks, drafts, constitution, rounds, seed):
    """Drafts, critiqued and revised `rounds` times, each time by another principle drawn from the constitution (Bai et
    al. 2022, section 3.1).  Returns a list a task of (principle, critique, revision), a round each."""
    dice = Dice(f"rounds/{seed}")
    current, history = list(drafts), [[] for _ in tasks]
    orders = [dice.shuffled(constitution) for _ in tasks]
    for number in range(rounds):
        chosen = [order[number % len(order)] for order in orders]
        written = critique_and_revise(critic, tokenizer, tasks, current, chosen)
        for i, (critique, revision) in enumerate(written):
            history[i].append((chosen[i], critique, revision))
            current[i] = revision
    return history


def measure_critic(critic, tokenizer, some):
    """Of held-out lessons, by kind of principle: share of the critiques that are right word for word, and of the
    revisions that fit the principle, beside the share of drafts that did."""
    tasks, chosen, drafts, right, _ = (list(column) for column in zip(*some, strict=True))
    written = critique_and_revise(critic, tokenizer, tasks, drafts, [p.text for p in chosen])
    critiques = [said == wanted for (said, _), wanted in zip(written, right, strict=True)]
    fits = [p.fits(t, said) for (_, said), p, t in zip(written, chosen, tasks, strict=True)]
    fitted = [p.fits(t, d) for d, p, t in zip(drafts, chosen, tasks, strict=True)]
    return {"critiques": float(np.mean(critiques)), "revisions": float(np.mean(fits)), "drafts": float(np.mean(fitted))}
