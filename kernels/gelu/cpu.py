"""GELU on the CPU in float32, in one pass over memory.

The kernels equal `naive_gelu`. They use a polynomial exp, which LLVM can vectorise, in place of the library's tanh and erf. The
tanh form needs no tanh: with the logistic function σ(v) = 1 / (1 + e⁻ᵛ),   (1 + tanh u) / 2 = σ(2u),   so

    y = x/2 (1 + tanh u) = x σ(2u).

This costs one exp and, unlike 1 + tanh u, keeps a relative precision of 1e-5 where tanh is close to −1. All exponentials here
are powers of two; log₂e merges into the constant factor of the exponent.
"""

import math

import numpy as np
from numba import prange, types

from kernels.buffers import copy_to_out, result
from kernels.contract import follows
from kernels.gelu import reference
from kernels.gelu.reference import TANH_CUBIC, TANH_SCALE
from kernels.launch import as_flat, exact, inner, kernel, share, threads_for
from kernels.simd import LOG2_E, exp2


def naive_gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """x: (N,) -> (N,)."""
    y = np.empty_like(x)
    for i, value in enumerate(x):
        if approximate == "tanh":
            y[i] = value / 2 * (1 + math.tanh(TANH_SCALE * (value + TANH_CUBIC * value**3)))
        else:
            y[i] = value / 2 * (1 + math.erf(value / math.sqrt(2)))
    return y


_F = types.float32
_TWO_S, _C, _THREE_C = 2 * TANH_SCALE, TANH_CUBIC, 3 * TANH_CUBIC
_DENSITY_AT_ZERO = 1 / math.sqrt(2 * math.pi)

FORMS: dict[str | None, int] = {"none": 1, "tanh": 2}


@exact
def _exp_minus_two_u(x, square):
    """e^-2u = 2^-(2u log₂e),   2u = 2 √(2/π) (x + 0.044715 x³), given square = x²; inf far below zero, so that σ(2u) is 0."""
    return exp2(x * (_F(-_TWO_S * LOG2_E) + _F(-_TWO_S * _C * LOG2_E) * square))


@exact
def gelu_tanh(x):
    """x σ(2u), u = √(2/π) (x + 0.044715 x³): GPT-2's GELU of one number, absolute error below 5e-7 · max(1, |x|)."""
    return x / (_F(1.0) + _exp_minus_two_u(x, x * x))


@exact
def gelu_tanh_slope(x):
    """d/dx x σ(2u) = σ + x σ (1 − σ) 2u',   2u' = 2 √(2/π) (1 + 3 · 0.044715 x²)."""
    square = x * x
    s = _F(1.0) / (_F(1.0) + _exp_minus_two_u(x, square))
    return s + x * s * (_F(1.0) - s) * (_F(_TWO_S) + _F(_TWO_S * _THREE_C) * square)


@exact
def _normal_tail(z, bell):
    """The probability that a standard normal number exceeds z ≥ 0, given bell = exp(−z²/2); relative error below 1e-6.

    The ratio of tail to bell is smooth. A polynomial of degree 8 in 1/(1 + 0.3 z) fits it to 1.5e-7 for all z up to 14. From
    13.3 on, bell is 0. (Weighted least squares; form of Abramowitz, Stegun, 7.1.26.)
    """
    t = _F(1.0) / (_F(1.0) + _F(0.3) * z)
    p = _F(0.035676791580011934)
    p = p * t + _F(-0.1572116443136316)
    p = p * t + _F(0.20636848528510687)
    p = p * t + _F(-0.05369759452303345)
    p = p * t + _F(0.12856906579878727)
    p = p * t + _F(0.09991122948957587)
    p = p * t + _F(0.12075431826622576)
    p = p * t + _F(0.1196292753287682)
    return p * t * bell


@exact
def gelu(x):
    """x Φ(x) of one number, Φ the normal distribution function; absolute error below 5e-7 · max(1, |x|)."""
    tail = _normal_tail(abs(x), exp2(_F(-LOG2_E / 2) * x * x))
    return x * (_F(1.0) - tail if x > _F(0.0) else tail)


@exact
def gelu_slope(x):
    """Φ(x) + x φ(x), both from the same exp(−x²/2)."""
    bell = exp2(_F(-LOG2_E / 2) * x * x)
    tail = _normal_tail(abs(x), bell)
    return (_F(1.0) - tail if x > _F(0.0) else tail) + x * bell * _F(_DENSITY_AT_ZERO)


@inner
def _forward_span(x, y, form):
    if form == 2:
        for i in range(len(x)):
            y[i] = gelu_tanh(x[i])
    else:
        for i in range(len(x)):
            y[i] = gelu(x[i])


@kernel
def _forward(x, y, form, threads):  # x, y: (N,)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        _forward_span(x[first:last], y[first:last], form)


@inner
def _backward_span(dy, x, dx, form):
    if form == 2:
        for i in range(len(x)):
            dx[i] = dy[i] * gelu_tanh_slope(x[i])
    else:
        for i in range(len(x)):
            dx[i] = dy[i] * gelu_slope(x[i])


@kernel
def _backward(dy, x, dx, form, threads):  # dy, x, dx: (N,)
    for thread in prange(threads):
        first, last = share(len(x), thread, threads)
        _backward_span(dy[first:last], x[first:last], dx[first:last], form)


@inner
def _add_row(x, sums):
    for c in range(len(x)):
        sums[c] += x[c]


@kernel
def slopes_and_sums(dy, z, dz, form, sums):  # dy, z, dz: (R, C)  sums: (threads, C), zeros
    """dz = dy · g'(z), with the GELU g of FORMS (if form is 0, dz is dy). Each thread adds up dz's columns over its rows."""
    threads = len(sums)
    for thread in prange(threads):
        first, last = share(len(dy), thread, threads)
        for r in range(first, last):
            if form != 0:
                _backward_span(dy[r], z[r], dz[r], form)
            _add_row(dz[r], sums[thread])


@follows(reference.gelu_forward)
def gelu_forward(x: np.ndarray, *, approximate: str = "none", out: np.ndarray | None = None) -> np.ndarray:
    """See kernels/gelu/reference.py."""
    y = result(out, x.shape)
    _forward(as_flat(x), y.reshape(-1), FORMS[approximate], threads_for(8 * x.size))
    return copy_to_out(y, out)


@follows(reference.gelu_backward)
def gelu_backward(dy: np.ndarray, x: np.ndarray, *, approximate: str = "none", out: np.ndarray | None = None) -> np.ndarray:
    """See kernels/gelu/reference.py."""
    dx = result(out, x.shape)
    _backward(as_flat(dy), as_flat(x), dx.reshape(-1), FORMS[approximate], threads_for(8 * x.size))
    return copy_to_out(dx, out)
