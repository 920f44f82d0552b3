"""The few drawings that several chapters share.  Matplotlib is imported only when one is asked for."""


def new_figure(width=7.0, height=4.0, **subplots):
    """A figure and its axes, drawn to a file and never to a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained", **subplots)


def save_figure(figure, path):
    """Write the figure, making its folder; returns the path.  Raises OSError, in one sentence, where that cannot be."""
    from matplotlib import pyplot

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise OSError(f"the figure {path} cannot be written ({error.strerror})") from error
    finally:
        pyplot.close(figure)
    return path


def loss_curve(history, path, title="loss"):
    """Training loss (faint, and its running mean) and validation loss over the steps."""
    figure, axes = new_figure()
    axes.plot(history.steps, history.losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(history.steps, running_mean(history.losses), color="tab:blue", label="training, running mean")
    if history.validation_losses:
        axes.plot(history.validation_steps, history.validation_losses, "o", color="tab:orange", label="validation")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def running_mean(losses, keep=0.95):
    """Each loss smoothed with those before it, the last weighing 1 − keep."""
    smooth = []
    for loss in losses:
        smooth.append(keep * smooth[-1] + (1 - keep) * loss if smooth else loss)
    return smooth


def heat_map(axes, matrix, rows=None, columns=None, title=""):
    """A matrix of shares, 0 to 1, as colours, with labels for its rows and columns where given.  Returns the image."""
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    if columns is not None:
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
    if rows is not None:
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
    return image
