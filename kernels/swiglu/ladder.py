"""The ladder of SwiGLU: what one pass over memory, a polynomial exp and threads each buy."""

import math

import numba
import numpy as np

from kernels.ladders import Ladder, copying_ladder, normal
from kernels.launch import SAFE
from kernels.swiglu import cpu, reference


@numba.njit(error_model="numpy")
def plain(x, y):
    """one pass over memory, libm's exp"""
    F = y.shape[1]
    for r in range(x.shape[0]):
        for c in range(F):
            sigmoid = np.float32(1) / (np.float32(1) + np.float32(math.exp(-x[r, c])))
            y[r, c] = x[r, c] * sigmoid * x[r, F + c]


@numba.njit(error_model="numpy", fastmath=SAFE)
def polynomial(x, y):
    """exp as a polynomial, in vector registers"""
    F = y.shape[1]
    for r in range(x.shape[0]):
        for c in range(F):
            y[r, c] = x[r, c] * cpu.sigmoid(x[r, c]) * x[r, F + c]


def ladders(size: int | None = None) -> list[Ladder]:
    """SwiGLU of (size, 3072), 4,096 rows by default."""
    x = normal(size or 4096, 3072)
    y = np.empty((len(x), 1536), np.float32)
    return [copying_ladder(reference.swiglu_forward, (plain, polynomial), cpu.swiglu_forward, x, y)]
