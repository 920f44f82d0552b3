"""Check and measure every CUDA kernel, on a GPU or on the emulator.

    python -m kernels.check --device cuda --out DIR

In this order: every kernel on random ragged shapes against float64 NumPy; gradients against differences; times by the GPU's
own clock, beside cuBLAS, a plain copy, and PyTorch if it is installed; compute-sanitizer's four tools on small shapes; a
table. Every result updates DIR/check.json, so an interruption loses nothing. The command needs NumPy, Numba and CuPy, and no
network. `python -m chapters.bench gpu` does the same and trains a GPT as well.

`--device emulator` runs the same steps on a machine without a GPU, on small shapes, so that typos show before a GPU is at hand.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import kernels
from kernels import cases, emulator, gpu
from kernels.arrays import require
from kernels.bench import gpu_kernels
from kernels.terminal import fail, guard_streams, whole_number

# The command must end within 8 minutes. So it stops compute-sanitizer's tools SANITIZED_BY seconds after its start, but lets
# them run for at least SHORTEST_TIME seconds.
SANITIZED_BY, SHORTEST_TIME = 350, 60
GRADIENT_TOLERANCE = 1e-2
FIGURES = {
    "tflops": "{:8.2f} TFLOP/s",
    "gb_per_s": "{:8.0f} GB/s",
    "of_copy": "{:5.2f} of a copy",
    "tokens_per_s": "{:9.0f} tokens/s",
}
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
FAULTS = ("complaint", "exit status", "nothing was checked")  # a verdict that contains one of these phrases counts as failed
# The beginnings of compute-sanitizer's lines that report no fault.
NO_COMPLAINT = ("COMPUTE-SANITIZER", "ERROR SUMMARY: 0", "RACECHECK SUMMARY: 0 hazards")


class Report:
    """The results so far, on the screen and in DIR/check.json, which is replaced as a whole after every result."""

    def __init__(self, folder: str | Path, device: str):
        self.path = Path(folder) / "check.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.content: dict[str, Any] = {"device": device, "failed": [], "sections": {}}
        self.begin = time.perf_counter()

    def add(self, section: str, label: str, value: Any, failed: bool = False) -> None:
        self.content["sections"].setdefault(section, {})[label] = value
        if failed:
            self.content["failed"].append(f"{section}: {label}: {value}")
            print(f"FAILED {section}: {label}: {value}", flush=True)
        self.content["seconds"] = time.perf_counter() - self.begin
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1))
        os.replace(temporary, self.path)

    def note(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.begin:5.0f} s] {text}", flush=True)

    def print_table(self) -> None:
        sections = self.content["sections"]
        for section in ("matmul", "attention", "memory", "steps"):
            for label, row in sections.get(section, {}).items():
                if isinstance(row, str):
                    print(f"{label:58s} {row[:60]}")
                    continue
                figures = " ".join(f.format(row[k]) for k, f in FIGURES.items() if k in row)
                print(f"{label:58s} {row['ms']:10.3f} ms {figures}")
        for name, verdict in sections.get("sanitize", {}).items():
            print(f"compute-sanitizer {name}: {verdict[:80]}")
        failed, seconds = self.content["failed"], self.content.get("seconds", 0)
        print(f"{len(failed)} failed, {seconds:.0f} s on {self.content['device']}; all figures in {self.path}")


@dataclass
class Check:
    """The settings that every step reads."""

    report: Report
    device: str  # "cuda" or "emulator"
    xp: ModuleType  # cupy; numpy on the emulator
    small: bool  # small shapes only
    seed: int  # seed of the random shapes
    numbers: Sequence[int] | None = None  # the cases to check, by number; all if None

    @property
    def emulated(self) -> bool:
        return self.device == "emulator"

    @property
    def kernel_set(self) -> kernels.KernelSet:
        return kernels.SETS[self.device]


def correct(check: Check) -> None:
    """Check every kernel on random shapes. New arrays hold NaN first, except under a tool that looks for unwritten memory."""
    gpu.poison_new_arrays(check.numbers is None)
    for precision in gpu.PRECISIONS:
        gpu.set_matmul_precision(precision)
        worst, count = 0.0, 0
        rng = np.random.default_rng(check.seed)
        for result in cases.check_cases(check.kernel_set, check.xp.asarray, rng, check.small, precision, check.numbers):
            if check.numbers is not None:
                print(f"case {result.label}", flush=True)  # if the tool is stopped, its log tells how far it got
            worst, count = max(worst, result.error / result.tolerance), count + 1
            if not result.error <= result.tolerance:
                check.report.add("correct", f"{precision} {result.label}", result.error, failed=True)
        check.report.add("correct", f"{precision}: {count} cases, worst error over its tolerance", worst)
        text = f"{count} cases against float64, worst error is {worst:.2f} of its tolerance (seed {check.seed})"
        check.report.note(f"{precision}: {text}")
    gpu.set_matmul_precision("fp32")
    gpu.poison_new_arrays(False)


def gradients(check: Check) -> None:
    """Compare backward kernels with differences of forward kernels."""
    errors = dict(cases.check_gradients(check.kernel_set, check.xp.asarray, np.random.default_rng(0)))
    for name, error in errors.items():
        check.report.add("gradients", name, error, failed=not error <= GRADIENT_TOLERANCE)
    check.report.note(f"gradients against differences: worst {max(errors.values()):.1e}")


def speed(check: Check) -> None:
    """Time single kernels."""
    for section, label, row in gpu_kernels.tables(check.xp):
        check.report.add(section, label, row)
    check.report.note("kernels timed")


def sanitize(check: Check) -> None:
    """compute-sanitizer on a GPU; the emulator has checks of its own."""
    if not check.emulated:
        run_sanitizers(check.report, check.kernel_set, check.xp.asarray)


def run_sanitizers(report: Report, kernel_set: kernels.KernelSet, put: Callable, tool: str | Path | None = None) -> None:
    """Run compute-sanitizer's four tools, each in its own process, over a few small cases that launch every kernel.

    The cases make some 150 launches with 400,000 threads in all. Most of the time goes to the tools, which rewrite every kernel
    on the CPU before its first launch. So all four run side by side. A tool that runs out of time still reports its findings.
    """
    tool = tool or shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    folder = report.path.parent
    if not Path(tool).exists():
        report.add("sanitize", "compute-sanitizer", "not installed")
        return
    numbers = [str(number) for number in cases.covering(kernel_set, put, seed=0)]
    program = ["-m", "kernels.check", "--device", "cuda", "--only", "correct", "--small", "--seed", "0", "--cases", *numbers]
    begin, running = time.perf_counter(), {}
    end = begin + max(SHORTEST_TIME, SANITIZED_BY - (begin - report.begin))
    try:
        for name in SANITIZERS:
            command = [str(tool), "--tool", name, "--error-exitcode", "9", sys.executable, *program]
            with (folder / f"{name}.log").open("w") as log:
                command += ["--out", str(folder / name)]
                running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        for name, process in running.items():
            try:
                process.wait(timeout=max(0, end - time.perf_counter()))
            except subprocess.TimeoutExpired:
                pass
            verdict = verdict_of(process.poll(), folder / f"{name}.log", time.perf_counter() - begin)
            report.add("sanitize", name, verdict, failed=any(word in verdict for word in FAULTS))
            report.note(f"compute-sanitizer {name}: {verdict[:80]}")
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the tool, and the program that it watches
                process.wait()


def verdict_of(status: int | None, log: Path, seconds: float) -> str:
    """A tool's findings in a few words, from its exit status (None: still running) and its log."""
    lines = log.read_text(errors="replace").splitlines()
    progress = f"{sum(line.startswith('case ') for line in lines)} cases in {seconds:.0f} s"
    complaints = [line for line in lines if line.startswith("========= ") and not line[10:].startswith(NO_COMPLAINT)]
    if complaints:
        return f"{len(complaints)} lines of complaint, {progress}; the first: {complaints[0][10:200]}"
    if status is None:
        return f"stopped, {progress}: " + ("nothing was checked" if progress.startswith("0 cases") else "no fault so far")
    return f"clean, {progress}" if status == 0 else f"exit status {status}, {progress}: {' '.join(lines[-3:])[-200:]}"


Step = Callable[[Check], None]
STEPS: Mapping[str, Step] = {"correct": correct, "gradients": gradients, "speed": speed, "sanitize": sanitize}


def main(steps: Mapping[str, Step] = STEPS, prog: str = "python -m kernels.check", arguments: Sequence[str] | None = None):
    """The command line: run these steps in this order, and exit with 1 if a step failed."""
    guard_streams()
    parser = argparse.ArgumentParser(prog=prog, description="Check and measure every CUDA kernel.")
    parser.add_argument("--device", choices=("cuda", "emulator"), default="cuda", help="a GPU, or this CPU with small shapes")
    parser.add_argument("--out", default="check", help="folder for check.json and the logs")
    only = f"run only these steps (default: {', '.join(steps)})"
    parser.add_argument("--only", nargs="+", metavar="STEP", choices=tuple(steps), default=tuple(steps), help=only)
    parser.add_argument("--small", action="store_true", help="small shapes only")
    parser.add_argument(
        "--cases", type=whole_number(0), nargs="+", metavar="NUMBER", help="numbers of the cases that the step `correct` runs"
    )
    parser.add_argument("--seed", type=whole_number(0), help="seed of the random shapes (default: a new seed each time)")
    options = parser.parse_args(arguments)
    emulated = options.device == "emulator"
    try:
        xp = np if emulated else require("cuda")
    except RuntimeError as error:
        fail(error)
    if emulated and not emulator.available():
        fail("kernels.check: expected g++ for --device emulator, got none; install it")
    seed = int(np.random.default_rng().integers(2**32)) if options.seed is None else options.seed
    if options.cases:
        count = sum(1 for _ in cases.cases(np.random.default_rng(seed), options.small or emulated))
        if max(options.cases) >= count:
            fail(f"--cases: expected numbers from 0 to {count - 1}, got {max(options.cases)}; choose some of them")
    try:
        report = Report(options.out, gpu.device(xp.empty(0)).name)
    except OSError as error:
        fail(f"--out: expected a folder to write to, got {options.out} ({error.strerror}); choose another")
    check = Check(report, options.device, xp, options.small or emulated, seed, options.cases)
    for name, step in steps.items():
        if name not in options.only:
            continue
        try:
            step(check)
        except Exception as error:  # the report names the step that broke, and the other steps still run
            traceback.print_exc()
            report.add(name, "stopped", f"{type(error).__name__}: {str(error)[:300]}", failed=True)
    report.print_table()
    sys.exit(bool(report.content["failed"]))


if __name__ == "__main__":
    main()
