"""Figures that several chapters share. Matplotlib is imported only when a figure is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from chapters.support.run_folder import History


def new_figure(width: float = 7.0, height: float = 4.0, **subplots: Any) -> "tuple[Figure, Any]":
    """A figure of width x height inches and its axes, drawn to a file and never to a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained", **subplots)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write the figure, create its folder if necessary, and return the path.  Raises OSError."""
    from matplotlib import pyplot
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # makes the labels of the ticks
    # A "$" in a folder's name or a token is no formula; powers of ten on an axis are.
    for text in cast(list[Text], figure.findobj(Text)):
        text.set_parse_math(text.get_text().startswith(r"$\mathdefault"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise OSError(f"the figure {path} cannot be written ({error.strerror})") from error
    finally:
        pyplot.close(figure)
    return path


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
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    if columns is not None:
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
    if rows is not None:
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
    return image
