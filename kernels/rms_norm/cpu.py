"""Root mean square normalisation on the CPU: the reference's signatures, float32, whole rows shared among the threads.

As in layernorm/cpu.py a row stays in the first-level cache between the two looks at it; there is one sum less.
"""

import numpy as np
from numba import prange, types

from kernels.launch import APART, as_flat, as_rows, delivered, inner, kernel, result, workers
from kernels.layernorm.reference import _store

_F = types.float32


@inner
def _forward_row(x, weight, eps, y):
    C = len(x)
    square = _F(0.0)
    for c in range(C):
        square += x[c] * x[c]
    rstd = _F(1.0) / np.sqrt(square / _F(C) + eps)
    for c in range(C):
        y[c] = x[c] * rstd * weight[c]
    return rstd


@kernel
def _forward(x, weight, eps, y, rstd, parts):  # x, y: (R, C)  weight: (C,)  rstd: (R,)
    for part in prange(parts):
        for r in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            rstd[r] = _forward_row(x[r], weight, eps, y[r])


@inner
def _backward_row(dy, x, weight, rstd, dx, dweight):
    C = len(x)
    stretch = _F(0.0)
    for c in range(C):  # the sum over rows is made here, where the row comes from memory and time passes anyway
        stretch += dy[c] * weight[c] * x[c]
        dweight[c] += dy[c] * x[c] * rstd
    stretch *= rstd / _F(C)
    for c in range(C):
        dx[c] = rstd * (dy[c] * weight[c] - x[c] * rstd * stretch)


@kernel
def _backward(dy, x, weight, rstd, dx, dweight):  # dweight: (parts, C + APART), a row for every part
    parts = len(dweight)
    for part in prange(parts):
        for r in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            _backward_row(dy[r], x[r], weight, rstd[r], dx[r], dweight[part])


def rms_norm_forward(x, weight=None, *, eps=1e-5, out=None):
    """See kernels/rms_norm/reference.py."""
    weight = np.ones(x.shape[-1], np.float32) if weight is None else as_flat(weight)
    y = result(out, x.shape)
    rows = as_rows(x)  # (R, C)
    rstd = np.empty(len(rows), np.float32)
    _forward(rows, weight, np.float32(eps), y.reshape(rows.shape), rstd, workers(2 * x.size))
    return delivered(y, out), rstd.reshape(x.shape[:-1])


def rms_norm_backward(dy, x, weight, rstd, *, needs=(True, True), out=(None, None), accumulate=False):
    """See kernels/rms_norm/reference.py."""
    dx = result(out[0], x.shape)
    rows = as_rows(x)  # (R, C)
    C = x.shape[-1]
    sums = np.zeros((workers(2 * x.size), C + APART), np.float32)  # every part sums its own rows
    weight = np.ones(C, np.float32) if weight is None else as_flat(weight)
    _backward(as_rows(dy), rows, weight, as_flat(rstd), dx.reshape(rows.shape), sums)
    return (
        delivered(dx, out[0]) if needs[0] else None,
        _store(sums[:, :C].sum(axis=0), out[1], accumulate) if needs[1] else None,
    )
