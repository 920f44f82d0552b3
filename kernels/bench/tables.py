"""Tables beside NumPy and PyTorch: one row times a matrix, bytes per second, a training step's products, long attention."""

import tracemalloc
from math import prod
from typing import NamedTuple

import numpy as np

from kernels.bench import tasks
from kernels.bench.contest import Contestant, compete, contestants
from kernels.bench.limits import bound, percent

WEIGHTS = 30_000_000  # 480 MB in AdamW's four arrays
ROW_SHAPES = (3072, 768), (768, 3072), (50257, 768), (768, 50257)
Figures = list[tuple[str, float]]


def one_row(size: int | None = None) -> tuple[Figures, float]:
    """Print GB/s of one row times a matrix, plain and transposed (T), beside the GB/s of a plain read of memory.

    Text generation computes such products. They use each number of the matrix once, so reading the matrix takes all the time.
    Returns [(name, figure)] and the median limit, as all tables here do.
    """
    figures, limits = [], []
    with contestants("minigrad", "numpy", "torch", "limit") as libraries:
        print(f"\n{'GB/s':15}" + "".join(f"{name:>9}" for name in libraries))
        for rows, columns in dict.fromkeys((size or rows, columns) for rows, columns in ROW_SHAPES):
            for transposed in (True, False):
                task = (tasks.one_row, rows, columns, transposed)
                seconds = compete(libraries, task, 6.0, limit=(bound, "reading"))
                limit = 1 / seconds.pop("limit")
                rates = {name: 4 * rows * columns / each / 1e9 for name, each in seconds.items()} | {"limit": limit}
                name = f"({rows}, {columns})" + (" T" if transposed else "")
                columns_of_rates = "".join(f"{rate:9.1f}" for rate in rates.values())
                print(f"{name:<15}{columns_of_rates}   {percent(rates['minigrad'], limit, 'reading')}", flush=True)
                figures.append((name, rates["minigrad"]))
                limits.append(limit)
    return figures, float(np.median(limits))


class Traffic(NamedTuple):
    """An operation limited by memory, and the arrays that it must move."""

    name: str
    task: tuple
    numbers: int  # in each array
    read: int  # arrays read
    written: int  # arrays written


def memory_traffic(rows: int, few_rows: int) -> list[Traffic]:
    """The lines of the table `bandwidth`."""

    def row_operation(name, direction, rows, columns, read, written):
        task = (tasks.row_operation, name.replace("-", "_"), direction, rows, columns)
        return Traffic(f"{name} {direction}", task, rows * columns, read, written)

    def adamw(name, shapes):
        return Traffic(f"AdamW, {name}", (tasks.adamw, shapes), sum(map(prod, shapes)), 4, 3)

    return [
        row_operation("softmax", "forward", rows, 1024, 1, 1),
        row_operation("softmax", "backward", rows, 1024, 2, 1),
        row_operation("layernorm", "forward", rows, 768, 1, 1),
        row_operation("layernorm", "backward", rows, 768, 2, 1),
        row_operation("gelu", "forward", rows, 768, 1, 1),
        row_operation("gelu", "backward", rows, 768, 2, 1),
        row_operation("cross-entropy", "forward", few_rows, 50257, 1, 0),
        row_operation("cross-entropy", "backward", few_rows, 50257, 1, 1),
        adamw("one array", [[WEIGHTS]]),
        adamw("the book's GPT", tasks.BOOK_GPT),
        Traffic("gradient norm", (tasks.gradient_norm, WEIGHTS), WEIGHTS, 1, 0),
    ]


def bandwidth(size: int | None = None) -> tuple[Figures, float]:
    """Print GB/s of each row operation and of AdamW, beside PyTorch and the machine's limit.

    Each array that an operation reads or writes counts once. The limit is a copy, or a plain read for an operation that only
    reads. A copy also moves its target's cache lines into the core before it writes them, which is not counted. AdamW
    overwrites arrays that it has just read, so it avoids that movement and can exceed 100 %. Returns the figures and the median
    limit of copies.
    """
    figures, copy_limits = [], []
    print(f"\n{'GB/s':24}{'minigrad':>9}{'limit':>9}{'share':>7}{'PyTorch':>9}{'ratio':>7}")
    with contestants("minigrad", "limit", "torch") as libraries:
        for name, task, numbers, read, written in memory_traffic(size or 16384, size or 1024):
            kind = "copying" if written else "reading"
            seconds = compete(libraries, task, 6.0, limit=(bound, kind))
            limit, size_moved = 1 / seconds.pop("limit"), 4 * numbers * (read + written)
            rate, *peer_rates = (size_moved / each / 1e9 for each in seconds.values())
            peers = "".join(f"{peer:9.1f}{rate / peer:6.2f}x" for peer in peer_rates)
            print(f"{name:<24}{rate:9.1f}{limit:9.1f}{100 * rate / limit:6.0f}%{peers}", flush=True)
            figures.append((name, rate))
            if written:
                copy_limits.append(limit)
    return figures, float(np.median(copy_limits))


def product_forms() -> list[tuple[int, int, int, bool, bool]]:
    """(M, K, N, transpose_a, transpose_b) of every product of a linear layer in the book step and the gpt2 step."""
    forms = []
    for R, C in ((2048, 384), (1024, 768)):
        for inputs, outputs in ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)):
            forms += [(R, inputs, outputs, False, True), (R, outputs, inputs, False, False), (outputs, R, inputs, True, False)]
    return forms


def products_of_steps() -> None:
    """GFLOP/s of the matrix products of real training steps, in all their transposed forms."""
    with contestants("minigrad", "numpy", "torch", "limit") as libraries:
        print("\nproducts of the book step (B = 8, T = 256) and the gpt2 step (B = 4, T = 256): GFLOP/s")
        print(f"  {'M':>6} {'K':>6} {'N':>6}  form   " + "".join(f"{name:>9}" for name in libraries))
        ratios: dict[str, list[float]] = {name: [] for name in libraries if name != "minigrad"}
        for form in product_forms():
            _product(libraries, form, ratios)
    shares = ratios.pop("limit")
    print(f"  share of the limit: mean {np.mean(shares):.2f}, worst {min(shares):.2f}")
    for name, values in ratios.items():
        mean = float(np.exp(np.mean(np.log(values))))
        print(f"  against {name}: geometric mean {mean:.2f}x, worst {min(values):.2f}x, best {max(values):.2f}x")


def _product(libraries: dict[str, Contestant], form: tuple, ratios: dict[str, list[float]]) -> None:
    M, K, N, transpose_a, transpose_b = form
    seconds = compete(libraries, (tasks.matmul, *form), 5.0, limit=(bound, "multiplying"))
    limit = 1 / seconds.pop("limit")
    rates = {name: 2 * M * N * K / each / 1e9 for name, each in seconds.items()} | {"limit": limit}
    for name, values in ratios.items():
        values.append(rates["minigrad"] / rates[name])
    form_name = ("aT " if transpose_a else "a ") + ("bT" if transpose_b else "b")
    columns = "".join(f"{rate:9.0f}" for rate in rates.values())
    print(f"  {M:6} {K:6} {N:6}  {form_name:<6} {columns}   {percent(rates['minigrad'], limit, 'multiplying')}", flush=True)


def attention_work(T: int) -> tuple[tuple[int, int, int, int], int]:
    """Sizes (B, H, T, D) of causal attention at a length, and the operations of both passes: seven products."""
    B, H, D = max(1, 2048 // T), 6, 64
    return (B, H, T, D), 7 * B * H * T * (T + 1) * D


def attention_as_T_grows(longest: int = 4096) -> None:
    """Time and memory of causal attention, forward and backward, for T = 256, 1,024, …"""
    print("\ncausal attention, forward and backward, 6 heads, D = 64, as T grows")
    print("       T   kernel ms  PyTorch ms  ratio   kernel's memory  (T, T) matrix per head")
    T = 256
    with contestants("minigrad", "torch", "limit") as libraries:
        while T <= longest:
            sizes, operations = attention_work(T)
            seconds = compete(libraries, (tasks.attention, *sizes, True), 2.0, limit=(bound, "multiplying"))
            limit, times = 1 / seconds.pop("limit"), list(seconds.values())
            memory, rate = _memory_of_attention(*sizes), operations / times[0] / 1e9
            peer = f"{1e3 * times[1]:10.1f}  {times[1] / times[0]:5.2f}" if len(times) > 1 else " " * 17
            share, matrix = percent(rate, limit, "multiplying"), sizes[0] * sizes[1] * T * T * 4 / 2**20
            print(f"  {T:6}  {1e3 * times[0]:10.1f}  {peer}  {memory:12.1f} MiB  {matrix:18.1f} MiB   {share}", flush=True)
            T *= 4


def _memory_of_attention(B: int, H: int, T: int, D: int) -> float:
    """Peak memory in MiB of a forward and a backward pass, results included."""
    step = tasks.attention("minigrad", B, H, T, D, True)
    step()
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20
