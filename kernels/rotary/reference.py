"""Rotary positions: the specification, in NumPy, for any float dtype.

Source: Su et al. 2021, "RoFormer" (arXiv:2104.09864), eq. 15 and 34; the two numbers of a pair stand half a head apart, as in
Llama. Each pair of a query or key is a point on a plane, turned by an angle that grows with its position: t · base^(−2j/D) for
pair j. The product of a query and a key then depends on how far they are apart, and not on where they are.
"""

import numpy as np


def rotary(x, cos, sin, *, inverse=False, out=None):
    """Turn the pairs (x_j, x_{j + D/2}) of every row by the angle whose cosine and sine are given (back, if inverse).

    x: (B, H, T, D), D even; cos, sin: (T, D/2).  Returns y: (B, H, T, D).
    """
    sin = -sin if inverse else sin
    a, b = np.split(x, 2, axis=-1)  # (B, H, T, D/2) each
    y = np.empty_like(x) if out is None else out
    turned = a * cos - b * sin, b * cos + a * sin  # both before either is written: out may be x
    np.concatenate(turned, axis=-1, out=y)
    return y


# A rotation R is linear and orthogonal: y = R x, so dx = Rᵀ dy = R⁻¹ dy, the same function with inverse=True. Nothing is saved
# but the angles.
