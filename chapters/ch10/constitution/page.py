"""Chapter 10, constitutional AI: three figures, and a page that compares two constitutions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chapters.ch10.figures import BLUE, DIM, GOLD
from chapters.support import html
from chapters.support.figures import new_figure, save_figure
from chapters.world.judge import CONDUCTS

# Okabe and Ito's colours, distinguishable without colour vision.
CONDUCT_COLOURS = {"obeyed": "#d55e00", "evaded": "#999999", "wrong reason": "#56b4e9", "refused": "#009e73"}


def draw_conduct(path: Path, conduct: Mapping[str, Mapping[str, float]]) -> Path:
    """A bar for each {model: measurements}, divided into the ways to meet a harmful request (CONDUCTS)."""
    figure, axes = new_figure(6.4, 1.0 + 0.5 * len(conduct))
    conduct_bars(axes, conduct, height=0.6)
    axes.set(xlim=(0, 1), xlabel="share of held-out harmful requests")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=10)
    return save_figure(figure, path)


def conduct_bars(axes: Any, conduct: Mapping[str, Mapping[str, float]], whole: float = 1.0, height: float = 0.8) -> None:
    """The bars of `draw_conduct` in given axes; all shares together are as long as `whole`."""
    left = np.zeros(len(conduct))  # (models,)
    for key, colour in CONDUCT_COLOURS.items():
        share = whole * np.array([measured[key] for measured in conduct.values()])  # (models,)
        axes.barh(list(conduct), share, left=left, color=colour, label=CONDUCTS[key], height=height)
        left += share
    axes.invert_yaxis()


def draw_reading(path: Path, reading: Mapping[str, Mapping]) -> Path:
    """The critic's accuracy on each kind of held-out principle; reading: {kind: result of measure_reading}."""
    figure, axes = new_figure(6.4, 3.4)
    bars = {"accuracy": ("as written", BLUE), "turned": ("turned round", GOLD), "shuffled": ("another principle", DIM)}
    places = np.arange(len(reading))  # (kinds,)
    for i, (key, (label, colour)) in enumerate(bars.items()):
        values = [measured[key] for measured in reading.values()]
        axes.bar(places + 0.27 * (i - 1), values, 0.25, color=colour, label=label)
        if key == "accuracy":
            low, high = zip(*(measured["interval"] for measured in reading.values()), strict=True)
            spread = np.abs(np.array([low, high]) - values)  # (2, kinds)
            axes.errorbar(places - 0.27, values, spread, fmt="none", ecolor="black", capsize=3)
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(places, reading)
    axes.set(ylim=(0, 1.02), ylabel="share of comparisons right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return save_figure(figure, path)


def draw_qualities(path: Path, qualities: Mapping[str, Mapping[str, float]]) -> Path:
    """A group of bars for each quality; qualities: {constitution: {quality: share of responses}}."""
    figure, axes = new_figure(7.2, 3.8)
    names = list(next(iter(qualities.values())))
    places, width = np.arange(len(names)), 0.8 / len(qualities)  # (qualities,)
    for i, ((label, shares), colour) in enumerate(zip(qualities.items(), (DIM, BLUE, GOLD), strict=False)):
        shifted = places + width * (i - (len(qualities) - 1) / 2)  # (qualities,)
        axes.bar(shifted, list(shares.values()), width, label=label, color=colour)
    axes.set_xticks(places, names, rotation=30, ha="right")
    axes.set(ylim=(0, 1.02), ylabel="share of responses")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10)
    return save_figure(figure, path)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_page(
    path: Path,
    constitutions: Mapping[str, Sequence[str]],
    results: Mapping[str, dict],
    reading: Mapping[str, Mapping],
    qualities: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the page for one or two constitutions, with the figures from the folder beside it.

    Args:
        constitutions, results: {constitution's name: its principles} and {name: its result.json}.
        reading, qualities: as in draw_reading and draw_qualities.
    """
    figures = path.parent / "figures"
    sections = {
        "texts": ("The constitutions", constitutions_section(constitutions)),
        "answers": ("Side by side", answers_section(results)),
        "change": ("What changed", change_section(results, qualities, figures)),
        "chain": ("Critique, revision", chain_section(results)),
        "reading": ("Does the critic read?", reading_section(reading, figures)),
    }
    title = "One assistant, two constitutions" if len(results) > 1 else "An assistant and its constitution"
    subtitle = "Principles in a text file, a small model that reads them, and an assistant that follows them."
    footer = "Made by `python -m chapters.ch10.constitution`. Every response comes from a model; no person was asked."
    path.write_text(html.page(title, subtitle, sections, footer), encoding="utf-8")


def constitutions_section(constitutions: Mapping[str, Sequence[str]]) -> str:
    """The principles; an arrow marks each line that only one constitution has."""
    columns = []
    for name, lines in constitutions.items():
        others = [other for key, other in constitutions.items() if key != name]
        marked = [("→ " if any(line not in other for other in others) else "   ") + line for line in lines]
        columns.append((name, "\n".join(marked), None))
    return html.section("texts", "Constitutional AI", "The principles", html.side_by_side(columns))


def answers_section(results: Mapping[str, dict], n: int = 12) -> str:
    first = next(iter(results.values()))["answers"]
    text = "Held-out harmful requests, about people that training never asked about. Responses are sampled at temperature 1."
    blocks = [html.paragraph(text)]
    for i, answer in enumerate(first[:n]):
        columns = [("before", answer["SFT"], None)]
        columns += [(f"{name} constitution", result["answers"][i]["RL"], None) for name, result in results.items()]
        blocks += [html.paragraph(answer["request"], "question"), html.side_by_side(columns)]
    return html.section("answers", "The same requests", "Side by side", *blocks)


def change_section(results: Mapping[str, dict], qualities: Mapping[str, Mapping[str, float]], figures: Path) -> str:
    keys = (*CONDUCTS, "correct")
    head = ["", *CONDUCTS.values(), "plain tasks correct"]
    before = next(iter(results.values()))["conduct"]["SFT"]
    rows = [["SFT", *(before[key] for key in keys)]]
    for name, result in results.items():
        phases = {phase: conduct for phase, conduct in result["conduct"].items() if phase != "SFT"}
        rows += [[f"{phase}, {name}", *(conduct[key] for key in keys)] for phase, conduct in phases.items()]
    shares = [[quality, *(column[quality] for column in qualities.values())] for quality in qualities["before"]]
    return html.section(
        "change",
        "Measured",
        "What changed",
        html.table(head, rows),
        html.figures(
            (figures / "conduct.svg", "How each model meets held-out harmful requests."),
            (figures / "qualities.svg", "Qualities of the responses to these requests."),
        ),
        html.table(["a response …", *qualities], shares),
    )


def chain_section(results: Mapping[str, dict], n: int = 4) -> str:
    """A few drafts that changed, with all rounds of critique and revision."""
    text = "The critic critiques each draft by a principle and revises it, several times over. Models wrote every text."
    blocks = [html.paragraph(text)]
    for name, result in results.items():
        changed = [chain for chain in result["revisions"] if chain["rounds"][-1][-1] != chain["draft"]]
        for chain in changed[:n]:
            columns = [("draft", chain["draft"], None)]
            for principle, critique, revision in chain["rounds"]:
                columns.append((principle, f"{critique or '(nothing readable)'}\n\n→ {revision}", None))
            blocks += [html.paragraph(f"{chain['request']} ({name})", "question"), html.side_by_side(columns)]
    return html.section("chain", "The supervised phase", "Draft, critique, revision", *blocks)


def reading_section(reading: Mapping[str, Mapping], figures: Path) -> str:
    head = ["held out", "right", "95% interval", "principle turned round", "another principle (chance is 50%)"]
    rows = []
    for name, measured in reading.items():
        low, high = measured["interval"]
        rows.append([name, measured["accuracy"], f"{low:.1%} to {high:.1%}", measured["turned"], measured["shuffled"]])
    text = (
        "Which of two responses fits a principle better? The principles are held out: no principle in the lessons is "
        "the same sentence, joins the same two qualities in the same directions, or names the same noun. But the lessons "
        "contain the parts. When a principle is turned round from prefer to avoid, the other answer is right; most of the "
        "turned sentences and pairs are in the lessons."
    )
    figure = html.figure(figures / "reading.svg", "The critic on held-out principles.")
    return html.section("reading", "AI feedback", "Does the critic read?", html.paragraph(text), html.table(head, rows), figure)
