"""Tasks that run at the same time in a pool of processes, each with an equal share of the threads.

Two threads make a step of a model as small as ours only 1.4 times as fast: they cannot share the Python code between the
kernels, and they wait for each other. Two tasks with one thread each take two steps in the time of one.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from typing import Any

from chapters.support import command
from kernels.terminal import guard_streams, unguarded
from minigrad import processor


def number_of_processes(processes: int | None, device: str) -> int:
    """How many tasks to run at once: `processes`, by default two if there are two threads; one on a GPU.

    Raises ValueError if `processes` is below one, or above one on a GPU.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes: expected at least 1, got {processes}")
    if device != "cpu":
        if processes and processes > 1:
            raise ValueError(f"processes: --device {device} runs one task at a time; leave out --processes")
        return 1
    return processes or min(2, processor.get_num_threads())


def threads_each(processes: int) -> int:
    """The equal share of the threads that each of several processes gets."""
    return max(1, processor.get_num_threads() // processes)


def at_the_same_time(processes: int) -> str:
    """ "at the same time, with 1 thread each": the end of a sentence that announces `run_side_by_side`."""
    share = threads_each(processes)
    return f"at the same time, with {share} thread{'s' * (share > 1)} each"


def run_side_by_side(
    tasks: Mapping[str, Callable[[], Any]],
    needs: Mapping[str, Sequence[str]],
    processes: int,
    ended: Callable[[str, float, Mapping[str, float]], None],
) -> None:
    """Run all tasks in their order, each as soon as a process is free and the tasks that it needs have ended.

    A task that runs alone at the end also uses only its share of the threads: results depend on the number of threads, and must
    not depend on which task ends last.

    Args:
        tasks: functions by name. A function must be picklable; none of a package's __main__ is.
        needs: {task: the tasks that it needs}; a task may be left out. A need that is no task itself counts as done.
        ended: called here after a task, with its name, its seconds, and {task: seconds} of the tasks that still run.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once every running task has saved its state; it holds their messages.
        ChildProcessError: if a worker was killed.
        Any error of a task, once the tasks beside it have ended.
    """
    share = threads_each(processes)
    waiting, done = list(tasks), {need for of_task in needs.values() for need in of_task} - tasks.keys()
    running: dict[Future, str] = {}
    start_times: dict[str, float] = {}
    pool = ProcessPoolExecutor(processes, get_context("spawn"), prepare_worker, (share,))
    try:
        while waiting or running:
            ready = [name for name in waiting if done.issuperset(needs.get(name, ()))]
            for name in ready[: processes - len(running)]:
                waiting.remove(name)
                with processor.without_interrupt():  # a worker starts here, and ignores Ctrl-C while it imports
                    running[pool.submit(run_in_worker, tasks[name])] = name
                    start_times[name] = time.perf_counter()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if running and not isinstance(future.exception(), BrokenProcessPool | None):
                    print(f"{name} failed; waiting for {' and '.join(running.values())}", file=sys.stderr, flush=True)
                future.result()
                done.add(name)
                now = time.perf_counter()
                ended(name, now - start_times[name], {other: now - start_times[other] for other in running.values()})
    except KeyboardInterrupt:  # Ctrl-C also reaches the workers: each finishes its step, saves, and says where
        for worker in active_children() if command.terminated else ():  # SIGTERM reaches only this process
            if worker.pid is not None:
                os.kill(worker.pid, signal.SIGINT)
        pool.shutdown(cancel_futures=True)
        errors = [future.exception() for future in running if not future.cancelled()]
        messages = [str(error) for error in errors if isinstance(error, KeyboardInterrupt)]
        raise KeyboardInterrupt("\n".join(filter(None, messages))) from None
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, perhaps for lack of memory; give the same command again to continue, "
            "with --processes 1 if memory is short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_worker(threads: int) -> None:
    """Set up a process of the pool before its first task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # between tasks only the parent handles Ctrl-C
    processor.set_num_threads(threads)
    guard_streams()
    unguarded(sys.stderr).isatty = lambda: False  # no progress bars: processes would overwrite each other's
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """End this process when its parent has ended, so that a killed job leaves no orphans. Files on disk are always whole."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def run_in_worker(task: Callable[[], Any]) -> None:
    """Run a task in a process of the pool, which obeys Ctrl-C meanwhile."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        task()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
