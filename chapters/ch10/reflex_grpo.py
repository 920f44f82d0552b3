"""Chapter 10, the reflex rewarded: GRPO makes a model write its stops out, because written stops earn more.

    python -m chapters.ch10.reflex_grpo       # into runs/reflex_grpo; look at figures/reflex_grpo.svg

In ch10/reflex a sign at the end of the question says how to answer. Here every question ends in the same sign. The model has
seen all three ways of answering equally often, and imitates them: it answers a third of the questions at once, writes every
stop out for a third, and writes dots for a third.

    A > F B > D C > A D > H E > B F > E … C 4 ?        B   or   A F E B   or   . . . B

Then GRPO trains it with a reward that a program checks: 1 if the last house of the response is right, and 0 if not, whatever
stands before it. No example says which way is better, and nobody asks for the stops. Does the model learn to write them out?

These expectations, each with its criterion for the 95 % interval, were written before any test seed was run; seed 100 chose the
settings. The history cannot prove it, because both were committed together.

    the way        written stops earn more than a guess          above 95 % of responses to 2 to 6 notes are written stops
    the house      they lead to the right house                  above 90 % right, for each of 2 to 6 notes

Measured with `--seed 1`, three models, on 200 held-out trails for each number of notes and model. Both expectations are met:

    notes to follow             1       2       3       4       5       6
    right, before GRPO      99.7%   41.5%   41.0%   41.0%   40.2%   41.5%
    right, after            99.7%   98.5%   98.7%   98.8%   97.7%   97.3%

    responses to 2 to 6 notes      at once    every stop written out    dots
    before GRPO                      33.6%                     33.8%   32.5%
    after                             0.4%                     99.3%    0.3%

The t-intervals over the models begin at 98.0 % for the written stops and at 93.5 % or more for the right houses.

After four iterations 95 % of the responses are written stops. Dots cost as many tokens, but they disappear: the reward does not
pay for length. GRPO makes likelier what the model already does at times. Whether it would find the stops without ever having
seen any is another question, which this lesson does not answer.

Sources: Shao et al. 2024 (arXiv:2402.03300); DeepSeek-AI 2025, "DeepSeek-R1" (arXiv:2501.12948), where longer reasoning grows
from such a reward. ch10/reflex has the task and its sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, load_model, save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import reflex
from chapters.ch10.assess import t_interval
from chapters.ch10.figures import BLUE, DIM, GOLD
from chapters.ch10.grpo import GRPO, GRPOConfig
from chapters.ch10.harness import learning_rate
from chapters.ch10.reflex import ONE_LOOK, STEPS, WAYS, Trail, draw_trail, pooled, question
from chapters.ch10.rollout import Rollouts, log_probs_of, sample_after, sequence_kl
from chapters.support.command import OnDevice, at_least_one, command, progress_bar
from chapters.support.figures import new_figure, save_figure
from chapters.support.run_folder import Run

AT_ONCE, WRITTEN_OUT, DOTS = WAYS
ASKED = AT_ONCE  # every question ends in the sign of this way
LONGEST = max(STEPS) + 1  # tokens of a response: six stops and the end of the text

# ── what counts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def last_house_right(trails: Sequence[Trail], rollouts: Rollouts, tokenizer: Tokenizer) -> np.ndarray:
    """The reward: 1 for a response that ends with the trail's last house, 0 for any other and for one that is cut off; (B,)."""
    last = [text.split()[-1:] for text in rollouts.texts(tokenizer)]
    right = [signs == [trail.stops()[-1]] for signs, trail in zip(last, trails, strict=True)]
    return (right & rollouts.ended).astype(np.float64)  # (B,)


def way_of(response: str) -> str:
    """The form of a response, right or wrong; for one note to follow, all three ways look the same.

    >>> [way_of(response) for response in ("B", "A F E B", ". . . B")]
    ['at once', 'every stop written out', 'dots in place of the stops']
    """
    signs = response.split()
    return DOTS if "." in signs else WRITTEN_OUT if len(signs) > 1 else AT_ONCE


# ── learning and measuring ───────────────────────────────────────────────────────────────────────────────────────────


def respond(
    model: GPT, tokenizer: Tokenizer, trails: Sequence[Trail], generator: mg.Generator, record: bool = True
) -> Rollouts:
    """Sample a response to each question."""
    prompts = [tokenizer.encode(question(trail, ASKED)) for trail in trails]
    return sample_after(model, prompts, LONGEST, generator, tokenizer.eos_id, record=record)


def practise(policy: GPT, reference: GPT, tokenizer: Tokenizer, config: GRPOConfig) -> list[dict[str, float]]:
    """Train the policy in place with GRPO; returns each iteration's mean reward, KL, and share of each way."""
    learner, generator, records = GRPO(policy, config), mg.Generator(config.seed), []
    rng = np.random.default_rng([config.seed, 2])
    with progress_bar(config.iterations, 0, "batch") as bar:
        for iteration in range(config.iterations):
            drawn = [draw_trail(int(rng.choice(STEPS)), "train", rng) for _ in range(config.prompts // config.k)]
            trails = [trail for trail in drawn for _ in range(config.k)]
            rollouts = respond(policy, tokenizer, trails, generator)
            rewards = last_house_right(trails, rollouts, tokenizer)  # (B,)
            reference_log_probs = log_probs_of(reference, rollouts)  # (B, T − 1)
            kl = float(sequence_kl(rollouts.old_log_probs, reference_log_probs, rollouts.mask).mean())
            ways = [way_of(text) for text, trail in zip(rollouts.texts(tokenizer), trails, strict=True) if trail.steps > 1]
            records.append({"reward": float(rewards.mean()), "kl": kl} | {way: ways.count(way) / len(ways) for way in WAYS})
            learner.learn(rollouts, rewards, reference_log_probs, kl, learning_rate(config, iteration))
            bar.set_postfix_str(f"reward {records[-1]['reward']:.2f}, KL {kl:.1f}", refresh=False)
            bar.update()
    return records


def measure(model: GPT, tokenizer: Tokenizer, n: int, seed: int) -> tuple[list[list[float]], dict[str, float]]:
    """For n held-out trails of each number of steps: the rewards by number, and the share of each way for 2 notes and more."""
    rng, generator = np.random.default_rng([seed, 1]), mg.Generator(seed)
    rewards, ways = [], []
    for steps in STEPS:
        trails = [draw_trail(steps, "test", rng) for _ in range(n)]
        rollouts = respond(model, tokenizer, trails, generator, record=False)
        rewards.append(last_house_right(trails, rollouts, tokenizer).tolist())
        ways += [way_of(text) for text in rollouts.texts(tokenizer)] if steps > 1 else []
    return rewards, {way: ways.count(way) / len(ways) for way in WAYS}


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Teach a small model three ways to answer, reward the right last house with GRPO, and see which way it takes."""

    run: Path = Path("runs/reflex_grpo")  # run folder for all output
    held_out: int = 200  # trails to test on, for each number of notes and seed
    imitation: TrainConfig = field(default_factory=lambda: reflex.Settings().training)
    grpo: GRPOConfig = field(default_factory=lambda: GRPOConfig(iterations=30, prompts=256, max_new_tokens=LONGEST, lr=1e-3))
    seeds: int = 3  # models to train, each on its own trails
    seed: int = 0  # random seed of the first model
    quick: bool = False  # one seed, fewer trails and steps


QUICK = {
    "seeds": 1,
    "held_out": 20,
    "imitation": reflex.FAST,
    "grpo": GRPOConfig(iterations=4, prompts=32, max_new_tokens=LONGEST),
}


def draw_learning(path: Path, accuracy: dict[str, list[dict[str, Any]]], histories: Sequence[list[dict[str, float]]]) -> Path:
    """Left: accuracy over the number of notes, before and after. Right: the share of each way while GRPO trains."""
    figure, (left, right) = new_figure(8.4, 3.6, ncols=2)
    for (name, points), colour in zip(accuracy.items(), (DIM, BLUE), strict=True):
        low, high = zip(*(point["interval"] for point in points), strict=True)
        left.plot(STEPS, [point["accuracy"] for point in points], "o-", color=colour, label=f"{name} GRPO")
        left.fill_between(STEPS, low, high, color=colour, alpha=0.2, linewidth=0)
    left.axhline(ONE_LOOK, color="black", linewidth=0.6, linestyle=":", label="a guess after one look, 1 of 7 houses")
    left.set(xlabel="notes to follow", ylabel="share of held-out trails right", ylim=(-0.03, 1.05), xticks=STEPS)
    left.set_title("the last house is right", fontsize=10)
    left.legend(frameon=False, fontsize=8, loc=(0.3, 0.66))
    for way, line, colour in zip(WAYS, ("--", "-", "-."), (DIM, BLUE, GOLD), strict=True):
        shares = np.array([[record[way] for record in records] for records in histories])  # (seeds, iterations)
        right.plot(shares.mean(axis=0), line, color=colour, label=way)
    right.set(xlabel="iteration of GRPO", ylabel="share of responses, 2 to 6 notes", ylim=(-0.03, 1.05))
    right.set_title("how the model answers", fontsize=10)
    right.legend(frameon=False, fontsize=8, loc="center right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def mean_and_interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean of one value for each model, with its t-interval if there are several models."""
    return {"mean": float(np.mean(values)), "interval": t_interval(values) if len(values) > 1 else None}


def main(settings: Settings) -> None:
    at_least_one(settings, "seeds", "held_out")
    run, histories = Run(settings.run), []
    rewards: list[dict[str, list[list[float]]]] = []  # {"before": …, "after": …} for each seed
    ways: list[dict[str, dict[str, float]]] = []  # the same
    for seed in range(settings.seed, settings.seed + settings.seeds):
        own = Run(run / f"seed{seed}")
        policy, tokenizer = reflex.learn(reflex.Settings(training=settings.imitation), seed, own, asked=ASKED)
        reference, _ = load_model(own.folder)
        before = measure(reference, tokenizer, settings.held_out, seed)
        histories.append(practise(policy, reference, tokenizer, replace(settings.grpo, seed=seed)))
        after = measure(policy, tokenizer, settings.held_out, seed)
        save_model(Run(own / "grpo"), policy, tokenizer)
        rewards.append({"before": before[0], "after": after[0]})
        ways.append({"before": before[1], "after": after[1]})
    accuracy = pooled(rewards)
    shares = {name: {way: mean_and_interval([each[name][way] for each in ways]) for way in WAYS} for name in accuracy}
    run.write_scores({"accuracy": accuracy, "ways": shares, "histories": histories})
    print(f"{'last house right, by notes':<34}" + "".join(f"{steps:>8}" for steps in STEPS))
    for name, points in accuracy.items():
        print(f"{name + ' GRPO':<34}" + "".join(f"{point['accuracy']:>8.1%}" for point in points))
    print(f"{'responses, for 2 to 6 notes':<34}{'before':>8}{'after':>8}")
    for way in WAYS:
        print(f"{way:<34}" + "".join(f"{shares[name][way]['mean']:>8.1%}" for name in accuracy))
    print(f"figure: {draw_learning(run / 'figures' / 'reflex_grpo.svg', accuracy, histories)}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
