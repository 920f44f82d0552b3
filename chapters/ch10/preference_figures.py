"""Figures of preference tuning: calibration, the reward at every token, PPO's metrics, and the frontier."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chapters.ch10.figures import BLUE, DIM, GOLD, INK, ON_LIGHT, lay_out
from chapters.support.figures import new_figure, save_figure

METHODS = {
    "PPO": (BLUE, "o"),
    "RLOO": ("tab:green", "s"),
    "GRPO": ("tab:purple", "v"),
    "DPO": ("tab:red", "^"),
    "best of n": (GOLD, "D"),
    "SFT": (INK, "o"),
}
WATCHED = {  # key in metrics.jsonl: title of its panel
    "reward": "mean reward",
    "judge": "simulated judge's score (of 8)",
    "kl": "KL from SFT (nats per response)",
    "kl_coefficient": "KL coefficient β",
    "mixed_groups": "share of groups with unequal rewards",
    "entropy": "entropy (nats per token)",
    "length": "length (tokens per response)",
    "approx_kl": "KL of the update (nats per token)",
    "clip_fraction": "share of ratios clipped",
    "ratio": "mean ratio π / π_old",
    "explained_variance": "explained variance of returns",
    "policy_loss": "policy loss",
    "value_loss": "value loss",
}


def draw_calibration(path: Path, scores: Mapping[str, Any]) -> Path:
    """Predicted against actual preferences, a dot for each bin.  scores: a result of `measure` in ch10/reward."""
    predicted, actual, count = (np.array(column) for column in zip(*scores["calibration"], strict=True))
    figure, axes = new_figure(4.8, 4.4)
    axes.plot([0, 1], [0, 1], color=DIM, linestyle="--", label="perfect calibration")
    axes.scatter(predicted, actual, s=20 + 180 * count / count.max(), color=BLUE, zorder=3, label="larger: more comparisons")
    axes.set(xlabel="preference probability predicted by the reward model", ylabel="share preferred by the labeller")
    axes.spines[["top", "right"]].set_visible(False)
    limit = f", ceiling {scores['ceiling']:.1%}" if "ceiling" in scores else ""
    numbers = f"accuracy {scores['accuracy']:.1%}{limit}, calibration error {scores['calibration error']:.3f}"
    axes.set_title(f"Reward model against labeller\n{numbers}", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return save_figure(figure, path)


def draw_token_scores(path: Path, responses: Sequence[tuple[list[bytes], np.ndarray]], titles: Sequence[str]) -> Path:
    """Every token on a background in the colour of its reward.

    responses: (tokens, rewards), alternately of a preferred and a rejected response; titles: one for each pair.
    """
    import matplotlib

    limit = max(1e-6, *(float(np.abs(rewards).max()) for _, rewards in responses))  # ends of the colour scale
    colour, width = matplotlib.colormaps["RdYlBu"], 78  # characters
    blocks = [lay_out(pieces, width) for pieces, _ in responses]
    figure, axes = new_figure(10.4, 0.34 * (sum(rows + 0.5 for _, rows in blocks) + len(blocks)) + 1.5)
    top = 0.6
    text_style: dict[str, Any] = dict(fontsize=10, va="center", parse_math=False)
    for number, ((boxes, rows), (_, rewards)) in enumerate(zip(blocks, responses, strict=True)):
        preferred = number % 2 == 0
        if preferred:
            axes.text(0, top - 1, titles[number // 2], color=INK, alpha=0.7, **text_style)
        for (row, column, text), reward in zip(boxes, rewards, strict=True):
            box = dict(boxstyle="round,pad=0.15", linewidth=0, facecolor=colour(0.5 + 0.5 * reward / limit))
            ink = "white" if abs(reward) > 0.7 * limit else ON_LIGHT  # both ends of the scale are dark
            axes.text(column + 0.2, top + row, text, family="DejaVu Sans Mono", color=ink, bbox=box, **text_style)
        verdict = f"{'preferred' if preferred else 'rejected'}: {rewards[-1]:+.2f}"
        axes.text(width + 1, top + rows - 1, verdict, color=INK, **text_style)
        top += rows + (0.5 if preferred else 1.8)
    axes.set(xlim=(-0.5, width + 18), ylim=(top - 1, -1.2))
    axes.axis("off")
    axes.set_title("Reward at every token of a preferred and a rejected response; only the last counts", fontsize=11, color=INK)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-limit, limit), colour)
    figure.colorbar(scale, ax=axes, location="bottom", aspect=60, shrink=0.5, pad=0.02, label="reward")
    return save_figure(figure, path)


def draw_watch(path: Path, records: Sequence[dict[str, Any]], title: str) -> Path:
    """The metrics that practitioners watch, a panel for each.  records: the lines of metrics.jsonl."""
    names = [name for name in WATCHED if any(name in record for record in records)]
    rows = math.ceil(len(names) / 4)
    figure, axes = new_figure(11, 2.1 * rows, nrows=rows, ncols=4, squeeze=False)
    for panel in axes.flat[len(names) :]:
        panel.axis("off")
    for name, panel in zip(names, axes.flat, strict=False):
        points = [(record["iteration"], record[name]) for record in records if name in record]
        panel.plot(*zip(*points, strict=True), color=BLUE, linewidth=1)
        panel.set_title(WATCHED[name], fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=7)
    figure.supxlabel("iteration", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)


def label_score_over_kl(axes: Any) -> None:
    axes.set(xlabel="KL from the SFT model (nats per response)", ylabel="simulated judge's mean score (of 8)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def draw_path(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """The judge's score over the KL, a dot for each iteration's rollouts.  records: as in `draw_watch`."""
    figure, axes = new_figure(6.6, 4.0)
    kl, score, iteration = zip(*((r["kl"], r["judge"], r["iteration"]) for r in records), strict=True)
    axes.plot(kl, score, color=DIM, linewidth=0.7, zorder=1)
    figure.colorbar(axes.scatter(kl, score, c=iteration, cmap="viridis", s=26, zorder=2), label="iteration")
    label_score_over_kl(axes)
    return save_figure(figure, path)


def draw_frontier(path: Path, curves: dict[str, list[tuple[float, float, str]]]) -> Path:
    """Each method's score over its KL.  curves: {method: [(KL in nats, judge's mean score, label of the dot)]}."""
    figure, axes = new_figure(6.6, 4.4)
    for name, points in curves.items():
        kl, score, _ = zip(*sorted(points), strict=True)
        colour, marker = METHODS.get(name, (DIM, "o"))
        axes.plot(kl, score, color=colour, marker=marker, markersize=4, linewidth=1.2, label=name)
        offset = (-5, -11 if name == "DPO" else 4)  # below the dot or above it, so that labels do not overlap
        for *dot, note in sorted(points):
            axes.annotate(note, dot, offset, textcoords="offset points", fontsize=8, color=INK, ha="right")
    # A square-root scale keeps small KLs apart when one policy moves far.
    axes.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2))
    furthest = max(kl for points in curves.values() for kl, *_ in points)
    axes.set_xticks([tick for tick in (0, 0.1, 0.5, 1, 2, 4, 8, 16, 32, 64) if tick <= furthest])
    axes.set_xlim(left=-0.02)
    label_score_over_kl(axes)
    axes.set_title("Methods compared: score and distance from the SFT model", fontsize=11)
    axes.legend(frameon=False, loc="upper right")
    return save_figure(figure, path)
