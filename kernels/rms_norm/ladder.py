"""The ladder of RMSNorm: what one pass over memory and threads each buy."""

import math

import numba
import numpy as np

from kernels.ladders import Ladder, first_and_last, normal
from kernels.launch import SAFE
from kernels.rms_norm import cpu, reference

whole_arrays, threads = first_and_last(reference.rms_norm_forward, cpu.rms_norm_forward)


@numba.njit(error_model="numpy", fastmath=SAFE)
def plain(x, weight, y):
    """row by row: one pass over memory, sums in vector registers"""
    C = x.shape[1]
    for r in range(x.shape[0]):
        square = np.float32(0)
        for c in range(C):
            square += x[r, c] * x[r, c]
        rstd = np.float32(1) / np.float32(math.sqrt(square / np.float32(C) + np.float32(1e-5)))
        for c in range(C):
            y[r, c] = x[r, c] * rstd * weight[c]


def ladders(size: int | None = None) -> list[Ladder]:
    """RMSNorm of (size, 768), 16,384 rows by default."""
    x, weight = normal(size or 16384, 768), normal(768, seed=1)
    arguments = (x, weight, np.empty_like(x))
    return [Ladder("rms_norm", "forward", x.shape, (whole_arrays, plain, threads), arguments, 2 * x.nbytes, "copy")]
