"""The headline table as Markdown, and as figures: of one run, and of all published results."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from chapters.ch10.figures import BLUE, DIM, GOLD, INK
from chapters.ch10.headlines.experiment import Headline, Summary, claim_and_criterion
from chapters.support.figures import new_figure, save_figure

COLOURS = [BLUE, GOLD, "tab:green", "tab:red", DIM, INK]
Registrations: TypeAlias = Mapping[str, Mapping[str, Any]]  # all versions of all rows, by digest
Results: TypeAlias = Mapping[str, Mapping[str, Any]]  # the published ones, by digest
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


def published_table(registrations: Registrations, results: Results) -> str:
    """The table of all published results, each with the claim and the criterion of its registration; both by digest."""
    lines = [*HEAD]
    for digest, result in results.items():
        claim, criterion = (registrations[digest][name] for name in ("claim", "criterion"))
        quantities = {name: Summary(**summary) for name, summary in result["quantities"].items()}
        lines.append(line_of(claim, criterion, quantities, f"{result['verdict']} ({digest})"))
    return "\n".join(lines) if results else "no row has been tested yet"


def line_of(claim: str, criterion: Sequence[str], quantities: Mapping[str, Summary], verdict: str) -> str:
    """A line of the table.  criterion: bounds as text, each of which begins with the name of its quantity."""
    ours = "; ".join(shown(name, quantities[name]) for name in bounds_of(criterion, quantities))
    return f"| {claim} | {'; '.join(criterion)} | {ours} | {verdict} |"


def bounds_of(criterion: Sequence[str], quantities: Mapping[str, Summary]) -> dict[str, dict[str, float]]:
    """{quantity: {"above" or "below": value}} of a criterion that was written as text, such as "KL (nats) above 1".

    >>> bounds_of(["KL (nats) above 1 and below 2"], {"KL (nats)": Summary(1.5, 1.2, 1.8, {})})
    {'KL (nats)': {'above': 1.0, 'below': 2.0}}
    """
    bounds = {}
    for text in criterion:
        for name in quantities:
            if text.startswith((f"{name} above", f"{name} below")):
                bounds[name] = {side: float(value) for side, value in re.findall(r"(above|below) (\S+)", text[len(name) :])}
    return bounds


def shown(name: str, summary: Summary) -> str:
    """A quantity with its interval: "61.2% [58.0%, 64.1%]", or "0.41 [0.05, 0.79]"; a single world has none.

    The difference of two shares is in percentage points. A share below 2 % has three digits.

    >>> shown("obeyed after RL", Summary(0.0015, -0.0027, 0.0057, {"100": 0.0, "101": 0.003}))
    '0.15% [-0.27%, 0.57%]'
    >>> shown("rise over the base model", Summary(0.114, 0.093, 0.136, {"100": 0.1, "101": 0.128}))
    '11.4 points [9.3, 13.6]'
    """
    if is_difference(name):
        mean, low, high = (f"{100 * x:.1f}" for x in (summary.mean, summary.low, summary.high))
        mean += " points"
    else:
        digits = ".1%" if is_share(name) else ",.0f" if name.endswith("(count)") else ".2f"
        mean, low, high = (format(x, digits) for x in (summary.mean, summary.low, summary.high))
        if is_share(name) and abs(summary.mean) < 0.02:
            mean, low, high = (f"{100 * x:.3g}%" for x in (summary.mean, summary.low, summary.high))
    return mean if len(summary.by_world) == 1 else f"{mean} [{low}, {high}]"


def is_difference(name: str) -> bool:
    """Whether a quantity is a difference of two shares."""
    return is_share(name) and name.startswith(("rise ", "change "))


def is_share(name: str) -> bool:
    """Whether a quantity is a share, or a difference of shares; all other names end with their unit, such as "(points)"."""
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


def draw_published(path: Path, registrations: Registrations, results: Results) -> Path:
    """A strip for each quantity of each published criterion: its worlds, mean, interval and bound.  Both mappings by digest.

    Quantities that are the same in all worlds are left out, such as the ratio of two models' sizes.
    """
    strips = []  # (title, quantity, summary, bounds)
    for digest, result in sorted(results.items(), key=lambda item: item[1]["row"]):
        claim, criterion = (registrations[digest][name] for name in ("claim", "criterion"))
        quantities = {name: Summary(**summary) for name, summary in result["quantities"].items()}
        title = f"{claim.split(' (')[0]}: {result['verdict']}"
        for name, bounds in bounds_of(criterion, quantities).items():
            if quantities[name].low < quantities[name].high:
                strips.append((title, name, quantities[name], bounds))
                title = ""
    figure, axes = new_figure(9, 0.52 * len(strips) + 0.4, nrows=len(strips), squeeze=False)
    key = "dot: a world; bar: mean and 95 % interval; dashed: bound; shade: where it holds"
    figure.suptitle(f"The papers' rows in five test worlds ({key})", fontsize=9, color=INK)
    for (title, name, summary, bounds), panel in zip(strips, axes.flat, strict=True):
        draw_strip(panel, name, summary, bounds)
        panel.set_title(title, fontsize=9, color=INK, loc="left", weight="bold")
    return save_figure(figure, path)


def draw_strip(axes, name: str, summary: Summary, bounds: Mapping[str, float]) -> None:
    """One quantity: a dot for each world, the mean with its interval, dashed lines at the bounds, and shade where they hold."""
    points = [*summary.by_world.values(), summary.low, summary.high, *bounds.values()]
    margin = 0.08 * (max(points) - min(points))
    low, high = min(points) - margin, max(points) + margin
    axes.set_xlim(low, high)
    axes.axvspan(bounds.get("above", low), bounds.get("below", high), color=BLUE, alpha=0.08, linewidth=0)
    for bound in bounds.values():
        axes.axvline(bound, color=INK, linestyle="--", linewidth=1)
    axes.plot([summary.low, summary.high], [0, 0], color=BLUE, linewidth=2)
    axes.plot(summary.mean, 0, "|", color=BLUE, markersize=12, markeredgewidth=2)
    axes.plot(list(summary.by_world.values()), [0] * len(summary.by_world), "o", color=GOLD, markersize=4, zorder=3)
    axes.set_yticks([0], [textwrap.fill(name, 46)], fontsize=8, color=INK)
    ticks = sorted({round(value, 10) for value in bounds.values()})
    axes.set_xticks(ticks, [bound_text(name, tick) for tick in ticks], fontsize=7)
    axes.text(1.02, 0.5, shown(name, summary), transform=axes.transAxes, fontsize=8, color=INK, va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def bound_text(name: str, bound: float) -> str:
    """A bound in the units of `shown`: "50%", "-3 points", "12,000"."""
    if is_difference(name):
        return f"{100 * bound:g} points"
    return f"{bound:.0%}" if is_share(name) else f"{bound:,g}"


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
