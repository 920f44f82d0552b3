"""Root mean square normalisation on the CPU in float32.

The kernels equal `naive_rms_norm`, applied to every row. As in layernorm/cpu.py, the threads share whole rows, and a row stays
in the first-level cache between the two loops over it.
"""

import math

import numpy as np
from numba import prange, types

from kernels.arrays import Array, Gradients
from kernels.buffers import copy_to_out, result, write
from kernels.contract import follows
from kernels.launch import CACHE_GAP, as_flat, as_rows, inner, kernel, share, threads_for
from kernels.rms_norm import reference


def naive_rms_norm(x: Array, weight: Array, eps: float = 1e-5) -> Array:
    """One row.  x, weight: (C,) -> (C,)."""
    y = np.empty_like(x)
    mean_square = sum(value * value for value in x) / len(x)
    for c in range(len(x)):
        y[c] = x[c] / math.sqrt(mean_square + eps) * weight[c]
    return y


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
def _forward(x, weight, eps, y, rstd, threads):  # x, y: (R, C)  weight: (C,)  rstd: (R,)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        for r in range(first, last):
            rstd[r] = _forward_row(x[r], weight, eps, y[r])


@inner
def _backward_row(dy, x, weight, rstd, dx, dweight):
    C = len(x)
    stretch = _F(0.0)
    for c in range(C):  # this loop waits for memory, so the sum over rows costs no time here
        stretch += dy[c] * weight[c] * x[c]
        dweight[c] += dy[c] * x[c] * rstd
    stretch *= rstd / _F(C)
    for c in range(C):
        dx[c] = rstd * (dy[c] * weight[c] - x[c] * rstd * stretch)


@kernel
def _backward(dy, x, weight, rstd, dx, dweight):  # dweight: (threads, C + CACHE_GAP), a row for each thread
    threads = len(dweight)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        for r in range(first, last):
            _backward_row(dy[r], x[r], weight, rstd[r], dx[r], dweight[thread])


@follows(reference.rms_norm_forward)
def rms_norm_forward(
    x: Array, weight: Array | None = None, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array]:
    """See kernels/rms_norm/reference.py."""
    weight = np.ones(x.shape[-1], np.float32) if weight is None else as_flat(weight)
    y = result(out, x.shape)
    rows = as_rows(x)  # (R, C)
    rstd = np.empty(len(rows), np.float32)
    _forward(rows, weight, np.float32(eps), y.reshape(rows.shape), rstd, threads_for(2 * x.size))
    return copy_to_out(y, out), rstd.reshape(x.shape[:-1])


@follows(reference.rms_norm_backward)
def rms_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    rstd: Array,
    *,
    needs: tuple[bool, bool] = (True, True),
    out: Gradients = (None, None),
    accumulate: bool = False,
) -> Gradients:
    """See kernels/rms_norm/reference.py."""
    dx = result(out[0], x.shape)
    rows = as_rows(x)  # (R, C)
    C = x.shape[-1]
    sums = np.zeros((threads_for(2 * x.size), C + CACHE_GAP), np.float32)  # each thread sums its own rows
    weight = np.ones(C, np.float32) if weight is None else as_flat(weight)
    _backward(as_rows(dy), rows, weight, as_flat(rstd), dx.reshape(rows.shape), sums)
    return (
        copy_to_out(dx, out[0]) if needs[0] else None,
        write(sums[:, :C].sum(axis=0), out[1], accumulate) if needs[1] else None,
    )
