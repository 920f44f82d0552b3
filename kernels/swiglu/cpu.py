"""SwiGLU on the CPU: the reference's signatures, float32, one pass over memory."""

from numba import prange, types

from kernels.launch import as_rows, delivered, exact, inner, kernel, result, workers
from kernels.simd import exp

_F = types.float32


@exact
def sigmoid(x):
    """1 / (1 + e⁻ˣ) of one number. Far below zero e⁻ˣ is infinite and the result 0, as it should be."""
    return _F(1.0) / (_F(1.0) + exp(-x))


@inner
def _forward_row(x, y):
    F = len(y)
    for c in range(F):
        y[c] = x[c] * sigmoid(x[c]) * x[F + c]


@kernel
def _forward(x, y, parts):  # x: (R, 2F)  y: (R, F)
    for part in prange(parts):
        for r in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            _forward_row(x[r], y[r])


@inner
def _backward_row(dy, x, dx):
    F = len(dy)
    for c in range(F):
        s = sigmoid(x[c])
        dx[c] = dy[c] * x[F + c] * s * (_F(1.0) + x[c] * (_F(1.0) - s))
        dx[F + c] = dy[c] * x[c] * s


@kernel
def _backward(dy, x, dx, parts):  # dy: (R, F)  x, dx: (R, 2F)
    for part in prange(parts):
        for r in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            _backward_row(dy[r], x[r], dx[r])


def swiglu_forward(x, *, out=None):
    """See kernels/swiglu/reference.py."""
    y = result(out, (*x.shape[:-1], x.shape[-1] // 2))
    rows = as_rows(x)  # (R, 2F)
    _forward(rows, y.reshape(len(rows), rows.shape[1] // 2), workers(8 * x.size))
    return delivered(y, out)


def swiglu_backward(dy, x, *, out=None):
    """See kernels/swiglu/reference.py."""
    dx = result(out, x.shape)
    rows = as_rows(x)  # (R, 2F)
    _backward(as_rows(dy), rows, dx.reshape(rows.shape), workers(8 * x.size))
    return delivered(dx, out)
