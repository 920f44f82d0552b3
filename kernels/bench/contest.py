"""A fair comparison: each library in a process of its own, timed in turns.

Every library has a pool of threads, and idle threads spin for a while before they sleep. In one process the pools would take
each other's cores. So every contestant has a process, prepares its task there, and computes only during its turn:

    with contestants("minigrad", "torch") as libraries:
        seconds = compete(libraries, (tasks.matmul, 768, 768, 768, False, False))

A task is a call to time. A function of tasks.py or chapters/bench makes it from the library's name and sizes.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

REST = 0.15  # seconds between two turns: OpenBLAS's threads spin for 0.11 s after their work is done
PACKAGES = {"compiled": "torch", "limit": "numba"}  # the package that a contestant needs, where the names differ
# The contestant "minigrad-8" is minigrad with the settings of variant "8".
VARIANTS = {
    "8": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi,+bmi2"},  # AVX2 code: 8 floats a vector
    "1": {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},  # PyTorch's own default is AVX2 on some processors that have AVX-512
}


class Task(NamedTuple):
    """A call to time."""

    call: Callable[[], object]
    share: float = 1.0  # factor on the reported time: 1/8 if a call does its work eight times
    turn: float = 0.1  # seconds of timed calls in a turn


def seconds_of(task: Task) -> float:
    """Mean seconds of a call, over as many calls as fill a turn.

    The same number of calls runs first, untimed, because a thread often wakes on the core of the thread that woke it. The
    system takes tens of milliseconds to move it to another core.
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
    """The median of the times that each function returns. All take turns for `seconds`, in 3 to 60 rounds."""
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

    def __init__(self, name: str):
        library, _, variant = name.partition("-")
        environment = dict(os.environ) | (VARIANTS[variant] if variant else {})
        environment.pop("GOMP_SPINCOUNT", None)  # our setting of OpenMP (kernels/launch.py); minigrad's process sets it again
        command = [sys.executable, "-c", "from kernels.bench.contest import serve; serve()", library]
        pipe = subprocess.PIPE
        self.name = name
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.peak = 0.0  # the process's peak memory in MiB, at the end of its last turn

    def _ask(self, request: list | None) -> dict[str, float]:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name}: the process exited while running {request}; its traceback is above")
        return json.loads(answer)

    def prepare(self, maker: Callable, *arguments) -> None:
        """Make a task's data and call it once, which compiles its code."""
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
            package = library.partition("-")[0]
            if importlib.util.find_spec(PACKAGES.get(package, package)) is not None:
                running[library] = Contestant(library)
        yield running
    finally:
        for contestant in running.values():
            contestant.close()


def compete(
    libraries: Mapping[str, Contestant], task: tuple, seconds: float = 3.0, limit: tuple | None = None
) -> dict[str, float]:
    """Seconds of one call of a task in each library; the contestants "limit" and "limit-…" have a task of their own.

    `task` and `limit` are tuples: the function that makes the task, then its arguments except for the library's name.
    """
    for library, contestant in libraries.items():
        contestant.prepare(*(limit if limit and library.startswith("limit") else task))
    return in_turns({library: contestant.turn for library, contestant in libraries.items()}, seconds)


def compete_alone(entries: Mapping[str, tuple], seconds: float = 3.0) -> dict[str, tuple[float, float]]:
    """{name: (seconds of a call, peak MiB)}, each entry in a new process; without entries whose library is not installed.

    An entry is a library's name, the function that makes the task, and its further arguments.
    """
    with ExitStack() as stack:
        running = {}
        for name, (library, *task) in entries.items():
            for contestant in stack.enter_context(contestants(library)).values():
                contestant.prepare(*task)
                running[name] = contestant
        times = in_turns({name: contestant.turn for name, contestant in running.items()}, seconds)
        return {name: (times[name], contestant.peak) for name, contestant in running.items()}


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
    """Run a contestant's process: answer each line of stdin, a request, with a line on stdout."""
    library, task = sys.argv[1], None
    if PACKAGES.get(library, library) == "torch":
        import_module("torch")  # before kernels/launch.py sets GOMP_SPINCOUNT: PyTorch keeps OpenMP's default
    answer: dict[str, float] | None
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            assert task is not None
            answer = {"seconds": seconds_of(task), "peak": _peak_memory()}
        else:
            task = None  # frees its memory before the next task allocates
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
