"""Cross-entropy on the CPU: the reference's signatures, float32, whole rows shared among the threads.

The loss and its softmax are one kernel: no array of probabilities is ever made. A row of logits comes from memory once, a piece
of it while the piece before is being worked on, and most of it is looked at only once. Rows that are not graded are not read.
"""

import math

import numpy as np
from numba import prange, types

from kernels.launch import as_flat, as_rows, check_indices, delivered, inner, kernel, result, workers
from kernels.simd import exp_to_zero, load, maximum, prefetch

_F = types.float32
PIECE, SPAN = 4096, 128  # numbers of a row that are summed up together, and how many at a time
AHEAD = 2048  # numbers, 8 kB: so far ahead memory is asked for, in small portions
_HIGHEST, _ENOUGH = 88.0, 1e26  # e^88 is the last that float32 holds; a sum below e^60 contains nothing near it
_LOWEST = -3.4028235e38


@inner
def _maximum(x, n):
    top = _F(-np.inf)
    for i in range(n):
        top = maximum(top, load(x, i))
    return top


@inner
def _exponentials(x, n, shift):
    """Σ exp(min(x − shift, 88)) over n numbers; what lies AHEAD of them is asked for meanwhile.

    Left to itself the processor fetches ahead only within a page of 4 kB, too little for arithmetic that takes about as long as
    its memory.
    """
    total = _F(0.0)
    for first in range(0, n, SPAN):
        here = x + 4 * first
        for line in range(0, SPAN, 16):
            prefetch(here + 4 * (AHEAD + line))
        for i in range(min(SPAN, n - first)):
            above = load(here, i) - shift
            total += exp_to_zero(_F(_HIGHEST) if above > _F(_HIGHEST) else above)
    return total


@inner
def _logsumexp(x, n):
    """log Σ eˣ = shift + log Σ exp(x − shift), a piece of the row at a time.

    The shift has to keep the sum from overflowing and from vanishing, no more: it need not be the row's maximum, for which
    every number would have to be looked at twice. The maximum of the first piece serves, as long as no sum says that it is
    too low.
    """
    total, shift = _F(0.0), max(_maximum(x, min(PIECE, n)), _F(_LOWEST))  # not -inf: -inf − -inf would be NaN
    for first in range(0, n, PIECE):
        here, count = x + 4 * first, min(PIECE, n - first)
        more = _exponentials(here, count, shift)
        if not more < _F(_ENOUGH):
            top = _maximum(here, count)
            total *= exp_to_zero(shift - top)
            shift = top
            more = _exponentials(here, count, shift)
        total += more
    return _F(math.log(total)) + shift


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
    _forward(as_rows(logits), targets, ignore_index, np.float32(label_smoothing), losses, logsumexp, workers(2 * logits.size))
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
