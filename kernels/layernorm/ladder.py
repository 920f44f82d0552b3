"""The ladder of layer normalisation: what one pass over memory, reordered sums and threads each buy."""

import math

import numba
import numpy as np

from kernels.ladders import Ladder, copying_ladder, normal
from kernels.launch import SAFE
from kernels.layernorm import cpu, reference


def _rows(x, weight, bias, y):
    C = x.shape[1]
    for r in range(x.shape[0]):
        total = np.float32(0)
        for c in range(C):
            total += x[r, c]
        mean = total / np.float32(C)
        square = np.float32(0)
        for c in range(C):
            square += (x[r, c] - mean) * (x[r, c] - mean)
        rstd = np.float32(1) / np.float32(math.sqrt(square / np.float32(C) + np.float32(1e-5)))
        for c in range(C):
            y[r, c] = (x[r, c] - mean) * rstd * weight[c] + bias[c]


# The next two rungs are these lines, compiled twice. In the written order, each addition of a sum waits four cycles for the
# previous addition. If the order does not matter, the compiler keeps dozens of partial sums in vector registers.
_in_order = numba.njit(error_model="numpy")(_rows)
_reordered = numba.njit(error_model="numpy", fastmath=SAFE)(_rows)


def in_order(x, weight, bias, y):
    """row by row, one pass over memory"""
    _in_order(x, weight, bias, y)


def reordered(x, weight, bias, y):
    """sums in vector registers"""
    _reordered(x, weight, bias, y)


def ladders(size: int | None = None) -> list[Ladder]:
    """Layer normalisation of (size, 768), 16,384 rows by default."""
    x, weight, bias = normal(size or 16384, 768), normal(768, seed=1), normal(768, seed=2)
    arrays = (x, weight, bias, np.empty_like(x))
    return [copying_ladder(reference.layernorm_forward, (in_order, reordered), cpu.layernorm_forward, *arrays)]
