"""Training steps shared by several processes: time, waiting and memory.

    python -m chapters.bench ranks                # one process with all threads beside several with a share of them, in turns
    python -m chapters.bench ranks --memory       # GPT-2 124M: memory of each process, the optimizer's state whole and sharded

Each measurement is a job of its own, since mpiexec starts processes and not functions. "waiting" is the part of a step in which
a process has computed its gradients and waits for those of the others: what did not travel during the backward pass.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from types import SimpleNamespace
from typing import Any

import numpy as np

import minigrad as mg
from chapters.bench.step import SIZES
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import TrainConfig, compute_gradients, make_optimizer, next_token_loss
from chapters.support.shared_training import share_training
from kernels.bench.limits import machine
from kernels.terminal import fail
from minigrad import distributed
from minigrad.distributed import gradients

ROUNDS = 5  # turns of each job; the table shows medians
STEPS = {"main job": 60, "tiny": 30, "book": 5, "llmc": 2}  # in a turn
WARM_UP = 2  # steps before the clock starts
NOTES = 1  # small messages of a step: its losses


def shape_and_batch(size: str) -> tuple[GPTConfig, int]:
    """One of bench/step's models, with a context of its T, and the rows of a batch."""
    config, rows, T = SIZES[size]
    return replace(config, context=T), rows


def train(size: str, shard_optimizer: bool, rows: int | None, overlap: bool) -> None:
    """Train in this process, and with the others that mpiexec has started; rank 0 prints its measurements as JSON.

    Args:
        rows: rows of the whole batch; None: the size's own.
        overlap: whether gradients travel during the backward pass. Without, a single bucket holds all of them.
    """
    shape, usual_rows = shape_and_batch(size)
    rows = rows or usual_rows
    gradients.BUCKET = gradients.BUCKET if overlap else sys.maxsize
    tokens = np.random.default_rng(0).integers(0, shape.vocab_size, 100_000)
    with distributed.sharing(distributed.join()) as sharing:
        model = GPT(shape, generator=mg.Generator(0))
        batches = NextTokenBatches(tokens, shape.context, rows, seed=0)
        config = TrainConfig(batch_size=rows, shard_optimizer=shard_optimizer)
        optimizer: Any = make_optimizer(model, config)
        shared = share_training(model, optimizer, config, "random tokens")
        optimizer = shared.optimizer if shared else optimizer
        times, waited = [], 0.0
        for step in range(WARM_UP + STEPS[size]):
            if step == WARM_UP:
                waited = shared.exchange.seconds_waited if shared else 0.0
            begin = time.perf_counter()
            compute_gradients(model, batches, SimpleNamespace(step=step), config, next_token_loss, shared)  # type: ignore[arg-type]
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - begin)
        waited = (shared.exchange.seconds_waited if shared else 0.0) - waited
        peaks = sharing.group.gather_objects(getrusage(RUSAGE_SELF).ru_maxrss * 1024)
    if sharing.leads:
        timed = times[WARM_UP:]
        print(json.dumps({"seconds": float(np.median(timed)), "waiting": waited / sum(timed), "bytes": peaks}), flush=True)


def mpiexec() -> str:
    """The path of mpiexec, beside this Python or elsewhere."""
    path = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return path or fail("bench ranks: expected mpiexec, which is missing; install it with pip install -e '.[mpi]'")


def measure(
    ranks: int,
    threads: int,
    size: str,
    shard_optimizer: bool = False,
    rows: int | None = None,
    overlap: bool = True,
    start: Sequence[str] = (),
) -> dict[str, Any]:
    """The measurements of one job with this many processes and threads in each.

    start: how mpiexec begins, with its options; by default all processes run on this machine.
    """
    program = f"from chapters.bench.ranks import train; train({size!r}, {shard_optimizer}, {rows}, {overlap})"
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program]
    if ranks > 1:  # -m mpi4py: an error on one rank ends all
        command = [*(start or [mpiexec()]), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-c", program]
    # mpiexec hands standard input on, and so reads all of it.
    pipes: dict[str, Any] = dict(stdin=subprocess.DEVNULL, capture_output=True, text=True)
    done = subprocess.run(command, env=environment, **pipes)
    if done.returncode:
        fail(f"bench ranks: a job of {ranks} processes failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run(options: Namespace) -> None:
    print(machine())
    if options.memory:
        print_memory(options.ranks)
        return
    ranks, cores = options.ranks[0], os.cpu_count() or 1
    threads = max(1, cores // ranks)
    print(f"a step with {ranks} processes of {threads} thread{'s' * (threads > 1)}, beside one of {ranks * threads} threads")
    for size in options.preset or ("main job", "tiny", "book"):
        turns = [(measure(1, ranks * threads, size), measure(ranks, threads, size)) for _ in range(ROUNDS)]
        alone, together = (float(np.median([turn[i]["seconds"] for turn in turns])) for i in (0, 1))
        ratio = float(np.median([b["seconds"] / a["seconds"] for a, b in turns]))
        waiting = float(np.median([b["waiting"] for _, b in turns]))
        milliseconds = f"{1e3 * together:8.1f} ms, {1e3 * alone:8.1f} ms alone"
        print(f"  {size:<9} {milliseconds}: {ratio:.2f} of its time; {waiting:4.0%} waiting")


def print_memory(numbers: list[int]) -> None:
    """Print the peak memory of each process in a step of GPT-2 124M with a row for each, and what sharding can save at most."""
    shape, _ = shape_and_batch("llmc")
    moments = 8 * GPT(shape, generator=mg.Generator(0)).num_parameters()
    print(f"GPT-2, 124M: peak memory of each process in MB; AdamW's moments are {moments / 1e6:,.0f} MB")
    for ranks in numbers:
        whole, sharded = (measure(ranks, 1, "llmc", flag, rows=ranks)["bytes"] for flag in (False, True))
        saved = float(np.mean(whole) - np.mean(sharded))
        each = ", ".join(f"{b / 1e6:,.0f}" for b in sharded)
        theory = moments * (1 - 1 / ranks)
        print(
            f"  {ranks} processes: {np.mean(whole) / 1e6:,.0f} whole; sharded {each}; {saved / 1e6:,.0f} saved on average, "
            f"of {theory / 1e6:,.0f} possible"
        )
