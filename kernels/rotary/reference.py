"""Rotary positions: the specification, in NumPy, for any float dtype.

A pair of numbers in a query or key is a point in a plane. Pair j at position t is rotated by the angle t · base^(−2j/D). The
product of a query and a key then depends on the distance between them, not on their positions.
Source: Su et al. 2021, RoFormer (arXiv:2104.09864), eq. 15 and 34; a pair's two numbers are half a head apart, as in Llama.
"""

import numpy as np

from kernels.arrays import Array
from kernels.contract import contract


@contract("x, out?: (B, H, T, 2h); cos, sin: (T, h)", in_place="x")
def rotary(x: Array, cos: Array, sin: Array, *, inverse: bool = False, out: Array | None = None) -> Array:
    """Rotate the pairs (x_j, x_{j + D/2}) of every row.

    Args:
        x: (B, H, T, D) with an even D.
        cos, sin: cosines and sines of the angles, (T, D/2).
        inverse: rotate back.

    Returns:
        (B, H, T, D), in `out` if given; `out` may be x.
    """
    sin = -sin if inverse else sin
    a, b = np.split(x, 2, axis=-1)  # (B, H, T, D/2) each
    halves = a * cos - b * sin, b * cos + a * sin  # compute both before writing either: out may be x
    return np.concatenate(halves, axis=-1, out=np.empty_like(x) if out is None else out)


# A rotation R is linear and orthogonal: y = R x, so dx = Rᵀ dy = R⁻¹ dy. The backward pass is the same function with
# inverse=True. Saved: the angles.
