"""Initial values, drawn from a seeded generator (the default generator if None) and written into a tensor in place."""

import math
import typing as _typing
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import numpy as np

import kernels
from minigrad.engine import TensorBase, TensorT
from minigrad.ops.operands import as_float
from minigrad.random import Generator, default_generator

_skipping = False


@contextmanager
def skip_init() -> Iterator[None]:
    """Inside `with nn.init.skip_init():` nothing is drawn: random weights start as zeros, and their memory is not even touched.

    Use it for a model whose parameters are loaded next, like torch.nn.utils.skip_init.
    """
    global _skipping
    before, _skipping = _skipping, True
    try:
        yield
    finally:
        _skipping = before


def _fill(name: str, tensor: TensorT, draw: Callable[[tuple[int, ...]], Any]) -> TensorT:
    if not isinstance(tensor, TensorBase) or tensor.dtype.kind != "f":
        got = tensor.dtype if isinstance(tensor, TensorBase) else type(tensor).__name__
        raise TypeError(f"{name}: expected a floating-point tensor, got {got}")
    if not _skipping:
        tensor.array[...] = kernels.to_device(draw(tensor.shape).astype(tensor.dtype), tensor.device)
        tensor.changed()
    return tensor


def normal_(tensor: TensorT, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with normal numbers of this mean and standard deviation."""
    mean, std = as_float(mean, "normal_", "mean"), as_float(std, "normal_", "std")
    if not std >= 0:
        raise RuntimeError(f"normal_: expected std of at least 0, got {std:g}")
    return _fill("normal_", tensor, lambda shape: (generator or default_generator).numpy.standard_normal(shape) * std + mean)


def uniform_(tensor: TensorT, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with uniform numbers in [a, b)."""
    a, b = as_float(a, "uniform_", "a"), as_float(b, "uniform_", "b")
    if not a <= b:
        raise RuntimeError(f"uniform_: expected a of at most b, got a={a:g}, b={b:g}")
    return _fill("uniform_", tensor, lambda shape: (generator or default_generator).numpy.uniform(a, b, shape))


def kaiming_uniform_(
    tensor: TensorT,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> TensorT:
    """Fill with uniform numbers within ±gain · √(3 / fan), whose variance is gain² / fan.

    Args:
        tensor: (fan_out, fan_in), or (channels out, channels in, …) where the sizes of the other axes multiply both.
        a: slope of a leaky ReLU below zero.
        mode: "fan_in" keeps the size of activations from layer to layer, "fan_out" that of gradients.
        nonlinearity: the function after the layer, which sets the gain; see calculate_gain.

    Source: He et al. 2015 (arXiv:1502.01852), §2.2.
    """
    numerator, denominator = _kaiming_variance("kaiming_uniform_", tensor, a, mode, nonlinearity)
    bound = math.sqrt(3 * numerator / denominator)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: TensorT,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> TensorT:
    """Fill with normal numbers of variance gain² / fan; the arguments are those of kaiming_uniform_."""
    numerator, denominator = _kaiming_variance("kaiming_normal_", tensor, a, mode, nonlinearity)
    return normal_(tensor, 0.0, math.sqrt(numerator / denominator), generator)


def xavier_uniform_(tensor: TensorT, gain: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with uniform numbers within ±gain · √(6 / (fan_in + fan_out)).  tensor: (fan_out, fan_in).

    Source: Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks, eq. 16.
    """
    bound = gain * math.sqrt(6 / (sum(_fans("xavier_uniform_", tensor)) or 1))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: TensorT, gain: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with normal numbers of variance gain² · 2 / (fan_in + fan_out).  tensor: (fan_out, fan_in)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / (sum(_fans("xavier_normal_", tensor)) or 1)), generator)


def trunc_normal_(
    tensor: TensorT, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Generator | None = None
) -> TensorT:
    """Fill with normal numbers within [a, b].

    It draws candidates from a distribution that is easy to sample, and keeps each with probability density / (M · candidate
    density), where M is the largest quotient of the two densities. If [a, b] holds much of the normal distribution, the
    candidates are normal and only those outside are drawn again; otherwise they decay exponentially from the end nearest the
    mean.

    Source: Robert 1995, Simulation of truncated normal variables (arXiv:0907.4010), §2.
    """
    rng = (generator or default_generator).numpy
    low, high, sign = (a - mean) / (std or math.nan), (b - mean) / (std or math.nan), 1
    if low + high < 0:  # mirrored, so that the mean is on the left
        low, high, sign = -high, -low, -1
    if not (0 < std < math.inf and low <= high and low < math.inf):
        got = f"mean={mean}, std={std}, a={a}, b={b}"
        raise RuntimeError(f"trunc_normal_: expected finite mean, std above 0 and a of at most b, got {got}")
    rate = (low + math.hypot(low, 2)) / 2
    likeliest = min(max(rate, low), high)  # where the quotient of the densities is largest

    def candidates(count: int) -> tuple[Any, Any]:
        """Standard normal or exponential numbers, and which of them to keep."""
        if low < 0.5 and high - low > 1:
            z = sign * rng.standard_normal(count)
            return z, (low <= z) & (z <= high)
        z = low - np.log1p(rng.random(count) * math.expm1(rate * (low - high))) / rate
        return z, rng.random(count) < np.exp(((likeliest - rate) ** 2 - (z - rate) ** 2) / 2)

    def draw(shape: tuple[int, ...]) -> Any:
        numbers, pending = np.empty(shape), np.ones(shape, bool)
        while pending.any():
            z, accepted = candidates(int(pending.sum()))
            numbers[pending], pending[pending] = z, ~accepted
        return np.clip(sign * numbers * std + mean, a, b)

    return _fill("trunc_normal_", tensor, draw)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on initial weights that preserves the variance of activations across a nonlinearity.

    param: the slope of a leaky ReLU below zero; 0.01 if None.

    >>> calculate_gain("relu") ** 2
    2.0000000000000004
    """
    numerator, denominator = _squared_gain(nonlinearity, 0.01 if param is None else param)
    return math.sqrt(numerator / denominator)


def _squared_gain(nonlinearity: str, slope: float) -> tuple[float, float]:
    """The squared gain as a fraction."""
    squares = {"relu": (2.0, 1.0), "leaky_relu": (2.0, 1 + slope * slope), "tanh": (25.0, 9.0), "selu": (9.0, 16.0)}
    squares |= {"linear": (1.0, 1.0), "sigmoid": (1.0, 1.0)}
    if nonlinearity not in squares:
        raise ValueError(f"init: expected a nonlinearity of {', '.join(squares)}, got {nonlinearity!r}")
    return squares[nonlinearity]


def _fans(name: str, tensor: TensorBase) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs an output is made from, and how many outputs an input reaches."""
    if tensor.ndim < 2:
        raise ValueError(f"{name}: expected at least 2 axes, got shape {tensor.shape}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _kaiming_variance(name: str, tensor: TensorBase, slope: float, mode: str, nonlinearity: str) -> tuple[float, float]:
    """gain² / fan as a fraction; an empty tensor's fan of 0 counts as 1."""
    numerator, denominator = _squared_gain(nonlinearity, slope)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    return numerator, denominator * (_fans(name, tensor)[mode == "fan_out"] or 1)


def constant_(tensor: TensorT, val: float) -> TensorT:
    """Fill with one number."""
    tensor.array[...] = val
    tensor.changed()
    return tensor


def zeros_(tensor: TensorT) -> TensorT:
    """Fill with 0."""
    return constant_(tensor, 0)


def ones_(tensor: TensorT) -> TensorT:
    """Fill with 1."""
    return constant_(tensor, 1)


if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.nn.init has no {name!r}; it has normal_, uniform_, constant_, xavier_… and kaiming_…")
