"""SwiGLU, the middle of a gated MLP: the specification, in NumPy, for any float dtype.

One projection, the gate, goes through SiLU (x σ(x)) and scales the other, `up`. One matrix product computes both, side by side.
Source: Shazeer 2020, GLU Variants Improve Transformer (arXiv:2002.05202), eq. 6.
"""

import numpy as np

from kernels.arrays import Array
from kernels.contract import contract


def _sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), written with e^−|x|, which cannot overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


@contract("x: (..., 2F); out?: (..., F)")
def swiglu_forward(x: Array, *, out: Array | None = None) -> Array:
    """y = SiLU(gate) · up.  x: (..., 2F), the gates followed by the ups -> y: (..., F)."""
    gate, up = np.split(x, 2, axis=-1)  # (..., F) each
    return np.multiply(gate * _sigmoid(gate), up, out=out)


# The forward pass was   y = g σ(g) u,   and   d/dg g σ(g) = σ + g σ (1 − σ) = σ (1 + g (1 − σ)).   So
#   dg = dy u σ (1 + g (1 − σ))        du = dy g σ
# Saved: x; the backward pass recomputes the sigmoid.
@contract("dy: (..., F); x, out?: (..., 2F)")
def swiglu_backward(dy: Array, x: Array, *, out: Array | None = None) -> Array:
    """Gradient of SwiGLU.  dy: gradient of y, (..., F); x: the forward input, (..., 2F).  Returns dx: (..., 2F)."""
    gate, up = np.split(x, 2, axis=-1)  # (..., F) each
    s = _sigmoid(gate)  # (..., F)
    return np.concatenate([dy * up * s * (1 + gate * (1 - s)), dy * gate * s], axis=-1, out=out)
