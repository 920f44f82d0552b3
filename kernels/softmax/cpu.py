"""Softmax and log-softmax on the CPU in float32.

The kernels equal `naive_softmax`, applied to every row. The threads share whole rows. A row is read from memory once and stays
in the cache for the second and third loop. If the arithmetic is fast enough, the cost is one read and one write of the array.
Most of the arithmetic is exp, in a short form for numbers below zero (kernels/simd.py).
"""

import math
from functools import partial

import numpy as np
from numba import prange, types

from kernels.arrays import Array
from kernels.buffers import copy_to_out, result
from kernels.contract import follows
from kernels.launch import as_rows, inner, kernel, share, threads_for
from kernels.simd import exp, exp_to_zero, load, maximum, scaled_exp, store
from kernels.softmax import reference


def naive_softmax(x: Array) -> Array:
    """One row.  x: (C,) -> (C,)."""
    y, top, total = np.empty_like(x), max(x), 0.0
    for c in range(len(x)):
        y[c] = math.exp(x[c] - top)
        total += y[c]
    for c in range(len(x)):
        y[c] /= total
    return y


_F = types.float32


@inner
def row_maximum(x):
    top = _F(-np.inf)
    for c in range(len(x)):
        top = maximum(top, x[c])
    return top


@inner
def _exponentials(x, y, n, top):
    """Write 2⁶⁴ exp(x − top) to y and return the sum.  x, y: addresses of n numbers."""
    total = _F(0.0)
    for c in range(n):
        value = scaled_exp(load(x, c) - top)
        store(y, c, value)
        total += value
    return total


@inner
def _softmax_row(x, y):
    total = _exponentials(x.ctypes.data, y.ctypes.data, len(x), row_maximum(x))
    scale = _F(1.0) / total
    for c in range(len(x)):
        y[c] *= scale


@inner
def _log_softmax_row(x, y):
    top, total = row_maximum(x), _F(0.0)
    for c in range(len(x)):
        total += exp_to_zero(x[c] - top)
    shift = top + _F(math.log(total))
    if math.isinf(top):  # a row with +inf, or only -inf, becomes NaN, since inf − inf is NaN
        shift = _F(np.nan)
    for c in range(len(x)):
        y[c] = x[c] - shift


@inner
def _softmax_backward_row(dy, y, dx):
    average = _F(0.0)
    for c in range(len(y)):
        average += dy[c] * y[c]
    for c in range(len(y)):
        dx[c] = y[c] * (dy[c] - average)


@inner
def _log_softmax_backward_row(dy, y, dx):
    total = _F(0.0)
    for c in range(len(y)):
        total += dy[c]
    for c in range(len(y)):
        dx[c] = dy[c] - exp(y[c]) * total


@kernel
def _forward(x, y, log, threads):  # x, y: (R, C)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        for r in range(first, last):
            if log:
                _log_softmax_row(x[r], y[r])
            else:
                _softmax_row(x[r], y[r])


@kernel
def _backward(dy, y, dx, log, threads):  # dy, y, dx: (R, C)
    for thread in prange(threads):
        first, last = share(len(y), thread, threads)
        for r in range(first, last):
            if log:
                _log_softmax_backward_row(dy[r], y[r], dx[r])
            else:
                _softmax_backward_row(dy[r], y[r], dx[r])


def _run_forward(x: Array, *, out: Array | None = None, log: bool) -> Array:
    y = result(out, x.shape)
    rows = as_rows(x)
    _forward(rows, y.reshape(rows.shape), log, min(threads_for(4 * x.size), max(1, len(rows))))
    return copy_to_out(y, out)


def _run_backward(dy: Array, y: Array, *, out: Array | None = None, log: bool) -> Array:
    dx = result(out, y.shape)
    rows = as_rows(y)
    _backward(as_rows(dy), rows, dx.reshape(rows.shape), log, min(threads_for(2 * y.size), max(1, len(rows))))
    return copy_to_out(dx, out)


# See kernels/softmax/reference.py.
softmax_forward = follows(reference.softmax_forward)(partial(_run_forward, log=False))
softmax_backward = follows(reference.softmax_backward)(partial(_run_backward, log=False))
log_softmax_forward = follows(reference.log_softmax_forward)(partial(_run_forward, log=True))
log_softmax_backward = follows(reference.log_softmax_backward)(partial(_run_backward, log=True))
