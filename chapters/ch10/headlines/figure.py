"""The headline table as Markdown, and as one figure with a panel for each row."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chapters.ch10.figures import BLUE, DIM, GOLD, INK
from chapters.ch10.headlines.experiment import Headline, Summary, claim_and_criterion
from chapters.support.figures import new_figure, save_figure

COLOURS = [BLUE, GOLD, "tab:green", "tab:red", DIM, INK]
HEAD = ["| paper and claim | criterion | ours, 95 % interval over worlds | reproduced |", "|---|---|---|---|"]


def table(headlines: Sequence[Headline], registered: Mapping[str, str | None]) -> str:
    """The table as Markdown. Below it stand all quantities of each row, and the digest of its registration, if it has one."""
    lines = [*HEAD, *(line_of(**claim_and_criterion(h.row), quantities=h.quantities, verdict=h.verdict) for h in headlines), ""]
    for headline in headlines:
        digest = registered.get(headline.row.name)
        quantities = "; ".join(f"{name} {shown(name, summary)}" for name, summary in headline.quantities.items())
        worlds = ", ".join(map(str, headline.measurements))
        lines.append(
            f"- {headline.row.paper}, world{'s' * (len(headline.measurements) > 1)} {worlds}"
            f"{f', registered as {digest}' if digest else ', not registered'}: {quantities}."
        )
    return "\n".join([*lines, ""])


def published_table(registrations: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all published results, each with the claim and the criterion of its registration; both by digest."""
    lines = [*HEAD]
    for digest, result in results.items():
        claim, criterion = (registrations[digest][name] for name in ("claim", "criterion"))
        quantities = {name: Summary(**summary) for name, summary in result["quantities"].items()}
        lines.append(line_of(claim, criterion, quantities, f"{result['verdict']} ({digest})"))
    return "\n".join(lines) if results else "no row has been tested yet"


def line_of(claim: str, criterion: Sequence[str], quantities: Mapping[str, Summary], verdict: str) -> str:
    """A line of the table.  criterion: bounds as text, each of which begins with the name of its quantity."""
    bounded = [name for text in criterion for name in quantities if text.startswith((f"{name} above", f"{name} below"))]
    ours = "; ".join(shown(name, quantities[name]) for name in bounded)
    return f"| {claim} | {'; '.join(criterion)} | {ours} | {verdict} |"


def shown(name: str, summary: Summary) -> str:
    """A quantity with its interval: "61.2% [58.0%, 64.1%]", or "0.41 [0.05, 0.79]"; a single world has none."""
    digits = ".1%" if is_share(name) else ",.0f" if name.endswith("(count)") else ".2f"
    mean, low, high = (format(x, digits) for x in (summary.mean, summary.low, summary.high))
    return mean if len(summary.by_world) == 1 else f"{mean} [{low}, {high}]"


def is_share(name: str) -> bool:
    """Whether a quantity is a share; the names of all others end with their unit, such as "(points)"."""
    return not name.endswith(")")


# ── the figure ───────────────────────────────────────────────────────────────────────────────────────────────────────


def draw(path: Path, headlines: Sequence[Headline]) -> Path:
    """A panel for each row: the lines of its series, or else a bar with its interval for each quantity."""
    columns = min(len(headlines), 4)
    rows = -(-len(headlines) // columns)
    figure, axes = new_figure(4 * columns, 3.8 * rows, nrows=rows, ncols=columns, squeeze=False)
    for panel in axes.flat[len(headlines) :]:
        panel.axis("off")
    for headline, panel in zip(headlines, axes.flat, strict=False):
        (draw_lines if headline.series else draw_bars)(panel, headline)
        panel.set_title(textwrap.fill(f"{headline.row.paper}: {headline.row.claim}", 52), fontsize=8, color=INK)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def draw_bars(axes, headline: Headline) -> None:
    """A bar with its interval for each share, and a dashed line at its bound if the criterion has it."""
    shares = {name: summary for name, summary in headline.quantities.items() if is_share(name)}
    bounds = {bound.quantity: bound.above if bound.above is not None else bound.below for bound in headline.row.criterion}
    for y, (name, summary) in enumerate(shares.items()):
        axes.barh(y, summary.mean, color=BLUE if name in bounds else DIM, height=0.5, alpha=0.7)
        axes.plot([summary.low, summary.high], [y, y], color=INK, linewidth=1.5)
        axes.text(0, y - 0.27, f"{name}: {shown(name, summary)}", fontsize=7, color=INK, va="bottom")
        if name in bounds:
            axes.plot([bounds[name]] * 2, [y - 0.3, y + 0.3], color=INK, linestyle="--", linewidth=1)
    axes.set_yticks([])
    axes.set_ylim(len(shares) - 0.5, -0.7)
    axes.set_xlabel("share", fontsize=8)


def draw_lines(axes, headline: Headline) -> None:
    """A line for each {name: [(x, y)]} of the series."""
    x_label, y_label, scale = headline.row.axes
    for (label, points), colour in zip(headline.series.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), ".-", color=colour, markersize=6, linewidth=1.2, label=label)
    axes.set_xscale(scale)
    ticks = sorted({x for points in headline.series.values() for x, _ in points})
    if len(ticks) <= 6:  # few enough points to label each of them
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
