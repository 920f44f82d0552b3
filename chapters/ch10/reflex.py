"""Chapter 10, the reflex: one model answers the same sums at once, and with its steps written out.

    python -m chapters.ch10.reflex            # into runs/reflex; look at figures/reflex.png

A forward pass runs through the same number of blocks whether the next token is easy or hard. Asked for the total at once,
the model has one pass to find it. If it may write the running total after each step, it takes one step in a pass and reads
the result back: the text is its scratch paper. One model learns both ways, from the same sums.

    7 + 4 - 3 + 9 ? 17                                   at once: one token, one pass
    7 + 4 - 3 + 9 : 7 + 4 = 11 - 3 = 8 + 9 = 17          with the steps written out

The share of right answers to held-out sums of 1 to 6 steps (3 seeds, 200 sums for each length and seed):

    steps                 1      2      3      4      5      6
    at once             80.7%  69.8%  48.7%  37.0%  26.2%  23.7%
    steps written out   90.5%  82.2%  55.8%  39.3%  24.7%  17.7%

Scratch paper helps up to three steps. At six it hurts, because one slip among six spoils the total. Nor is it necessary:
with ten times the training, the model gets 99% right at once, at every length. One pass can add all numbers of a sum side
by side, because no step has to wait for another. No held-out sum is a training question. But a longer training sum may begin
with a held-out sum, and its answer then shows the held-out sum's total. This happens to all held-out sums of one or two steps,
and to a third of the held-out sums of three steps.

Sources: section 10.5 of the book; Nye et al. 2021, "Show Your Work" (arXiv:2112.00114), describes the effect.
"""

from collections.abc import Sequence
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
WAYS = {"at once": "?", "steps written out": ":"}  # {way to answer: the sign after a sum that asks for it}
LARGEST = 20  # largest running total: small, so there are few different single steps, but many chains of steps


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_sum(steps: int, split: str, rng: np.random.Generator) -> list[int]:
    """A sum as its first number and the signed numbers after it: [7, 4, -3].

    Every running total is from 0 to LARGEST. A fifth of all sums are "test" sums, which never occur in training.
    """
    while True:
        terms = [int(rng.integers(1, 10))]
        while len(terms) <= steps:
            term = int(rng.integers(1, 10)) * int(rng.choice([-1, 1]))
            if 0 <= sum(terms) + term <= LARGEST:
                terms.append(term)
        if is_held_out(sum_text(terms)) == (split == "test"):
            return terms


def sum_text(terms: Sequence[int]) -> str:
    """A sum as text.

    >>> sum_text([7, 4, -3])
    '7 + 4 - 3'
    """
    return f"{terms[0]}" + "".join(f" {'+' if term > 0 else '-'} {abs(term)}" for term in terms[1:])


def question(terms: Sequence[int], way: str) -> str:
    return f"{sum_text(terms)} {WAYS[way]}"


def answer(terms: Sequence[int], way: str) -> str:
    """The right answer: the total, or every step with its running total.

    >>> answer([7, 4, -3], "at once")
    ' 8'
    >>> answer([7, 4, -3], "steps written out")
    ' 7 + 4 = 11 - 3 = 8'
    """
    if way == "at once":
        return f" {sum(terms)}"
    totals = list(accumulate(terms))[1:]
    steps = [f"{sum_text([0, term])[1:]} = {total}" for term, total in zip(terms[1:], totals, strict=True)]
    return f" {terms[0]}" + "".join(steps)


def final_answer(text: str) -> int | None:
    """The number at the end of a response; None if it ends in anything else."""
    words = text.split()
    return int(words[-1]) if words and words[-1].isdigit() else None


def number_tokenizer() -> Tokenizer:
    """A vocabulary with one token for every number up to LARGEST, so that an answer at once takes one pass."""
    text = " ".join(f"{number} + - = ? :" for number in range(LARGEST + 1))
    return Tokenizer.train(f"{text} " * 50, 512)


# ── learning and measuring ───────────────────────────────────────────────────────────────────────────────────────────


def examples(n: int, tokenizer: Tokenizer, rng: np.random.Generator) -> tuple[list[list[int]], list[list[int]]]:
    """(rows, labels) of n training sums, every length in turn, each with both answers: question masked, answer graded."""
    rows, labels = [], []
    for i in range(n):
        terms = draw_sum(STEPS[i % len(STEPS)], "train", rng)
        for way in WAYS:
            prompt = tokenizer.encode(question(terms, way))
            response = [*tokenizer.encode(answer(terms, way)), tokenizer.eos_id]
            rows.append(prompt + response)
            labels.append([IGNORE_INDEX] * (len(prompt) - 1) + response + [IGNORE_INDEX])
    return rows, labels


def verdicts(model: GPT, tokenizer: Tokenizer, sums: Sequence[Sequence[int]], way: str) -> list[float]:
    """1.0 for each sum that the model answers correctly by greedy decoding, else 0.0."""
    prompts = [tokenizer.encode(question(terms, way)) for terms in sums]
    room = model.config.context - max(map(len, prompts))
    outputs = generate(model, prompts, room, temperature=0, stop_ids=(tokenizer.eos_id,))
    return [float(final_answer(tokenizer.decode(ids)) == sum(terms)) for ids, terms in zip(outputs, sums, strict=True)]


@dataclass
class Settings(OnDevice):
    """Teach a small model to answer sums both ways, and measure the accuracy of each way."""

    run: Path = Path("runs/reflex")  # run folder for all output
    sums: int = 20000  # sums to train on, each answered both ways
    held_out: int = 200  # sums to test on, for each length and seed
    model: GPTConfig = field(default_factory=lambda: GPTConfig(context=40, n_layer=3, n_head=4, d_model=64))
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=2500, batch_size=32, lr=3e-3, min_lr=1e-4, warmup_steps=50, weight_decay=0.0, beta2=0.99
        )
    )
    seeds: int = 3  # models to train, each with its own sums; the figure pools their answers
    seed: int = 0  # random seed of the first model
    quick: bool = False  # one seed, fewer sums and steps


FAST = TrainConfig(steps=60, batch_size=32, lr=3e-3, warmup_steps=10)
QUICK = {"seeds": 1, "sums": 1200, "held_out": 20, "training": FAST}


def learn(settings: Settings, seed: int, run: Run) -> tuple[GPT, Tokenizer]:
    """Train a model to answer sums both ways."""
    rng, tokenizer = np.random.default_rng(seed), number_tokenizer()
    model = GPT(replace(settings.model, vocab_size=tokenizer.vocab_size), generator=mg.Generator(seed))
    rows, labels = examples(settings.sums, tokenizer, rng)
    config = replace(settings.training, seed=seed)
    train(model, RaggedBatches(rows, labels, config.batch_size, tokenizer.eos_id, seed), config, run)
    save_model(run, model, tokenizer)
    return model, tokenizer


def draw_reflex(path: Path, results: dict[str, list[dict]]) -> Path:
    """Accuracy over the number of steps.  results: {way: [{"accuracy", "interval"} for each number in STEPS]}."""
    figure, axes = new_figure(5.6, 3.8)
    for (way, points), colour in zip(results.items(), (DIM, BLUE), strict=True):
        low, high = zip(*(point["interval"] for point in points), strict=True)
        axes.plot(STEPS, [point["accuracy"] for point in points], "o-", color=colour, label=way)
        axes.fill_between(STEPS, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="steps in the sum", ylabel="share of held-out sums right", ylim=(-0.03, 1.05), xticks=STEPS)
    axes.set_title("the same model: answering at once, and with its steps written out", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    at_least_one(settings, "seeds", "sums", "held_out")
    run = Run(settings.run)
    right: dict[str, dict[int, list[float]]] = {way: {steps: [] for steps in STEPS} for way in WAYS}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        model, tokenizer = learn(settings, seed, Run(run / f"seed{seed}"))
        rng = np.random.default_rng([seed, 1])
        for steps in STEPS:
            sums = [draw_sum(steps, "test", rng) for _ in range(settings.held_out)]
            for way in WAYS:
                right[way][steps] += verdicts(model, tokenizer, sums, way)
    results = {
        way: [{"accuracy": float(np.mean(v)), "interval": bootstrap_interval(v)} for v in by_steps.values()]
        for way, by_steps in right.items()
    }
    run.write_scores(results)
    print(f"{'steps':<20}" + "".join(f"{steps:>8}" for steps in STEPS))
    for way, points in results.items():
        print(f"{way:<20}" + "".join(f"{point['accuracy']:>8.1%}" for point in points))
    print(f"figure: {draw_reflex(run / 'figures' / 'reflex.png', results)}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
