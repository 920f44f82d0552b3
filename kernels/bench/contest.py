"""A fair comparison: each library in a process of its own, timed in turns.

Every library brings a pool of threads, and an idle pool spins for a while before it sleeps. In one process the pools would
take each other's cores. So every contestant has a process, prepares its task there, and computes only during its turn:

    with contestants("minigrad", "torch") as libraries:
        seconds = compete(libraries, (tasks.matmul, 768, 768, 768, False, False))

The functions of tasks.py, and some of chapters/bench, make tasks: from a library's name and sizes, a call to time.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

REST = 0.15  # seconds between two turns: OpenBLAS's threads spin for 0.11 s after their work is done
PACKAGES = {"compiled": "torch", "limit": "numba"}  # the package that a contestant needs, unless it has the contestant's name


class Task(NamedTuple):
    """A call to time."""

    call: Callable[[], object]
    share: float = 1.0  # the share of the call's time to report, 1/8 if the call does its work eight times
    turn: float = 0.1  # seconds that a turn fills with calls, after as many calls to warm up


def seconds_of(task: Task) -> float:
    """Seconds of one call, the mean of as many calls as fill a turn.

    The same number of calls runs first, untimed: a thread that slept often wakes on the core of the thread that woke it, and
    the system takes tens of milliseconds to move it to another core.
    """
    calls, begin = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begin < task.turn:
        task.call()
        calls += 1
    begin = time.perf_counter()
    for _ in range(calls):
        task.call()
    return (time.perf_counter() - begin) / calls * task.share


def in_turns(turns: Mapping[str, Callable[[], float]], seconds: float = 3.0) -> dict[str, float]:
    """The median of the seconds that each function returns. They take turns for 3 to 60 rounds, until `seconds` are over."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    begin, rounds = time.perf_counter(), 0
    while rounds < 3 or (rounds < 60 and time.perf_counter() - begin < seconds):
        rounds += 1
        for name, turn in turns.items():
            time.sleep(REST)
            times[name].append(turn())
    return {name: float(np.median(values)) for name, values in times.items()}


class Contestant:
    """A library in a process of its own, which computes on request and sleeps in between."""

    def __init__(self, library: str):
        environment = dict(os.environ)
        environment.pop("GOMP_SPINCOUNT", None)  # our setting of OpenMP (kernels/launch.py); minigrad's process sets it again
        command = [sys.executable, "-c", "from kernels.bench.contest import serve; serve()", library]
        pipe = subprocess.PIPE
        self.library = library
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.peak = 0.0  # the process's peak memory in MiB, at the end of its last turn

    def _ask(self, request: list | None) -> dict[str, float]:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.library}: the process exited while running {request}; its traceback is above")
        return json.loads(answer)

    def prepare(self, maker: Callable, *arguments) -> None:
        """Make a task: the data, and one call, which compiles what it needs."""
        self._ask([maker.__module__, maker.__name__, *arguments])

    def turn(self) -> float:
        """Seconds of one call of the task."""
        answer = self._ask(None)
        self.peak = answer["peak"]
        return answer["seconds"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def contestants(*libraries: str) -> Iterator[dict[str, Contestant]]:
    """{library: Contestant} for the libraries that are installed."""
    running = {}
    try:
        for library in libraries:
            if importlib.util.find_spec(PACKAGES.get(library, library)) is not None:
                running[library] = Contestant(library)
        yield running
    finally:
        for contestant in running.values():
            contestant.close()


def compete(
    libraries: Mapping[str, Contestant], task: tuple, seconds: float = 3.0, limit: tuple | None = None
) -> dict[str, float]:
    """Seconds of one call of a task in each library.

    Args:
        libraries: the contestants.
        task: the function that makes the task, and its arguments after the library's name.
        seconds: how long the turns go on.
        limit: the task of the contestant "limit".
    """
    for library, contestant in libraries.items():
        contestant.prepare(*(limit if limit and library == "limit" else task))
    return in_turns({library: contestant.turn for library, contestant in libraries.items()}, seconds)


def _peak_memory() -> float:
    """Peak memory in MiB. Linux counts it for this process alone; getrusage would include the parent process."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if match:
            return int(match[1]) / 1024
    except OSError:
        pass
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def serve() -> None:
    """The process of a contestant: requests come on stdin, a line each, and so do answers on stdout."""
    library, task = sys.argv[1], None
    if PACKAGES.get(library, library) == "torch":
        import_module("torch")  # before kernels/launch.py sets GOMP_SPINCOUNT, which is not PyTorch's setting
    answer: dict[str, float] | None
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            assert task is not None
            answer = {"seconds": seconds_of(task), "peak": _peak_memory()}
        else:
            task = None  # frees its memory before the next task takes some
            module, maker, *arguments = request
            task = getattr(import_module(module), maker)(library, *arguments)
            task = task if isinstance(task, Task) else Task(task)
            task.call()
            answer = None
        print(json.dumps(answer), flush=True)


def use_threads(threads: int | None) -> None:
    """Let all libraries use this many threads. Call it before they are imported: they read the setting once."""
    for library in ("NUMBA", "OMP", "OPENBLAS", "MKL") if threads else ():
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
