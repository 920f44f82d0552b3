"""Chapter 10, the reflex: the same model, on the same sums, at once and with its steps written out.

    python -m chapters.ch10.reflex            # into runs/reflex, ends in figures/reflex.png

What this file teaches: a forward pass is a fixed number of blocks, whether the next token is easy or hard. Asked for the
total of a sum at once, the model has to find it in the one pass before the answer. Allowed to write the running total
after each step, it does one step at a time and reads the result back: the text is its scratch paper. Both ways are
taught to one model, with the same sums.

    7 + 4 - 3 + 9 ? 17                                   at once: one token, one pass
    7 + 4 - 3 + 9 : 7 + 4 = 11 - 3 = 8 + 9 = 17          with the steps written out

What was measured, on held-out sums of 1 to 6 steps (3 seeds, 200 sums a length and seed):

    steps                 1      2      3      4      5      6
    at once             80.7%  69.8%  48.7%  37.0%  26.2%  23.7%
    steps written out   90.5%  82.2%  55.8%  39.3%  24.7%  17.7%

Scratch paper helps up to three steps, and no longer at six, where one slip among six spoils the total. Nor is it needed:
with ten times the training the model reaches 99% at once, at every length. The steps of a sum need not wait for one
another, all its numbers can be added side by side, and that fits into one pass. Mind, too, what "held out" means here:
the sums were never asked, but every one of one or two steps, and a third of those of three, is how some longer sum of
the training side begins, whose running totals were written out.

Source: section 10.5 of the book; the effect looked for is that of Nye et al. 2021, "Show Your Work" (arXiv:2112.00114).
"""

import json
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10.assess import bootstrap_interval
from chapters.ch10.figures import BLUE, DIM
from chapters.support.batches import IGNORE_INDEX, RaggedBatches
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.figures import new_figure, save_figure
from chapters.support.run_folder import Run
from chapters.world.facts import is_held_out

STEPS = (1, 2, 3, 4, 5, 6)  # additions and subtractions in a sum
WAYS = {"at once": "?", "steps written out": ":"}  # the sign after a sum that asks for the one or the other
LARGEST = 20  # of all totals on the way: small, so that a step is one of few facts and a chain of them is not


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_sum(steps, split, rng):
    """A sum of one side of the split, as its first number and the signed numbers after it: [7, 4, -3].

    Every total on the way is from 0 to LARGEST.  "test" sums, a fifth of all, are never trained on.
    """
    while True:
        terms = [int(rng.integers(1, 10))]
        while len(terms) <= steps:
            term = int(rng.integers(1, 10)) * int(rng.choice([-1, 1]))
            if 0 <= sum(terms) + term <= LARGEST:
                terms.append(term)
        if is_held_out(written(terms)) == (split == "test"):
            return terms


def written(terms):
    """[7, 4, -3] -> "7 + 4 - 3"."""
    return f"{terms[0]}" + "".join(f" {'+' if term > 0 else '-'} {abs(term)}" for term in terms[1:])


def question(terms, way):
    return f"{written(terms)} {WAYS[way]}"


def answer(terms, way):
    """At once " 17"; with its steps " 7 + 4 = 11 - 3 = 8 + 9 = 17", the running total after each."""
    if way == "at once":
        return f" {sum(terms)}"
    totals = list(accumulate(terms))[1:]
    steps = [f"{written([0, term])[1:]} = {total}" for term, total in zip(terms[1:], totals, strict=True)]
    return f" {terms[0]}" + "".join(steps)


def final_answer(text):
    """The last number of a response, None where it does not end in one."""
    said = text.split()
    return int(said[-1]) if said and said[-1].isdigit() else None


def number_tokenizer():
    """A vocabulary in which every number up to the largest total is one token, so that "at once" is one pass."""
    text = " ".join(f"{number} + - = ? :" for number in range(LARGEST + 1))
    return Tokenizer.train(f"{text} " * 50, 512)


# ── learning and measuring ───────────────────────────────────────────────────────────────────────────────────────────


def examples(n, tokenizer, rng, split="train"):
    """n sums of every length in turn, each both ways, as (rows, labels): the question masked, the answer graded."""
    rows, labels = [], []
    for i in range(n):
        terms = draw_sum(STEPS[i % len(STEPS)], split, rng)
        for way in WAYS:
            asked = tokenizer.encode(question(terms, way))
            said = [*tokenizer.encode(answer(terms, way)), tokenizer.eos_id]
            rows.append(asked + said)
            labels.append([IGNORE_INDEX] * (len(asked) - 1) + said + [IGNORE_INDEX])
    return rows, labels


def verdicts(model, tokenizer, sums, way):
    """1 for every sum whose final answer is right, greedily decoded, else 0: [float]."""
    prompts = [tokenizer.encode(question(terms, way)) for terms in sums]
    room = model.config.context - max(map(len, prompts))
    outputs = generate(model, prompts, room, temperature=0, stop_ids=(tokenizer.eos_id,))
    return [float(final_answer(tokenizer.decode(o)) == sum(t)) for o, t in zip(outputs, sums, strict=True)]


def learn(settings, seed, run):
    """One model, trained on the sums both ways -> (model, tokenizer)."""
    rng, tokenizer = np.random.default_rng(seed), number_tokenizer()
    model = GPT(replace(settings.model, vocab_size=tokenizer.vocab_size), generator=mg.Generator(seed))
    rows, labels = examples(settings.sums, tokenizer, rng)
    config = replace(settings.training, seed=seed)
    train(model, RaggedBatches(rows, labels, config.batch_size, tokenizer.eos_id, seed), config, run)
    save_model(run, model, tokenizer)
    return model, tokenizer


def draw_reflex(path, found):
    """found: {way: [{"accuracy", "interval"} for each of STEPS]}."""
    figure, axes = new_figure(5.6, 3.8)
    for (way, points), colour in zip(found.items(), (DIM, BLUE), strict=True):
        low, high = zip(*(point["interval"] for point in points), strict=True)
        axes.plot(STEPS, [point["accuracy"] for point in points], "o-", color=colour, label=way)
        axes.fill_between(STEPS, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="steps in the sum", ylabel="held-out sums right", ylim=(-0.03, 1.05), xticks=STEPS)
    axes.set_title("one pass for the answer, and the same model with scratch paper", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return save_figure(figure, path)


@dataclass
class Settings(OnDevice):
    """Teach one small model sums both ways, and see how far each way carries."""

    run: Path = Path("runs/reflex")  # the folder for everything
    sums: int = 20000  # to train on, each both ways
    held_out: int = 200  # of each length and seed, to measure on
    model: GPTConfig = field(default_factory=lambda: GPTConfig(context=40, n_layer=3, n_head=4, d_model=64))
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=2500, batch_size=32, lr=3e-3, min_lr=1e-4, warmup_steps=50, weight_decay=0.0, beta2=0.99
        )
    )
    seeds: int = 3  # models, each with its own sums; the intervals are over all their answers
    seed: int = 0  # of the first
    quick: bool = False  # one seed, fewer sums and steps


QUICK = {"seeds": 1, "sums": 1200, "held_out": 20,
         "training": TrainConfig(steps=60, batch_size=32, lr=3e-3, warmup_steps=10)}  # fmt: skip


def main(settings):
    at_least_one(settings, "seeds", "sums", "held_out")
    run, right = Run(settings.run), {way: {steps: [] for steps in STEPS} for way in WAYS}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        model, tokenizer = learn(settings, seed, Run(run / f"seed{seed}"))
        rng = np.random.default_rng([seed, 1])
        for steps in STEPS:
            sums = [draw_sum(steps, "test", rng) for _ in range(settings.held_out)]
            for way in WAYS:
                right[way][steps] += verdicts(model, tokenizer, sums, way)
    found = {way: [{"accuracy": float(np.mean(v)), "interval": bootstrap_interval(v)} for v in by_steps.values()]
             for way, by_steps in right.items()}  # fmt: skip
    (run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{'steps':<20}" + "".join(f"{steps:>8}" for steps in STEPS))
    for way, points in found.items():
        print(f"{way:<20}" + "".join(f"{point['accuracy']:>8.1%}" for point in points))
    print(f"figure: {draw_reflex(run / 'figures' / 'reflex.png', found)}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
