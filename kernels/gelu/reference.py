"""GELU: the specification, in NumPy, for any float dtype.

Source: Hendrycks, Gimpel 2016, "Gaussian Error Linear Units" (arXiv:1606.08415), §2: x Φ(x), Φ the normal distribution
function, and its tanh approximation, which GPT-2 was trained with.
"""

import math

import numpy as np

_erf = np.frompyfunc(math.erf, 1, 1)  # NumPy has none; the standard library's is exact to the last bit or two, and slow
TANH_SCALE = math.sqrt(2 / math.pi)
TANH_CUBIC = 0.044715


def _normal_cdf(x):
    """Φ(x) = (1 + erf(x / √2)) / 2."""
    return ((1 + _erf(x.astype(np.float64) / math.sqrt(2)).astype(np.float64)) / 2).astype(x.dtype)


def gelu_forward(x, *, approximate="none", out=None):
    """y = x Φ(x), or with approximate="tanh"  y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).  x: any shape -> y: same."""
    kind = x.dtype.type
    if approximate == "tanh":
        t = np.tanh(kind(TANH_SCALE) * (x + kind(TANH_CUBIC) * x * x * x))
        return np.multiply(kind(0.5) * x, 1 + t, out=out)
    return np.multiply(x, _normal_cdf(x), out=out)


# Exact:   y = x Φ(x)             dy/dx = Φ(x) + x φ(x),     φ(x) = exp(−x²/2) / √(2π) the normal density.
# Tanh:    y = x/2 (1 + t),       t = tanh(u),  u = s (x + c x³),  dt/du = 1 − t²,  du/dx = s (1 + 3 c x²)
#          so                     dy/dx = (1 + t)/2 + x/2 (1 − t²) s (1 + 3 c x²).
# Saved: x. The tanh or erf is computed again: a second array kept until the backward pass would cost more than it.
def gelu_backward(dy, x, *, approximate="none", out=None):
    """dy, x: any one shape.  Returns dx: the same shape."""
    kind = x.dtype.type
    if approximate == "tanh":
        s, c, half = kind(TANH_SCALE), kind(TANH_CUBIC), kind(0.5)
        t = np.tanh(s * (x + c * x * x * x))
        slope = half * (1 + t) + half * x * (1 - t * t) * s * (1 + 3 * c * x * x)
    else:
        slope = _normal_cdf(x) + x * np.exp(-x * x / 2) * kind(1 / math.sqrt(2 * math.pi))
    return np.multiply(dy, slope, out=out)
