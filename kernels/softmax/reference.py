"""Softmax and log-softmax over the last axis: the specification, in NumPy, for any float dtype.

Source: Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs", eq. 4; subtracting the
maximum first is the usual guard against overflow (Goodfellow, Bengio, Courville 2016, Deep Learning, §4.1).
"""

import numpy as np


def _shifted(x):
    """x minus its row maximum, so that exp cannot overflow; a row of -inf only stays defined (as NaN, like PyTorch's)."""
    with np.errstate(invalid="ignore"):
        return x - x.max(axis=-1, keepdims=True)


def softmax_forward(x, *, out=None):
    """y_i = exp(x_i) / Σ_j exp(x_j).  x: (..., C) -> y: (..., C), rows that sum to one."""
    y = np.exp(_shifted(x))  # (..., C)
    return np.divide(y, y.sum(axis=-1, keepdims=True), out=y if out is None else out)


# In the forward pass, for one row:   y_i = e_i / s   with   e_i = exp(x_i), s = Σ e_j.
# The quotient rule:                  dy_i/dx_j = y_i (δ_ij − y_j)
# Sum over outputs i:                 dx_j = Σ_i dy_i y_i (δ_ij − y_j) = y_j (dy_j − Σ_i dy_i y_i)
# Note that an upstream gradient of all ones gives zero: a check that uses one sees nothing.
# Saved: y alone; x is not needed again.
def softmax_backward(dy, y, *, out=None):
    """dy, y: (..., C).  Returns dx: (..., C)."""
    along = (dy * y).sum(axis=-1, keepdims=True)  # (..., 1)
    return np.multiply(y, dy - along, out=out)


def log_softmax_forward(x, *, out=None):
    """y_i = x_i − log Σ_j exp(x_j), computed without ever forming a probability that could round to zero.  x, y: (..., C)."""
    shifted = _shifted(x)  # (..., C)
    return np.subtract(shifted, np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), out=out)


# In the forward pass:   y_i = x_i − l   with   l = log Σ exp(x_j),   and   dl/dx_j = exp(x_j − l) = exp(y_j).
# Sum over outputs:      dx_j = dy_j − exp(y_j) Σ_i dy_i.      Saved: y.
def log_softmax_backward(dy, y, *, out=None):
    """dy, y: (..., C).  Returns dx: (..., C)."""
    return np.subtract(dy, np.exp(y) * dy.sum(axis=-1, keepdims=True), out=out)
