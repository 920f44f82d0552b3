"""Softmax and log-softmax over the last axis: the specification, in NumPy, for any float dtype.

Source: Bridle 1990, Probabilistic interpretation of feedforward classification network outputs, eq. 4. Subtracting the maximum
first guards against overflow (Goodfellow, Bengio, Courville 2016, Deep Learning, §4.1).
"""

import numpy as np

from kernels.arrays import Array
from kernels.contract import contract


def _minus_maximum(x: Array) -> Array:
    """x minus its row maximum, so that exp cannot overflow; a row of -inf becomes NaN, as in PyTorch."""
    with np.errstate(invalid="ignore"):
        return x - x.max(axis=-1, keepdims=True, initial=-np.inf)


@contract("x, out?: (..., C)", in_place="x")
def softmax_forward(x: Array, *, out: Array | None = None) -> Array:
    """y_i = exp(x_i) / Σ_j exp(x_j) along the last axis.  x: (..., C) -> (..., C)."""
    y = np.exp(_minus_maximum(x))  # (..., C)
    return np.divide(y, y.sum(axis=-1, keepdims=True), out=y if out is None else out)


# The forward pass was, for one row:   y_i = e_i / s   with   e_i = exp(x_i),   s = Σ e_j.
# The quotient rule:                   ∂y_i/∂x_j = y_i (δ_ij − y_j)
# Sum over the outputs i:              dx_j = Σ_i dy_i y_i (δ_ij − y_j) = y_j (dy_j − Σ_i dy_i y_i)
# An upstream gradient of all ones gives zero, so a gradient check with ones would see nothing.
# Saved: y; x is not needed again.
@contract("dy, y, out?: (..., C)", in_place=("dy", "y"))
def softmax_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """Gradient of softmax.  dy, y: gradient and result of the forward pass, (..., C) each.  Returns dx: (..., C)."""
    average = (dy * y).sum(axis=-1, keepdims=True)  # (..., 1)
    return np.multiply(y, dy - average, out=out)


@contract("x, out?: (..., C)", in_place="x")
def log_softmax_forward(x: Array, *, out: Array | None = None) -> Array:
    """y_i = x_i − log Σ_j exp(x_j), without forming a probability that could round to zero.  x: (..., C) -> (..., C)."""
    scores = _minus_maximum(x)  # (..., C)
    return np.subtract(scores, np.log(np.exp(scores).sum(axis=-1, keepdims=True)), out=out)


# The forward pass was     y_i = x_i − l   with   l = log Σ exp(x_j),   so   ∂l/∂x_j = exp(x_j − l) = exp(y_j).
# Sum over the outputs i:  dx_j = dy_j − exp(y_j) Σ_i dy_i.      Saved: y.
@contract("dy, y, out?: (..., C)", in_place=("dy", "y"))
def log_softmax_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """Gradient of log-softmax.  dy, y: gradient and result of the forward pass, (..., C) each.  Returns dx: (..., C)."""
    return np.subtract(dy, np.exp(y) * dy.sum(axis=-1, keepdims=True), out=out)
