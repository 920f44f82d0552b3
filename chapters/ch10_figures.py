"""Chapter 10's figures: what is masked and what is graded, a confusion matrix, what pretraining bought, where a head looks."""

import numpy as np

from chapters.figures import new_figure, save_figure

PAPER, INK, DIM, GOLD, BLUE = "#fbf8f1", "#2b2925", "#a9a497", "#f2bf4b", "#2a5bff"
MASKED, GRADED, SEAM = "masked", "graded", "seam"


def kinds_of(labels, ignore_index=-100):
    """What happens at each position: masked (no target), graded, or the seam: the first graded position after a masked one,
    the last of the prompt, whose target opens the answer."""
    kinds = [MASKED if label == ignore_index else GRADED for label in labels]
    if MASKED in kinds and GRADED in kinds[kinds.index(MASKED) :]:
        kinds[kinds.index(GRADED, kinds.index(MASKED))] = SEAM
    return kinds


def visible(piece):
    """A token's bytes as something to look at: white space that ends a line becomes a sign."""
    return piece.decode("utf-8", "replace").replace("\n", "↵").replace("\t", "⇥").replace("<|endoftext|>", "⟨end⟩")


# ── in the terminal ──────────────────────────────────────────────────────────────────────────────────────────────────


def coloured(input_ids, labels, tokenizer, colour=True):
    """One example as terminal text: masked tokens dim, graded ones gold, the seam blue; with brackets where colour is off."""
    styles = {MASKED: ("\x1b[38;5;245m", ""), GRADED: ("\x1b[30;48;5;221m", "«»"), SEAM: ("\x1b[97;48;5;27m", "[]")}
    out = []
    for piece, kind in zip(tokenizer.pieces(input_ids), kinds_of(labels), strict=True):
        style, brackets = styles[kind]
        text = visible(piece)
        if colour:
            text = f"{style}{text}\x1b[0m"
        elif brackets:
            text = brackets[0] + text + brackets[1]
        out.append(text + ("\n" if piece.endswith(b"\n") else ""))
    return "".join(out)


def table(input_ids, labels, tokenizer):
    """input_ids next to labels, a line a position: what exercise 1 asks one to verify by eye."""
    pieces = [visible(piece) for piece in tokenizer.pieces(input_ids)]
    lines = [f"{'position':>8}  {'id':>6}  {'token':<18}{'label':>7}  target"]
    for i, (token, label, kind) in enumerate(zip(input_ids, labels, kinds_of(labels), strict=True)):
        target = "" if kind == MASKED else pieces[i + 1] + ("   ← the seam" if kind == SEAM else "")
        lines.append(f"{i:>8}  {token:>6}  {pieces[i]:<18}{label:>7}  {target}".rstrip())
    return "\n".join(lines)


# ── as pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────


def lay_out(pieces, width):
    """Tokens as boxes on lines of at most `width` characters: [(row, column, text)] and the number of rows."""
    boxes, row, column = [], 0, 0.0
    for piece in pieces:
        text = visible(piece)
        wide = len(text) + 0.7  # a little air between two boxes
        if column + wide > width and column:
            row, column = row + 1, 0.0
        boxes.append((row, column, text))
        column += wide
        if piece.endswith(b"\n"):
            row, column = row + 1, 0.0
    return boxes, row + (column > 0)


def draw_mask(path, input_ids, labels, tokenizer, width=74):
    """The example as a page of token boxes: grey is masked, gold is graded, the blue seam stands between. Returns the path."""
    from matplotlib.patches import FancyBboxPatch

    boxes, rows = lay_out(tokenizer.pieces(input_ids), width)
    kinds = kinds_of(labels)
    fills = {MASKED: ("#ebe7dc", "#8b8678"), GRADED: (GOLD, INK), SEAM: (BLUE, "white")}  # box, text
    figure, axes = new_figure(11, 0.46 * rows + 1.5)
    figure.set_facecolor(PAPER)
    axes.set(xlim=(-1, width + 1), ylim=(rows + 1.9, -1.4))
    axes.axis("off")
    for (row, column, text), kind in zip(boxes, kinds, strict=True):
        box, ink = fills[kind]
        shape = FancyBboxPatch((column, row - 0.36), len(text) + 0.35, 0.72, boxstyle="round,pad=0,rounding_size=0.22")
        shape.set(facecolor=box, edgecolor="none", mutation_aspect=0.5)
        axes.add_patch(shape)
        axes.text(
            column + 0.18, row, text, color=ink, family="DejaVu Sans Mono", fontsize=12, va="center", parse_math=False
        )
    axes.text(0, -1, "The prompt is masked, the answer is graded", color=INK, fontsize=14, weight="bold", va="center")
    if SEAM in kinds:
        draw_seam(axes, boxes, kinds.index(SEAM))
    legend = [
        (0, MASKED, "masked: target −100, no loss"),
        (30, SEAM, "the seam"),
        (43, GRADED, "graded: predicts the next token"),
    ]
    for column, kind, words in legend:
        axes.add_patch(FancyBboxPatch((column, rows + 0.85), 1.6, 0.5, boxstyle="round,pad=0,rounding_size=0.15",
                                      facecolor=fills[kind][0], edgecolor="none", mutation_aspect=0.5))  # fmt: skip
        axes.text(column + 2.2, rows + 1.1, words, color=INK, fontsize=10.5, va="center")
    return save_figure(figure, path)


def draw_seam(axes, boxes, seam):
    """An arrow from the last prompt token to the token that it must predict: the first of the answer."""
    row, column, text = boxes[seam]
    below, right, answer = boxes[seam + 1]
    style = dict(arrowstyle="-|>", color=BLUE, linewidth=1.6, shrinkA=0, shrinkB=2, connectionstyle="arc3,rad=-0.35")
    axes.annotate("", (right + len(answer) / 2, below - 0.36), (column + len(text) + 0.4, row), arrowprops=style)
    axes.text(column + len(text) + 6, row, "the last prompt position predicts the first token of the answer",
              color=BLUE, fontsize=10.5, va="center", style="italic")  # fmt: skip


def draw_confusion(path, result, title="held-out texts"):
    """result: ch10_classify's scores. Rows are what is true, columns what was said, shaded by share of the row."""
    confusion = np.array(result["confusion"])  # (C, C)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)  # (C, C)
    figure, axes = new_figure(5.2, 4.4)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*confusion.shape):
        axes.text(j, i, f"{confusion[i, j]}\n{share[i, j]:.1%}", ha="center", va="center", fontsize=10,
                  color="white" if share[i, j] > 0.5 else INK)  # fmt: skip
    names = [str(label).replace(" ", "\n") for label in result["labels"]]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{title}: accuracy {result['accuracy']:.1%}", fontsize=11)
    return save_figure(figure, path)


def draw_gap(path, bars, title):
    """bars: {name: share}, the last of them in gold: one bar each, its value above it."""
    figure, axes = new_figure(1.6 + 1.15 * len(bars), 3.8)
    colours = [DIM] * (len(bars) - 1) + [GOLD]
    drawn = axes.bar(list(bars), list(bars.values()), color=colours, width=0.62)
    axes.bar_label(drawn, [f"{value:.1%}" for value in bars.values()], padding=3, fontsize=11)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11)
    return save_figure(figure, path)


def draw_families(path, families, title="held-out instructions accepted"):
    """families: {family: {model: share}}: a group of horizontal bars a family."""
    models = list(next(iter(families.values())))
    figure, axes = new_figure(7.5, 0.32 * len(families) * max(len(models), 2) / 2 + 1.2)
    colours = [DIM, GOLD, BLUE, "tab:green"]
    thick = 0.8 / len(models)
    places = np.arange(len(families))  # (F,)
    for m, model in enumerate(models):
        values = [families[family][model] for family in families]
        axes.barh(places + (m - (len(models) - 1) / 2) * thick, values, thick, color=colours[m % 4], label=model)
    axes.set_yticks(places, list(families))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(models), frameon=False)
    axes.set_xlabel(title)
    return save_figure(figure, path)


def draw_curves(path, curves, title):
    """curves: {name: History}: running means of the training losses on one pair of axes, and validation losses as dots."""
    figure, axes = new_figure(7, 3.6)
    for (name, history), colour in zip(curves.items(), [BLUE, "#d99a12", DIM, "tab:green"], strict=False):
        smooth, running = [], None
        for loss in history.losses:
            running = loss if running is None else 0.95 * running + 0.05 * loss
            smooth.append(running)
        axes.plot(history.steps, smooth, color=colour, label=name)
        axes.plot(history.validation_steps, history.validation_losses, "o", color=colour, markersize=4)
    axes.set(xlabel="step", ylabel="loss (nats a graded token)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def draw_attention(path, weights, tokens):
    """weights: (H, T, T), one layer's heads; tokens: T texts. A map a head: row t is where position t looks."""
    H, T, _ = weights.shape
    figure, axes = new_figure(3.0 * H, 3.5, ncols=H, squeeze=False)
    for h in range(H):
        map_ = axes[0, h]
        map_.imshow(np.sqrt(weights[h]), cmap="magma", vmin=0, vmax=1)  # the root, so that small weights show
        map_.set_title(f"head {h + 1}", fontsize=10)
        map_.set_xticks(range(T), tokens, rotation=90, fontsize=7, family="DejaVu Sans Mono")
        map_.set_yticks(range(T), tokens if h == 0 else [""] * T, fontsize=7, family="DejaVu Sans Mono")
    return save_figure(figure, path)
