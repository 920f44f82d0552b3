"""Softmax and log-softmax on the CPU: the reference's signatures, float32, whole rows shared among the threads.

A row is read from memory once and then stays in the cache for the second and third look at it, so that the cost is one read
and one write of the array, as long as the arithmetic in between is short. Most of it is exp, a polynomial that LLVM can put
into vector registers, here in the shorter form that is enough below a maximum (kernels/simd.py).
"""

import math

import numpy as np
from numba import prange, types

from kernels.launch import as_rows, delivered, inner, kernel, result, workers
from kernels.simd import exp, exp_to_zero, load, maximum, prefetch_numbers, raised_exp, store

_F = types.float32
SPAN = 256  # numbers of a row whose exponentials are summed, and of the next row that are asked for, at a time


@inner
def row_maximum(x):
    top = _F(-np.inf)
    for c in range(len(x)):
        top = maximum(top, x[c])
    return top


@inner
def _exponentials(x, y, n, top):
    """y = 2⁶⁴ exp(x − top), and its sum: of n numbers from these addresses."""
    total = _F(0.0)
    for c in range(n):
        value = raised_exp(load(x, c) - top)
        store(y, c, value)
        total += value
    return total


@inner
def _softmax_row(x, y):
    C, x_0, y_0 = len(x), x.ctypes.data, y.ctypes.data
    top, total = row_maximum(x), _F(0.0)
    for first in range(0, C, SPAN):  # arithmetic on what the cache holds: meanwhile the next row can come from memory
        prefetch_numbers(x_0 + 4 * (C + first), SPAN)
        if C - first >= SPAN:  # a number the compiler knows: no loop remainders
            total += _exponentials(x_0 + 4 * first, y_0 + 4 * first, SPAN, top)
        else:
            total += _exponentials(x_0 + 4 * first, y_0 + 4 * first, C - first, top)
    scale = _F(1.0) / total
    for c in range(len(x)):
        y[c] *= scale


@inner
def _log_softmax_row(x, y):
    top, total = row_maximum(x), _F(0.0)
    for c in range(len(x)):
        total += exp_to_zero(x[c] - top)
    shift = top + _F(math.log(total))
    if math.isinf(top):  # the row's +inf, or its every -inf, must become NaN, as inf − inf does
        shift = _F(np.nan)
    for c in range(len(x)):
        y[c] = x[c] - shift


@inner
def _softmax_backward_row(dy, y, dx):
    along = _F(0.0)
    for c in range(len(y)):
        along += dy[c] * y[c]
    for c in range(len(y)):
        dx[c] = y[c] * (dy[c] - along)


@inner
def _log_softmax_backward_row(dy, y, dx):
    total = _F(0.0)
    for c in range(len(y)):
        total += dy[c]
    for c in range(len(y)):
        dx[c] = dy[c] - exp(y[c]) * total


@kernel
def _forward(x, y, log, parts):  # x, y: (R, C)
    for part in prange(parts):
        for r in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            if log:
                _log_softmax_row(x[r], y[r])
            else:
                _softmax_row(x[r], y[r])


@kernel
def _backward(dy, y, dx, log, parts):  # dy, y, dx: (R, C)
    for part in prange(parts):
        for r in range(len(y) * part // parts, len(y) * (part + 1) // parts):
            if log:
                _log_softmax_backward_row(dy[r], y[r], dx[r])
            else:
                _softmax_backward_row(dy[r], y[r], dx[r])


def _run_forward(x, out, log):
    y = result(out, x.shape)
    rows = as_rows(x)
    _forward(rows, y.reshape(rows.shape), log, min(workers(4 * x.size), max(1, len(rows))))
    return delivered(y, out)


def _run_backward(dy, y, out, log):
    dx = result(out, y.shape)
    rows = as_rows(y)
    _backward(as_rows(dy), rows, dx.reshape(rows.shape), log, min(workers(2 * y.size), max(1, len(rows))))
    return delivered(dx, out)


def softmax_forward(x, *, out=None):
    """See kernels/softmax/reference.py."""
    return _run_forward(x, out, False)


def softmax_backward(dy, y, *, out=None):
    """See kernels/softmax/reference.py."""
    return _run_backward(dy, y, out, False)


def log_softmax_forward(x, *, out=None):
    """See kernels/softmax/reference.py."""
    return _run_forward(x, out, True)


def log_softmax_backward(dy, y, *, out=None):
    """See kernels/softmax/reference.py."""
    return _run_backward(dy, y, out, True)
