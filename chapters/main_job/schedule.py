"""The order of the main job's stages, and which stages run at the same time.

Two threads make a step of so small a model only 1.4 times as fast: they cannot share the Python code between the kernels,
and they wait for each other. Two stages with one thread each take two steps in the time of one. After pretraining there are
always two stages that do not need each other, so the job continues in two processes.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Set
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from chapters.main_job import first_bend, second_bend
from chapters.main_job.estimate import TimeEstimate, in_words
from chapters.main_job.first_bend import Job
from chapters.support import command
from chapters.support.json_files import read_object, write_result
from kernels.terminal import colours, guard_streams, print_styled, unguarded
from minigrad import processor

STAGES = {
    "world": first_bend.make_world,
    "tokenizer": first_bend.make_tokens,
    "pretrain": first_bend.pretrain,
    "sample": first_bend.sample,
    "classify": first_bend.train_classifiers,
    "sft": first_bend.fine_tune,
    "evaluate": first_bend.evaluate,
    **second_bend.STAGES,
}
# The stages that share the processor, each with the stages that it needs. They start in this order: long chains early, short
# stages last, so that both processes end together. All other stages run alone, after the stages above them in STAGES.
NEEDS: dict[str, tuple[str, ...]] = {
    "assistant": (),
    "critic": (),
    "constitution": ("assistant", "critic"),
    "sft": (),
    "reward": ("assistant",),
    "rlhf": ("reward",),
    "classify": (),
    "sample": (),
    "evaluate": ("sft",),
}


def run_stages(job: Job, processes: int, estimate: TimeEstimate | None = None) -> None:
    """Run every stage that has no result yet, and fill job.results with the results of all stages.

    estimate: of the time that is left, which is printed after every stage of at least ten seconds.
    """
    missing = missing_stages(job)
    for name in STAGES:
        if name in missing.intersection(NEEDS) and processes > 1:
            run_side_by_side(job, missing, processes, estimate)
        if name in missing or name not in job.results:
            start_time = time.perf_counter()
            run_stage(job, name)
            if name in missing:
                missing.remove(name)
                report_time(estimate, name, time.perf_counter() - start_time, missing)


def missing_stages(job: Job) -> set[str]:
    """The stages that have no result yet."""
    return {name for name in STAGES if not result_path(job, name).exists()}


def resumed_stages(job: Job) -> set[str]:
    """The missing stages that an earlier run has begun: it made their folder, or a folder of one of their models."""
    begun = {name for name in missing_stages(job) if any(job.out.glob(f"{name}*"))}
    # The critic works in the constitution's folder.
    return begun if (job.out / "constitution" / "default").exists() else begun - {"constitution"}


def report_time(
    estimate: TimeEstimate | None, name: str, seconds: float, missing: Set[str], running: Mapping[str, float] | None = None
) -> None:
    """Correct the estimate by the time of a stage that has ended, and print it unless the stage was short."""
    if estimate is None:
        return
    estimate.record(name, seconds)
    if seconds >= 10 and missing:
        print(f"{in_words(estimate.seconds_left(missing, running))} left", flush=True)


def run_side_by_side(job: Job, missing: set[str], processes: int, estimate: TimeEstimate | None = None) -> None:
    """Run the missing stages of NEEDS in a pool of processes, each with an equal share of the threads.

    Each is removed from `missing` when it ends. A stage that runs alone at the end also uses only its share: results depend
    on the number of threads, and must not depend on which stage ends last.
    """
    share = max(1, processor.get_num_threads() // processes)
    print(f"From here on {processes} stages run at the same time, with {share} thread{'s' * (share > 1)} each.", flush=True)
    waiting, done = [name for name in NEEDS if name in missing], NEEDS.keys() - missing
    running: dict[Future, str] = {}
    start_times: dict[str, float] = {}
    pool = ProcessPoolExecutor(processes, get_context("spawn"), prepare_worker, (share,))
    try:
        while waiting or running:
            ready = [name for name in waiting if done.issuperset(NEEDS[name])]
            for name in ready[: processes - len(running)]:
                waiting.remove(name)
                with processor.without_interrupt():  # a worker starts here, and ignores Ctrl-C while it imports
                    running[pool.submit(run_in_worker, job, name)] = name
                    start_times[name] = time.perf_counter()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if running and not isinstance(future.exception(), BrokenProcessPool | None):
                    print(f"{name} failed; waiting for {' and '.join(running.values())}", file=sys.stderr, flush=True)
                future.result()
                done.add(name)
                job.results[name] = read_object(result_path(job, name))
                missing.remove(name)
                now = time.perf_counter()
                times = {stage: now - start_times[stage] for stage in running.values()}
                report_time(estimate, name, now - start_times[name], missing, times)
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
            "the process of a stage was killed, perhaps for lack of memory; give the same command again to continue, "
            "with --processes 1 if memory is short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_worker(threads: int) -> None:
    """Set up a process of the pool before its first stage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # between stages only the parent handles Ctrl-C
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


def run_in_worker(job: Job, name: str) -> None:
    """Run a stage in a process of the pool, which obeys Ctrl-C while the stage runs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_stage(job, name)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_stage(job: Job, name: str) -> None:
    """Run one stage and write its result to <stage>/result.json, or read the result of an earlier run."""
    path, position = result_path(job, name), f"[{list(STAGES).index(name) + 1}/{len(STAGES)}]"
    title = f"\033[1m{position} {name}\033[0m" if colours() else f"{position} {name}"
    if path.exists():
        job.results[name] = read_object(path)
        print_styled(f"{title}: already done", flush=True)
        return
    print_styled(f"{title}: {summary_line(STAGES[name])}", flush=True)
    started = time.perf_counter()
    result = STAGES[name](job)
    job.run(name)  # makes the folder of a stage that wrote no other file
    write_result(path, result)
    job.results[name] = read_object(path)
    seconds = time.perf_counter() - started
    # Times have a file of their own, so that all other files are the same every time.
    with open(job.out / "timing.jsonl", "a") as clock:
        clock.write(json.dumps({"stage": name, "seconds": round(seconds, 1)}) + "\n")
    print_styled(f"{title}: {seconds:.1f} s", flush=True)


def summary_line(function: Any) -> str:
    """The first line of a function's docstring."""
    return function.__doc__.splitlines()[0]


def result_path(job: Job, name: str) -> Path:
    """The file of a stage's result."""
    return job.out / name / "result.json"
