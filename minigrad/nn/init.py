"""Initial values, drawn from a seeded generator (the default generator if None) and written into a tensor in place."""

import math
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import kernels
from minigrad.engine import TensorT
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


def kaiming_uniform_(tensor: TensorT, a: float = 0.0, generator: Generator | None = None) -> TensorT:
    """Fill with uniform numbers within ±√(6 / ((1 + a²) fan_in)).  tensor: (fan_out, fan_in).

    Source: He et al. 2015 (arXiv:1502.01852), §2.2.
    """
    bound = math.sqrt(6 / ((1 + a * a) * tensor.shape[1]))
    return uniform_(tensor, -bound, bound, generator)


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
