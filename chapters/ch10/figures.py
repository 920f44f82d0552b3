"""Chapter 10's figures: the prompt mask, a confusion matrix, bars, loss curves and attention maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chapters.support.batches import IGNORE_INDEX
from chapters.support.figures import new_figure, running_mean, save_figure

INK, DIM, GOLD, BLUE = "#2b2925", "#a9a497", "#f2bf4b", "#2a5bff"
ON_LIGHT = "#1f1d1a"  # text on a light colour; unlike INK, it stays dark in a page's dark form
MASKED, GRADED, SEAM = "masked", "graded", "seam"
FILLS = {MASKED: ("#ebe7dc", "#6b675b"), GRADED: (GOLD, ON_LIGHT), SEAM: (BLUE, "white")}  # box colour, text colour
TERMINAL_STYLES = {MASKED: "\x1b[38;5;245m", GRADED: "\x1b[30;48;5;221m", SEAM: "\x1b[97;48;5;27m"}  # ANSI colours
SHARES = {"ticks": [0, 0.25, 0.5, 0.75, 1], "labels": ["0", "25%", "50%", "75%", "100%"]}


def kinds_of(labels: Sequence[int]) -> list[str]:
    """The kind of each position: masked (no target), graded, or the seam.

    The seam is the first graded position after a masked one: the prompt's last token, whose target is the answer's first.
    """
    kinds = [MASKED if label == IGNORE_INDEX else GRADED for label in labels]
    if MASKED in kinds and GRADED in kinds[kinds.index(MASKED) :]:
        kinds[kinds.index(GRADED, kinds.index(MASKED))] = SEAM
    return kinds


def printable(piece: bytes) -> str:
    """A token's bytes as visible text: "↵" for a newline, "⇥" for a tab, "�" for other control characters."""
    text = piece.decode("utf-8", "replace").replace("\n", "↵").replace("\t", "⇥").replace("<|endoftext|>", "⟨end⟩")
    return "".join(character if character.isprintable() else "�" for character in text)


# ── in the terminal ──────────────────────────────────────────────────────────────────────────────────────────────────


def mask_in_colour(input_ids: Sequence[int], labels: Sequence[int], tokenizer, colour: bool = True) -> str:
    """One example as terminal text: masked tokens are dim, graded tokens are gold, and the seam is blue.

    Without colour, graded tokens stand in «» and the seam in [].
    """
    if colour:
        marks = {kind: (style, "\x1b[0m") for kind, style in TERMINAL_STYLES.items()}
    else:
        marks = {MASKED: ("", ""), GRADED: ("«", "»"), SEAM: ("[", "]")}
    out = []
    for piece, kind in zip(tokenizer.pieces(input_ids), kinds_of(labels), strict=True):
        before, after = marks[kind]
        out.append(before + printable(piece) + after + ("\n" if piece.endswith(b"\n") else ""))
    return "".join(out)


def table(input_ids: Sequence[int], labels: Sequence[int], tokenizer) -> str:
    """input_ids beside labels, a line for each position, to be checked by eye (exercise 1)."""
    pieces = [printable(piece) for piece in tokenizer.pieces(input_ids)]
    lines = [f"{'position':>8}  {'id':>6}  {'token':<18}{'label':>7}  target"]
    for i, (token, label, kind) in enumerate(zip(input_ids, labels, kinds_of(labels), strict=True)):
        target = "" if kind == MASKED else pieces[i + 1] + ("   ← the seam" if kind == SEAM else "")
        lines.append(f"{i:>8}  {token:>6}  {pieces[i]:<18}{label:>7}  {target}".rstrip())
    return "\n".join(lines)


# ── the mask as a picture ────────────────────────────────────────────────────────────────────────────────────────────


class Box(NamedTuple):
    """A token on the page, in lines and characters."""

    row: float
    column: float
    text: str

    @property
    def middle(self) -> float:
        return self.column + len(self.text) / 2 + 0.25


def lay_out(pieces: Sequence[bytes], width: int) -> tuple[list[Box], int]:
    """Set tokens on lines of at most `width` characters.  Returns the boxes and the number of lines."""
    boxes, row, column = [], 0, 0.0
    for piece in pieces:
        text = printable(piece)
        if column + len(text) > width and column:
            row, column = row + 1, 0.0
        boxes.append(Box(row, column, text))
        column += len(text) + 0.75  # half a character for the box's margins, a quarter between boxes
        if piece.endswith(b"\n"):
            row, column = row + 1, 0.0
    return boxes, row + (column > 0)


def draw_mask(path: Path, input_ids: Sequence[int], labels: Sequence[int], tokenizer) -> Path:
    """The example as a page of token boxes: masked tokens are grey, graded tokens are gold, and the seam is blue."""
    width = 86  # characters
    boxes, lines = lay_out(tokenizer.pieces(input_ids), width)
    height, kinds = float(lines), kinds_of(labels)
    if SEAM in kinds:  # half a line more before the answer leaves room for the arrow
        boxes = [box._replace(row=box.row + 0.5 * (i > kinds.index(SEAM))) for i, box in enumerate(boxes)]
        height += 0.5
    figure, axes = new_figure(10.4, 0.4 * height + 1.35)
    axes.set(xlim=(-1, width + 1), ylim=(height + 1.7, -1.6))
    axes.axis("off")
    title = "The prompt is masked, the answer is graded" if MASKED in kinds[:-1] else "Nothing is masked"
    axes.text(0, -1.1, title, color=INK, fontsize=14, weight="bold", va="center")
    token = {"family": "DejaVu Sans Mono", "fontsize": 12, "ha": "center", "va": "center_baseline", "parse_math": False}
    for box, kind in zip(boxes, kinds, strict=True):
        draw_box(axes, box.column, box.row, len(box.text) + 0.5, kind)
        axes.text(box.middle, box.row, box.text, color=FILLS[kind][1], **token)
    if SEAM in kinds:
        draw_seam(axes, *boxes[kinds.index(SEAM) :][:2])
    legend = [
        (0, MASKED, "masked: target −100, no loss"),
        (34, SEAM, "the seam"),
        (50, GRADED, "graded: predicts the next token"),
    ]
    for column, kind, words in legend:
        draw_box(axes, column, height + 1, 2, kind)
        axes.text(column + 2.8, height + 1, words, color=INK, fontsize=10.5, va="center_baseline")
    return save_figure(figure, path)


def draw_box(axes, column: float, row: float, width: float, kind: str) -> None:
    """A rounded box in the colour of its kind."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.25"
    box = FancyBboxPatch((column, row - 0.37), width, 0.74, boxstyle=style, facecolor=FILLS[kind][0], edgecolor="none")
    box.set_mutation_aspect(0.35)  # a row is higher than a character is wide; this keeps the corners round
    axes.add_patch(box)


def draw_seam(axes, seam: Box, answer: Box) -> None:
    """An arrow from the prompt's last token to its target, the answer's first token."""
    style = dict(arrowstyle="-|>", color=BLUE, linewidth=1.8, shrinkA=0, shrinkB=0, mutation_scale=13)
    axes.annotate("", (answer.middle, answer.row - 0.37), (seam.middle, seam.row + 0.37), arrowprops=style)
    words, x = "the last prompt position has to predict the first token of the answer", seam.column + len(seam.text) + 1.8
    axes.text(x, seam.row, words, color=BLUE, fontsize=10.5, va="center_baseline", style="italic")


# ── results as pictures ──────────────────────────────────────────────────────────────────────────────────────────────


def draw_confusion(path: Path, result: Mapping[str, Any]) -> Path:
    """The confusion matrix in ch10/classify's scores: rows are true labels, shades are shares of the row."""
    confusion = np.array(result["confusion"])  # (C, C)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)  # (C, C)
    figure, axes = new_figure(5.2, 4.4)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="none")
    for i, j in np.ndindex(*confusion.shape):
        colour = "white" if share[i, j] > 0.5 else ON_LIGHT
        axes.text(j, i, f"{confusion[i, j]}\n{share[i, j]:.1%}", ha="center", va="center", fontsize=10, color=colour)
    names = [str(label).replace(" ", "\n") for label in result["labels"]]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"held-out texts: accuracy {result['accuracy']:.1%}", fontsize=11)
    return save_figure(figure, path)


def draw_gap(path: Path, bars: Mapping[str, float], title: str) -> Path:
    """One bar for each {name: share}, the last one gold, with its value above."""
    figure, axes = new_figure(1.6 + 1.15 * len(bars), 3.8)
    colours = [DIM] * (len(bars) - 1) + [GOLD]
    drawn = axes.bar(list(bars), list(bars.values()), color=colours, width=0.62)
    axes.bar_label(drawn, [f"{value:.1%}" for value in bars.values()], padding=3, fontsize=11)
    axes.set_ylim(0, 1.1)
    axes.set_yticks(**SHARES)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11)
    return save_figure(figure, path)


def draw_families(path: Path, families: Mapping[str, Mapping[str, float]]) -> Path:
    """One group of horizontal bars for each task family; families: {family: {model: share}}."""
    models = list(next(iter(families.values())))
    figure, axes = new_figure(7.5, 0.32 * len(families) * max(len(models), 2) / 2 + 1.2)
    colours = [DIM, GOLD, BLUE, "tab:green"]
    thickness = 0.8 / len(models)
    places = np.arange(len(families))  # (F,)
    for m, model in enumerate(models):
        values = [families[family][model] for family in families]
        axes.barh(places + (m - (len(models) - 1) / 2) * thickness, values, thickness, color=colours[m % 4], label=model)
    axes.set_yticks(places, list(families))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xticks(**SHARES)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(models), frameon=False)
    axes.set_xlabel("held-out instructions accepted")
    return save_figure(figure, path)


def draw_curves(path: Path, curves: Mapping[str, Any], title: str) -> Path:
    """Running means of training losses, with validation losses as dots.  curves: {name: History}."""
    figure, axes = new_figure(7, 3.6)
    for (name, history), colour in zip(curves.items(), [BLUE, "#d99a12", DIM, "tab:green"], strict=False):
        axes.plot(history.steps, running_mean(history.losses), color=colour, label=name)
        axes.plot(history.validation_steps, history.validation_losses, "o", color=colour, markersize=4)
    axes.set(xlabel="step", ylabel="loss (nats per graded token)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def draw_attention(path: Path, weights: np.ndarray, tokens: Sequence[str]) -> Path:
    """One map for each head of a layer; row t shows where position t looks.  weights: (H, T, T); tokens: T texts."""
    from matplotlib.colors import PowerNorm

    H, T, _ = weights.shape
    rows, side = -(-H // 2), 0.16 * T + 1.2  # two maps in a row, large enough to read the tokens
    figure, axes = new_figure(2 * side + 0.8, rows * side, nrows=rows, ncols=min(H, 2), squeeze=False)
    for place in axes.flat[H:]:
        place.axis("off")
    for h, place in enumerate(axes.flat[:H]):
        colours = PowerNorm(0.5, 0, 1)  # by √weight, so that small weights show
        image = place.imshow(weights[h], cmap="magma", norm=colours, interpolation="none")
        place.set_title(f"head {h + 1}", fontsize=11)
        place.set_xticks(range(T), tokens, rotation=90, fontsize=8, family="DejaVu Sans Mono")
        place.set_yticks(range(T), tokens, fontsize=8, family="DejaVu Sans Mono")
    figure.colorbar(image, ax=axes, shrink=0.5, label="attention weight", ticks=[0, 0.05, 0.2, 0.5, 1])
    return save_figure(figure, path)
