"""The main job: the whole path of the book on the embedded world, from raw text to an assistant, and a page of results.

    python -m chapters                # everything, some minutes on two cores; ends in runs/main/report.html
    python -m chapters --quick        # the same path, smaller
    python -m chapters --list         # the stages and what each does

A job that was stopped goes on where it was when the same command is given again. Nothing is downloaded.
"""

import json
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from chapters import second_bend, stages
from chapters.command import OnDevice, command
from chapters.report import summary, write_report
from minigrad.ahead import compile_ahead
from minigrad.serialization import write_atomically

STAGES = {
    "world": stages.make_world,
    "tokenizer": stages.make_tokens,
    "pretrain": stages.pretrain,
    "sample": stages.sample,
    "classify": stages.classify,
    "sft": stages.fine_tune,
    "evaluate": stages.evaluate,
    **second_bend.STAGES,
}


@dataclass
class Settings(OnDevice):
    """The whole path on the embedded world: tokenizer, pretraining, sampling, a class head, both bends."""

    out: Path = Path("runs/main")  # the folder for everything
    seed: int = 0  # of the world and of everything random
    quick: bool = False  # a smaller model on less of everything
    list: bool = False  # name the stages and stop


def main(settings):
    if settings.list:
        for name, stage in STAGES.items():
            print(f"{name:<12} {stage.__doc__.splitlines()[0]}")
        print(f"{'report':<12} {write_report.__doc__.splitlines()[0]}")
        return
    claim(settings)
    if settings.device == "cpu":
        compile_ahead()
    job = stages.Job(settings.out, settings.seed, settings.quick)
    for number, (name, stage) in enumerate(STAGES.items(), 1):
        run_stage(job, name, stage, f"[{number}/{len(STAGES)}]")
    page = write_report(job)
    show_summary(job)
    print(f"\nThe page of results: {page}")


def claim(settings):
    """Make the job's folder and note its settings there; refuse a folder that holds another job."""
    mine = {"seed": settings.seed, "quick": settings.quick, "plan": fingerprint(settings)}
    path = stages.Run(settings.out) / "job.json"
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
    job = stages.Job(settings.out, settings.seed, settings.quick)
    return f"{zlib.crc32(repr((job.plan, second_bend.plan(job))).encode()):08x}"


def read_json(path):
    """What a JSON file of this job holds; ValueError, saying what to do, where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and give the same command again.") from None


def described(settings):
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def run_stage(job, name, stage, place):
    """Run one stage, or take over what it found when it was run before; its result goes to <stage>/result.json."""
    path = job.run(name) / "result.json"
    title = f"\033[1m{place} {name}\033[0m" if sys.stdout.isatty() else f"{place} {name}"
    if path.exists():
        job.results[name] = read_json(path)
        print(f"{title}: done before, kept")
        return
    print(f"{title}: {stage.__doc__.splitlines()[0]}", flush=True)
    started = time.perf_counter()
    result = stage(job)
    write_atomically(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    job.results[name] = read_json(path)
    seconds = time.perf_counter() - started
    with open(
        job.out / "timing.jsonl", "a"
    ) as clock:  # the clock has a file of its own: the rest is the same every time
        clock.write(json.dumps({"stage": name, "seconds": round(seconds, 1)}) + "\n")
    print(f"      {seconds:.1f} s", flush=True)


def show_summary(job):
    """The table of what was measured, in the terminal."""
    rows = summary(job)
    wide = max(len(row[0]) for row in rows)
    print()
    for what, value, note in rows:
        print(f"{what:<{wide}}  {value:>10}  {note}")


if __name__ == "__main__":
    command(main, Settings)
