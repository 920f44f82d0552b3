"""Compile what training and sampling need before they need it, on several cores.

    python -m kernels.precompile        # fills the cache on disk; the second time there is little to do

Numba compiles on one core, most of a minute for all kernels of a training step, and the others wait. Processes do not wait
for one another: each takes a share of the kernels, calls them once on small arrays, and leaves them in the cache, where the
process that needs them finds them. (A kernel is compiled once for all shapes.)
"""

import argparse
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np

from kernels import SETS, launch

ROWS, WIDTH, HEADS = 16, 32, 2


def attention_forward(served, x):
    q = x.reshape(1, HEADS, ROWS, -1)  # (B, H, T, D)
    served.attention_forward(q, q, q, causal_offset=0)


def attention_backward(served, x):
    q = x.reshape(1, HEADS, ROWS, -1)  # (B, H, T, D)
    served.attention_backward(q, q, q, q, q, q[..., 0], causal_offset=0)


def products(served, x):
    weight = np.zeros((WIDTH, WIDTH), np.float32)
    served.linear_forward(x, weight)
    served.linear_backward(x, x, weight, x, activation="gelu_tanh")
    served.linear_forward(x[:1], weight)  # one row, as in sampling


def rows(served, x):
    ids, row, ones = np.zeros(ROWS, np.int64), x[:, 0].copy(), np.ones(WIDTH, np.float32)  # (R,), (R,), (C,)
    served.embedding_forward(x, ids)
    served.embedding_backward(x, ids, ROWS)
    served.layernorm_forward(x, ones, ones)
    served.layernorm_backward(x, x, ones, row, row)
    served.cross_entropy_forward(x, ids)
    served.cross_entropy_backward(row, x, ids, row)
    served.log_softmax_forward(x)
    served.log_softmax_backward(x, x)
    served.global_norm([x])
    served.scale_arrays([x.copy()], 1.0)
    parameter, gradient, m, v = ([x.copy()] for _ in range(4))
    served.adamw_step(parameter, gradient, m, v, step=1, lr=0.0, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0)


# About as long as each other: the kernels of attention and of matmul are large functions.
SHARES = {share.__name__: share for share in (attention_forward, attention_backward, products, rows)}


@contextmanager
def without_interrupt():
    """Inside, Ctrl-C is ignored, and processes that are started here begin by ignoring it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@cache
def precompile():
    """Compile everything in SHARES, a process each, and wait; do nothing where it would not help: on a single core, or
    where there is no cache on disk to find it in."""
    for operation in ("attention", "matmul"):  # imports their kernels, which look for the cache
        import_module(f"kernels.{operation}.cpu")
    if launch.get_num_threads() < 2 or not launch.cached():
        return
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    # What goes wrong in a process is no matter: what it did not compile is compiled when it is needed, and said then.
    with without_interrupt():  # as they begin, they ignore Ctrl-C: it is for the first process
        processes = [
            subprocess.Popen([sys.executable, "-m", "kernels.precompile", share], env={**os.environ, "PYTHONPATH": path})
            for share in SHARES
        ]
    try:
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.terminate()


def main(shares):
    """What one of the processes does; without shares, start them all."""
    for share in shares:
        SHARES[share](SETS["cpu"], np.zeros((ROWS, WIDTH), np.float32))
    if not shares:
        precompile()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kernels.precompile", description=__doc__.split("\n")[0])
    parser.add_argument("shares", nargs="*", metavar="share", help=f"{', '.join(SHARES)}; all where none is given")
    chosen = parser.parse_args().shares
    for share in chosen:
        if share not in SHARES:
            parser.error(f"there is no share {share!r}; choose of {', '.join(SHARES)}")
    main(chosen)
