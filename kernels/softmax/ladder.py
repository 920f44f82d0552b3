"""The ladder of softmax: what one pass over memory, a polynomial exp and threads each buy."""

import math

import numba
import numpy as np

from kernels.ladders import Ladder, copying_ladder, normal
from kernels.launch import SAFE, inner
from kernels.simd import exp
from kernels.softmax import cpu, reference


@numba.njit(error_model="numpy")
def plain(x, y):
    """row by row, one pass over memory, libm's exp"""
    for r in range(x.shape[0]):
        top = x[r].max()
        total = np.float32(0)
        for c in range(x.shape[1]):
            y[r, c] = np.float32(math.exp(x[r, c] - top))
            total += y[r, c]
        for c in range(x.shape[1]):
            y[r, c] /= total


@inner
def _row(x, y, top):
    total = np.float32(0)
    for c in range(len(x)):
        y[c] = exp(x[c] - top)
        total += y[c]
    return total


@numba.njit(error_model="numpy")
def polynomial(x, y):
    """exp as a polynomial, sum in any order: both in vector registers"""
    for r in range(x.shape[0]):
        total = _row(x[r], y[r], x[r].max())
        for c in range(x.shape[1]):
            y[r, c] /= total


@numba.njit(error_model="numpy", fastmath=SAFE)
def vector_maximum(x, y):
    """the maximum in vector registers too, one division per row"""
    for r in range(x.shape[0]):
        total = _row(x[r], y[r], cpu.row_maximum(x[r]))
        scale = np.float32(1) / total
        for c in range(x.shape[1]):
            y[r, c] *= scale


def ladders(size: int | None = None) -> list[Ladder]:
    """Softmax of (size, 1024), 16,384 rows by default."""
    x = normal(size or 16384, 1024)
    rungs = (plain, polynomial, vector_maximum)
    return [copying_ladder(reference.softmax_forward, rungs, cpu.softmax_forward, x, np.empty_like(x))]
