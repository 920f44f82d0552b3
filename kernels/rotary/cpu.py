"""Rotary positions on the CPU in float32, in one pass over memory.

The kernel equals `naive_rotary`, applied to every row. The rows of x may lie anywhere, because queries and keys are views of
one projection's output.
"""

import numpy as np
from numba import prange, types

from kernels.arrays import Array
from kernels.buffers import copy_to_out, result
from kernels.contract import follows
from kernels.launch import address, inner, kernel, share, threads_for
from kernels.rotary import reference
from kernels.simd import load, store


def naive_rotary(x: Array, cos: Array, sin: Array) -> Array:
    """One row.  x: (D,), cos and sin: (D/2,) -> (D,)."""
    y, half = np.empty_like(x), len(x) // 2
    for j in range(half):
        y[j] = x[j] * cos[j] - x[j + half] * sin[j]
        y[j + half] = x[j + half] * cos[j] + x[j] * sin[j]
    return y


_F = types.float32


@inner
def _rotate(x, cos, sin, y, half, sign):
    for j in range(half):
        a, b, c, s = load(x, j), load(x, j + half), load(cos, j), load(sin, j) * sign
        store(y, j, a * c - b * s)
        store(y, j + half, b * c + a * s)


@kernel
def _rotary(x, steps, cos, sin, y, sizes, sign, threads):
    """x, cos, sin, y: addresses; steps: (3,), bytes from row to row of x along B, H and T; sizes: B, H, T, D."""
    B, H, T, D = sizes
    for thread in prange(threads):
        first, last = share(B * H * T, thread, threads)
        for r in range(first, last):
            b, h, t = r // (H * T), r // T % H, r % T
            row, angles = x + b * steps[0] + h * steps[1] + t * steps[2], 4 * t * (D // 2)
            _rotate(row, cos + angles, sin + angles, y + 4 * r * D, D // 2, sign)


@follows(reference.rotary)
def rotary(x: Array, cos: Array, sin: Array, *, inverse: bool = False, out: Array | None = None) -> Array:
    """See kernels/rotary/reference.py."""
    x = x if x.strides[-1] == 4 and x.dtype == np.float32 else np.ascontiguousarray(x, np.float32)
    y = result(None if out is x else out, x.shape)  # if out is x, compute into a new array, then copy
    cos, sin = np.ascontiguousarray(cos, np.float32), np.ascontiguousarray(sin, np.float32)
    steps, sign = np.array(x.strides[:3], np.int64), np.float32(-1 if inverse else 1)
    _rotary(address(x), steps, address(cos), address(sin), address(y), x.shape, sign, threads_for(2 * x.size))
    return copy_to_out(y, out)
