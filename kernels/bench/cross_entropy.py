"""The ladder of cross-entropy over GPT-2's vocabulary: what fusing it with its softmax, a polynomial exp and threads buy."""

import math

import numba
import numpy as np

from kernels.bench.measure import ladder
from kernels.cross_entropy import cpu, reference
from kernels.launch import SAFE
from kernels.simd import exp
from kernels.softmax import reference as softmax
from kernels.softmax.cpu import row_maximum


def separate(logits, targets):
    """As written on paper: all log-probabilities, of which all but one a row are thrown away."""
    return -softmax.log_softmax_forward(logits)[np.arange(len(logits)), targets]


@numba.njit(error_model="numpy")
def fused(logits, targets, losses):
    """A row at a time: no second array of the logits' size. libm's exp."""
    for r in range(len(logits)):
        x = logits[r]
        top, total = x.max(), np.float32(0)
        for c in range(len(x)):
            total += np.float32(math.exp(x[c] - top))
        losses[r] = np.float32(math.log(total)) + top - x[targets[r]]


@numba.njit(error_model="numpy", fastmath=SAFE)
def polynomial(logits, targets, losses):
    """The same with exp as a polynomial, in vector registers."""
    for r in range(len(logits)):
        x = logits[r]
        top, total = row_maximum(x), np.float32(0)
        for c in range(len(x)):
            total += exp(x[c] - top)
        losses[r] = np.float32(math.log(total)) + top - x[targets[r]]


def fetching_ahead(logits, targets, losses):
    """The engine's kernel on one thread: while a piece of the row is worked on, the next is on its way from memory."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        losses[:] = cpu.cross_entropy_forward(logits, targets)[0]
    finally:
        numba.set_num_threads(before)


def run(limits, size=None):
    rng = np.random.default_rng(0)
    R, V = size or 1024, 50257
    logits, targets = rng.standard_normal((R, V), np.float32), rng.integers(0, V, R)
    losses = np.empty(R, np.float32)
    half = np.where(np.arange(R) % 2 == 0, targets, -100)

    def filled(function):
        def call():
            function(logits, targets, losses)
            return losses

        return call

    rungs = [
        ("separate", "log-softmax in NumPy, then pick", lambda: separate(logits, targets)),
        ("fused", "a row at a time, libm's exp", filled(fused)),
        ("polynomial", "exp as a polynomial, in vector registers", filled(polynomial)),
        ("fetching ahead", "the next piece comes while this one is worked on", filled(fetching_ahead)),
        ("threads", "all cores: the engine's kernel", lambda: cpu.cross_entropy_forward(logits, targets)[0]),
    ]
    exact = reference.cross_entropy_forward(logits.astype(np.float64), targets)[0]
    title = f"cross-entropy, forward, {logits.shape}, float32, bytes of logits read"
    work = {"torch": ("row_operation", "cross_entropy", "forward", *logits.shape)}
    figures = ladder(title, rungs, logits.nbytes, "GB/s", limits.read, exact, work=work)

    dlosses, out = np.full(R, 1 / R, np.float32), np.empty_like(logits)
    _, lse = cpu.cross_entropy_forward(logits, targets)

    def backward(kernels, targets):
        return lambda: kernels.cross_entropy_backward(dlosses, logits, targets, lse, out=out)

    rungs = [
        ("reference", "a row at a time in NumPy", backward(reference, targets)),
        ("backward", "the engine's kernel", backward(cpu, targets)),
        ("half masked", "every second row is not graded", backward(cpu, half)),
    ]
    title = "cross-entropy, backward, bytes read and written if every row is graded"
    work = {"torch": ("row_operation", "cross_entropy", "backward", *logits.shape)}
    ladder(title, rungs, 2 * logits.nbytes, "GB/s", limits.copy, work=work)
    return figures, "GB/s", limits.read
