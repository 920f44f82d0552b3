"""The second bend's figures: calibration, the reward at every token, training diagnostics, the frontier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chapters.ch10.figures import BLUE, DIM, GOLD, INK, PAPER, lay_out
from chapters.support.figures import new_figure, save_figure

COLOURS = {"PPO": BLUE, "RLOO": "tab:green", "DPO": "tab:red", "best of n": GOLD, "SFT": INK}


def draw_calibration(path: Path, scores: dict[str, Any]) -> Path:
    """Predicted probability of preference against the observed share, a dot for each bin.  scores: from reward.measure."""
    predicted, observed, count = (np.array(column) for column in zip(*scores["calibration"], strict=True))
    figure, axes = new_figure(4.8, 4.4)
    axes.plot([0, 1], [0, 1], color=DIM, linestyle="--", label="perfectly calibrated")
    axes.scatter(
        predicted,
        observed,
        s=20 + 180 * count / count.max(),
        color=BLUE,
        zorder=3,
        label="a tenth of the scale (large: many comparisons)",
    )
    axes.set(xlabel="predicted probability of preference", ylabel="share preferred by the labeller")
    ceiling = f" (at most {scores['ceiling']:.1%})" if "ceiling" in scores else ""
    error = scores["calibration error"]
    axes.set_title(f"accuracy {scores['accuracy']:.1%}{ceiling}, calibration error {error:.3f}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return save_figure(figure, path)


def draw_token_scores(path: Path, scored: Sequence[Any], titles: Sequence[str] = (), width: int = 78) -> Path:
    """Responses with each token in the colour of its reward.

    scored: (pieces, rewards) of pairs of responses, the preferred one first.  titles: the instruction of each pair.
    """
    import matplotlib

    everything = np.concatenate([rewards for _, rewards in scored])
    limit = max(float(np.abs(everything).max()), 1e-6)
    colour = matplotlib.colormaps["RdYlBu"]
    blocks = [lay_out(pieces, width) for pieces, _ in scored]
    height = sum(rows + 0.5 for _, rows in blocks) + len(blocks)
    figure, axes = new_figure(10.4, 0.34 * height + 1.5)
    figure.set_facecolor(PAPER)
    top = 0.6
    for number, ((boxes, rows), (_, rewards)) in enumerate(zip(blocks, scored, strict=True)):
        if titles and number % 2 == 0:
            axes.text(0, top - 1, titles[number // 2], fontsize=10, va="center", color=INK, alpha=0.7, parse_math=False)
        for (row, column, text), reward in zip(boxes, rewards, strict=True):
            box = dict(boxstyle="round,pad=0.15", linewidth=0, facecolor=colour(0.5 + 0.5 * reward / limit))
            ink = "white" if abs(reward) > 0.7 * limit else INK  # the colours of both ends are dark
            axes.text(
                column + 0.2,
                top + row,
                text,
                family="DejaVu Sans Mono",
                fontsize=10,
                va="center",
                color=ink,
                parse_math=False,
                bbox=box,
            )
        words = "preferred" if number % 2 == 0 else "rejected"
        axes.text(width + 1, top + rows - 1, f"{words}: {rewards[-1]:+.2f}", fontsize=10, va="center", color=INK)
        top += rows + (0.5 if number % 2 == 0 else 1.8)
    axes.set(xlim=(-0.5, width + 18), ylim=(top - 1, -1.2))
    axes.axis("off")
    axes.set_title("The reward read at every token; only the last one counts", fontsize=11, color=INK)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-limit, limit), colour)
    figure.colorbar(scale, ax=axes, location="bottom", aspect=60, shrink=0.5, pad=0.02, label="reward")
    return save_figure(figure, path)


def draw_watch(path: Path, records: Sequence[dict[str, Any]], title: str) -> Path:
    """The diagnostics of a run over its iterations, a small plot each.  records: the lines of metrics.jsonl."""
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


WATCHED = {  # key of a record: title of its plot
    "reward": "reward model's score",
    "judge": "simulated judge's score, out of 8",
    "kl": "KL from SFT (nats per response)",
    "kl_coefficient": "KL coefficient β",
    "entropy": "entropy (nats per token)",
    "length": "length (tokens per response)",
    "approx_kl": "KL of the updates (nats per token)",
    "clip_fraction": "share of clipped ratios",
    "ratio": "mean ratio π / π_old",
    "explained_variance": "explained variance of the returns",
    "policy_loss": "policy loss",
    "value_loss": "value loss",
}


def draw_path(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """The judge's mean score over KL, a dot for each iteration, from dark to light.  records: the lines of metrics.jsonl."""
    figure, axes = new_figure(6.6, 4.0)
    kl, score, iteration = zip(*((r["kl"], r["judge"], r["iteration"]) for r in records), strict=True)
    axes.plot(kl, score, color=DIM, linewidth=0.7, zorder=1)
    dots = axes.scatter(kl, score, c=iteration, cmap="viridis", s=26, zorder=2)
    figure.colorbar(dots, label="iteration")
    axes.set(xlabel="KL from the SFT model (nats per response)", ylabel="the simulated judge's mean score, out of 8")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return save_figure(figure, path)


def draw_frontier(path: Path, curves: dict[str, list[tuple[float, float, str]]]) -> Path:
    """The judge's score over KL for several methods.  curves: {method: [(KL in nats, mean score, the dot's label)]}."""
    figure, axes = new_figure(6.6, 4.4)
    for name, points in curves.items():
        kl, score, notes = zip(*sorted(points), strict=True)
        axes.plot(kl, score, "o-", color=COLOURS.get(name, DIM), markersize=4, linewidth=1.2, label=name)
        for place, note in zip(zip(kl, score, strict=True), notes, strict=True):
            below = -11 if name == "DPO" else 4
            axes.annotate(note, place, (-5, below), textcoords="offset points", fontsize=8, color=INK, ha="right")
    # A square-root axis keeps the other methods apart beside a policy that went far away.
    axes.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2))
    furthest = max(kl for points in curves.values() for kl, *_ in points)
    axes.set_xticks([tick for tick in (0, 0.1, 0.5, 1, 2, 4, 8, 16, 32, 64) if tick <= furthest])
    axes.set_xlim(left=-0.02)
    axes.set(xlabel="KL from the SFT model (nats per response)", ylabel="the simulated judge's mean score, out of 8")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right")
    return save_figure(figure, path)
