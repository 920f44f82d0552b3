"""Compile the kernels of training and sampling before they are needed, on several cores.

    python -m kernels.precompile        # fills the cache on disk; the second time there is little to do

Numba compiles on one core, and takes about half a minute for the kernels of a training step. So several processes each take a
share of the kernels and call them once on small arrays. Numba stores the result in its cache on disk, for all shapes.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from kernels import SETS, KernelSet, launch
from kernels.block.reference import parameter_shapes
from kernels.terminal import guard_streams

ROWS, WIDTH, HEADS = 16, 32, 2


def attention(cpu: KernelSet, x: np.ndarray) -> None:
    q = x.reshape(1, HEADS, ROWS, -1)  # (B, H, T, D)
    cpu.attention_forward(q, q, q, causal_offset=0)
    cpu.attention_backward(q, q, q, q, q, q[..., 0], causal_offset=0)


def block_forward(cpu: KernelSet, x: np.ndarray) -> None:
    cpu.block_forward(x[None], _block_parameters(), n_head=HEADS)


def block_backward(cpu: KernelSet, x: np.ndarray) -> None:
    row, wide, weights = x[None, :, 0], np.tile(x[None], 4), _block_parameters()  # (1, R), (1, R, 4C)
    saved = x[None], row, row, wide[..., : 3 * WIDTH], x[None], np.tile(row[None], (1, HEADS, 1)), x[None], x[None], row, row
    cpu.block_backward(x[None], x[None], weights, (*saved, wide, wide), n_head=HEADS)


def _block_parameters() -> tuple[np.ndarray, ...]:
    return tuple(np.zeros(shape, np.float32) for shape in parameter_shapes(WIDTH))


def products(cpu: KernelSet, x: np.ndarray) -> None:
    weight = np.zeros((WIDTH, WIDTH), np.float32)
    cpu.linear_forward(x, weight)
    cpu.linear_backward(x, x, weight, x, activation="gelu_tanh")
    cpu.linear_forward(x[:1], weight)  # one row, as in sampling


def rows(cpu: KernelSet, x: np.ndarray) -> None:
    ids, row, ones = np.zeros(ROWS, np.int64), x[:, 0].copy(), np.ones(WIDTH, np.float32)  # (R,), (R,), (C,)
    cpu.embedding_forward(x, ids)
    cpu.embedding_backward(x, ids, ROWS)
    cpu.layernorm_forward(x, ones, ones)
    cpu.layernorm_backward(x, x, ones, row, row)
    cpu.cross_entropy_forward(x, ids)
    cpu.cross_entropy_backward(row, x, ids, row)
    cpu.log_softmax_forward(x)
    cpu.log_softmax_backward(x, x)
    cpu.global_norm([x])
    cpu.scale_arrays([x.copy()], 1.0)
    parameter, gradient, m, v = ([x.copy()] for _ in range(4))
    cpu.adamw_step(parameter, gradient, m, v, step=1, lr=0.0, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0)


# All shares take about the same time: the kernels of attention, of a block and of matmul are large functions.
SHARES = {share.__name__: share for share in (block_backward, products, block_forward, attention, rows)}


@contextmanager
def without_interrupt() -> Iterator[None]:
    """Ignore Ctrl-C inside the block; processes started inside ignore it too."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@cache
def precompile() -> None:
    """Compile all SHARES, each in a process of its own, and wait for them.

    Does nothing on a single core, or without a cache on disk. A failing process is ignored: the first call of a kernel that is
    missing compiles it, and reports the error.
    """
    for kernel in ("attention_forward", "matmul"):  # importing a kernel looks for the cache
        getattr(SETS["cpu"], kernel)
    if launch.get_num_threads() < 2 or not launch.cached():
        return
    root = Path(__file__).parents[len(__package__.split("."))]  # the folder of the outermost package
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "kernels.precompile", "--with-parent"]
    with without_interrupt():  # Ctrl-C is for this process, which then ends the others
        processes = [
            subprocess.Popen([*command, share], stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
            for share in SHARES
        ]
    try:
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.terminate()


def exit_with_parent() -> None:
    """End this process when its standard input closes, as it does when the parent ends, however it ends."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile the shares that the command line names; without any, compile all in processes of their own."""
    guard_streams()
    parser = argparse.ArgumentParser(prog="python -m kernels.precompile", description=__doc__.split("\n")[0])
    parser.add_argument("shares", nargs="*", metavar="share", help=f"{', '.join(SHARES)} (default: all)")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)
    shares = options.shares
    if options.with_parent:
        threading.Thread(target=exit_with_parent, daemon=True).start()
    for share in shares:
        if share not in SHARES:
            parser.error(f"share: expected {', '.join(SHARES)}, got {share!r}; choose one of them")
        SHARES[share](SETS["cpu"], np.zeros((ROWS, WIDTH), np.float32))
    if not shares:
        precompile()


if __name__ == "__main__":
    main()
