"""The ladder of embedding's backward pass: rows that share a token add up, and no two threads may write to one row."""

import numba
import numpy as np

from kernels.embedding import cpu, reference
from kernels.ladders import Ladder, normal
from kernels.launch import SAFE


def unbuffered_add(dy, ids, dweight):
    """NumPy's add.at, an element at a time"""
    dweight[...] = 0
    np.add.at(dweight, ids, dy)


def sorted_runs(dy, ids, dweight):
    """NumPy: sort the ids, then sum each run of equal ids"""
    return reference.embedding_backward(dy, ids, len(dweight), out=dweight)


@numba.njit(error_model="numpy", fastmath=SAFE)
def plain(dy, ids, dweight):
    """a row at a time, in the order of the ids"""
    dweight[...] = 0
    for r in range(len(ids)):
        for c in range(dy.shape[1]):
            dweight[ids[r], c] += dy[r, c]


def threads(dy, ids, dweight):
    """sorted runs on all cores: the engine's kernel"""
    return cpu.embedding_backward(dy, ids, len(dweight), out=dweight)


def ladders(size: int | None = None) -> list[Ladder]:
    """Gradients of `size` tokens of width 768, 16,384 by default, over a vocabulary of 4,096."""
    dy, V = normal(size or 16384, 768), 4096
    ids = np.random.default_rng(0).integers(0, V, len(dy))
    dweight = np.empty((V, 768), np.float32)
    rungs = (unbuffered_add, sorted_runs, plain, threads)
    return [Ladder("embedding", "backward", dy.shape, rungs, (dy, ids, dweight), dy.nbytes + dweight.nbytes, "copying")]
