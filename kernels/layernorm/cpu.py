"""Layer normalisation on the CPU: the reference's signatures, float32, whole rows shared among the threads.

A row of C numbers fits the first-level cache, so the second and third look at it cost no memory traffic: the forward pass reads
x once and writes y once, the backward pass reads dy and x once and writes dx once, whatever is computed in between.
"""

import numpy as np
from numba import prange, types

from kernels.launch import APART, as_flat, as_rows, delivered, inner, kernel, result, workers

_F = types.float32


@inner
def _forward_row(x, weight, bias, eps, y):
    C = len(x)
    total = _F(0.0)
    for c in range(C):
        total += x[c]
    mean = total / _F(C)
    square = _F(0.0)
    for c in range(C):
        square += (x[c] - mean) * (x[c] - mean)  # the mean goes first: Σx² − mean² would cancel
    rstd = _F(1.0) / np.sqrt(square / _F(C) + eps)
    for c in range(C):
        y[c] = (x[c] - mean) * rstd * weight[c] + bias[c]
    return mean, rstd


@kernel
def _forward(x, weight, bias, eps, y, mean, rstd, parts):  # x, y: (R, C)  weight, bias: (C,)  mean, rstd: (R,)
    for part in prange(parts):
        for r in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            mean[r], rstd[r] = _forward_row(x[r], weight, bias, eps, y[r])


@inner
def _backward_row(dy, x, weight, mean, rstd, plus, add, dx, dweight, dbias):
    C = len(x)
    shift, stretch = _F(0.0), _F(0.0)
    for c in range(C):  # here the row comes from memory, and all that can be done meanwhile costs nothing: the sums over rows
        n = (x[c] - mean) * rstd
        dn = dy[c] * weight[c]
        shift += dn
        stretch += dn * n
        dweight[c] += dy[c] * n
        dbias[c] += dy[c]
    shift /= _F(C)
    stretch /= _F(C)
    for c in range(C):
        n = (x[c] - mean) * rstd
        dx[c] = rstd * (dy[c] * weight[c] - shift - n * stretch) + (plus[c] if add else _F(0.0))


@kernel
def _backward(dy, x, weight, mean, rstd, plus, add, dx, dweight, dbias):  # dweight, dbias: (parts, C + APART), a row a part
    parts = len(dweight)
    for part in prange(parts):
        for r in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            _backward_row(dy[r], x[r], weight, mean[r], rstd[r], plus[r], add, dx[r], dweight[part], dbias[part])


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
