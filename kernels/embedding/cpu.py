"""Embedding on the CPU in float32: all threads gather rows, and scatter their gradients without a race.

The backward kernel equals `naive_embedding_backward`. Two threads must not add to the same row of the table at once. So the
caller sorts the indices, and each run of equal indices belongs to one thread.
"""

import numpy as np
from numba import prange, types

from kernels.buffers import copy_to_out, result
from kernels.contract import follows
from kernels.embedding import reference
from kernels.launch import as_indices, as_rows, inner, kernel, share, threads_for


def naive_embedding_backward(dy: np.ndarray, indices: np.ndarray, num_embeddings: int) -> np.ndarray:
    """dy: (R, C), indices: (R,) -> (num_embeddings, C)."""
    dweight = np.zeros((num_embeddings, dy.shape[1]), dy.dtype)
    for r, index in enumerate(indices):
        for c in range(dy.shape[1]):
            dweight[index, c] += dy[r, c]
    return dweight


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
def _forward(weight, indices, y, threads):  # weight: (V, C)  indices: (R,)  y: (R, C)
    for thread in prange(threads):
        first, last = share(len(y), thread, threads)
        for r in range(first, last):
            _copy(weight[indices[r]], y[r])


@inner
def _scatter(rows, indices, order, dweight, first, last):
    """Add the rows order[first:last] to dweight. A run of equal indices belongs to the thread in whose share it begins."""
    R = len(order)
    while 0 < first < R and indices[order[first]] == indices[order[first - 1]]:
        first += 1
    while 0 < last < R and indices[order[last]] == indices[order[last - 1]]:
        last += 1
    for i in range(first, last):
        _add(rows[order[i]], dweight[indices[order[i]]])


@kernel
def _backward(rows, indices, order, dweight, zero, threads):  # rows: (R, C)  indices, order: (R,)  dweight: (V, C)
    if zero:
        for thread in prange(threads):
            first, last = share(len(dweight), thread, threads)
            for v in range(first, last):
                dweight[v] = _F(0.0)
    for thread in prange(threads):
        first, last = share(len(order), thread, threads)
        _scatter(rows, indices, order, dweight, first, last)


@follows(reference.embedding_forward)
def embedding_forward(weight: np.ndarray, indices: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """See kernels/embedding/reference.py."""
    y = result(out, (*indices.shape, weight.shape[1]))
    _forward(as_rows(weight), as_indices(indices), y.reshape(indices.size, weight.shape[1]), threads_for(y.size))
    return copy_to_out(y, out)


@follows(reference.embedding_backward)
def embedding_backward(
    dy: np.ndarray, indices: np.ndarray, num_embeddings: int, *, out: np.ndarray | None = None, accumulate: bool = False
) -> np.ndarray:
    """See kernels/embedding/reference.py."""
    flat = as_indices(indices)  # (R,)
    dweight = result(out, (num_embeddings, dy.shape[-1]))
    zero = not accumulate or out is None
    if not zero and dweight is not out:
        dweight[...] = out
    order = np.argsort(flat, kind="stable")  # (R,); equal indices keep their order, so every sum has one owner and one order
    _backward(as_rows(dy), flat, order, dweight, zero, threads_for(dy.size + dweight.size * zero))
    return copy_to_out(dweight, out)
