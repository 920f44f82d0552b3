"""The ladder of RMSNorm: what one pass over memory and threads each buy."""

import math

import numba
import numpy as np

from kernels.ladders import Ladder, copying_ladder, normal
from kernels.launch import SAFE
from kernels.rms_norm import cpu, reference


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
    return [copying_ladder(reference.rms_norm_forward, [plain], cpu.rms_norm_forward, x, weight, np.empty_like(x))]
