"""Climbs a ladder: checks every rung, times the rungs in turns beside NumPy and PyTorch, prints a table, and draws it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version

import numpy as np

from kernels.bench import tasks
from kernels.bench.contest import Task, contestants, in_turns, seconds_of
from kernels.bench.limits import bound, percent
from kernels.ladders import Ladder

KINDS = {"multiplying": "arithmetic", "reading": "bytes read", "copying": "bytes read and written"}
NAMES = {"numpy": "NumPy", "torch": "PyTorch"}


def peer_tasks(ladder: Ladder) -> Mapping[str, tuple]:
    """The tasks in which NumPy and PyTorch do the ladder's work, if any: {library: (function of tasks.py, arguments)}."""
    shape = ladder.shape
    if ladder.operation == "matmul":
        return dict.fromkeys(NAMES, (tasks.matmul, *shape, False, False))
    if ladder.operation == "attention":
        return {"torch": (tasks.attention, *shape, False)}
    if ladder.operation == "adamw":
        return {"torch": (tasks.adamw, [shape])}
    if ladder.operation in tasks.ROW_OPERATIONS:
        return {"torch": (tasks.row_operation, ladder.operation, ladder.direction, *shape)}
    return {}


def check(ladder: Ladder) -> None:
    """Raise AssertionError if the result of a rung differs from the first rung's in float64."""
    if ladder.tolerance is None:
        return
    exact = ladder.result_of(ladder.rungs[0], double=True)
    for rung in ladder.rungs:
        error = np.abs(ladder.result_of(rung).astype(np.float64) - exact).max() / max(1e-30, np.abs(exact).max())
        if not error < ladder.tolerance:
            raise AssertionError(
                f"{ladder.operation} ladder: expected {rung.__name__} within {ladder.tolerance:.0e} of the largest value, "
                f"got {error:.1e}; correct the rung"
            )


def climb(ladder: Ladder) -> tuple[list[tuple[str, float]], float]:
    """Check the rungs, time them in turns with the machine's limit, and print a line for each.

    Returns [(name, figure)], and the limit.
    """
    title = f"{ladder.operation} {ladder.direction}, {ladder.shape}, float32, {KINDS[ladder.limit]}"
    print(f"\n{title}{', ' if ladder.remark else ''}{ladder.remark}")
    check(ladder)
    turns: dict[str, Callable[[], float]] = {}
    lines = {}
    for rung in ladder.rungs:
        name = rung.__name__.replace("_", " ")
        turns[name] = partial(seconds_of, Task(partial(rung, *ladder.arguments)))
        lines[name] = (rung.__doc__ or "").split("\n")[0]
    requests: dict[str, tuple] = {**peer_tasks(ladder), "limit": (bound, ladder.limit)}
    with contestants(*requests) as peers:
        for library, peer in peers.items():
            peer.prepare(*requests[library])
            turns[NAMES.get(library, library)] = peer.turn
        lines |= {NAMES[library]: version(library) for library in peers if library in NAMES}
        seconds = in_turns(turns)
    limit, first = 1 / seconds.pop("limit"), next(iter(seconds.values()))
    figures = [(name, ladder.amount / each / 1e9) for name, each in seconds.items()]
    for name, figure in figures:
        share, faster = percent(figure, limit, ladder.limit), first / seconds[name]
        print(f"  {name:<16}{figure:9.1f} {ladder.unit} {share:>18} {faster:8.1f}x   {lines[name]}", flush=True)
    print(f"  {'limit':<16}{limit:9.1f} {ladder.unit}", flush=True)
    return figures, limit


def plot(figures: Sequence[tuple[str, float]], title: str, unit: str, limit: float, path: str) -> None:
    """Draw a bar for each figure, and the machine's limit as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(figsize=(8, 0.5 * len(figures) + 1.5))
    names, values = zip(*figures, strict=True)
    bars = axes.barh(range(len(names)), values)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(limit, linestyle="--", color="gray")
    axes.set_xlabel(f"{unit} (dashed: the machine's limit)")
    axes.set_title(title)
    picture.tight_layout()
    picture.savefig(path, dpi=150)
    print(f"figure written to {path}")
