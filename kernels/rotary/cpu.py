"""Rotary positions on the CPU: the reference's signature, float32, one pass over memory.

The rows of x may lie anywhere (queries and keys are views of one projection's output); the kernel is told where.
"""

import numpy as np
from numba import prange, types

from kernels.launch import address, delivered, inner, kernel, result, workers
from kernels.simd import load, store

_F = types.float32


@inner
def _turn(x, cos, sin, y, half, sign):
    for j in range(half):
        a, b, c, s = load(x, j), load(x, j + half), load(cos, j), load(sin, j) * sign
        store(y, j, a * c - b * s)
        store(y, j + half, b * c + a * s)


@kernel
def _rotary(x, steps, cos, sin, y, B, H, T, D, sign, parts):  # steps: (3,), bytes from row to row along B, H and T
    for part in prange(parts):
        for r in range(B * H * T * part // parts, B * H * T * (part + 1) // parts):
            b, h, t = r // (H * T), r // T % H, r % T
            row = x + b * steps[0] + h * steps[1] + t * steps[2]
            _turn(row, cos + 4 * t * (D // 2), sin + 4 * t * (D // 2), y + 4 * r * D, D // 2, sign)


def rotary(x, cos, sin, *, inverse=False, out=None):
    """See kernels/rotary/reference.py."""
    B, H, T, D = x.shape
    if D % 2 or cos.shape != (T, D // 2) or sin.shape != (T, D // 2):
        raise ValueError(f"rotary: cos and sin must be (T, D/2) for x {x.shape}, D even, got {cos.shape} and {sin.shape}")
    x = x if x.strides[-1] == 4 and x.dtype == np.float32 else np.ascontiguousarray(x, np.float32)
    y = result(None if out is x else out, x.shape)  # a pair is read before it is written, but rows of a view may overlap y's
    cos, sin = np.ascontiguousarray(cos, np.float32), np.ascontiguousarray(sin, np.float32)
    steps = np.array(x.strides[:3], np.int64)
    sign = np.float32(-1 if inverse else 1)
    _rotary(address(x), steps, address(cos), address(sin), address(y), B, H, T, D, sign, workers(2 * x.size))
    return delivered(y, out)
