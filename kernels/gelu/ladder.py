"""The ladder of GELU in its tanh form: what one pass over memory, an exp in place of a tanh, and threads each buy."""

import math

import numba
import numpy as np

from kernels.gelu import cpu, reference
from kernels.ladders import Ladder, copying_ladder, normal
from kernels.launch import SAFE


@numba.njit(error_model="numpy")
def plain(x, y):
    """one pass over memory, libm's tanh"""
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            v = x[r, c]
            u = np.float32(reference.TANH_SCALE) * (v + np.float32(reference.TANH_CUBIC) * v * v * v)
            y[r, c] = np.float32(0.5) * v * (np.float32(1) + np.float32(math.tanh(u)))


@numba.njit(error_model="numpy", fastmath=SAFE)
def logistic(x, y):
    """x σ(2u) needs one exp, a polynomial in vector registers"""
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = cpu.gelu_tanh(x[r, c])


def ladders(size: int | None = None) -> list[Ladder]:
    """GELU of (size, 768), 16,384 rows by default."""
    x = normal(size or 16384, 768)
    rungs = (plain, logistic)
    return [copying_ladder(reference.gelu_forward, rungs, cpu.gelu_forward, x, np.empty_like(x), approximate="tanh")]
