"""Initial values, written into a tensor in place and drawn from a seeded generator."""

import math
from contextlib import contextmanager

import kernels
from minigrad.random import default_generator

_skipping = False


@contextmanager
def skipped():
    """Inside `with nn.init.skipped():` nothing is drawn: layers are made of zeros, whose memory is not touched yet.

    For a model whose parameters are about to be loaded (torch.nn.utils.skip_init is PyTorch's way).
    """
    global _skipping
    before, _skipping = _skipping, True
    try:
        yield
    finally:
        _skipping = before


def _fill(tensor, draw):
    if not _skipping:
        tensor.array[...] = kernels.to_device(draw(tensor.shape).astype(tensor.dtype), tensor.device)
        tensor.changed()
    return tensor


def normal_(tensor, mean=0.0, std=1.0, generator=None):
    """Normal numbers with this mean and standard deviation."""
    return _fill(tensor, lambda shape: (generator or default_generator).numpy.standard_normal(shape) * std + mean)


def uniform_(tensor, a=0.0, b=1.0, generator=None):
    """Uniform numbers in [a, b)."""
    return _fill(tensor, lambda shape: (generator or default_generator).numpy.uniform(a, b, shape))


def kaiming_uniform_(tensor, a=0.0, generator=None):
    """He et al. 2015 (arXiv:1502.01852), §2.2: uniform within ±√(6 / ((1 + a²) fan_in)).  tensor: (fan_out, fan_in)."""
    bound = math.sqrt(6 / ((1 + a * a) * tensor.shape[1]))
    return uniform_(tensor, -bound, bound, generator)


def constant_(tensor, val):
    tensor.array[...] = val
    tensor.changed()
    return tensor


def zeros_(tensor):
    return constant_(tensor, 0)


def ones_(tensor):
    return constant_(tensor, 1)
