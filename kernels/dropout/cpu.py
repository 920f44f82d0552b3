"""Dropout on the CPU: the reference's signature and the very same mask, float32, one pass over memory.

Element i of the mask depends on the seed and on i alone, so each thread computes it where it is needed.
"""

import numpy as np
from numba import prange, types

from kernels.dropout.reference import GAMMA, MIX1, MIX2
from kernels.launch import as_flat, delivered, inner, kernel, result, workers

_F, _U = types.float32, types.uint64


@inner
def _span(x, p, scale, seed, y):
    for i in range(len(x)):
        z = _U(i + 1) * GAMMA + seed  # SplitMix64, see reference.py
        z = (z ^ (z >> _U(30))) * MIX1
        z = (z ^ (z >> _U(27))) * MIX2
        z = z ^ (z >> _U(31))
        uniform = _F(types.int64(z >> _U(40))) * _F(2.0**-24)
        y[i] = x[i] * scale if uniform >= p else _F(0.0)


@kernel
def _dropout(x, p, scale, seed, y, parts):  # x, y: (N,)
    for part in prange(parts):
        first, last = len(x) * part // parts, len(x) * (part + 1) // parts
        # The element's number is counted in the seed, seed + i · γ, so that the loop over a span may start from zero.
        _span(x[first:last], p, scale, seed + _U(first) * GAMMA, y[first:last])


def dropout(x, p, seed, *, out=None):
    """See kernels/dropout/reference.py."""
    y = result(out, x.shape)
    scale = np.float32(0 if p >= 1 else 1 / (1 - p))
    _dropout(as_flat(x), np.float32(p), scale, np.uint64(seed), y.reshape(-1), workers(4 * x.size))
    return delivered(y, out)
