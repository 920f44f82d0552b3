"""New tensors: from data, filled with a number, in a sequence, or random.

Where a function takes `device`, None means the default device (set_default_device). `requires_grad` makes a leaf that
backward() computes a gradient for.
"""

import math
from typing import Any

import numpy as np

import kernels
from minigrad.devices import get_default_device, placed
from minigrad.devices import zeros as zeros_on_device
from minigrad.dtypes import float32, float64, int64
from minigrad.ops.operands import Number, as_sizes, fitting
from minigrad.random import Generator, default_generator
from minigrad.tensor import Tensor


def tensor(data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of `data`: a number, nested lists, an array or a tensor.

    By default Python floats become float32 and ints int64, and a tensor's copy stays on its device.
    """
    device = device or (data.device if isinstance(data, Tensor) else get_default_device())
    array = data.array if isinstance(data, Tensor) else data
    if not hasattr(array, "dtype"):
        try:
            array = np.array(array)
        except ValueError:
            raise ValueError("tensor: expected rows of equal length, got ragged nested lists") from None
        if array.dtype.kind not in "biuf":
            raise TypeError(f"tensor: expected numbers, got {array.dtype}")
        if array.dtype == np.uint64:
            raise ValueError("tensor: expected integers within int64, got a larger one")
        if dtype is None and array.dtype == np.float64:
            dtype = float32
    array = array.astype(array.dtype if dtype is None else dtype)  # always a copy
    return Tensor(kernels.to_device(np.asarray(array) if np.isscalar(array) else array, device), requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """Like tensor(), but sharing the memory of an array or tensor if nothing has to change."""
    if isinstance(data, np.ndarray):
        data = Tensor(placed(data, device))
    if not isinstance(data, Tensor):
        return tensor(data, dtype, device)
    return data.to(*(target for target in (device, dtype) if target is not None))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory and has its dtype; on the CPU, whatever the default device."""
    return Tensor(array)


def _on_device(array: Any, dtype: Any, device: str | None, requires_grad: bool = False) -> Tensor:
    return Tensor(placed(np.asarray(array, dtype), device), requires_grad)


def _refuse_dtype(name: str, dtype: Any, kinds: str) -> None:
    if dtype is not None and np.dtype(dtype).kind in kinds:
        raise RuntimeError(f"{name}: {np.dtype(dtype)} is not supported; choose another dtype")


def zeros(*size: Any, dtype: Any = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros; sizes as zeros(2, 3) or zeros((2, 3))."""
    return Tensor(zeros_on_device(as_sizes(size), dtype, device), requires_grad)


def ones(*size: Any, dtype: Any = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones; sizes as ones(2, 3) or ones((2, 3))."""
    return _on_device(np.ones(as_sizes(size)), dtype, device, requires_grad)


def full(size: Any, fill_value: Number, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one number, repeated."""
    if dtype is None:
        dtype = np.asarray(fill_value).dtype
        dtype = float32 if dtype == float64 else dtype
    return _on_device(np.full(size, fitting(fill_value, np.dtype(dtype), "full")), dtype, device, requires_grad)


def empty(*size: Any, dtype: Any = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros: minigrad hands out no uninitialised memory."""
    return zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)


def zeros_like(input: Tensor, dtype: Any = None) -> Tensor:
    """Zeros of the shape, dtype and device of another tensor."""
    return Tensor(kernels.array_module(input.array).zeros_like(input.array, dtype=dtype))


def ones_like(input: Tensor, dtype: Any = None) -> Tensor:
    """Ones of the shape, dtype and device of another tensor."""
    return Tensor(kernels.array_module(input.array).ones_like(input.array, dtype=dtype))


def full_like(input: Tensor, fill_value: Number, dtype: Any = None) -> Tensor:
    """One number, repeated in the shape, dtype and device of another tensor."""
    fill_value = fitting(fill_value, np.dtype(dtype or input.dtype), "full_like")
    return Tensor(kernels.array_module(input.array).full_like(input.array, fill_value, dtype=dtype))


def arange(
    start: Number, end: Number | None = None, step: Number = 1, *, dtype: Any = None, device: str | None = None
) -> Tensor:
    """start, start + step, … up to but not including end; arange(n) counts from 0. int64 for ints, float32 for floats."""
    bounds: tuple[Any, Any, Any] = (0, start, step) if end is None else (start, end, step)
    first, last, stride = (float(number) for number in bounds)
    if not math.isfinite(first + last + stride) or stride == 0 or (last - first) * stride < 0:
        raise RuntimeError(
            f"arange: expected finite numbers and a step towards the end, got {first:g}, {last:g} and step {stride:g}"
        )
    _refuse_dtype("arange", dtype, "b")
    xp = kernels.require(device or get_default_device())  # made on its device, so nothing is copied
    if dtype is not None and np.dtype(dtype).kind in "iu":  # as in PyTorch, start and step are truncated; end only for int64
        if int(stride) == 0:
            raise RuntimeError(f"arange: expected a step of at least 1 for {np.dtype(dtype)}, got {stride:g}")
        low, high, whole = (int(number) for number in bounds)
        count = -((low - high) // whole) if np.dtype(dtype) == int64 else math.ceil((last - first) / stride)
        return Tensor((low + whole * xp.arange(count)).astype(dtype, copy=False))
    values = xp.arange(start, step=step) if end is None else xp.arange(start, end, step)
    return Tensor(values.astype(dtype or (float32 if values.dtype == float64 else int64), copy=False))


def linspace(start: float, end: float, steps: int, *, dtype: Any = float32, device: str | None = None) -> Tensor:
    """`steps` numbers from start to end, both included, at equal distances."""
    if not isinstance(steps, (int, np.integer)) or steps < 0:
        raise TypeError(f"linspace: expected a whole number of steps, at least 0, got {steps!r}")
    if np.ndim(start) or np.ndim(end):
        raise RuntimeError("linspace: expected numbers as start and end, got a tensor with dimensions")
    _refuse_dtype("linspace", dtype, "b")
    number = int if np.dtype(dtype).kind in "iu" else float
    return _on_device(np.linspace(number(start), number(end), steps), dtype, device)


def eye(n: int, *, dtype: Any = float32, device: str | None = None) -> Tensor:
    """The identity matrix, (n, n)."""
    if n < 0:
        raise RuntimeError(f"eye: expected n of at least 0, got {n}")
    return _on_device(np.eye(n), dtype, device)


def randn(
    *size: Any, generator: Generator | None = None, dtype: Any = float32, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal numbers, drawn from `generator` (the default generator if None)."""
    _refuse_dtype("randn", dtype, "biu")
    numbers = (generator or default_generator).numpy.standard_normal(as_sizes(size))
    return _on_device(numbers, dtype, device, requires_grad)


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal numbers of the shape, dtype and device of another tensor."""
    dtype, device = dtype or input.dtype, device or input.device
    return randn(*input.shape, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad)


def rand(
    *size: Any, generator: Generator | None = None, dtype: Any = float32, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1), drawn from `generator` (the default generator if None)."""
    _refuse_dtype("rand", dtype, "biu")
    width = dtype if np.dtype(dtype).itemsize >= 4 else float32  # NumPy draws no float16
    numbers = (generator or default_generator).numpy.random(as_sizes(size), dtype=width)
    if np.dtype(dtype) == np.float16:
        numbers = np.floor(numbers * np.float32(2048)) / np.float32(2048)  # rounding up would give 1
    return _on_device(numbers, dtype, device, requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = int64,
    device: str | None = None,
) -> Tensor:
    """Uniform integers in [low, high), or in [0, low) when called as randint(high, size)."""
    if size is None:
        low, high, size = 0, low, high
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.iinfo(int64)
    smallest, largest = (0, 1) if np.dtype(dtype).kind == "b" else (limits.min, min(limits.max, np.iinfo(int64).max))
    if not smallest <= low < high <= largest + 1:
        raise RuntimeError(f"randint: expected low < high within the range of {np.dtype(dtype)}, got {low} and {high}")
    return _on_device((generator or default_generator).numpy.integers(low, high, size), dtype, device)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = int64, device: str | None = None) -> Tensor:
    """The numbers 0 … n − 1 in random order."""
    return _on_device((generator or default_generator).numpy.permutation(n), dtype, device)


def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None) -> Tensor:
    """Indices drawn with these probabilities, or numbers proportional to them.  input: (V,) or (R, V) -> (..., num_samples).

    Without replacement, the indices of a row differ. The numbers are not PyTorch's.
    """
    if input.ndim not in (1, 2) or input.dtype.kind != "f":
        raise RuntimeError(f"multinomial: expected floats of 1 or 2 dimensions, got {input.dtype} and shape {input.shape}")
    weights = kernels.to_device(input.array, "cpu").astype(np.float64)
    possible = np.count_nonzero(weights, axis=-1).min(initial=weights.shape[-1])
    if not np.isfinite(weights).all() or (weights < 0).any() or not possible:
        raise RuntimeError("multinomial: expected probabilities of at least 0, finite and not all 0 in a row")
    if num_samples < 1 or not replacement and num_samples > possible:
        raise RuntimeError(f"multinomial: cannot draw {num_samples} of {possible} possible indices without replacement")
    rng = (generator or default_generator).numpy
    if replacement:  # the first index at which the running sum of probabilities exceeds a uniform number
        edges = weights.cumsum(-1)[..., None, :]
        uniform = rng.random((*input.shape[:-1], num_samples, 1)) * edges[..., -1:]
        return Tensor(kernels.to_device((edges <= uniform).sum(-1), input.device))
    # An index whose clock has rate w rings at −log(u)/w. The order in which they ring is an order of draws.
    with np.errstate(divide="ignore"):
        rings = rng.exponential(size=weights.shape) / weights
    order = rings.argsort(-1)[..., :num_samples]
    return Tensor(kernels.to_device(np.ascontiguousarray(order), input.device))


def is_tensor(value: Any) -> bool:
    """Whether a value is a Tensor."""
    return isinstance(value, Tensor)


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Whether all elements agree to within atol + rtol · |other|."""
    if input.dtype != other.dtype:
        raise RuntimeError(f"allclose: expected one dtype for both tensors, got {input.dtype} and {other.dtype}")
    return np.allclose(input.array, other.array, rtol, atol)


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return input.shape == other.shape and (input.array == other.array).all().item()
