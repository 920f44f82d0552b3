"""Figures that several chapters share. Matplotlib is imported only when a figure is drawn."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kernels.terminal import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from chapters.support.run_folder import History

# How Matplotlib writes a number on a logarithmic axis, as a formula: 10^{-2}, 2\times10^{3}.
POWER = re.compile(r"\$\\mathdefault\{-?([\d.]+\\times)?[\d.]+(\^\{-?[\d.]+\})?\}\$")

# Fonts and colours of a figure in a page, as in style.css. Matplotlib writes colours into `style` attributes, black excepted.
SVG_STYLE = """
   text { white-space: pre; font-family: system-ui, "Segoe UI", Roboto, sans-serif !important }
   text[style*="Mono"] { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace !important }
   @media (prefers-color-scheme: dark) {
    path[style*="fill: #ffffff"] { fill: #22211e !important }
    text { fill: #e8e4da }
    [style*="fill: #2b2925"] { fill: #e8e4da !important }
    text[style*="fill: #2a5bff"] { fill: #8fa9ff !important }
    text[style*="fill: #6b675b"] { fill: #b8b2a3 !important }
    path[style*="fill: #ebe7dc"] { fill: #3a3730 !important }
    [style*="stroke: #2a5bff"] { stroke: #8fa9ff !important }
    [style*="stroke: #000000"], [style*="stroke: #2b2925"] { stroke: #e8e4da !important }
    [style*="stroke: #b0b0b0"], [style*="stroke: #cccccc"] { stroke: #6b665a !important }
   }
  """


def new_figure(width: float = 7.0, height: float = 4.0, **subplots: Any) -> "tuple[Figure, Any]":
    """A figure of width x height inches and its axes, drawn to a file and never to a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained", **subplots)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write the figure as an SVG file, create its folder if necessary, and return the path.  Raises OSError.

    No text can become a formula, markup or a control character.
    """
    from matplotlib import pyplot

    make_texts_harmless(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_svg(figure), encoding="utf-8")
    except OSError as error:
        raise OSError(f"the figure {path} cannot be written ({error.strerror})") from error
    finally:
        pyplot.close(figure)
    return path


def make_texts_harmless(figure: "Figure") -> None:
    """Show control characters as symbols, and take "$" literally: only powers of ten on an axis are formulas."""
    from matplotlib.text import Text

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if labels != (harmless := list(map(visible, labels))):
            axis.set_ticks(axis.get_ticklocs(), harmless)
            axis.get_ticklabels()  # makes the new labels
    for text in cast(list[Text], figure.findobj(Text)):
        text.set_text(visible(text.get_text()))
        text.set_parse_math(POWER.fullmatch(text.get_text()) is not None)


def as_svg(figure: "Figure") -> str:
    """The figure as SVG: with text in the reader's fonts, a light and a dark form, and the same bytes each time."""
    import matplotlib

    options: Any = {"svg.fonttype": "none", "svg.hashsalt": "minigrad", "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(options), warnings.catch_warnings(), io.StringIO() as file:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader may have a font with it
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        return file.getvalue().replace("<defs>", f"<defs>\n  <style>{SVG_STYLE}</style>", 1)


def loss_curve(history: "History", path: Path, title: str = "loss") -> Path:
    """Draw the training loss (faint), its running mean and the validation loss over the steps."""
    figure, axes = new_figure()
    axes.plot(history.steps, history.losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(history.steps, running_mean(history.losses), color="tab:blue", label="training, running mean")
    if history.validation_losses:
        axes.plot(history.validation_steps, history.validation_losses, "o", color="tab:orange", label="validation")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def running_mean(losses: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential running mean: keep · previous mean + (1 − keep) · loss."""
    smooth: list[float] = []
    for loss in losses:
        smooth.append(keep * smooth[-1] + (1 - keep) * loss if smooth else loss)
    return smooth


def heat_map(
    axes: "Axes", matrix: np.ndarray, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None, title: str = ""
) -> "AxesImage":
    """Draw a matrix of values from 0 to 1 as colours, with optional labels.  Returns the image, for a colour bar."""
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1, interpolation="none")
    axes.set_title(title, fontsize=9)
    if columns is not None:
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
    if rows is not None:
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
    return image
