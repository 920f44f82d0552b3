"""Dropout on the CPU in float32, with the mask of the reference, in one pass over memory.

The kernel equals `naive_dropout`. Element i of the mask depends only on the seed and i, so the loop computes it where it is
needed, and vectorises.
"""

import numpy as np
from numba import prange, types

from kernels.arrays import Array
from kernels.buffers import copy_to_out, result
from kernels.contract import follows
from kernels.dropout import reference
from kernels.dropout.reference import GAMMA, MIX1, MIX2
from kernels.launch import as_flat, inner, kernel, share, threads_for


def naive_dropout(x: Array, p: float, seed: int) -> Array:
    """x: (N,) -> (N,)."""
    y = np.zeros_like(x)
    for i in range(len(x)):
        z = (seed + (i + 1) * int(GAMMA)) % 2**64  # SplitMix64
        z = (z ^ (z >> 30)) * int(MIX1) % 2**64
        z = (z ^ (z >> 27)) * int(MIX2) % 2**64
        z = z ^ (z >> 31)
        if (z >> 40) / 2**24 >= np.float32(p):
            y[i] = x[i] / (1 - p)
    return y


_F, _U = types.float32, types.uint64


@inner
def _span(x, p, scale, seed, y):
    for i in range(len(x)):
        z = _U(i + 1) * GAMMA + seed
        z = (z ^ (z >> _U(30))) * MIX1
        z = (z ^ (z >> _U(27))) * MIX2
        z = z ^ (z >> _U(31))
        uniform = _F(types.int64(z >> _U(40))) * _F(2.0**-24)
        y[i] = x[i] * scale if uniform >= p else _F(0.0)


@kernel
def _dropout(x, p, scale, seed, y, threads):  # x, y: (N,)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        # Adding first · γ to the seed lets the loop over a span count from zero.
        _span(x[first:last], p, scale, seed + _U(first) * GAMMA, y[first:last])


@follows(reference.dropout)
def dropout(x: Array, p: float, seed: int, *, out: Array | None = None) -> Array:
    """See kernels/dropout/reference.py."""
    y = result(out, x.shape)
    scale = np.float32(0 if p >= 1 else 1 / (1 - p))
    _dropout(as_flat(x), np.float32(p), scale, np.uint64(seed), y.reshape(-1), threads_for(4 * x.size))
    return copy_to_out(y, out)
