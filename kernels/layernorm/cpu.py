"""Layer normalisation on the CPU in float32.

The kernels equal `naive_layernorm`, applied to every row. The threads share whole rows. A row of C numbers fits the first-level
cache, so it travels through memory once: the forward pass reads x and writes y, the backward pass reads dy and x and writes
dx.
"""

import math
from collections import namedtuple

import numpy as np
from numba import prange, types

from kernels.arrays import Array, Gradients
from kernels.buffers import copy_to_out, result, write
from kernels.contract import follows
from kernels.launch import CACHE_GAP, as_flat, as_rows, inner, kernel, share, threads_for
from kernels.layernorm import reference
from kernels.simd import load, store


def naive_layernorm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """One row.  x, weight, bias: (C,) -> (C,)."""
    C, y = len(x), np.empty_like(x)
    mean = sum(x) / C
    variance = sum((value - mean) ** 2 for value in x) / C
    for c in range(C):
        y[c] = (x[c] - mean) / math.sqrt(variance + eps) * weight[c] + bias[c]
    return y


_F = types.float32
SPAN = 128  # numbers to write at a time: a loop of constant length, which is a tenth faster
_NO_ROWS = np.empty((0, 0), np.float32)


@inner
def _forward_span(x, weight, bias, mean, rstd, y, n):
    for c in range(n):
        store(y, c, (load(x, c) - mean) * rstd * load(weight, c) + load(bias, c))


@inner
def forward_row(x, weight, bias, C, eps, y):
    total = _F(0.0)
    for c in range(C):
        total += load(x, c)
    mean = total / _F(C)
    square = _F(0.0)
    for c in range(C):
        square += (load(x, c) - mean) * (load(x, c) - mean)  # subtract the mean first: Σx² − mean² would cancel
    rstd = _F(1.0) / np.sqrt(square / _F(C) + eps)
    for first in range(0, C, SPAN):
        at = 4 * first
        if C - first >= SPAN:
            _forward_span(x + at, weight + at, bias + at, mean, rstd, y + at, SPAN)
        else:
            _forward_span(x + at, weight + at, bias + at, mean, rstd, y + at, C - first)
    return mean, rstd


@kernel
def _forward(x, weight, bias, eps, y, mean, rstd, threads):  # x, y: (R, C)  weight, bias: (C,)  mean, rstd: (R,)
    R, C = x.shape
    x_0, weight_0, bias_0, y_0 = x.ctypes.data, weight.ctypes.data, bias.ctypes.data, y.ctypes.data
    for thread in prange(threads):
        first, last = share(R, thread, threads)
        for r in range(first, last):
            row = 4 * C * r
            mean[r], rstd[r] = forward_row(x_0 + row, weight_0, bias_0, C, eps, y_0 + row)


# Addresses for the backward pass of a row; plus is 0 if there is nothing to add to dx.
Row = namedtuple("Row", "dy x weight plus dx")


@inner
def _write_dx(row, C, mean, rstd, shift, stretch):
    """dx of a row.  shift = mean(dn), stretch = mean(dn · n), as in the derivation in reference.py."""
    if row.plus != 0:
        for c in range(C):
            normal = (load(row.x, c) - mean) * rstd
            slope = load(row.dy, c) * load(row.weight, c)
            store(row.dx, c, rstd * (slope - shift - normal * stretch) + load(row.plus, c))
    else:
        for c in range(C):
            normal = (load(row.x, c) - mean) * rstd
            store(row.dx, c, rstd * (load(row.dy, c) * load(row.weight, c) - shift - normal * stretch))


@inner
def backward_row(row, C, mean, rstd, dweight, dbias):
    shift, stretch = _F(0.0), _F(0.0)
    for c in range(C):  # this loop waits for memory, so the sums over rows cost no time here
        normal = (load(row.x, c) - mean) * rstd
        slope = load(row.dy, c) * load(row.weight, c)
        shift += slope
        stretch += slope * normal
        dweight[c] += load(row.dy, c) * normal
        dbias[c] += load(row.dy, c)
    _write_dx(row, C, mean, rstd, shift / _F(C), stretch / _F(C))


@kernel
def _backward(dy, x, weight, mean, rstd, plus, dx, sums):
    """dy, x, dx: (R, C); plus: (R, C) or no rows; sums: (2, threads, C + CACHE_GAP), dweight and dbias of each thread."""
    (R, C), threads = x.shape, sums.shape[1]
    dy_0, x_0, weight_0, dx_0, plus_0 = dy.ctypes.data, x.ctypes.data, weight.ctypes.data, dx.ctypes.data, plus.ctypes.data
    for thread in prange(threads):
        first, last = share(R, thread, threads)
        for r in range(first, last):
            at = 4 * C * r
            row = Row(dy_0 + at, x_0 + at, weight_0, plus_0 + at if len(plus) > 0 else 0, dx_0 + at)
            backward_row(row, C, mean[r], rstd[r], sums[0, thread], sums[1, thread])


@follows(reference.layernorm_forward)
def layernorm_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """See kernels/layernorm/reference.py."""
    C = x.shape[-1]
    weight = np.ones(C, np.float32) if weight is None else as_flat(weight)
    bias = np.zeros(C, np.float32) if bias is None else as_flat(bias)
    y = result(out, x.shape)
    rows = as_rows(x)  # (R, C)
    mean, rstd = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    _forward(rows, weight, bias, np.float32(eps), y.reshape(rows.shape), mean, rstd, threads_for(2 * x.size))
    return copy_to_out(y, out), mean.reshape(x.shape[:-1]), rstd.reshape(x.shape[:-1])


@follows(reference.layernorm_backward)
def layernorm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    *,
    plus: Array | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
    accumulate: bool = False,
) -> Gradients:
    """See kernels/layernorm/reference.py."""
    C = x.shape[-1]
    dx = result(out[0], x.shape)
    rows = as_rows(x)  # (R, C)
    sums = np.zeros((2, threads_for(2 * x.size), C + CACHE_GAP), np.float32)  # each thread sums its own rows
    weight = np.ones(C, np.float32) if weight is None else as_flat(weight)
    plus = _NO_ROWS if plus is None else as_rows(plus)
    _backward(as_rows(dy), rows, weight, as_flat(mean), as_flat(rstd), plus, dx.reshape(rows.shape), sums)
    dweight, dbias = sums[..., :C].sum(axis=1)  # (C,) each
    return (
        copy_to_out(dx, out[0]) if needs[0] else None,
        write(dweight, out[1], accumulate) if needs[1] else None,
        write(dbias, out[2], accumulate) if needs[2] else None,
    )
