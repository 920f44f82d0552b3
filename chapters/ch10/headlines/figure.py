"""The headline table as text, and as one figure with a small picture a row."""

import textwrap

from chapters.ch10.figures import BLUE, DIM, GOLD, INK
from chapters.support.figures import new_figure, save_figure

# What stands along the axes of each row's picture, and the scale of the x axis.
AXES = {
    "wei": ("families trained on", "accuracy on unseen families", "symlog"),
    "christiano": ("samples of the policy", "the judge's mean score", "linear"),
    "bai": ("stage", "share of the requests", "linear"),
    "gao": ("√KL from the SFT model (√nats)", "gain (points of the judge)", "linear"),
}
# Of the other rows a few shares are compared: bars along this axis.
BARS = {"ouyang": "preferred by the judge", "stiennon": "preferred by the judge", "taori": "share of the tasks"}
BAI_STAGES = ("SFT", "supervised", "RL")
COLOURS = [BLUE, GOLD, "tab:green", "tab:red", DIM, INK]


def table(rows):
    """{name: Headline} -> the table as Markdown, and under it what each row's measure was and why it is as it is."""
    lines = ["| paper | claim | the paper's figure | ours, 95% interval | seeds | reproduced |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows.values():
        lines.append(
            f"| {row.paper} ({row.arxiv}) | {row.claim} | {row.theirs} | {ours(row)} | "
            f"{', '.join(map(str, row.seeds))} | {'yes' if row.reproduced else 'no'} |"
        )
    notes = [f"- {row.paper}: {ours(row)} is the {row.measured}; {row.reason}." for row in rows.values()]
    return "\n".join([*lines, "", *notes, ""])


def ours(row):
    """Our figure and its interval: "61.2% [58.0%, 64.1%]", or in the judge's points "0.41 points [0.05, 0.79]"."""
    numbers = [row.ours, *row.interval]
    share, low, high = (f"{x:.1%}" if row.unit == "share" else f"{x:.2f}" for x in numbers)
    return f"{share}{'' if row.unit == 'share' else ' points'} [{low}, {high}]"


def draw(path, rows):
    """rows: {name: Headline}: first how each figure stands to its level, then a picture of each row's series."""
    figure, axes = new_figure(16, 7.6, nrows=2, ncols=4, squeeze=False)
    places = list(axes.flat)
    draw_overview(places[0], rows)
    for (name, row), place in zip(rows.items(), places[1:], strict=False):
        draw_row(place, name, row)
    for place in places[len(rows) + 1 :]:
        place.axis("off")
    return save_figure(figure, path)


def draw_overview(axes, rows):
    """What was reproduced: a dot with its interval for each row, in its distance from the level it is held against."""
    for y, row in enumerate(rows.values()):
        low, high = (end - row.level for end in row.interval)
        colour = BLUE if row.reproduced else "tab:red"
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot(row.ours - row.level, y, "o", color=colour)
    axes.axvline(0, color=DIM, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.paper for row in rows.values()], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("ours less what it is held against (blue: reproduced)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def draw_row(axes, name, row):
    if name in BARS:
        draw_bars(axes, row, BARS[name])
    else:
        draw_lines(axes, name, row)
    axes.set_title(textwrap.fill(f"{row.paper}: {row.claim}", 52), fontsize=8, color=INK)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(axes, row, label):
    """row.series: {what is compared: [share, low, high]}, one bar each with its interval, and a line at a half."""
    for y, (name, (share, low, high)) in enumerate(row.series.items()):
        axes.barh(y, share, color=COLOURS[y], height=0.5)
        axes.plot([low, high], [y, y], color=INK, linewidth=1.5)
        axes.text(0.02, y - 0.27, name, fontsize=7, color=INK, va="bottom")
        axes.text(max(share, high) + 0.02, y, f"{share:.0%}", fontsize=8, color=INK, va="center")
    axes.axvline(0.5, color=DIM, linestyle="--", linewidth=1)
    axes.set_yticks([])
    axes.set(xlim=(0, 1.12), ylim=(len(row.series) - 0.5, -0.6))
    axes.set_xlabel(label, fontsize=8)


def draw_lines(axes, name, row):
    """row.series: {name: [(x, y)]}, a line each."""
    x_label, y_label, scale = AXES[name]
    for (label, points), colour in zip(row.series.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), ".-", color=colour, markersize=6, linewidth=1.2, label=label)
    axes.set_xscale(scale)
    ticks = sorted({x for points in row.series.values() for x, _ in points})
    if name in ("wei", "bai"):  # few enough to name them
        axes.set_xticks(ticks, BAI_STAGES if name == "bai" else [str(x) for x in ticks])
        axes.minorticks_off()
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
