"""The speed of collectives on the machines at hand: latency and bandwidth, beside a plain copy and the ranks' arithmetic.

    mpiexec -n 2 python -m kernels.bench collectives --json machine.json

A message of n bytes takes α + n·β seconds: the latency α, and β seconds for each byte. An all_reduce on N ranks, in a ring or
in a fixed order, takes 2(N − 1)(α + n/N · β) seconds (chapters/ch07_ring.py derives it). The smallest all_reduce gives α. The
all_reduce of 4 MB, which is how gradients travel in training, gives β, and so β includes the time to add. The table shows how
well the formula fits the other sizes.

Inside one machine a message is a copy from memory to memory, so the table ends with the speed of a plain copy. Plain copies and
matrix products run on all ranks at the same time, as they do in training.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernels.bench.contest import Task, seconds_of
from kernels.collectives import Group, equal_parts
from kernels.terminal import fail

BUCKET = 4e6  # bytes of gradients that travel together in training, about
SIZES = (1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6, 64e6)  # bytes of an array
ROUNDS, TURN = 9, 0.04  # turns of each collective, and seconds of calls in a turn
SIDE = 1024  # rows and columns of the matrices that a rank multiplies


def join(threads: int | None) -> tuple[Group, int]:
    """The group of the processes that mpiexec has started, and the threads of each.

    threads: None: NUMBA_NUM_THREADS, or each process's share of the machine's cores.
    """
    try:
        from mpi4py import MPI

        from kernels.collectives.mpi import ProcessGroup
    except (ImportError, RuntimeError):  # RuntimeError: mpi4py finds no MPI library
        fail("collectives: expected mpi4py and an MPI library, got none; install both with pip install -e '.[mpi]'")
    group = ProcessGroup(MPI.COMM_WORLD)
    if group.size == 1:
        fail("collectives: expected at least 2 ranks, got 1; start it with mpiexec -n 2 python -m kernels.bench collectives")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    neighbours = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED).Get_size()
    return group, threads or int(os.environ.get("NUMBA_NUM_THREADS", 0)) or max(1, cores // neighbours)


def measure_collectives(group: Group, thousands: int | None = None, path: str | None = None) -> None:
    """Measure on all ranks; rank 0 prints a table, and writes the figures to a file.

    Args:
        group: the ranks.
        thousands: thousands of float32 numbers in the largest array; None: 16,000.
        path: the JSON file; None for no file.
    """
    from kernels.bench import limits, tasks  # not at the top: Numba reads the number of threads when it is imported

    largest = SIZES[-1] if thousands is None else 4000.0 * thousands
    rows = [time_collectives(group, size) for size in (*(size for size in SIZES if size < largest), largest)]
    alpha, beta = fit(rows, group.size)
    multiply = Task(tasks.matmul("minigrad", SIDE, SIDE, SIDE, False, False))
    copying = 0.5e9 / at_once(group, limits.bound("minigrad", "copying"))
    result = {
        "machine": limits.machine(),
        "ranks": group.size,
        "machines": len(set(group.gather_objects(platform.node()))),
        "alpha_s": alpha,
        "beta_s_per_byte": beta,
        "copy_bytes_per_s": copying,
        "flops_per_s": 2 * SIDE**3 / at_once(group, multiply),
        "seconds": rows,
    }
    if group.rank == 0:
        show(result)
        if path:
            Path(path).write_text(json.dumps(result, indent=1) + "\n")


def time_collectives(group: Group, size: float) -> dict[str, float]:
    """The seconds of each collective for an array of `size` bytes: {"bytes": …, "all_reduce": …, …}."""
    array = np.full(max(group.size, int(size) // 4), 0, np.float32)
    bounds = equal_parts(len(array), group.size)
    calls = {
        "all_reduce": lambda: group.all_reduce(array),
        "reduce_scatter": lambda: group.reduce_scatter([array], bounds),
        "all_gather": lambda: group.all_gather(array, bounds),
    }
    return {"bytes": array.nbytes} | medians(group, calls)


def medians(group: Group, calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median seconds of each collective. They take turns, and the slowest rank's time counts."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    counts = {}
    for name, call in calls.items():
        call()
        seconds = mean_seconds(group, call, 1)
        counts[name] = max(1, min(1000, int(TURN / seconds)))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(mean_seconds(group, call, counts[name]))
    return {name: float(np.median(values)) for name, values in times.items()}


def mean_seconds(group: Group, call: Callable[[], Any], count: int) -> float:
    """Mean seconds of `count` calls on the slowest rank; the same number on every rank."""
    group.barrier()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return max(group.gather_objects((time.perf_counter() - begin) / count))


def at_once(group: Group, task: Task) -> float:
    """Median seconds of a task that all ranks do at the same time, on the slowest rank."""
    times = []
    for _ in range(5):
        group.barrier()
        times.append(max(group.gather_objects(seconds_of(task))))
    return float(np.median(times))


def fit(rows: list[dict[str, float]], ranks: int) -> tuple[float, float]:
    """α in seconds, from the smallest all_reduce, and β in seconds per byte, from the largest of up to 4 MB, which hides α.

    >>> fit([{"bytes": 8.0, "all_reduce": 0.002}, {"bytes": 4e6, "all_reduce": 4.0}], ranks=2)
    (0.001, 1e-06)
    """
    bucket = [row for row in rows if row["bytes"] <= BUCKET][-1]
    alpha, step = (row["all_reduce"] / (2 * (ranks - 1)) for row in (rows[0], bucket))
    return alpha, step * ranks / bucket["bytes"]


def all_reduce_seconds(array_bytes: float, ranks: int, alpha: float, beta: float) -> float:
    """2(N − 1)(α + n/N · β): the seconds of an all_reduce by the formula."""
    return 2 * (ranks - 1) * (alpha + array_bytes / ranks * beta)


def show(result: Mapping[str, Any]) -> None:
    """Print the table."""
    ranks, alpha, beta = result["ranks"], result["alpha_s"], result["beta_s_per_byte"]
    print(f"{result['machine']}; {ranks} ranks, machines: {result['machines']}\n")
    print("milliseconds    all_reduce   by the formula   reduce_scatter   all_gather")
    for row in result["seconds"]:
        predicted = all_reduce_seconds(row["bytes"], ranks, alpha, beta)
        columns = zip((row["all_reduce"], predicted, row["reduce_scatter"], row["all_gather"]), (14, 17, 17, 13), strict=True)
        print(f"{row['bytes'] / 1e3:9,.0f} kB" + "".join(f"{each * 1e3:{width}.3f}" for each, width in columns))
    print(f"\nlatency α of a message         {alpha * 1e6:10.1f} µs")
    print(f"bandwidth 1/β of each rank     {1 / beta / 1e9:10.2f} GB/s")
    print(f"plain copy on each rank        {result['copy_bytes_per_s'] / 1e9:10.2f} GB/s")
    print(f"matrix products on each rank   {result['flops_per_s'] / 1e9:10.1f} GFLOP/s")
