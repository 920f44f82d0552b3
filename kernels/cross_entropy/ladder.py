"""The ladder of cross-entropy over GPT-2's vocabulary: what fusion with the softmax, a polynomial exp and threads buy."""

import math

import numba
import numpy as np

from kernels.cross_entropy import cpu, reference
from kernels.ladders import Ladder, normal, on_one_thread
from kernels.launch import SAFE
from kernels.simd import exp
from kernels.softmax import reference as softmax
from kernels.softmax.cpu import row_maximum


def separate(logits, targets, losses):
    """NumPy: all log-probabilities, though each row needs one"""
    return -softmax.log_softmax_forward(logits)[np.arange(len(logits)), targets]


@numba.njit(error_model="numpy")
def fused(logits, targets, losses):
    """row by row, no second array of the logits' size, libm's exp"""
    for r in range(len(logits)):
        x = logits[r]
        top, total = x.max(), np.float32(0)
        for c in range(len(x)):
            total += np.float32(math.exp(x[c] - top))
        losses[r] = np.float32(math.log(total)) + top - x[targets[r]]


@numba.njit(error_model="numpy", fastmath=SAFE)
def polynomial(logits, targets, losses):
    """exp as a polynomial, in vector registers"""
    for r in range(len(logits)):
        x = logits[r]
        top, total = row_maximum(x), np.float32(0)
        for c in range(len(x)):
            total += exp(x[c] - top)
        losses[r] = np.float32(math.log(total)) + top - x[targets[r]]


@on_one_thread
def prefetching(logits, targets, losses):
    """the next piece of the row is prefetched: the kernel on one core"""
    return cpu.cross_entropy_forward(logits, targets)[0]


def threads(logits, targets, losses):
    """all cores: the engine's kernel"""
    return cpu.cross_entropy_forward(logits, targets)[0]


def whole_rows(dlosses, logits, targets, half, lse, dlogits):
    """NumPy, a row at a time"""
    return reference.cross_entropy_backward(dlosses, logits, targets, lse, out=dlogits)


def backward(dlosses, logits, targets, half, lse, dlogits):
    """the engine's kernel"""
    return cpu.cross_entropy_backward(dlosses, logits, targets, lse, out=dlogits)


def half_masked(dlosses, logits, targets, half, lse, dlogits):
    """the engine's kernel, every second row ignored"""
    return cpu.cross_entropy_backward(dlosses, logits, half, lse, out=dlogits)


def ladders(size: int | None = None) -> list[Ladder]:
    """Forward and backward over (size, 50257) logits, 1,024 rows by default."""
    rows, V = size or 1024, 50257
    logits, targets = normal(rows, V), np.random.default_rng(0).integers(0, V, rows)
    half = np.where(np.arange(rows) % 2 == 0, targets, -100)
    rungs = (separate, fused, polynomial, prefetching, threads)
    arguments = (logits, targets, np.empty(rows, np.float32))
    forward = Ladder("cross_entropy", "forward", logits.shape, rungs, arguments, logits.nbytes, "reading")
    _, lse = cpu.cross_entropy_forward(logits, targets)
    gradients = (np.full(rows, 1 / rows, np.float32), logits, targets, half, lse, np.empty_like(logits))
    backwards, amount = (whole_rows, backward, half_masked), 2 * logits.nbytes
    remark = "if no row is ignored"
    return [forward, Ladder("cross_entropy", "backward", logits.shape, backwards, gradients, amount, "copying", None, remark)]
