"""SwiGLU, the middle of a gated MLP: the specification, in NumPy, for any float dtype.

Source: Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202), eq. 6: one projection is bent by SiLU (x σ(x)) and
says how much of the other passes. Both come out of one matrix product, side by side.
"""

import numpy as np


def _sigmoid(x):
    """1 / (1 + e⁻ˣ), written with e^−|x|, which cannot overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def swiglu_forward(x, *, out=None):
    """y = SiLU(gate) · up.  x: (..., 2F), the gates and then the ups -> y: (..., F)."""
    gate, up = np.split(x, 2, axis=-1)  # (..., F) each
    return np.multiply(gate * _sigmoid(gate), up, out=out)


# y = g σ(g) u,  and  d/dg g σ(g) = σ + g σ (1 − σ) = σ (1 + g (1 − σ)).
#   dg = dy u σ (1 + g (1 − σ))        du = dy g σ
# Saved: x; the sigmoid is computed again.
def swiglu_backward(dy, x, *, out=None):
    """dy: (..., F), x: (..., 2F).  Returns dx: (..., 2F)."""
    gate, up = np.split(x, 2, axis=-1)  # (..., F) each
    s = _sigmoid(gate)  # (..., F)
    return np.concatenate([dy * up * s * (1 + gate * (1 - s)), dy * gate * s], axis=-1, out=out)
