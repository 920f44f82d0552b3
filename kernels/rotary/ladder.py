"""The ladder of rotary positions: what one pass over memory and threads each buy."""

import numba
import numpy as np

from kernels.ladders import Ladder, copying_ladder, normal
from kernels.launch import SAFE
from kernels.rotary import cpu, reference


@numba.njit(error_model="numpy", fastmath=SAFE)
def plain(x, cos, sin, y):
    """pair by pair: one pass over memory"""
    B, H, T, D = x.shape
    for b in range(B):
        for h in range(H):
            for t in range(T):
                for j in range(D // 2):
                    first, second = x[b, h, t, j], x[b, h, t, D // 2 + j]
                    y[b, h, t, j] = first * cos[t, j] - second * sin[t, j]
                    y[b, h, t, D // 2 + j] = second * cos[t, j] + first * sin[t, j]


def ladders(size: int | None = None) -> list[Ladder]:
    """The queries of 8 texts of `size` tokens, 1,024 by default: 12 heads of width 64."""
    T = size or 1024
    x, angles = normal(8, 12, T, 64), normal(T, 32, seed=1)
    return [copying_ladder(reference.rotary, [plain], cpu.rotary, x, np.cos(angles), np.sin(angles), np.empty_like(x))]
