"""One command for a machine with a GPU: is every kernel right, does training come out the same, and how fast is it?

    python -m kernels.check --device cuda --out DIR

In this order, writing DIR/check.json after every step, so that a stop loses nothing: every kernel on fresh random ragged
shapes against float64 NumPy; gradients against differences; 30 steps of the `book` GPT against the CPU's losses, and as a
CUDA graph against those without; times by the GPU's own clock, beside cuBLAS, a plain copy, and PyTorch where it is
installed; compute-sanitizer's four tools on small shapes; a table.

Needs numpy, numba and cupy, and nothing from the network. `--device emulator` runs the same steps on a machine without a GPU,
small, and measures nothing: it is there so that the command cannot fail on a typo on the day it matters.
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
from pathlib import Path

import numpy as np

import kernels
from kernels import cases, emulator, gpu
from kernels.arrays import require_cupy
from kernels.bench import gpu_kernels, gpu_training

STEPS = ("correct", "gradients", "training", "speed", "steps", "sanitize", "compiled")
# Seconds from the start: the command is to end within 8 minutes. compute-sanitizer's tools are stopped at the first; after the
# second no further PyTorch model is compiled, which can take a minute.
SANITIZED_BY, COMPILED_BY = 350, 400
SHORTEST_TIME = 60  # seconds that the tools have in any case
GRADIENT_TOLERANCE, LOSS_TOLERANCE = 1e-2, 1e-3
SHAPES = [("book", 32), ("gpt2", 8), ("tiny", 16)]  # of whole training steps: preset and batch
FIGURES = {
    "tflops": "{:8.2f} TFLOP/s", "gb_per_s": "{:8.0f} GB/s", "of_copy": "{:5.2f} of a copy",
    "tokens_per_s": "{:9.0f} tokens/s",
}  # fmt: skip
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
WRONG = ("complaint", "exit status", "nothing was checked")  # words of a verdict
# How the lines begin that compute-sanitizer writes when all is well.
NO_COMPLAINT = ("COMPUTE-SANITIZER", "ERROR SUMMARY: 0", "RACECHECK SUMMARY: 0 hazards")


class Report:
    """What was found so far, on the screen and in DIR/check.json, which is replaced whole after every line."""

    def __init__(self, folder, device):
        self.path = Path(folder) / "check.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.content = {"device": device, "failed": [], "sections": {}}
        self.begin = time.perf_counter()

    def add(self, section, label, value, failed=False):
        self.content["sections"].setdefault(section, {})[label] = value
        if failed:
            self.content["failed"].append(f"{section}: {label}: {value}")
            print(f"FAILED {section}: {label}: {value}", flush=True)
        self.content["seconds"] = time.perf_counter() - self.begin
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1))
        os.replace(temporary, self.path)

    def note(self, text):
        print(f"[{time.perf_counter() - self.begin:5.0f} s] {text}", flush=True)


def check_correct(report, xp, served, put, small, seed, only=None):
    """1. Every kernel, fresh shapes, outputs filled with NaN first (not under a tool that looks for what nobody wrote)."""
    gpu.poison_new_arrays(only is None)
    for precision in gpu.PRECISIONS:
        gpu.set_matmul_precision(precision)
        worst, n = 0.0, 0
        for label, error, tolerance in cases.check_cases(served, put, np.random.default_rng(seed), small, precision, only):
            if only is not None:
                print(f"case {label}", flush=True)  # should the tool be stopped, its log tells how far it came
            worst, n = max(worst, error / tolerance), n + 1
            if not error <= tolerance:
                report.add("correct", f"{precision} {label}", error, failed=True)
        report.add("correct", f"{precision}: {n} cases, worst error over its tolerance", worst)
        report.note(f"{precision}: {n} cases against float64, worst error is {worst:.2f} of its tolerance (seed {seed})")
    gpu.set_matmul_precision("fp32")
    gpu.poison_new_arrays(False)


def check_gradients(report, xp, served, put):
    """2. Backward kernels against differences of forward kernels."""
    for name, error in cases.check_gradients(served, put, np.random.default_rng(0)):
        report.add("gradients", name, error, failed=not error <= GRADIENT_TOLERANCE)
    report.note(f"gradients against differences: worst {max(report.content['sections']['gradients'].values()):.1e}")


def check_training(report, xp, small):
    """3. The losses of whole training steps against the CPU's, and those of recorded steps against the others."""
    preset, steps, batch = ("small", 5, 2) if xp is np else ("book", 30, 4)
    device = "emulator" if xp is np else "cuda"
    ours = gpu_training.losses(preset, device, steps, batch)
    with kernels.use("cpu"):
        cpu = gpu_training.losses(preset, "cpu", steps, batch)
    difference = float(np.abs(np.subtract(ours, cpu)).max())
    report.add("training", f"{steps} steps of {preset}, first and last loss", [ours[0], ours[-1]])
    report.add(
        "training",
        f"{steps} steps of {preset}, largest difference",
        difference,
        failed=not difference <= LOSS_TOLERANCE,
    )
    between = f"loss {ours[0]:.3f} to {ours[-1]:.3f}"
    report.note(f"{steps} steps of {preset}: {between}, at most {difference:.1e} from the CPU's")
    recorded = gpu_training.losses(preset, device, steps, batch, graph=True)
    difference = float(np.abs(np.subtract(recorded, ours)).max())
    label = f"{steps} steps of {preset} as a graph, largest difference from those without"
    report.add("training", label, difference, failed=not difference <= LOSS_TOLERANCE)
    report.note(f"{steps} steps of {preset} as a graph: at most {difference:.1e} from those without")


def measure(report, xp):
    """4. Times of single kernels."""
    for section, label, row in gpu_kernels.tables(xp):
        report.add(section, label, row)
    report.note("kernels timed")


def measure_steps(report, xp, small):
    """4, continued. Times of whole training steps, beside PyTorch's; as graphs last, where a failure costs no other figure."""
    shapes = [("small", 2)] if small else SHAPES
    measure_ours(report, xp, small, shapes, graph=False)
    if not small and gpu_kernels.torch_on_gpu() is not None:
        measure_torch(report, shapes, compiled=False)
    shapes = [shape for shape in shapes if shape[0] != "gpt2"]  # its kernels take far longer than their launches
    measure_ours(report, xp, small, shapes, graph=True)


def measure_ours(report, xp, small, shapes, graph):
    for precision in ("fp32",) if small else gpu.PRECISIONS:
        for preset, batch in shapes:
            label = f"{preset}, batch {batch}, {precision}{', as a graph' if graph else ''}"
            row = gpu_training.step_time(xp, preset, batch, precision, graph)
            report.add("steps", f"ours, {label}", row)
            report.note(f"step of {label}: {row['ms']:.1f} ms")
            if xp is not np:
                xp.get_default_memory_pool().free_all_blocks()


def measure_torch(report, shapes, compiled):
    """PyTorch's steps, eager, or through torch.compile as long as there is time: a compilation can take a minute."""
    kind, torch = "compiled" if compiled else "eager", gpu_kernels.torch_on_gpu()
    for precision in gpu.PRECISIONS:
        for preset, batch in shapes:
            name = f"PyTorch {kind}, {preset}, batch {batch}, {precision}"
            if compiled and time.perf_counter() - report.begin > COMPILED_BY:
                report.add("steps", name, "not measured: out of time")
                continue
            try:
                report.add("steps", name, gpu_training.torch_step_times(preset, batch, precision, compiled))
            except Exception as error:  # a compiler that is not there, or memory: the table says so and goes on
                report.add("steps", name, f"{type(error).__name__}: {str(error)[:200]}")
            torch.cuda.empty_cache()
    report.note(f"PyTorch {kind} steps timed")


def sanitize(report, served, put, folder, tool=None):
    """5. compute-sanitizer's four tools over as few small cases as launch every kernel, each in a process of its own.

    The cases are some 150 launches of 400,000 threads together: what takes long is that a tool rewrites every kernel before
    its first launch, on the CPU. So all four run side by side. What they found is told even where the time was too short.
    """
    tool = tool or shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        report.add("sanitize", "compute-sanitizer", "not installed")
        return
    chosen = [str(number) for number in cases.covering(served, put, seed=0)]
    check = ["-m", "kernels.check", "--device", "cuda", "--only", "correct", "--small", "--seed", "0", "--cases", *chosen]
    begin, running = time.perf_counter(), {}
    end = begin + max(SHORTEST_TIME, SANITIZED_BY - (begin - report.begin))
    try:
        for name in SANITIZERS:
            command = [str(tool), "--tool", name, "--error-exitcode", "9", sys.executable, *check]
            with (Path(folder) / f"{name}.log").open("w") as log:
                command += ["--out", str(Path(folder) / name)]
                running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        for name, process in running.items():
            try:
                process.wait(timeout=max(0, end - time.perf_counter()))
            except subprocess.TimeoutExpired:
                pass
            verdict = verdict_of(process.poll(), Path(folder) / f"{name}.log", time.perf_counter() - begin)
            report.add("sanitize", name, verdict, failed=any(word in verdict for word in WRONG))
            report.note(f"compute-sanitizer {name}: {verdict[:80]}")
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the tool, and the program that it watches
                process.wait()


def verdict_of(status, log, seconds):
    """In a few words what a tool found that ended with this exit status, or that is still running (None)."""
    lines = log.read_text(errors="replace").splitlines()
    done = f"{sum(line.startswith('case ') for line in lines)} cases in {seconds:.0f} s"
    complaints = [line for line in lines if line.startswith("========= ") and not line[10:].startswith(NO_COMPLAINT)]
    if complaints:
        return f"{len(complaints)} lines of complaint, {done}; the first: {complaints[0][10:200]}"
    if status is None:
        nothing = done.startswith("0 cases")
        return f"stopped, {done}" + (": nothing was checked" if nothing else " and no word against them")
    return f"clean, {done}" if status == 0 else f"exit status {status}, {done}: {' '.join(lines[-3:])[-200:]}"


def print_table(report):
    sections = report.content["sections"]
    for section in ("matmul", "attention", "memory", "steps"):
        for label, row in sections.get(section, {}).items():
            if isinstance(row, str):
                print(f"{label:58s} {row[:60]}")
                continue
            figures = " ".join(f.format(row[k]) for k, f in FIGURES.items() if k in row)
            print(f"{label:58s} {row['ms']:10.3f} ms {figures}")
    for name, verdict in sections.get("sanitize", {}).items():
        print(f"compute-sanitizer {name}: {verdict[:80]}")
    failed = report.content["failed"]
    seconds = report.content.get("seconds", 0)
    print(f"{len(failed)} failed, {seconds:.0f} s on {report.content['device']}; all figures in {report.path}")


def device_name(xp):
    if xp is np:
        return "the emulator"
    name = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def main():
    parser = argparse.ArgumentParser(prog="python -m kernels.check", description="Check and measure every CUDA kernel.")
    parser.add_argument("--device", choices=("cuda", "emulator"), default="cuda", help="a GPU, or the same on this CPU, small")
    parser.add_argument("--out", default="check", help="folder for check.json and the logs")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, help="run only these steps")
    parser.add_argument("--small", action="store_true", help="small shapes only")
    parser.add_argument("--cases", type=int, nargs="+", help="only these of the correctness step's, by their numbers")
    parser.add_argument("--seed", type=int, default=None, help="of the random shapes; drawn anew where not given")
    options = parser.parse_args()
    emulated = options.device == "emulator"
    try:
        xp = np if emulated else require_cupy()
    except RuntimeError as error:
        sys.exit(str(error))
    if emulated and not emulator.available():
        sys.exit("the emulator needs g++, which is not installed here")
    small = options.small or emulated
    seed = int(np.random.SeedSequence().entropy % 2**32) if options.seed is None else options.seed
    served = kernels.SETS["emulator" if emulated else "cuda"]
    put = np.asarray if emulated else xp.asarray
    report = Report(options.out, device_name(xp))
    work = {
        "correct": lambda: check_correct(report, xp, served, put, small, seed, options.cases),
        "gradients": lambda: check_gradients(report, xp, served, put),
        "training": lambda: check_training(report, xp, small),
        "speed": lambda: measure(report, xp),
        "steps": lambda: measure_steps(report, xp, small),
        "sanitize": lambda: emulated or sanitize(report, served, put, options.out),
        "compiled": lambda: small or gpu_kernels.torch_on_gpu() is None or measure_torch(report, SHAPES, compiled=True),
    }
    for step in STEPS:
        if step not in options.only:
            continue
        try:
            with kernels.use("emulator" if emulated else "cuda"):
                work[step]()
        except Exception as error:  # one step that breaks is reported, and the others still run
            traceback.print_exc()
            report.add(step, "stopped", f"{type(error).__name__}: {str(error)[:300]}", failed=True)
    print_table(report)
    sys.exit(bool(report.content["failed"]))


if __name__ == "__main__":
    main()
