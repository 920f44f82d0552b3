"""Dropout with a counter-based generator: the specification, in NumPy, for any float dtype.

Source: Srivastava et al. 2014 (JMLR 15), in the inverted form that scales while training. The random numbers are SplitMix64's
(Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators", fig. 14): the i-th number is a fixed mixing of
seed + i · γ, so element i of the mask can be computed anywhere, in any order, on any device, and never needs to be stored.
"""

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ divided by the golden ratio, made odd
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(seed, n):
    """The first n numbers of SplitMix64 with this seed, as float32 in [0, 1): the top 24 bits of each."""
    z = (np.arange(1, n + 1, dtype=np.uint64) * GAMMA) + np.uint64(seed)  # (n,)  wraps modulo 2⁶⁴, as it should
    z = (z ^ (z >> np.uint64(30))) * MIX1
    z = (z ^ (z >> np.uint64(27))) * MIX2
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


# y = m x / (1 − p), with m the mask of zeros and ones. The mask does not depend on x, so dx = m dy / (1 − p): dropout is its
# own backward, called on dy with the same seed. Saved: the seed, one integer.
def dropout(x, p, seed, *, out=None):
    """Zero each element with probability p, scale the rest by 1/(1−p).  x: any shape -> same.

    Element i, counted in C order, is kept where uniform(seed)[i] ≥ p.  0 ≤ p ≤ 1; seed: an int in [0, 2⁶⁴).
    """
    keep = (uniform(seed, x.size) >= np.float32(p)).reshape(x.shape)
    scale = x.dtype.type(0 if p >= 1 else 1 / (1 - p))
    return np.multiply(np.where(keep, x, 0), scale, out=out, dtype=x.dtype)
