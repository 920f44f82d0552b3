"""Layer normalisation on the CPU: the reference's signatures, float32, whole rows shared among the threads.

A row of C numbers fits the first-level cache, so the second and third look at it cost no memory traffic: the forward pass reads
x once and writes y once, the backward pass reads dy and x once and writes dx once, whatever is computed in between.
While a row is written, the next one is asked for, or else the memory would stand idle for that time; backward, the room
for the next row of dx is asked for as well.
"""

import numpy as np
from numba import prange, types

from kernels.launch import APART, as_flat, as_rows, delivered, inner, kernel, result, workers
from kernels.simd import load, prefetch_numbers, prefetch_room, store

_F = types.float32
SPAN = 128  # numbers of a row that are written, and of the next that are asked for, at a time


@inner
def _forward_span(x, weight, bias, mean, rstd, y, n):
    for c in range(n):
        store(y, c, (load(x, c) - mean) * rstd * load(weight, c) + load(bias, c))


@inner
def _forward_row(x, weight, bias, C, eps, y):
    total = _F(0.0)
    for c in range(C):
        total += load(x, c)
    mean = total / _F(C)
    square = _F(0.0)
    for c in range(C):
        square += (load(x, c) - mean) * (load(x, c) - mean)  # the mean goes first: Σx² − mean² would cancel
    rstd = _F(1.0) / np.sqrt(square / _F(C) + eps)
    for first in range(0, C, SPAN):
        at = 4 * first
        prefetch_numbers(x + 4 * C + at, SPAN)
        if C - first >= SPAN:  # a number the compiler knows: no loop remainders
            _forward_span(x + at, weight + at, bias + at, mean, rstd, y + at, SPAN)
        else:
            _forward_span(x + at, weight + at, bias + at, mean, rstd, y + at, C - first)
    return mean, rstd


@kernel
def _forward(x, weight, bias, eps, y, mean, rstd, parts):  # x, y: (R, C)  weight, bias: (C,)  mean, rstd: (R,)
    R, C = x.shape
    x_0, weight_0, bias_0, y_0 = x.ctypes.data, weight.ctypes.data, bias.ctypes.data, y.ctypes.data
    for part in prange(parts):
        for r in range(R * part // parts, R * (part + 1) // parts):
            row = 4 * C * r
            mean[r], rstd[r] = _forward_row(x_0 + row, weight_0, bias_0, C, eps, y_0 + row)


@inner
def _backward_span(dy, x, weight, mean, rstd, shift, stretch, plus, dx, n):
    if plus != 0:
        for c in range(n):
            normal = (load(x, c) - mean) * rstd
            store(dx, c, rstd * (load(dy, c) * load(weight, c) - shift - normal * stretch) + load(plus, c))
    else:
        for c in range(n):
            normal = (load(x, c) - mean) * rstd
            store(dx, c, rstd * (load(dy, c) * load(weight, c) - shift - normal * stretch))


@inner
def _backward_row(dy, x, weight, C, mean, rstd, plus, dx, dweight, dbias):
    shift, stretch = _F(0.0), _F(0.0)
    for c in range(C):  # here the row comes from memory, and all that can be done meanwhile costs nothing: the sums over rows
        normal = (load(x, c) - mean) * rstd
        slope = load(dy, c) * load(weight, c)
        shift += slope
        stretch += slope * normal
        dweight[c] += load(dy, c) * normal
        dbias[c] += load(dy, c)
    shift /= _F(C)
    stretch /= _F(C)
    for first in range(0, C, SPAN):
        at = 4 * first
        prefetch_numbers(x + 4 * C + at, SPAN)
        prefetch_numbers(dy + 4 * C + at, SPAN)
        prefetch_room(dx + 4 * C + at, SPAN)
        plus_here = plus + at if plus != 0 else 0
        if C - first >= SPAN:
            _backward_span(dy + at, x + at, weight + at, mean, rstd, shift, stretch, plus_here, dx + at, SPAN)
        else:
            _backward_span(dy + at, x + at, weight + at, mean, rstd, shift, stretch, plus_here, dx + at, C - first)


@kernel
def _backward(dy, x, weight, mean, rstd, plus, add, dx, dweight, dbias):  # dweight, dbias: (parts, C + APART), a row a part
    (R, C), parts = x.shape, len(dweight)
    dy_0, x_0, weight_0, dx_0, plus_0 = dy.ctypes.data, x.ctypes.data, weight.ctypes.data, dx.ctypes.data, plus.ctypes.data
    for part in prange(parts):
        for r in range(R * part // parts, R * (part + 1) // parts):
            row = 4 * C * r
            _backward_row(
                dy_0 + row, x_0 + row, weight_0, C, mean[r], rstd[r], plus_0 + row if add else 0, dx_0 + row,
                dweight[part], dbias[part],
            )  # fmt: skip


def layernorm_forward(x, weight=None, bias=None, *, eps=1e-5, out=None):
    """See kernels/layernorm/reference.py."""
    C = x.shape[-1]
    weight = np.ones(C, np.float32) if weight is None else as_flat(weight)
    bias = np.zeros(C, np.float32) if bias is None else as_flat(bias)
    y = result(out, x.shape)
    rows = as_rows(x)  # (R, C)
    mean, rstd = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    _forward(rows, weight, bias, np.float32(eps), y.reshape(rows.shape), mean, rstd, workers(2 * x.size))
    return delivered(y, out), mean.reshape(x.shape[:-1]), rstd.reshape(x.shape[:-1])


def layernorm_backward(
    dy, x, weight, mean, rstd, *, plus=None, needs=(True, True, True), out=(None, None, None), accumulate=False
):
    """See kernels/layernorm/reference.py."""
    C = x.shape[-1]
    dx = result(out[0], x.shape)
    rows = as_rows(x)  # (R, C)
    # The sums over rows must not meet in one place: every part sums its own rows, and the parts are added up afterwards.
    sums = np.zeros((2, workers(2 * x.size), C + APART), np.float32)
    weight = np.ones(C, np.float32) if weight is None else as_flat(weight)
    dy, add = as_rows(dy), plus is not None
    plus = as_rows(plus) if add else dy
    _backward(dy, rows, weight, as_flat(mean), as_flat(rstd), plus, add, dx.reshape(rows.shape), sums[0], sums[1])
    dweight, dbias = sums[..., :C].sum(axis=1)  # (C,) each
    return (
        delivered(dx, out[0]) if needs[0] else None,
        _store(dweight, out[1], accumulate) if needs[1] else None,
        _store(dbias, out[2], accumulate) if needs[2] else None,
    )


def _store(value, out, accumulate):
    if out is None:
        return value
    out[...] = out + value if accumulate else value
    return out
