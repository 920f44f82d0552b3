"""Dropout with a counter-based generator: the specification, in NumPy, for any float dtype.

Source: Srivastava et al. 2014 (JMLR 15), in the inverted form, which scales during training. The random numbers are SplitMix64
(Steele, Lea, Flood 2014, Fast Splittable Pseudorandom Number Generators, fig. 14): number i is a fixed mix of the bits of
seed + i · γ. So element i of the mask can be computed anywhere, in any order, on any device, and is never stored.
"""

import numpy as np

from kernels.arrays import Array
from kernels.contract import contract

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ divided by the golden ratio, made odd
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(seed: int, n: int) -> Array:
    """The first n numbers of SplitMix64 as float32 in [0, 1), from the top 24 bits of each.  Returns (n,)."""
    z = (np.arange(1, n + 1, dtype=np.uint64) * GAMMA) + np.uint64(seed)  # (n,)  wraps modulo 2⁶⁴, as intended
    z = (z ^ (z >> np.uint64(30))) * MIX1
    z = (z ^ (z >> np.uint64(27))) * MIX2
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


# The forward pass was   y = m x / (1 − p)   with a mask m of zeros and ones that does not depend on x.
# So   dx = m dy / (1 − p):   dropout is its own backward, called on dy with the same seed.
# Saved: the seed.
@contract("x, out?: (...)", in_place="x")
def dropout(x: Array, p: float, seed: int, *, out: Array | None = None) -> Array:
    """Set each element to zero with probability p, and scale the rest by 1 / (1 − p).

    Element i, counted in C order, survives if uniform(seed)[i] ≥ p.

    Args:
        x: any shape.
        p: 0 ≤ p ≤ 1.
        seed: an int in [0, 2⁶⁴).

    Returns:
        y, shaped like x.
    """
    mask = (uniform(seed, x.size) >= np.float32(p)).reshape(x.shape)
    scale = x.dtype.type(0 if p >= 1 else 1 / (1 - p))
    return np.multiply(np.where(mask, x, 0), scale, out=out, dtype=x.dtype)
