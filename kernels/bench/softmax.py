"""The ladder of the softmax: what one pass over memory, a polynomial exp and threads each buy."""

import math

import numba
import numpy as np

from kernels.bench.measure import ladder
from kernels.launch import SAFE, inner
from kernels.simd import exp
from kernels.softmax import cpu, reference

compiled = numba.njit(error_model="numpy")


@compiled
def plain(x, y):
    """Row by row, with the mathematics library's exp: one number at a time, in the order written."""
    for r in range(x.shape[0]):
        top = x[r].max()
        total = np.float32(0)
        for c in range(x.shape[1]):
            y[r, c] = np.float32(math.exp(x[r, c] - top))
            total += y[r, c]
        for c in range(x.shape[1]):
            y[r, c] /= total


@inner
def _row(x, y, top):
    total = np.float32(0)
    for c in range(len(x)):
        y[c] = exp(x[c] - top)
        total += y[c]
    return total


@compiled
def polynomial(x, y):
    """The same with exp as a polynomial, and a sum whose order is left to the compiler: both go into vector registers."""
    for r in range(x.shape[0]):
        total = _row(x[r], y[r], x[r].max())
        for c in range(x.shape[1]):
            y[r, c] /= total


@numba.njit(error_model="numpy", fastmath=SAFE)
def vector_maximum(x, y):
    """And the maximum with vectors too, and one division a row in place of one a number."""
    for r in range(x.shape[0]):
        total = _row(x[r], y[r], cpu.row_maximum(x[r]))
        scale = np.float32(1) / total
        for c in range(x.shape[1]):
            y[r, c] *= scale


def run(limits, size=None):
    x = np.random.default_rng(0).standard_normal((size or 16384, 1024)).astype(np.float32)
    y = np.empty_like(x)

    def filled(function):
        def call():
            function(x, y)
            return y

        return call

    rungs = [
        ("NumPy", "an array a step: six passes over memory", lambda: reference.softmax_forward(x)),
        ("plain", "row by row: one pass over memory, libm's exp", filled(plain)),
        ("polynomial", "exp as a polynomial, in vector registers", filled(polynomial)),
        ("vector maximum", "the maximum in vector registers", filled(vector_maximum)),
        ("threads", "all cores: the engine's kernel", lambda: cpu.softmax_forward(x, out=y)),
    ]
    exact = reference.softmax_forward(x.astype(np.float64))
    work = {"torch": ("row_operation", "softmax", "forward", *x.shape)}
    title = f"softmax {x.shape}, float32, bytes read and written"
    figures = ladder(title, rungs, 2 * x.nbytes, "GB/s", limits.copy, exact, work=work)
    return figures, "GB/s", limits.copy
