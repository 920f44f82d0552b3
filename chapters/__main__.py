"""The main job: from raw text to an assistant on the little world, then a page of results.

    python -m chapters                # everything; ends in runs/main/report.html
    python -m chapters --quick        # the same stages with less text and fewer steps
    python -m chapters --list         # the stages and what each does

Give the same command again to continue a stopped job. Nothing is downloaded.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters.main_job import first_bend, second_bend
from chapters.main_job.estimate import COSTS, TimeEstimate, in_words, seconds_of_a_step
from chapters.main_job.report import summary, write_report
from chapters.main_job.schedule import NEEDS, STAGES, missing_stages, resumed_stages, run_stages, summary_line
from chapters.support.command import OnDevice, command
from chapters.support.json_files import read_object
from chapters.support.run_folder import Run
from chapters.support.side_by_side import number_of_processes
from minigrad import processor
from minigrad.serialization import short, write_atomically

RESULTS = 3  # version of the stages' data, results and figures: raised when stages of two versions do not fit together


@dataclass
class Settings(OnDevice):
    """Train everything on the little world: tokenizer, base model, class head, assistant, RLHF, constitution."""

    out: Path = Path("runs/main")  # folder for all results
    seed: int = 0  # random seed of the world and of all training
    quick: bool = False  # less text, fewer steps and fewer test questions, and a model of two wider layers
    processes: int | None = None  # stages to run at once after pretraining (default: 2 if there are two threads)
    list: bool = False  # list the stages and stop


def main(settings: Settings) -> None:
    if settings.list:
        for name, function in {**STAGES, "report": write_report}.items():
            print(f"{name:<12} {summary_line(function)}")
        return
    processes = number_of_processes(settings.processes, settings.device)
    claim_folder(settings, processes)
    job = make_job(settings)
    if settings.device == "cpu" and missing_stages(job):
        processor.precompile()
    run_stages(job, processes, estimate_time(job, settings, processes))
    page = write_report(job)
    print_summary(job)
    print(f"\nThe page of results: {page}")


def estimate_time(job: first_bend.Job, settings: Settings, processes: int) -> TimeEstimate | None:
    """Measure a training step and print how long the job will take. None on a GPU, where the costs of stages are unknown."""
    missing = missing_stages(job)
    if settings.device != "cpu" or not missing:
        return None
    step_seconds, costs = seconds_of_a_step(job), COSTS["quick" if settings.quick else "full"]
    estimate = TimeEstimate(costs, step_seconds, NEEDS, processes, resumed_stages(job))
    time_left = in_words(estimate.seconds_left(missing))
    print(f"This will take {time_left} on this machine (a training step takes {step_seconds:.3f} s).", flush=True)
    return estimate


def make_job(settings: Settings) -> first_bend.Job:
    plan = "quick" if settings.quick else "full"
    return first_bend.Job(settings.out, settings.seed, first_bend.PLANS[plan], second_bend.PLANS[plan], settings.quick)


def claim_folder(settings: Settings, processes: int) -> None:
    """Make the job's folder and write the settings into job.json; refuse a folder that holds another job."""
    ours: dict[str, Any] = {"seed": settings.seed, "quick": settings.quick, "plan": fingerprint(settings)}
    if settings.device == "cpu":  # threads and processes fix the order of sums, and so the last digits
        ours |= {"threads": processor.get_num_threads(), "processes": processes}
    path = Run(settings.out) / "job.json"
    if not path.exists():
        if (settings.out / "model.safetensors").exists():
            raise ValueError(f"{settings.out} holds a training run, not a main job; choose another folder with --out")
        write_atomically(path, (json.dumps(ours) + "\n").encode())
        return
    theirs = read_object(path, "delete it, or choose another folder with --out")
    if theirs != ours:
        raise ValueError(
            f"{settings.out} holds a job with {settings_text(theirs)}, and this job has {settings_text(ours)}; "
            "choose another folder with --out, or delete that job"
        )


def fingerprint(settings: Settings) -> str:
    """A checksum of every setting of every stage, and of RESULTS, so that stages of two versions never mix in one folder."""
    job = make_job(settings)
    return f"{zlib.crc32(repr((RESULTS, job.plan, job.second_plan)).encode()):08x}"


def settings_text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{short(name)} {short(value)}" for name, value in settings.items())


def print_summary(job: first_bend.Job) -> None:
    """Print the table of measurements."""
    rows = summary(job)
    width = max(len(name) for name, _, _ in rows)
    print()
    for name, value, note in rows:
        print(f"{name:<{width}}  {value:>10}  {note}")


if __name__ == "__main__":
    command(main, Settings, writes="out")
