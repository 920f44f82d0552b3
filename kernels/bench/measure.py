"""Timing in turns, the machine's own limits, and the table that a ladder prints."""

import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numba
import numpy as np
from numba import prange

from kernels.bench.peers import contestants, seconds_of
from kernels.launch import address, inner, kernel
from kernels.simd import WIDTH, load
from kernels.tile import ROWS, register_tile

REST = 0.15  # seconds between two turns: OpenBLAS's threads spin for 0.11 s after their work is done


def in_turns(turns, seconds=3.0):
    """Median of what each of these functions returns, its own seconds: a turn of each a round, 3 to 60 rounds."""
    spent = [[] for _ in turns]
    begin = time.perf_counter()
    while len(spent[0]) < 3 or (len(spent[0]) < 60 and time.perf_counter() - begin < seconds):
        for turn, times in zip(turns, spent, strict=True):
            time.sleep(REST)
            times.append(turn())
    return [float(np.median(times)) for times in spent]


# A tile whose operands never move stays in registers altogether: nothing but multiply-adds, enough of them at a time to hide
# that each takes four cycles.
_STILL_ROWS = 6 if ROWS == 8 else 3
_still_tile = register_tile(_STILL_ROWS, 3, a_column=0, b_row=0)


@kernel
def _multiply_adds(room, K, parts):
    for part in prange(parts):
        own = room + 4 * 4096 * part
        _still_tile(own, own + 4096, own + 8192, K, 3 * WIDTH, False)


@inner
def _sum(x, n):
    total = np.float32(0)
    for i in range(n):
        total += load(x, i)
    return total


@kernel
def _read(x, n, sums, parts):
    for part in prange(parts):
        first, last = n * part // parts, n * (part + 1) // parts
        sums[part] = _sum(x + 4 * first, last - first)


@inner
def _double(x, y):
    for i in range(len(x)):
        y[i] = x[i] + x[i]


@kernel
def _copy(x, y, parts):
    for part in prange(parts):
        first, last = len(x) * part // parts, len(x) * (part + 1) // parts
        _double(x[first:last], y[first:last])


_TIMES = 1_000_000  # that each number of the still tile is added to


def multiplying():
    """A function that does nothing but multiply-adds in registers, `multiply_adds()` operations in all."""
    parts = numba.get_num_threads()
    room = np.zeros(4096 * (parts + 1), np.float32)
    return lambda: _multiply_adds(address(room), _TIMES, parts)


def multiply_adds():
    """Operations of one call of what multiplying() returns: two a multiply-add."""
    return 2 * _STILL_ROWS * 3 * WIDTH * _TIMES * numba.get_num_threads()


def reading(megabytes):
    """A function that does nothing but read an array of this size, on all threads."""
    x, sums = np.ones(megabytes << 18, np.float32), np.zeros(numba.get_num_threads(), np.float32)
    return lambda: _read(address(x), len(x), sums, len(sums))


def copying(megabytes):
    """A function that does nothing but read one array of this size and write another."""
    x = np.ones(megabytes << 18, np.float32)
    y = np.zeros_like(x)
    return lambda: _copy(x, y, numba.get_num_threads())


@dataclass
class Limits:
    """What this machine does at most, on all threads that Numba uses."""

    gflops: float  # multiply-adds in registers, two operations each
    read: float  # GB/s, reading
    copy: float  # GB/s, reading and writing, both counted

    def __str__(self):
        threads = f"{numba.get_num_threads()} threads, {WIDTH} floats a vector"
        return f"limits: {self.gflops:.0f} GFLOP/s, {self.read:.1f} GB/s read, {self.copy:.1f} GB/s copied ({threads})"


def limits(megabytes=256):
    """Measured now: the multiply-adds on registers, the bytes on arrays too large for any cache."""
    best = []
    for function in (multiplying(), reading(megabytes), copying(megabytes)):
        function()
        times = []
        for _ in range(7):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        best.append(min(times))
    size = megabytes << 20
    return Limits(multiply_adds() / best[0] / 1e9, size / best[1] / 1e9, 2 * size / best[2] / 1e9)


def ladder(title, rungs, amount, unit, limit, check=None, tolerance=1e-4, work=()):
    """Run the rungs in turns and print a line for each; returns [(name, figure)].

    rungs: [(name, what it adds, function)]; check: the float64 result that every rung must reach.
    work: what NumPy and PyTorch, each in a process of its own, are to do beside them: {library: arguments of prepare}.
    amount: operations or bytes of one call; unit: "GFLOP/s" or "GB/s"; limit: the machine's, in that unit.
    """
    print(f"\n{title}")
    for name, _, function in rungs:
        if check is not None:
            got = np.asarray(function(), np.float64)
            error = np.abs(got - check).max() / max(1e-30, np.abs(check).max())
            if not error < tolerance:
                raise AssertionError(f"{name} is off by {error:.1e} of the largest value; {tolerance:.0e} is allowed")
    turns = [partial(seconds_of, function) for *_, function in rungs]
    lines = [(name, adds) for name, adds, _ in rungs]
    with contestants(*work) as peers:
        for library, peer in peers.items():
            peer.prepare(*work[library])
            turns.append(peer.turn)
            lines.append(({"numpy": "NumPy", "torch": "PyTorch"}[library], version(library)))
        times = in_turns(turns)
    first = times[0]
    figures = []
    for (name, adds), seconds in zip(lines, times, strict=True):
        figure = amount / seconds / 1e9
        figures.append((name, figure))
        share = 100 * figure / limit
        print(f"  {name:<16}{figure:9.1f} {unit} {share:5.0f}% of the limit {first / seconds:8.1f}x   {adds}", flush=True)
    return figures


def plot(figures, unit, limit, path):
    """Bars of a ladder's figures, with the machine's limit as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(figsize=(8, 0.5 * len(figures) + 1.2))
    names, values = zip(*figures, strict=True)
    bars = axes.barh(range(len(names)), values)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(limit, linestyle="--", color="gray")
    axes.set_xlabel(f"{unit} (dashed: the machine's limit)")
    picture.tight_layout()
    picture.savefig(path, dpi=150)
    print(f"drawn to {path}")
