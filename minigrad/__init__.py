"""minigrad: a small automatic-differentiation engine on NumPy, with PyTorch's names.

    import minigrad as torch
    import minigrad.nn as nn
    import minigrad.nn.functional as F

What is here behaves as PyTorch's does; what is not here raises an error that says so.
"""

import numpy as _np

import kernels as _kernels
from kernels import DeviceError
from kernels import use as use_kernels
from kernels.gpu import DeviceMemoryError
from kernels.graph import GraphError
from minigrad import autograd, devices
from minigrad.devices import (
    get_default_device,
    get_float32_matmul_precision,
    placed,
    set_default_device,
    set_float32_matmul_precision,
)
from minigrad.function import Context, Function
from minigrad.graphed import graphed
from minigrad.ops.activations import log_softmax, relu, sigmoid, softmax, tanh
from minigrad.ops.arithmetic import (
    abs,
    add,
    clamp,
    div,
    eq,
    exp,
    isfinite,
    isnan,
    log,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    rsqrt,
    sqrt,
    square,
    sub,
)
from minigrad.ops.indexing import gather, masked_fill, where
from minigrad.ops.products import matmul
from minigrad.ops.reductions import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    norm,
    std,
    sum,
    var,
)
from minigrad.ops.shape import (
    cat,
    chunk,
    clone,
    flatten,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    t,
    transpose,
    tril,
    triu,
    unsqueeze,
)
from minigrad.random import Generator, default_generator, manual_seed
from minigrad.tensor import (
    Tensor,
    bool_,
    enable_grad,
    float16,
    float32,
    float64,
    int32,
    int64,
    is_grad_enabled,
    no_grad,
)

device = devices.device
float, double, half, int, long, bool = float32, float64, float16, int32, int64, bool_
inf, pi, e, nan = _np.inf, _np.pi, _np.e, _np.nan


def tensor(data, dtype=None, device=None, requires_grad=False):
    """A tensor that copies `data`: numbers, nested lists, or an array. Python floats become float32, ints int64.

    device: the default one where None (set_default_device), but a tensor's copy stays where the tensor is.
    """
    device = device or (data.device if isinstance(data, Tensor) else get_default_device())
    array = data.array if isinstance(data, Tensor) else data
    if not hasattr(array, "dtype"):
        try:
            array = _np.array(array)
        except ValueError:
            raise ValueError("tensor(): the nested lists are ragged: rows of one axis must be equally long") from None
        if array.dtype.kind not in "biuf":
            raise TypeError(f"tensor(): expected numbers, got {array.dtype}")
        if dtype is None and array.dtype == _np.float64:
            dtype = float32
    array = array.astype(array.dtype if dtype is None else dtype)  # always a copy
    return Tensor(_kernels.to_device(_np.asarray(array) if _np.isscalar(array) else array, device), requires_grad)


def as_tensor(data, dtype=None, device=None):
    """Like tensor(), but sharing the memory of an array or tensor where nothing has to change."""
    if isinstance(data, _np.ndarray):
        data = Tensor(placed(data, device))
    if not isinstance(data, Tensor):
        return tensor(data, dtype, device)
    return data.to(*(w for w in (device, dtype) if w is not None))


def from_numpy(array):
    """A tensor that shares the array's memory and has its dtype; on the CPU, whatever the default device."""
    return Tensor(array)


def _made(array, dtype, device, requires_grad=False):
    return Tensor(placed(_np.asarray(array, dtype), device), requires_grad)


def _size(sizes):
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def zeros(*size, dtype=float32, device=None, requires_grad=False):
    return Tensor(devices.zeros(_size(size), dtype, device), requires_grad)


def ones(*size, dtype=float32, device=None, requires_grad=False):
    return _made(_np.ones(_size(size)), dtype, device, requires_grad)


def full(size, fill_value, *, dtype=None, device=None, requires_grad=False):
    if dtype is None:
        dtype = _np.asarray(fill_value).dtype
        dtype = float32 if dtype == float64 else dtype
    return _made(_np.full(size, fill_value), dtype, device, requires_grad)


def empty(*size, dtype=float32, device=None, requires_grad=False):
    """Zeros: nothing here hands out memory that was not set."""
    return zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)


def zeros_like(input, dtype=None):
    return Tensor(_kernels.array_module(input.array).zeros_like(input.array, dtype=dtype))


def ones_like(input, dtype=None):
    return Tensor(_kernels.array_module(input.array).ones_like(input.array, dtype=dtype))


def full_like(input, fill_value, dtype=None):
    return Tensor(_kernels.array_module(input.array).full_like(input.array, fill_value, dtype=dtype))


def arange(start, end=None, step=1, *, dtype=None, device=None):
    """start, start + step, … up to but not including end; arange(n) counts from 0. int64 for ints, float32 for floats."""
    xp = _kernels.require(device or get_default_device())  # made where it is to lie: nothing is copied there
    values = xp.arange(start, step=step) if end is None else xp.arange(start, end, step)
    return Tensor(values.astype(dtype or (float32 if values.dtype == float64 else int64), copy=False))


def linspace(start, end, steps, *, dtype=float32, device=None):
    return _made(_np.linspace(start, end, steps), dtype, device)


def eye(n, *, dtype=float32, device=None):
    return _made(_np.eye(n), dtype, device)


def randn(*size, generator=None, dtype=float32, device=None, requires_grad=False):
    """Standard normal numbers, drawn from `generator` (the default one unless given)."""
    return _made((generator or default_generator).numpy.standard_normal(_size(size)), dtype, device, requires_grad)


def rand(*size, generator=None, dtype=float32, device=None, requires_grad=False):
    """Uniform numbers in [0, 1)."""
    return _made((generator or default_generator).numpy.random(_size(size), dtype=dtype), dtype, device, requires_grad)


def randint(low, high=None, size=None, *, generator=None, dtype=int64, device=None):
    """Uniform integers in [low, high), or [0, low) when called as randint(high, size)."""
    if size is None:
        low, high, size = 0, low, high
    return _made((generator or default_generator).numpy.integers(low, high, size), dtype, device)


def randperm(n, *, generator=None, dtype=int64, device=None):
    return _made((generator or default_generator).numpy.permutation(n), dtype, device)


def is_tensor(value):
    return isinstance(value, Tensor)


def allclose(input, other, rtol=1e-5, atol=1e-8):
    return _np.allclose(input.array, other.array, rtol, atol)


def equal(input, other):
    """Whether two tensors have the same shape and elements."""
    return input.shape == other.shape and (input.array == other.array).all().item()


def __getattr__(name):  # only reached for names that nothing defines
    if name in ("nn", "optim", "gradcheck", "serialization"):  # submodules are imported when first used
        from importlib import import_module

        return import_module(f"minigrad.{name}")
    raise AttributeError(f"minigrad has no {name!r}: it implements the part of PyTorch's interface that a GPT needs")
