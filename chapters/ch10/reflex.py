"""Chapter 10, the reflex: one model follows a trail of notes at once, and with every stop written out.

    python -m chapters.ch10.reflex               # into runs/reflex; look at figures/reflex.svg
    python -m chapters.ch10.reflex --controls    # more training and more layers, for the answers at once

A forward pass runs through the same number of blocks whether the next token is easy or hard. Ten houses, A to J, each hold a
note that names another house. Start at one house and follow k notes: where are you? Each step waits for the step before, and
the question is equally long for every k. At once, the model has one pass for all k steps. If it may write every stop, it takes
one step in a pass and reads the result back: the text is its scratch paper. And if it writes a dot in place of each stop, it
has as many passes, but nothing to read back.

    A > F B > D C > A D > H E > B F > E … C 4 ? B              at once: one token, one pass
    A > F B > D C > A D > H E > B F > E … C 4 : A F E B        every stop written out
    A > F B > D C > A D > H E > B F > E … C 4 ~ . . . B        dots in place of the stops

One model learns all three ways, from the same kind of notes: a random cycle through all ten houses, new in every example.

Claims about models of two layers, fixed before the test seeds were run, each with its criterion for the 95 % interval:

    every stop written out      the model can follow six notes          above 95 % for 1 to 6 notes
    at once                     one pass does not reach two notes       below 25 % for 2 to 6 notes
    dots                        more passes alone do not help           below 25 % for 2 to 6 notes

The first run trained for 1,500 steps, a number chosen with seed 100 alone. On seeds 0 to 4 it missed the first claim:

    notes to follow              1       2       3       4       5       6
    at once                  92.3%   12.0%   13.8%   12.6%    9.4%   10.1%
    every stop written out   94.3%   91.9%   91.9%   92.6%   94.1%   91.3%
    dots                     92.8%   11.2%   10.4%   13.0%    8.8%   10.4%

Not every model had finished learning. The second run trained for 2,500 steps, chosen with seeds 100 to 104. On seeds 5 to 9
(`--seed 5`) it met all three:

    at once                   100%   15.6%   11.4%   13.6%   11.8%   14.8%
    every stop written out    100%    100%    100%    100%    100%    100%
    dots                      100%   17.3%   12.5%   12.7%   12.3%   14.4%

The t-intervals over five models are at most ±4 points wide. Without stops, a model does no better than a reader who looks once:
for 2 to 6 notes, the answer is neither the start, nor its note, nor the house whose note names the start. That leaves one of
seven houses, 14.3 %.

The controls (seed 5, answers at once) show that this is in part a matter of training:

    3 layers                  100%   25.5%   12.0%   14.5%   10.5%   12.0%
    4 layers                  100%   22.5%    9.5%   10.0%   12.0%   10.0%
    ten times the training    100%   43.5%   17.5%   19.5%   18.5%   16.0%

With longer training, two layers begin to learn two notes in one pass. So nothing here says how many notes a depth can reach.

Sources: section 10.5 of the book; Nye et al. 2021, "Show Your Work" (arXiv:2112.00114); Sanford et al. 2024
(arXiv:2402.09268), on following k pointers with few layers; Li et al. 2024 (arXiv:2402.12875), on what written steps add to a
transformer; Pfau et al. 2024, "Let's Think Dot by Dot" (arXiv:2404.15758).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10.assess import bootstrap_interval, t_interval
from chapters.ch10.figures import BLUE, DIM, GOLD
from chapters.ch10.sft import response_loss
from chapters.support.batches import IGNORE_INDEX, pad_right
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.figures import new_figure, save_figure
from chapters.support.run_folder import Run
from chapters.world.facts import is_held_out

HOUSES = "ABCDEFGHIJ"
STEPS = (1, 2, 3, 4, 5, 6)  # notes to follow
ONE_LOOK = 1 / (len(HOUSES) - 3)  # a guess that avoids the start, its note, and the house whose note names the start
WAYS = {"at once": "?", "every stop written out": ":", "dots in place of the stops": "~"}  # {way: the sign that asks for it}


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Trail(NamedTuple):
    """A question: the note in each house, the first house, and the number of notes to follow."""

    notes: str
    start: str
    steps: int

    def stops(self) -> str:
        """The houses on the way, the last of which is the answer.

        >>> Trail("BCDEFGHIJA", "C", 3).stops()
        'DEF'
        """
        house, houses = self.start, ""
        for _ in range(self.steps):
            house = self.notes[HOUSES.index(house)]
            houses += house
        return houses


def draw_trail(steps: int, split: str, rng: np.random.Generator) -> Trail:
    """A random cycle through all houses and a random start. A fifth of all cycles are "test" cycles, never seen in training."""
    while True:
        order = rng.permutation(len(HOUSES))  # the houses along the cycle
        notes = np.empty(len(HOUSES), np.int64)
        notes[order] = np.roll(order, -1)
        text = "".join(HOUSES[i] for i in notes)
        if is_held_out(text) == (split == "test"):
            return Trail(text, HOUSES[rng.integers(len(HOUSES))], steps)


def question(trail: Trail, way: str) -> str:
    """The question as text, equally long for every number of steps.

    >>> question(Trail("BCDEFGHIJA", "C", 3), "at once")[-18:]
    ' I > J J > A C 3 ?'
    """
    notes = "".join(f" {house} > {note}" for house, note in zip(HOUSES, trail.notes, strict=True))
    return f"{notes} {trail.start} {trail.steps} {WAYS[way]}"


def answer(trail: Trail, way: str) -> str:
    """The right answer.

    >>> [answer(Trail("BCDEFGHIJA", "C", 3), way) for way in WAYS]
    [' F', ' D E F', ' . . F']
    """
    stops = trail.stops()
    before = {"at once": "", "every stop written out": stops[:-1], "dots in place of the stops": "." * (trail.steps - 1)}[way]
    return "".join(f" {sign}" for sign in before + stops[-1])


def trail_tokenizer() -> Tokenizer:
    """A vocabulary with one token for each house, number and sign."""
    signs = [*HOUSES, *map(str, STEPS), *WAYS.values(), ">", "."]
    return Tokenizer.train("".join(f" {sign}" for sign in signs) * 50, 512)


# ── learning and measuring ───────────────────────────────────────────────────────────────────────────────────────────


class TrailBatches:
    """Batches for chapter 7's loop: questions masked, answers graded; every example has a new cycle, way and length.

    asked: the way that every question asks for; None: the way of its answer.
    """

    def __init__(
        self, tokenizer: Tokenizer, batch_size: int, seed: int, ways: Sequence[str] = tuple(WAYS), asked: str | None = None
    ) -> None:
        self.tokenizer, self.batch_size, self.seed, self.ways, self.asked = tokenizer, batch_size, seed, ways, asked
        self.signature = f"trails, batch {batch_size}, seed {seed}, {', '.join(ways)}" + (f", asked {asked}" if asked else "")

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng, encode = np.random.default_rng([self.seed, step]), self.tokenizer.encode
        rows, labels = [], []
        for _ in range(self.batch_size):
            trail, way = draw_trail(int(rng.choice(STEPS)), "train", rng), self.ways[int(rng.integers(len(self.ways)))]
            prompt = encode(question(trail, self.asked or way))
            response = [*encode(answer(trail, way)), self.tokenizer.eos_id]
            rows.append(prompt + response[:-1])
            labels.append([IGNORE_INDEX] * (len(prompt) - 1) + response)
        return pad_right(rows, self.tokenizer.eos_id), pad_right(labels, IGNORE_INDEX)  # (B, T) each


def verdicts(model: GPT, tokenizer: Tokenizer, trails: Sequence[Trail], way: str) -> list[float]:
    """1.0 for each trail that the model answers right, in the form of this way, by greedy decoding, else 0.0."""
    prompts = [tokenizer.encode(question(trail, way)) for trail in trails]
    outputs = generate(model, prompts, max(STEPS) + 1, temperature=0, stop_ids=(tokenizer.eos_id,))
    return [float(tokenizer.decode(ids) == answer(trail, way)) for ids, trail in zip(outputs, trails, strict=True)]


@dataclass
class Settings(OnDevice):
    """Teach a small model to follow notes in three ways, and measure the accuracy of each way."""

    run: Path = Path("runs/reflex")  # run folder for all output
    held_out: int = 200  # trails to test on, for each number of steps and seed
    model: GPTConfig = field(default_factory=lambda: GPTConfig(context=48, n_layer=2, n_head=4, d_model=64, init_std=0.1))
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=2500, batch_size=64, lr=1.5e-3, min_lr=1e-4, warmup_steps=50, weight_decay=0.0, beta2=0.99
        )
    )
    seeds: int = 5  # models to train, each on its own trails; the figure shows their mean
    seed: int = 0  # random seed of the first model
    controls: bool = False  # also train 3 and 4 layers, and answers at once alone for ten times the steps, one seed each
    quick: bool = False  # one seed, fewer trails and steps


FAST = TrainConfig(steps=60, batch_size=32, lr=3e-3, warmup_steps=10)
QUICK = {"seeds": 1, "held_out": 20, "training": FAST}


def learn(
    settings: Settings, seed: int, run: Run, ways: Sequence[str] = tuple(WAYS), asked: str | None = None
) -> tuple[GPT, Tokenizer]:
    """Train a model to follow notes in these ways.  asked: as in TrailBatches."""
    tokenizer = trail_tokenizer()
    model = GPT(replace(settings.model, vocab_size=tokenizer.vocab_size), generator=mg.Generator(seed))
    config = replace(settings.training, seed=seed)
    train(model, TrailBatches(tokenizer, config.batch_size, seed, ways, asked), config, run, loss_fn=response_loss)
    save_model(run, model, tokenizer)
    return model, tokenizer


def measure(model: GPT, tokenizer: Tokenizer, n: int, seed: int, ways: Sequence[str]) -> dict[str, list[list[float]]]:
    """{way: the verdicts on n held-out trails for each number of steps}; all ways have the same trails."""
    rng = np.random.default_rng([seed, 1])
    trails = [[draw_trail(steps, "test", rng) for _ in range(n)] for steps in STEPS]
    return {way: [verdicts(model, tokenizer, part, way) for part in trails] for way in ways}


def pooled(measurements: Sequence[dict[str, list[list[float]]]]) -> dict[str, list[dict[str, Any]]]:
    """{way: mean accuracy and 95 % interval for each number of steps}: over models, or over the trails of a single model."""
    results: dict[str, list[dict[str, Any]]] = {}
    for way in measurements[0]:
        results[way] = []
        for i in range(len(STEPS)):
            verdicts_by_model = [measured[way][i] for measured in measurements]
            means = [float(np.mean(part)) for part in verdicts_by_model]
            low, high = t_interval(means) if len(means) > 1 else bootstrap_interval(verdicts_by_model[0])
            results[way].append({"accuracy": float(np.mean(means)), "interval": [max(low, 0.0), min(high, 1.0)]})
    return results


def run_controls(settings: Settings, run: Run) -> dict[str, list[dict[str, Any]]]:
    """Answers at once by deeper models, and by a model that learns nothing else, ten times as long."""
    longer = replace(settings.training, steps=10 * settings.training.steps)
    controls: dict[str, tuple[Settings, Sequence[str]]] = {
        f"at once, {n} layers": (replace(settings, model=replace(settings.model, n_layer=n)), tuple(WAYS)) for n in (3, 4)
    }
    controls["at once, ten times the training"] = replace(settings, training=longer), ("at once",)
    results = {}
    for name, (changed, ways) in controls.items():
        model, tokenizer = learn(changed, settings.seed, Run(run / name.replace(", ", "_").replace(" ", "_")), ways)
        measured = measure(model, tokenizer, settings.held_out, settings.seed, ["at once"])
        results[name] = pooled([measured])["at once"]
    return results


def draw_reflex(path: Path, results: dict[str, list[dict[str, Any]]]) -> Path:
    """Accuracy over the number of steps, with 95 % intervals; controls are dashed."""
    figure, axes = new_figure(6.2, 4.0)
    colours = dict(zip(WAYS, (DIM, BLUE, GOLD), strict=True))
    markers = iter("^vD")
    for name, points in results.items():
        accuracy = [point["accuracy"] for point in points]
        if name in WAYS:
            low, high = zip(*(point["interval"] for point in points), strict=True)
            axes.plot(STEPS, accuracy, "o-", color=colours[name], label=name)
            axes.fill_between(STEPS, low, high, color=colours[name], alpha=0.2, linewidth=0)
        else:
            axes.plot(STEPS, accuracy, f"{next(markers)}--", color=DIM, linewidth=0.8, markersize=4, label=name)
    axes.axhline(ONE_LOOK, color="black", linewidth=0.6, linestyle=":", label="a guess after one look, 1 of 7 houses")
    axes.set(xlabel="notes to follow", ylabel="share of held-out trails right", ylim=(-0.03, 1.05), xticks=STEPS)
    axes.set_title("the same model: answering at once, and with its stops written out", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    at_least_one(settings, "seeds", "held_out")
    run, measurements = Run(settings.run), []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        model, tokenizer = learn(settings, seed, Run(run / f"seed{seed}"))
        measurements.append(measure(model, tokenizer, settings.held_out, seed, tuple(WAYS)))
    results = pooled(measurements)
    if settings.controls:
        results |= run_controls(settings, run)
    run.write_scores(results)
    print(f"{'notes to follow':<34}" + "".join(f"{steps:>8}" for steps in STEPS))
    for name, points in results.items():
        print(f"{name:<34}" + "".join(f"{point['accuracy']:>8.1%}" for point in points))
    print(f"figure: {draw_reflex(run / 'figures' / 'reflex.svg', results)}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
