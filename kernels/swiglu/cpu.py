"""SwiGLU on the CPU in float32, in one pass over memory.

The kernels equal `naive_swiglu`, applied to every row. The threads share whole rows, and exp is a polynomial that LLVM can
vectorise (kernels/simd.py).
"""

import math

import numpy as np
from numba import prange, types

from kernels.arrays import Array
from kernels.buffers import copy_to_out, result
from kernels.contract import follows
from kernels.launch import as_rows, exact, inner, kernel, share, threads_for
from kernels.simd import LOG2_E, exp2
from kernels.swiglu import reference


def naive_swiglu(x: Array) -> Array:
    """One row.  x: (2F,) -> (F,)."""
    F = len(x) // 2
    y = np.empty(F, x.dtype)
    for c in range(F):
        y[c] = x[c] / (1 + math.exp(-x[c])) * x[F + c]
    return y


_F = types.float32


@exact
def sigmoid(x):
    """1 / (1 + e⁻ˣ) of one number. Below −88.4 e⁻ˣ is infinite and the result 0; exactly it is below 5e-39."""
    return _F(1.0) / (_F(1.0) + exp2(_F(-LOG2_E) * x))


@inner
def _forward_row(x, y):
    F = len(y)
    for c in range(F):
        y[c] = x[c] * sigmoid(x[c]) * x[F + c]


@kernel
def _forward(x, y, threads):  # x: (R, 2F)  y: (R, F)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        for r in range(first, last):
            _forward_row(x[r], y[r])


@inner
def _backward_row(dy, x, dx):
    F = len(dy)
    for c in range(F):
        s = sigmoid(x[c])
        dx[c] = dy[c] * x[F + c] * s * (_F(1.0) + x[c] * (_F(1.0) - s))
        dx[F + c] = dy[c] * x[c] * s


@kernel
def _backward(dy, x, dx, threads):  # dy: (R, F)  x, dx: (R, 2F)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        for r in range(first, last):
            _backward_row(dy[r], x[r], dx[r])


@follows(reference.swiglu_forward)
def swiglu_forward(x: Array, *, out: Array | None = None) -> Array:
    """See kernels/swiglu/reference.py."""
    y = result(out, (*x.shape[:-1], x.shape[-1] // 2))
    rows = as_rows(x)  # (R, 2F)
    _forward(rows, y.reshape(len(rows), rows.shape[1] // 2), threads_for(8 * x.size))
    return copy_to_out(y, out)


@follows(reference.swiglu_backward)
def swiglu_backward(dy: Array, x: Array, *, out: Array | None = None) -> Array:
    """See kernels/swiglu/reference.py."""
    dx = result(out, x.shape)
    rows = as_rows(x)  # (R, 2F)
    _backward(as_rows(dy), rows, dx.reshape(rows.shape), threads_for(8 * x.size))
    return copy_to_out(dx, out)
