"""Cross-entropy on the CPU in float32.

The kernels equal `naive_cross_entropy`, applied to every row that is not ignored. Loss and softmax are one kernel, so no array
of probabilities exists. The threads share whole rows, and read most logits only once (see _logsumexp).
"""

import math

import numpy as np
from numba import prange, types

from kernels.arrays import Array
from kernels.buffers import copy_to_out, result
from kernels.contract import follows
from kernels.cross_entropy import reference
from kernels.launch import as_flat, as_indices, as_rows, inner, kernel, threads_for
from kernels.simd import LOG2_E, exp2, exp_to_zero, load, maximum


def naive_cross_entropy(x: Array, target: int) -> float:
    """The loss of one row.  x: (V,)."""
    top, total = max(x), 0.0
    for value in x:
        total += math.exp(value - top)
    return math.log(total) + top - x[target]


_F, _D = types.float32, types.float64
PIECE = 4096  # numbers that share a shift
_UNCLIPPED_SUM = 1e26  # a sum below it contains no term that overflowed
_LOWEST = -1e38


@inner
def _maximum(x, n):
    top = _F(-np.inf)
    for i in range(n):
        top = maximum(top, load(x, i))
    return top


@inner
def _powers(x, n, shift):
    """Σ 2^(x log₂e − shift) over n numbers."""
    total = _F(0.0)
    for i in range(n):
        total += exp2(load(x, i) * _F(LOG2_E) - shift)
    return total


@inner
def _logsumexp(x, n):
    """log Σ eˣ = (log₂ Σ 2^(x log₂e − shift) + shift) / log₂e, a piece of the row at a time.

    The shift keeps the sum from overflowing and from vanishing. The row's maximum would do, but finding it takes a second
    reading of every number. The maximum of the first piece serves until a sum shows that it is too low.
    """
    total, shift = _F(0.0), max(_maximum(x, min(PIECE, n)), _F(_LOWEST)) * _F(LOG2_E)  # not -inf: -inf − -inf would be NaN
    for first in range(0, n, PIECE):
        here, count = x + 4 * first, min(PIECE, n - first)
        piece_sum = _powers(here, count, shift)
        if not piece_sum < _F(_UNCLIPPED_SUM):
            top = _maximum(here, count) * _F(LOG2_E)
            total *= exp2(shift - top)
            shift = top
            piece_sum = _powers(here, count, shift)
        total += piece_sum
    return _F((math.log2(_D(total)) + _D(shift)) / _D(_F(LOG2_E)))


@inner
def _forward_row(x, target, smoothing):
    lse, sum_x, at_target = _logsumexp(x.ctypes.data, len(x)), _F(0.0), x[target]
    if smoothing > _F(0.0):
        for c in range(len(x)):
            sum_x += x[c]
        at_target = (_F(1.0) - smoothing) * at_target + smoothing * sum_x / _F(len(x))
    return lse - at_target, lse


@kernel
def _forward(logits, targets, ignore_index, smoothing, losses, logsumexp, threads):  # logits: (R, V), the rest: (R,)
    for thread in prange(threads):
        for r in range(thread, len(logits), threads):  # interleaved, because ignored rows are often neighbours
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
def _backward(dlosses, logits, targets, logsumexp, ignore, smoothing, dlogits, threads):
    """ignore: the index of ignored rows, and whether dlogits is `logits` itself."""
    ignore_index, in_place = ignore
    for thread in prange(threads):
        for r in range(thread, len(logits), threads):
            if targets[r] == ignore_index:
                dlogits[r] = _F(0.0)
            elif in_place:  # passing the same array twice lets the compiler vectorise the loop
                _backward_row(dlosses[r], logits[r], targets[r], logsumexp[r], smoothing, logits[r])
            else:
                _backward_row(dlosses[r], logits[r], targets[r], logsumexp[r], smoothing, dlogits[r])


@follows(reference.cross_entropy_forward)
def cross_entropy_forward(
    logits: Array, targets: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """See kernels/cross_entropy/reference.py."""
    R = len(logits)
    losses, logsumexp = np.empty(R, np.float32), np.empty(R, np.float32)
    smoothing = np.float32(label_smoothing)
    _forward(as_rows(logits), as_indices(targets), ignore_index, smoothing, losses, logsumexp, threads_for(2 * logits.size))
    return losses, logsumexp


@follows(reference.cross_entropy_backward)
def cross_entropy_backward(
    dlosses: Array,
    logits: Array,
    targets: Array,
    logsumexp: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> Array:
    """See kernels/cross_entropy/reference.py."""
    dlogits = result(out, logits.shape)
    x, ignore, smoothing = as_rows(logits), (ignore_index, dlogits is logits), np.float32(label_smoothing)
    threads, targets = threads_for(2 * logits.size), as_indices(targets)
    _backward(as_flat(dlosses), x, targets, as_flat(logsumexp), ignore, smoothing, dlogits, threads)
    return copy_to_out(dlogits, out)
