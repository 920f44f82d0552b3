"""The headline table as text, and as one figure with a small picture a row."""

import textwrap

from chapters.ch10_figures import BLUE, DIM, GOLD, INK
from chapters.figures import new_figure, save_figure

# What stands along the axes of each row's picture, and the scale of the x axis.
AXES = {
    "wei": ("families trained on", "accuracy on unseen families", "symlog"),
    "ouyang": ("size of the base model / the aligned one", "judge prefers the aligned one", "log"),
    "stiennon": ("parameters", "preferred to the demonstrations", "log"),
    "taori": ("parameters", "the judge's mean score", "log"),
    "christiano": ("samples of the policy", "the judge's mean score", "linear"),
    "bai": ("stage", "share of the requests", "linear"),
    "gao": ("√KL from the SFT model (√nats)", "gain (points of the judge)", "linear"),
}
BAI_STAGES = ("SFT", "supervised", "RL")
COLOURS = [BLUE, GOLD, "tab:green", "tab:red", DIM, INK]


def table(rows):
    """{name: Headline} -> the table as Markdown, and under it what each row's measure was and why it is as it is."""
    lines = ["| paper | claim | the paper's figure | ours | 95% interval | seeds | reproduced |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows.values():
        low, high = row.interval
        lines.append(
            f"| {row.paper} ({row.arxiv}) | {row.claim} | {row.theirs} | {row.ours:.3f}: {row.measured} | "
            f"{low:.3f} to {high:.3f} | {', '.join(map(str, row.seeds))} | {'yes' if row.reproduced else 'no'} |"
        )
    notes = [f"- {row.paper}: {row.reason}." for row in rows.values()]
    return "\n".join([*lines, "", *notes, ""])


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


def plainly(x):
    """940800 -> "0.94M", 63.8 -> "64"."""
    return f"{x / 1e6:.2g}M" if x >= 1e5 else f"{x:.0f}"


def draw_row(axes, name, row):
    x_label, y_label, scale = AXES[name]
    for (label, points), colour in zip(row.series.items(), COLOURS, strict=False):
        style = "o" if len(points) == 1 else ".-"
        axes.plot(*zip(*points, strict=True), style, color=colour, markersize=6, linewidth=1.2, label=label)
    axes.set_xscale(scale)
    ticks = sorted({x for points in row.series.values() for x, _ in points})
    if len(ticks) <= 8 and name != "gao":  # few enough to name them
        names = list(BAI_STAGES) if name == "bai" else [plainly(x) for x in ticks]
        axes.set_xticks(ticks, names)
        axes.minorticks_off()
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.set_title(f"{row.paper}: " + textwrap.fill(row.claim, 46), fontsize=8, color=INK)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
