"""Initial values, drawn from a seeded generator (the default generator if None) and written into a tensor in place."""

import math
import typing as _typing
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import kernels
from minigrad.engine import TensorBase, TensorT
from minigrad.random import Generator, default_generator

_skipping = False


@contextmanager
def skipped() -> Iterator[None]:
    """Inside `with nn.init.skipped():` nothing is drawn: random weights start as zeros, and their memory is not even touched.

    Use it for a model whose parameters are loaded next, like torch.nn.utils.skip_init.
    """
    global _skipping
    before, _skipping = _skipping, True
    try:
        yield
    finally:
        _skipping = before


def _fill(tensor: TensorT, draw: Callable[[tuple[int, ...]], Any]) -> TensorT:
    if not _skipping:
        tensor.array[...] = kernels.to_device(draw(tensor.shape).astype(tensor.dtype), tensor.device)
        tensor.changed()
    return tensor


def normal_(tensor: TensorT, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with normal numbers of this mean and standard deviation."""
    return _fill(tensor, lambda shape: (generator or default_generator).numpy.standard_normal(shape) * std + mean)


def uniform_(tensor: TensorT, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with uniform numbers in [a, b)."""
    return _fill(tensor, lambda shape: (generator or default_generator).numpy.uniform(a, b, shape))


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
    above, below = _kaiming_variance("kaiming_uniform_", tensor, a, mode, nonlinearity)
    bound = math.sqrt(3 * above / below)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: TensorT,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> TensorT:
    """Fill with normal numbers of variance gain² / fan; the arguments are those of kaiming_uniform_."""
    above, below = _kaiming_variance("kaiming_normal_", tensor, a, mode, nonlinearity)
    return normal_(tensor, 0.0, math.sqrt(above / below), generator)


def xavier_uniform_(tensor: TensorT, gain: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with uniform numbers within ±gain · √(6 / (fan_in + fan_out)).  tensor: (fan_out, fan_in).

    Source: Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks, eq. 16.
    """
    bound = gain * math.sqrt(6 / sum(_fans("xavier_uniform_", tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: TensorT, gain: float = 1.0, generator: Generator | None = None) -> TensorT:
    """Fill with normal numbers of variance gain² · 2 / (fan_in + fan_out).  tensor: (fan_out, fan_in)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans("xavier_normal_", tensor))), generator)


def trunc_normal_(
    tensor: TensorT, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Generator | None = None
) -> TensorT:
    """Fill with normal numbers, drawing again each number outside [a, b]."""
    if not a < b or not a - 10 * std < mean < b + 10 * std:
        raise ValueError(f"trunc_normal_: expected a < b near the mean, got mean={mean}, std={std}, a={a}, b={b}")
    rng = (generator or default_generator).numpy

    def draw(shape: tuple[int, ...]) -> Any:
        numbers = rng.standard_normal(shape) * std + mean
        while (outside := (numbers < a) | (numbers > b)).any():
            numbers[outside] = rng.standard_normal(outside.sum()) * std + mean
        return numbers

    return _fill(tensor, draw)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on initial weights that keeps the variance of activations through a function.

    param: the slope of a leaky ReLU below zero; 0.01 if None.

    >>> calculate_gain("relu") ** 2
    2.0000000000000004
    """
    above, below = _squared_gain(nonlinearity, 0.01 if param is None else param)
    return math.sqrt(above / below)


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
    """gain² / fan as a fraction."""
    above, below = _squared_gain(nonlinearity, slope)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    return above, below * _fans(name, tensor)[mode == "fan_out"]


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
