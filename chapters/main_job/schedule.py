"""The order of the main job's stages, and which stages run at the same time.

After pretraining there are always two stages that do not need each other, so the job continues in two processes
(chapters/support/side_by_side.py says why).
"""

import json
import time
from collections.abc import Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

from chapters.main_job import first_bend, second_bend
from chapters.main_job.estimate import TimeEstimate, in_words
from chapters.main_job.first_bend import Job
from chapters.support.json_files import read_object, write_result
from chapters.support.side_by_side import at_the_same_time, run_side_by_side
from kernels.terminal import colours, print_styled

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
            run_missing(job, missing, processes, estimate)
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


def run_missing(job: Job, missing: set[str], processes: int, estimate: TimeEstimate | None = None) -> None:
    """Run the missing stages of NEEDS side by side; each is removed from `missing` when it ends."""
    print(f"From here on {processes} stages run {at_the_same_time(processes)}.", flush=True)

    def ended(name: str, seconds: float, running: Mapping[str, float]) -> None:
        job.results[name] = read_object(result_path(job, name))
        missing.remove(name)
        report_time(estimate, name, seconds, missing, running)

    tasks = {name: partial(run_stage, job, name) for name in NEEDS if name in missing}
    run_side_by_side(tasks, NEEDS, processes, ended)


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
