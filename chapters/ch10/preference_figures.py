"""The second bend's figures: calibration, the reward of every token, what practitioners watch, the frontier."""

import numpy as np

from chapters.ch10.figures import BLUE, DIM, GOLD, INK, PAPER, lay_out
from chapters.support.figures import new_figure, save_figure

COLOURS = {"PPO": BLUE, "RLOO": "tab:green", "DPO": "tab:red", "best of n": GOLD, "SFT": INK}


def draw_calibration(path, found):
    """found: ch10/reward's measure. What the reward model says against what happened, a dot a bin."""
    said, happened, count = (np.array(column) for column in zip(*found["calibration"], strict=True))
    figure, axes = new_figure(4.8, 4.4)
    axes.plot([0, 1], [0, 1], color=DIM, linestyle="--", label="perfectly calibrated")
    axes.scatter(said, happened, s=20 + 180 * count / count.max(), color=BLUE, zorder=3,
                 label="a tenth of the scale (large: many comparisons)")  # fmt: skip
    axes.set(xlabel="probability given by the reward model", ylabel="share preferred by the labeller")
    reached = f", of {found['ceiling']:.1%} possible" if "ceiling" in found else ""
    axes.set_title(f"right: {found['accuracy']:.1%}{reached}; error {found['calibration error']:.3f}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return save_figure(figure, path)


def draw_token_scores(path, shown, titles=None, width=78):
    """shown: [(pieces, rewards)], pairs of responses, the preferred one first. Each token in its reward's colour.
    titles: what was asked, a text a pair."""
    import matplotlib

    everything = np.concatenate([rewards for _, rewards in shown])
    limit = max(float(np.abs(everything).max()), 1e-6)
    colour = matplotlib.colormaps["RdYlBu"]
    blocks = [lay_out(pieces, width) for pieces, _ in shown]
    height = sum(rows + 0.5 for _, rows in blocks) + len(blocks)
    figure, axes = new_figure(10.4, 0.34 * height + 1.5)
    figure.set_facecolor(PAPER)
    top = 0.6
    for number, ((boxes, rows), (_, rewards)) in enumerate(zip(blocks, shown, strict=True)):
        if titles and number % 2 == 0:
            axes.text(0, top - 1, titles[number // 2], fontsize=10, va="center", color=INK, alpha=0.7, parse_math=False)
        for (row, column, text), reward in zip(boxes, rewards, strict=True):
            box = dict(boxstyle="round,pad=0.15", linewidth=0, facecolor=colour(0.5 + 0.5 * reward / limit))
            ink = "white" if abs(reward) > 0.7 * limit else INK  # the colours of both ends are dark
            axes.text(column + 0.2, top + row, text, family="DejaVu Sans Mono", fontsize=10, va="center", color=ink,
                      parse_math=False, bbox=box)  # fmt: skip
        words = "preferred" if number % 2 == 0 else "rejected"
        axes.text(width + 1, top + rows - 1, f"{words}: {rewards[-1]:+.2f}", fontsize=10, va="center", color=INK)
        top += rows + (0.5 if number % 2 == 0 else 1.8)
    axes.set(xlim=(-0.5, width + 18), ylim=(top - 1, -1.2))
    axes.axis("off")
    axes.set_title("The reward read at every token; only the last one counts", fontsize=11, color=INK)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-limit, limit), colour)
    figure.colorbar(scale, ax=axes, location="bottom", aspect=60, shrink=0.5, pad=0.02, label="reward")
    return save_figure(figure, path)


def draw_watch(path, records, title):
    """records: the lines of metrics.jsonl. What practitioners watch, a small picture each."""
    names = [name for name in WATCHED if any(name in record for record in records)]
    rows = -(-len(names) // 4)
    figure, axes = new_figure(11, 2.1 * rows, nrows=rows, ncols=4, squeeze=False)
    for place in axes.flat[len(names) :]:
        place.axis("off")
    for name, place in zip(names, axes.flat, strict=False):
        points = [(record["iteration"], record[name]) for record in records if name in record]
        place.plot(*zip(*points, strict=True), color=BLUE, linewidth=1)
        place.set_title(WATCHED[name], fontsize=9)
        place.spines[["top", "right"]].set_visible(False)
        place.tick_params(labelsize=7)
    for place in axes.flat[max(len(names) - 4, 0) : len(names)]:
        place.set_xlabel("iteration", fontsize=8)
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)


WATCHED = {  # a record's number: its picture's title
    "reward": "the reward model's score",
    "judge": "the simulated judge's score, of 8",
    "kl": "KL from SFT (nats a response)",
    "kl_coefficient": "KL coefficient β",
    "entropy": "entropy (nats a token)",
    "length": "length (tokens a response)",
    "approx_kl": "KL of the updates (nats a token)",
    "clip_fraction": "share of ratios that are clipped",
    "ratio": "mean ratio π / π_old",
    "explained_variance": "explained variance of the returns",
    "policy_loss": "policy loss",
    "value_loss": "value loss",
}


def draw_path(path, records):
    """records: as for draw_watch. Where the policy went: a dot an iteration, from dark to light, the judge's mean score
    on that iteration's rollouts over their KL."""
    figure, axes = new_figure(6.6, 4.0)
    kl, score, iteration = zip(*((r["kl"], r["judge"], r["iteration"]) for r in records), strict=True)
    axes.plot(kl, score, color=DIM, linewidth=0.7, zorder=1)
    dots = axes.scatter(kl, score, c=iteration, cmap="viridis", s=26, zorder=2)
    figure.colorbar(dots, label="iteration")
    axes.set(xlabel="KL from the SFT model (nats a response)", ylabel="the simulated judge's mean score, of 8")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return save_figure(figure, path)


def draw_frontier(path, curves):
    """curves: {method: [(KL from the SFT model in nats, the judge's mean score, what stands beside the dot)]}."""
    figure, axes = new_figure(6.6, 4.4)
    for name, points in curves.items():
        kl, score, notes = zip(*sorted(points), strict=True)
        axes.plot(kl, score, "o-", color=COLOURS.get(name, DIM), markersize=4, linewidth=1.2, label=name)
        for place, note in zip(zip(kl, score, strict=True), notes, strict=True):
            below = -11 if name == "DPO" else 4
            axes.annotate(note, place, (-5, below), textcoords="offset points", fontsize=8, color=INK, ha="right")
    # Distances are as their roots: beside a policy that went far astray the others stay apart.
    axes.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2))
    furthest = max(kl for points in curves.values() for kl, *_ in points)
    axes.set_xticks([tick for tick in (0, 0.1, 0.5, 1, 2, 4, 8, 16, 32, 64) if tick <= furthest])
    axes.set_xlim(left=-0.02)
    axes.set(xlabel="KL from the SFT model (nats a response)", ylabel="the simulated judge's mean score, of 8")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right")
    return save_figure(figure, path)
