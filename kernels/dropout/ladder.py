"""The ladder of dropout: what computing the mask on the fly and threads each buy."""

import numba
import numpy as np

from kernels.dropout import cpu, reference
from kernels.ladders import Ladder, copying_ladder, normal

P, SEED = 0.1, 1234567
GAMMA, MIX1, MIX2 = reference.GAMMA, reference.MIX1, reference.MIX2


@numba.njit(error_model="numpy")
def plain(x, y):
    """an element at a time: the mask never reaches memory"""
    for i in range(len(x)):
        z = np.uint64(i + 1) * GAMMA + np.uint64(SEED)  # SplitMix64, as in reference.uniform
        z = (z ^ (z >> np.uint64(30))) * MIX1
        z = (z ^ (z >> np.uint64(27))) * MIX2
        z = z ^ (z >> np.uint64(31))
        uniform = np.float32(np.int64(z >> np.uint64(40))) * np.float32(2.0**-24)
        y[i] = x[i] * np.float32(1 / (1 - P)) if uniform >= np.float32(P) else np.float32(0)


def ladders(size: int | None = None) -> list[Ladder]:
    """Dropout of `size` thousand numbers, 16,384 thousand by default."""
    x = normal(1000 * (size or 16384))
    return [copying_ladder(reference.dropout, [plain], cpu.dropout, x, np.empty_like(x), p=P, seed=SEED)]
