"""GELU: the specification, in NumPy, for any float dtype.

Source: Hendrycks, Gimpel 2016, Gaussian Error Linear Units (arXiv:1606.08415), §2: x Φ(x), where Φ is the normal distribution
function, and the tanh approximation that GPT-2 was trained with.
"""

import math
from typing import Any

import numpy as np

from kernels.contract import Arguments, contract

_erf: Any = np.frompyfunc(math.erf, 1, 1)  # NumPy has no erf; the standard library's is slow but exact to the last bit or two
TANH_SCALE = math.sqrt(2 / math.pi)
TANH_CUBIC = 0.044715


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    """Φ(x) = (1 + erf(x / √2)) / 2."""
    return ((1 + np.asarray(_erf(x.astype(np.float64) / math.sqrt(2)), np.float64)) / 2).astype(x.dtype)


def check_form(arguments: Arguments) -> None:
    """Raise ValueError if GELU has no such form."""
    if arguments.get("approximate", "none") not in ("none", "tanh"):
        raise ValueError(f"gelu: expected approximate 'none' or 'tanh', got {arguments['approximate']!r}; choose one of them")


@contract("x, out?: (...)", in_place="x", also=check_form)
def gelu_forward(x: np.ndarray, *, approximate: str | None = "none", out: np.ndarray | None = None) -> np.ndarray:
    """y = x Φ(x), or x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))) with approximate="tanh".

    Args:
        x: any shape.

    Returns:
        y, shaped like x.
    """
    number = x.dtype.type
    if approximate == "tanh":
        t = np.tanh(number(TANH_SCALE) * (x + number(TANH_CUBIC) * x * x * x))
        return np.multiply(number(0.5) * x, 1 + t, out=out)
    return np.multiply(x, _normal_cdf(x), out=out)


# Exact:   y = x Φ(x)           dy/dx = Φ(x) + x φ(x),     φ(x) = exp(−x²/2) / √(2π), the normal density
# Tanh:    y = x/2 (1 + t),     t = tanh(u),   u = s (x + c x³),   dt/du = 1 − t²,   du/dx = s (1 + 3 c x²)
#          so                   dy/dx = (1 + t)/2 + x/2 (1 − t²) s (1 + 3 c x²).
# Saved: x. Recomputing the tanh or erf is cheaper than keeping a second array until the backward pass.
@contract("dy, x, out?: (...)", in_place=("dy", "x"), also=check_form)
def gelu_backward(
    dy: np.ndarray, x: np.ndarray, *, approximate: str | None = "none", out: np.ndarray | None = None
) -> np.ndarray:
    """Gradient of GELU.

    Args:
        dy, x: gradient of y and the forward input, of one shape.

    Returns:
        dx, shaped like x.
    """
    number = x.dtype.type
    if approximate == "tanh":
        s, c, half = number(TANH_SCALE), number(TANH_CUBIC), number(0.5)
        t = np.tanh(s * (x + c * x * x * x))
        slope = half * (1 + t) + half * x * (1 - t * t) * s * (1 + 3 * c * x * x)
    else:
        slope = _normal_cdf(x) + x * np.exp(-x * x / 2) * number(1 / math.sqrt(2 * math.pi))
    return np.multiply(dy, slope, out=out)
