"""The headline table as Markdown, and as one figure with a panel for each row."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

from chapters.ch10.figures import BLUE, DIM, GOLD, INK
from chapters.ch10.headlines.experiment import Headline
from chapters.support.figures import new_figure, save_figure

AXES = {  # panels with lines: x label, y label, scale of the x axis
    "wei": ("families trained on", "accuracy on unseen families", "symlog"),
    "christiano": ("samples of the policy", "the judge's mean score (points of 8)", "linear"),
    "bai": ("stage", "share of harmful requests", "linear"),
    "gao": ("√KL from the SFT model (√nats)", "gain (points of the judge)", "linear"),
}
BARS = {  # panels with bars: x label
    "ouyang": "share preferred by the judge",
    "stiennon": "share preferred by the judge",
    "taori": "share of the held-out tasks",
}
BAI_STAGES = ("SFT", "supervised", "RL")
COLOURS = [BLUE, GOLD, "tab:green", "tab:red", DIM, INK]


def table(rows: Mapping[str, Headline]) -> str:
    """The table as Markdown. Below it stands a note for each row: what its figure measures, and the numbers behind it."""
    lines = ["| paper | claim | the paper's figure | ours, 95% interval | seeds | reproduced |", "|---|---|---|---|---|---|"]
    for row in rows.values():
        lines.append(
            f"| {row.paper} ({row.arxiv}) | {row.claim} | {row.theirs} | {ours(row)} | "
            f"{', '.join(map(str, row.seeds))} | {'yes' if row.reproduced else 'no'} |"
        )
    notes = [f"- {row.paper}: {ours(row)} is the {row.measured}; {row.reason}." for row in rows.values()]
    return "\n".join([*lines, "", *notes, ""])


def ours(row: Headline) -> str:
    """Our figure and its interval: "61.2% [58.0%, 64.1%]", or in the judge's points "0.41 points [0.05, 0.79]"."""
    value, low, high = (f"{x:.1%}" if row.unit == "share" else f"{x:.2f}" for x in (row.ours, *row.interval))
    return f"{value}{'' if row.unit == 'share' else ' points'} [{low}, {high}]"


def draw(path: Path, rows: Mapping[str, Headline]) -> Path:
    """An overview of all rows relative to their levels, then a panel for each row's series."""
    figure, axes = new_figure(16, 7.6, nrows=2, ncols=4, squeeze=False)
    panels = list(axes.flat)
    draw_overview(panels[0], rows)
    for (name, row), panel in zip(rows.items(), panels[1:], strict=False):
        if name in BARS:
            draw_bars(panel, row, BARS[name])
        else:
            draw_lines(panel, name, row)
        panel.set_title(textwrap.fill(f"{row.paper}: {row.claim}", 52), fontsize=8, color=INK)
    for panel in panels[: len(rows) + 1]:
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(rows) + 1 :]:
        panel.axis("off")
    return save_figure(figure, path)


def draw_overview(axes, rows: Mapping[str, Headline]) -> None:
    """A dot for each row, with its interval, at its distance from the row's level."""
    for y, row in enumerate(rows.values()):
        low, high = (end - row.level for end in row.interval)
        colour = BLUE if row.reproduced else "tab:red"
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot(row.ours - row.level, y, "o" if row.reproduced else "s", color=colour)
    axes.axvline(0, color=DIM, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.paper for row in rows.values()], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("ours minus the level (blue dot: reproduced; red square: not)", fontsize=8)


def draw_bars(axes, row: Headline, x_label: str) -> None:
    """A bar with its interval for each {name: [share, low, high]} in row.series, and a line at one half."""
    for y, (name, (share, low, high)) in enumerate(row.series.items()):
        axes.barh(y, share, color=COLOURS[y], height=0.5)
        axes.plot([low, high], [y, y], color=INK, linewidth=1.5)
        axes.text(0.02, y - 0.27, name, fontsize=7, color=INK, va="bottom")
        axes.text(max(share, high) + 0.02, y, f"{share:.0%}", fontsize=8, color=INK, va="center")
    axes.axvline(0.5, color=DIM, linestyle="--", linewidth=1)
    axes.set_yticks([])
    axes.set(xlim=(0, 1.12), ylim=(len(row.series) - 0.5, -0.6))
    axes.set_xlabel(x_label, fontsize=8)


def draw_lines(axes, name: str, row: Headline) -> None:
    """A line for each {name: [(x, y)]} in row.series."""
    x_label, y_label, scale = AXES[name]
    for (label, points), colour in zip(row.series.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), ".-", color=colour, markersize=6, linewidth=1.2, label=label)
    axes.set_xscale(scale)
    ticks = sorted({x for points in row.series.values() for x, _ in points})
    if name in ("wei", "bai"):  # few enough points to label each of them
        axes.set_xticks(ticks, BAI_STAGES if name == "bai" else [str(x) for x in ticks])
        axes.minorticks_off()
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
