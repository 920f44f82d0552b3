"""The ladder of layer normalisation, forward: what one pass over memory, reordered sums and threads each buy."""

import math

import numba
import numpy as np

from kernels.bench.measure import ladder
from kernels.launch import SAFE
from kernels.layernorm import cpu, reference

EPS = np.float32(1e-5)


def _rows(x, weight, bias, y):
    """Row by row: the mean, the variance about it, the result."""
    C = x.shape[1]
    for r in range(x.shape[0]):
        total = np.float32(0)
        for c in range(C):
            total += x[r, c]
        mean = total / np.float32(C)
        square = np.float32(0)
        for c in range(C):
            square += (x[r, c] - mean) * (x[r, c] - mean)
        rstd = np.float32(1) / np.float32(math.sqrt(square / np.float32(C) + EPS))
        for c in range(C):
            y[r, c] = (x[r, c] - mean) * rstd * weight[c] + bias[c]


# The very same lines, compiled twice. Kept in order, each addition of a sum waits four cycles for the one before. Told that the
# order does not matter, the compiler keeps dozens of partial sums in vector registers.
in_order = numba.njit(error_model="numpy")(_rows)
reordered = numba.njit(error_model="numpy", fastmath=SAFE)(_rows)


def run(limits, size=None):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size or 16384, 768)).astype(np.float32)
    weight, bias = rng.standard_normal((2, 768)).astype(np.float32)
    y = np.empty_like(x)

    def filled(function):
        def call():
            function(x, weight, bias, y)
            return y

        return call

    rungs = [
        ("NumPy", "an array a step", lambda: reference.layernorm_forward(x, weight, bias)[0]),
        ("in order", "row by row: one pass over memory", filled(in_order)),
        ("reordered", "sums in vector registers", filled(reordered)),
        ("threads", "all cores: the engine's kernel", lambda: cpu.layernorm_forward(x, weight, bias, out=y)[0]),
    ]
    exact = reference.layernorm_forward(*(a.astype(np.float64) for a in (x, weight, bias)))[0]
    work = {"torch": ("row_operation", "layernorm", "forward", *x.shape)}
    title = f"layernorm {x.shape}, float32, bytes read and written"
    figures = ladder(title, rungs, 2 * x.nbytes, "GB/s", limits.copy, exact, work=work)
    return figures, "GB/s", limits.copy
