"""The main job: the whole path of the book on the embedded world, from raw text to an assistant, and a page of results.

    python -m chapters                # everything, some minutes on two cores; ends in runs/main/report.html
    python -m chapters --quick        # the same path, smaller
    python -m chapters --list         # the stages and what each does

A job that was stopped goes on where it was when the same command is given again. Nothing is downloaded.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from chapters.main_job import first_bend, second_bend
from chapters.main_job.report import summary, write_report
from chapters.main_job.schedule import STAGES, read_json, result_of, run_stages
from chapters.support.command import OnDevice, command
from minigrad import processor
from minigrad.serialization import write_atomically


@dataclass
class Settings(OnDevice):
    """The whole path on the embedded world: tokenizer, pretraining, sampling, a class head, both bends."""

    out: Path = Path("runs/main")  # the folder for everything
    seed: int = 0  # of the world and of everything random
    quick: bool = False  # a smaller model on less of everything
    processes: int | None = None  # stages that run at a time after pretraining; 2 where there are two threads
    list: bool = False  # name the stages and stop


def main(settings):
    if settings.list:
        for name, stage in STAGES.items():
            print(f"{name:<12} {stage.__doc__.splitlines()[0]}")
        print(f"{'report':<12} {write_report.__doc__.splitlines()[0]}")
        return
    if settings.processes is not None and settings.processes < 1:
        raise ValueError(f"processes must be at least 1, got {settings.processes}.")
    if settings.processes and settings.processes > 1 and settings.device != "cpu":
        raise ValueError(f"with --device {settings.device} one stage runs at a time; leave out --processes.")
    claim(settings)
    job = make_job(settings)
    if settings.device == "cpu" and not all(result_of(job, name).exists() for name in STAGES):
        processor.precompile()
    run_stages(job, processes(settings))
    page = write_report(job)
    show_summary(job)
    print(f"\nThe page of results: {page}")


def make_job(settings):
    plan = "quick" if settings.quick else "full"
    return first_bend.Job(settings.out, settings.seed, first_bend.PLANS[plan], second_bend.PLANS[plan], settings.quick)


def processes(settings):
    """How many stages at a time: a GPU is not shared, and one thread cannot be."""
    if settings.device != "cpu":
        return 1
    return settings.processes or min(2, processor.get_num_threads())


def claim(settings):
    """Make the job's folder and note its settings there; refuse a folder that holds another job."""
    mine = {"seed": settings.seed, "quick": settings.quick, "plan": fingerprint(settings)}
    if settings.device == "cpu":  # the order of sums depends on them
        mine |= {"threads": processor.get_num_threads(), "processes": processes(settings)}
    path = first_bend.Run(settings.out) / "job.json"
    if not path.exists():
        if (settings.out / "model.safetensors").exists():
            raise ValueError(f"{settings.out} holds a training run, not a main job; choose another folder with --out.")
        write_atomically(path, (json.dumps(mine) + "\n").encode())
        return
    theirs = read_json(path)
    if not isinstance(theirs, dict):
        raise ValueError(f"{path} does not describe a main job; delete it, or choose another folder with --out.")
    if theirs != mine:
        raise ValueError(
            f"{settings.out} holds a job with {described(theirs)}, and this one has {described(mine)}; "
            "choose another folder with --out, or delete that one."
        )


def fingerprint(settings):
    """A short text that changes with any setting of any stage, so that stages of two versions never mix in one folder."""
    job = make_job(settings)
    return f"{zlib.crc32(repr((job.plan, job.second_plan)).encode()):08x}"


def described(settings):
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def show_summary(job):
    """The table of what was measured, in the terminal."""
    rows = summary(job)
    wide = max(len(row[0]) for row in rows)
    print()
    for what, value, note in rows:
        print(f"{what:<{wide}}  {value:>10}  {note}")


if __name__ == "__main__":
    command(main, Settings)
