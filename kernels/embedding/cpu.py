"""Embedding on the CPU: the reference's signatures, float32; rows gathered by all threads, and scattered without a race."""

import numpy as np
from numba import prange, types

from kernels.launch import as_rows, check_indices, delivered, inner, kernel, result, workers

_F = types.float32


@inner
def _copy(x, y):
    for c in range(len(x)):
        y[c] = x[c]


@inner
def _add(x, y):
    for c in range(len(x)):
        y[c] += x[c]


@kernel
def _forward(weight, indices, y, parts):  # weight: (V, C)  indices: (R,)  y: (R, C)
    for part in prange(parts):
        for r in range(len(y) * part // parts, len(y) * (part + 1) // parts):
            _copy(weight[indices[r]], y[r])


@inner
def _scatter(rows, indices, order, dweight, first, last):
    """Add the rows order[first:last]. A run of equal indices belongs whole to the part in which it begins."""
    R = len(order)
    while 0 < first < R and indices[order[first]] == indices[order[first - 1]]:
        first += 1
    while 0 < last < R and indices[order[last]] == indices[order[last - 1]]:
        last += 1
    for i in range(first, last):
        _add(rows[order[i]], dweight[indices[order[i]]])


@kernel
def _backward(rows, indices, order, dweight, zero, parts):  # rows: (R, C)  indices, order: (R,)  dweight: (V, C)
    if zero:
        for part in prange(parts):
            for v in range(len(dweight) * part // parts, len(dweight) * (part + 1) // parts):
                dweight[v] = _F(0.0)
    for part in prange(parts):
        _scatter(rows, indices, order, dweight, len(order) * part // parts, len(order) * (part + 1) // parts)


def embedding_forward(weight, indices, *, out=None):
    """See kernels/embedding/reference.py."""
    indices = check_indices(indices, len(weight), "embedding")
    y = result(out, (*indices.shape, weight.shape[1]))
    _forward(as_rows(weight), indices.reshape(-1), y.reshape(indices.size, weight.shape[1]), workers(y.size))
    return delivered(y, out)


def embedding_backward(dy, indices, num_embeddings, *, out=None, accumulate=False):
    """See kernels/embedding/reference.py."""
    flat = check_indices(indices, num_embeddings, "embedding").reshape(-1)  # (R,)
    C = dy.shape[-1]
    direct = out is not None and out.dtype == np.float32 and out.flags.c_contiguous
    dweight = out if direct else np.empty((num_embeddings, C), np.float32)
    if accumulate and out is not None and not direct:
        dweight[...] = out
    # A stable sort brings the copies of a row together in their first order, so that every sum has one owner and one order.
    order = np.argsort(flat, kind="stable")  # (R,)
    zero = not (accumulate and out is not None)
    _backward(as_rows(dy), flat, order, dweight, zero, workers(dy.size + dweight.size * zero))
    return delivered(dweight, out)
