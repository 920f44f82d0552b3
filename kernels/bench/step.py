"""Whole training steps beside PyTorch's: time, cost against T and B, peak memory, and where the time goes, kernel by kernel."""

import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numba
import numpy as np

import kernels
from kernels.bench.measure import limits

SIZES = {"tiny": (16, 128, 512), "book": (8, 256, 512), "gpt2": (4, 256, 50257)}  # batch, T, vocabulary
SECONDS = {"tiny": 4, "book": 20, "gpt2": 60}


def our_step(config, inputs, targets):
    """A function that does one training step (forward, backward, clip, AdamW) and returns its loss."""
    import minigrad as mg
    import minigrad.nn.functional as F
    from chapters.ch06_gpt import GPT

    model = GPT(config, generator=mg.Generator(0))
    optimizer = mg.optim.AdamW(model.parameters(), lr=3e-4)
    x, y = mg.from_numpy(inputs), mg.from_numpy(targets)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).view(-1, config.vocab_size), y.view(-1))
        loss.backward()
        mg.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def _prepare(preset, B, T):
    from chapters.ch06_gpt import GPTConfig

    V = SIZES[preset][2]
    config = GPTConfig.preset(preset, vocab_size=V)
    inputs, targets = np.random.default_rng(0).integers(0, V, (2, B, T))
    return config, inputs, targets


def _product_operations(config, B, T):
    """Operations in the matrix products of a step: three products a weight, two operations each, and causal attention."""
    C, L = config.d_model, config.n_layer
    weights = L * 12 * C * C + config.vocab_size * C
    return 6 * B * T * weights + 7 * L * B * T * (T + 1) * C


def _breakdown(step):
    """Seconds of each kernel in one step, by wrapping the functions of the CPU set while it runs."""
    served, spent = kernels.SETS["cpu"], defaultdict(float)
    plain = {name: getattr(served, name) for names in kernels.OPERATIONS.values() for name in names}

    def timed(name, function):
        def call(*args, **settings):
            begin = time.perf_counter()
            result = function(*args, **settings)
            spent[name] += time.perf_counter() - begin
            return result

        return call

    for name, function in plain.items():
        setattr(served, name, timed(name, function))
    try:
        begin = time.perf_counter()
        step()
        total = time.perf_counter() - begin
    finally:
        for name, function in plain.items():
            setattr(served, name, function)
    spent["everything else"] = total - sum(spent.values())
    return sorted(spent.items(), key=lambda item: -item[1]), total


def _worker(which, preset, B, T):
    """In a process of its own: a step for every line on stdin, answered with its seconds and the most memory ever held."""
    config, inputs, targets = _prepare(preset, B, T)
    if which == "minigrad":
        step = our_step(config, inputs, targets)
    else:
        os.environ.pop("GOMP_SPINCOUNT", None)  # our setting of OpenMP (kernels/launch.py), not PyTorch's
        from kernels.bench.peer_gpt import peer_step, torch

        torch.set_num_threads(numba.get_num_threads())
        step = peer_step(config, inputs, targets, compiled=which == "compiled")
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        print(json.dumps({"seconds": time.perf_counter() - begin, "peak": _most_memory_held()}), flush=True)


class _Contestant:
    """A worker process that takes a step when told to. Two thread pools in one process would stand in each other's way."""

    def __init__(self, which, preset, B, T):
        command = [sys.executable, "-m", "kernels.bench", "step", "--worker", f"{which},{preset},{B},{T}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self):
        print("step", file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def _in_turns(names, preset, B, T, seconds):
    """{name: (median seconds of a step, peak MiB)}: a step of each a round, every one in its own process."""
    contestants = {name: _Contestant(name, preset, B, T) for name in names}
    spent = {name: [] for name in names}
    for contestant in contestants.values():
        contestant.step()  # compiles
    begin = time.perf_counter()
    while len(spent[names[0]]) < 3 or time.perf_counter() - begin < seconds:
        for name, contestant in contestants.items():
            answer = contestant.step()
            spent[name].append(answer["seconds"])
    peaks = {name: contestant.step()["peak"] for name, contestant in contestants.items()}
    for contestant in contestants.values():
        contestant.close()
    return {name: (float(np.median(spent[name])), peaks[name]) for name in names}


def _most_memory_held():
    """MiB. Linux's own count for this process alone; getrusage's would include that of the process that started it."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _one_size(preset, machine, names):
    B, T, V = SIZES[preset]
    found = _in_turns(names, preset, B, T, SECONDS[preset])
    config, inputs, targets = _prepare(preset, B, T)
    products = _product_operations(config, B, T) / machine.gflops / 1e9
    print(f"\n{preset}: B = {B}, T = {T}, V = {V}; matrix products alone at the measured limit: {1e3 * products:.1f} ms")
    for name, (seconds, peak) in found.items():
        ratio = seconds / found["minigrad"][0]
        print(f"  {name:<10}{1e3 * seconds:9.1f} ms  {ratio:6.2f}x  {seconds / products:6.2f} of products{peak:8.0f} MiB")
    ours = our_step(config, inputs, targets)
    ours()
    parts, total = _breakdown(ours)
    for name, seconds in parts:
        if seconds > 0.005 * total:
            print(f"    {name:<24}{1e3 * seconds:9.1f} ms {100 * seconds / total:5.1f}%", flush=True)


def _scaling(names):
    print(f"\ntiny, ms a step against B and T ({', '.join(names)})")
    for B, T in ((1, 128), (4, 128), (16, 128), (64, 128), (16, 32), (16, 256)):
        found = _in_turns(names, "tiny", B, T, 2.0)
        print(f"  B = {B:3}  T = {T:4} " + "".join(f"{1e3 * seconds:9.1f}" for seconds, _ in found.values()), flush=True)


def run(arguments):
    if arguments.worker:
        which, preset, B, T = arguments.worker.split(",")
        _worker(which, preset, int(B), int(T))
        return
    machine = limits()
    print(machine)
    names = ["minigrad"]
    if importlib.util.find_spec("torch") is not None:
        names += ["PyTorch", "compiled"] if arguments.compile else ["PyTorch"]
    for preset in arguments.preset or SIZES:
        _one_size(preset, machine, names)
    if not arguments.preset or "tiny" in arguments.preset:
        _scaling(names)
