"""Timing in turns, the machine's own limits, and the table that a ladder prints."""

import os
import time
from dataclasses import dataclass

import numba
import numpy as np
from numba import prange

from kernels.launch import address, inner, kernel
from kernels.simd import WIDTH, load
from kernels.tile import ROWS, register_tile

REST = 0.1  # seconds; OpenBLAS's and OpenMP's threads spin for some tens of milliseconds after their work is done


def in_turns(functions, seconds=3.0):
    """Median seconds of each function: one call of each a round, rounds until the time is spent (at least 3, at most 60).

    Between two functions there is a rest: the threads of the one before would otherwise still hold the other cores while
    they wait for more work. Short functions are then called once untimed, to wake their own threads.
    """
    spent = [[] for _ in functions]
    for function in functions:
        function()  # compiles, and brings the data into the cache
    begin = time.perf_counter()
    while len(spent[0]) < 3 or (len(spent[0]) < 60 and time.perf_counter() - begin < seconds):
        for function, times in zip(functions, spent, strict=True):
            time.sleep(REST)
            if not times or times[-1] < REST:
                function()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
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
    parts, K = numba.get_num_threads(), 1_000_000
    room, sums = np.zeros(4096 * (parts + 1), np.float32), np.zeros(parts, np.float32)
    x = np.ones(megabytes << 18, np.float32)
    y = np.zeros_like(x)
    best = []
    for function in (
        lambda: _multiply_adds(address(room), K, parts),
        lambda: _read(address(x), len(x), sums, parts),
        lambda: _copy(x, y, parts),
    ):
        function()
        times = []
        for _ in range(7):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        best.append(min(times))
    flops = 2 * _STILL_ROWS * 3 * WIDTH * K * parts
    return Limits(flops / best[0] / 1e9, x.nbytes / best[1] / 1e9, 2 * x.nbytes / best[2] / 1e9)


def torch_or_none():
    """PyTorch on as many threads as Numba has, or None where it is not installed.

    Our setting of OpenMP (see kernels/launch.py) is not PyTorch's; its own OpenMP reads it when it is first loaded.
    """
    os.environ.pop("GOMP_SPINCOUNT", None)
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(numba.get_num_threads())
    return torch


def ladder(title, rungs, amount, unit, limit, check=None, tolerance=1e-4):
    """Run the rungs in turns and print a line for each; returns [(name, figure)].

    rungs: [(name, what it adds, function)]; check: the float64 result that every rung must reach.
    amount: operations or bytes of one call; unit: "GFLOP/s" or "GB/s"; limit: the machine's, in that unit.
    """
    print(f"\n{title}")
    for name, _, function in rungs:
        if check is not None:
            got = np.asarray(function(), np.float64)
            error = np.abs(got - check).max() / max(1e-30, np.abs(check).max())
            if not error < tolerance:
                raise AssertionError(f"{name} is off by {error:.1e} of the largest value; {tolerance:.0e} is allowed")
    times = in_turns([function for *_, function in rungs])
    first = times[0]
    figures = []
    for (name, adds, _), seconds in zip(rungs, times, strict=True):
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
