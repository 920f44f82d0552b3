"""Cross-entropy on the CPU: the reference's signatures, float32, whole rows shared among the threads.

The loss and its softmax are one kernel: no array of probabilities is ever made. A row of logits comes from memory once, a piece
of it while the piece before is being worked on. Rows that are not graded are not read.
"""

import math

import numpy as np
from numba import prange, types

from kernels.launch import as_flat, as_rows, check_indices, delivered, inner, kernel, result, workers
from kernels.simd import exp_to_zero, load, maximum, prefetch

_F = types.float32
PIECE, SPAN = 4096, 256  # numbers of a row looked at together, 16 kB, half of a first-level cache; and of those at a time


@inner
def _maximum(x, n):
    top = _F(-np.inf)
    for i in range(n):
        top = maximum(top, load(x, i))
    return top


@inner
def _exponentials(x, n, top, ahead):
    """Σ exp(x − top) over n numbers; meanwhile the memory at `ahead` is asked for, a span of as much for every span done."""
    total = _F(0.0)
    for first in range(0, n, SPAN):
        for line in range(0, SPAN, 16):
            prefetch(ahead + 4 * (first + line))
        here = x + 4 * first
        for i in range(min(SPAN, n - first)):
            total += exp_to_zero(load(here, i) - top)
    return total


@inner
def _logsumexp(x, n):
    """log Σ eˣ, a piece at a time, with the largest number so far; when a larger one comes, the sum is scaled down."""
    total, top = _F(0.0), _F(-np.inf)
    for first in range(0, n, PIECE):
        here, count = x + 4 * first, min(PIECE, n - first)
        before, top = top, maximum(top, _maximum(here, count))
        if top != _F(-np.inf):  # else there was nothing but -inf so far, which adds nothing; -inf − -inf would be NaN
            total = total * exp_to_zero(before - top) + _exponentials(here, count, top, here + 4 * PIECE)
    return _F(math.log(total)) + top


@inner
def _forward_row(x, target, smoothing):
    lse, sum_x, at_target = _logsumexp(x.ctypes.data, len(x)), _F(0.0), x[target]
    if smoothing > _F(0.0):
        for c in range(len(x)):
            sum_x += x[c]
        at_target = (_F(1.0) - smoothing) * at_target + smoothing * sum_x / _F(len(x))
    return lse - at_target, lse


@kernel
def _forward(logits, targets, ignore_index, smoothing, losses, logsumexp, parts):  # logits: (R, V), the rest: (R,)
    for part in prange(parts):
        for r in range(part, len(logits), parts):  # every parts-th row, since ignored rows often lie together
            if targets[r] == ignore_index:
                losses[r], logsumexp[r] = _F(0.0), _F(0.0)
            else:
                losses[r], logsumexp[r] = _forward_row(logits[r], targets[r], smoothing)


@inner
def _backward_row(dloss, x, target, lse, smoothing, dx):
    everywhere = smoothing / _F(len(x))
    for c in range(len(x)):
        dx[c] = dloss * (exp_to_zero(x[c] - lse) - everywhere)
    dx[target] -= dloss * (_F(1.0) - smoothing)


@kernel
def _backward(dlosses, logits, targets, logsumexp, ignore_index, smoothing, dlogits, in_place, parts):
    for part in prange(parts):
        for r in range(part, len(logits), parts):
            if targets[r] == ignore_index:
                dlogits[r] = _F(0.0)
            elif in_place:  # said openly, so that the compiler knows and may still use vectors
                _backward_row(dlosses[r], logits[r], targets[r], logsumexp[r], smoothing, logits[r])
            else:
                _backward_row(dlosses[r], logits[r], targets[r], logsumexp[r], smoothing, dlogits[r])


def cross_entropy_forward(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    """See kernels/cross_entropy/reference.py."""
    R, V = logits.shape
    targets = check_indices(targets, V, "cross_entropy", ignore_index)
    losses, logsumexp = np.empty(R, np.float32), np.empty(R, np.float32)
    _forward(
        as_rows(logits), targets, ignore_index, np.float32(label_smoothing), losses, logsumexp, workers(2 * logits.size)
    )
    return losses, logsumexp


def cross_entropy_backward(dlosses, logits, targets, logsumexp, *, ignore_index=-100, label_smoothing=0.0, out=None):
    """See kernels/cross_entropy/reference.py."""
    targets = check_indices(targets, logits.shape[1], "cross_entropy", ignore_index)
    dlogits = result(out, logits.shape)
    x = as_rows(logits)
    _backward(
        as_flat(dlosses), x, targets, as_flat(logsumexp), ignore_index, np.float32(label_smoothing),
        dlogits, dlogits is logits, workers(2 * logits.size),
    )  # fmt: skip
    return delivered(dlogits, out)
