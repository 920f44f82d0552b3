"""New tensors: from data, filled with a number, in a sequence, or random.

Where a function takes `device`, None means the default device (set_default_device). `requires_grad` makes a leaf that
backward() computes a gradient for.
"""

import math
from typing import Any

import numpy as np

import kernels
from minigrad.devices import get_default_device, on_device
from minigrad.devices import zeros as zeros_on_device
from minigrad.dtypes import float16, float32, float64, int64
from minigrad.ops.operands import (
    Number,
    as_int,
    as_scalar,
    as_sizes,
    broadcast,
    cast_array,
    check_kind,
    default_dtype,
    need_tensors,
)
from minigrad.random import Generator, default_generator
from minigrad.tensor import Tensor


def tensor(data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of `data`: a number, nested lists, an array or a tensor.

    By default Python floats become float32 and ints int64, and a tensor's copy stays on its device.
    """
    device = device or (data.device if isinstance(data, Tensor) else get_default_device())
    array = data.array if isinstance(data, Tensor) else data
    if isinstance(array, np.generic) or not hasattr(array, "dtype"):
        array = _array_of_numbers(array, dtype)
    check_kind(array, "tensor")
    array = cast_array(array, array.dtype if dtype is None else dtype)  # always a copy
    return Tensor(kernels.to_device(array, device), requires_grad)


def _array_of_numbers(data: Any, dtype: Any) -> np.ndarray:
    """A number or nested lists as an array of `dtype`, or of the default dtype if None."""
    leaf = data
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, Tensor) and leaf.ndim:
        raise ValueError(f"tensor: expected numbers in nested lists, got a tensor of shape {leaf.shape}; use stack()")
    try:
        array = np.array(data)
    except ValueError:
        raise ValueError("tensor: expected rows of equal length, got ragged nested lists") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"tensor: expected real numbers within int64, got {array.dtype}")
    if dtype is None:
        dtype = int64 if array.dtype == np.uint64 else array.dtype
        dtype = float32 if dtype == float64 and not _has_float64(data) else dtype
    for extreme in (array.min(), array.max()) if array.size else ():
        as_scalar(extreme, dtype, "tensor", infinite=True)
    return cast_array(array, dtype)


def _has_float64(data: Any) -> bool:
    """Whether nested lists hold a number, array or tensor of float64. A Python float has no dtype."""
    if isinstance(data, (list, tuple)):
        return any(map(_has_float64, data))
    return getattr(data, "dtype", float32) == float64


def as_tensor(data: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """Like tensor(), but sharing the memory of an array or tensor if nothing has to change."""
    if isinstance(data, np.ndarray):
        check_kind(data, "as_tensor")
        data = Tensor(on_device(data, device))
    if not isinstance(data, Tensor):
        return tensor(data, dtype, device)
    return data.to(*(target for target in (device, dtype) if target is not None))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory and has its dtype; on the CPU, whatever the default device."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}; use tensor(…)")
    check_kind(array, "from_numpy")
    return Tensor(array)


def _made(array: Any, dtype: Any, device: str | None, requires_grad: bool = False) -> Tensor:
    return Tensor(on_device(np.asarray(array, dtype), device), requires_grad)


def _shape(name: str, sizes: tuple, size: Any) -> tuple[int, ...]:
    """The shape in zeros(2, 3), zeros((2, 3)) or zeros(size=(2, 3))."""
    if (size is None) == (not sizes):
        raise TypeError(f"{name}: expected sizes as {name}(2, 3), {name}((2, 3)) or {name}(size=(2, 3))")
    return as_sizes(name, sizes or (size,), least=0)


def _refuse_dtype(name: str, dtype: Any, kinds: str) -> None:
    if dtype is not None and np.dtype(dtype).kind in kinds:
        raise RuntimeError(f"{name}: {np.dtype(dtype)} is not supported; choose another dtype")


def zeros(*sizes: Any, size: Any = None, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros; sizes as zeros(2, 3) or zeros((2, 3)). float32 if dtype is None."""
    return Tensor(zeros_on_device(_shape("zeros", sizes, size), dtype or float32, device), requires_grad)


def ones(*sizes: Any, size: Any = None, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones; sizes as ones(2, 3) or ones((2, 3)). float32 if dtype is None."""
    return full(_shape("ones", sizes, size), 1, dtype=dtype or float32, device=device, requires_grad=requires_grad)


def empty(*sizes: Any, size: Any = None, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros: minigrad hands out no uninitialised memory."""
    return zeros(_shape("empty", sizes, size), dtype=dtype, device=device, requires_grad=requires_grad)


def full(size: Any, fill_value: Number, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one number, repeated: bool, int64 or float32 like the number if dtype is None."""
    dtype = np.dtype(dtype or default_dtype(fill_value))
    number = as_scalar(fill_value, dtype, "full", infinite=dtype == float16)
    xp = kernels.require(device or get_default_device())  # made on its device, so nothing is copied
    return Tensor(xp.full(_shape("full", (), size), number, dtype), requires_grad)


def zeros_like(input: Tensor, dtype: Any = None, *, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape, dtype and device of another tensor."""
    return full_like(input, 0, dtype, device=device, requires_grad=requires_grad)


def ones_like(input: Tensor, dtype: Any = None, *, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape, dtype and device of another tensor."""
    return full_like(input, 1, dtype, device=device, requires_grad=requires_grad)


def full_like(
    input: Tensor, fill_value: Number, dtype: Any = None, *, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """One number, repeated in the shape, dtype and device of another tensor."""
    need_tensors("full_like", input)
    dtype, device = dtype or input.dtype, device or input.device
    return full(input.shape, fill_value, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(
    start: Number = 0,
    end: Number | None = None,
    step: Number = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, … up to but not including end; arange(n) counts from 0. int64 for ints, float32 for floats."""
    bounds: tuple[Any, Any, Any] = (0, start, step) if end is None else (start, end, step)
    first, last, stride = (as_scalar(number, float64, "arange").item() for number in bounds)
    if not math.isfinite(first + last + stride) or stride == 0 or (last - first) * stride < 0:
        raise RuntimeError(
            f"arange: expected finite numbers and a step towards the end, got {first:g}, {last:g} and step {stride:g}"
        )
    _refuse_dtype("arange", dtype, "b")
    xp = kernels.require(device or get_default_device())  # as in full
    if dtype is not None and np.dtype(dtype).kind in "iu":  # as in PyTorch, start and step are truncated; end only for int64
        if int(stride) == 0:
            raise RuntimeError(f"arange: expected a step of at least 1 for {np.dtype(dtype)}, got {stride:g}")
        low, high, whole = (int(number) for number in bounds)
        count = -((low - high) // whole) if np.dtype(dtype) == int64 else math.ceil((last - first) / stride)
        return Tensor((low + whole * xp.arange(count)).astype(dtype, copy=False), requires_grad)
    values = xp.arange(start, step=step) if end is None else xp.arange(start, end, step)
    return Tensor(values.astype(dtype or (float32 if values.dtype == float64 else int64), copy=False), requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers from start to end, both included, at equal distances. float32 if dtype is None."""
    steps = as_int(steps, "linspace", "steps", least=0)
    dtype = np.dtype(dtype or float32)
    _refuse_dtype("linspace", dtype, "b")
    wide = int64 if dtype.kind in "iu" else float64
    numbers = np.linspace(as_scalar(start, wide, "linspace"), as_scalar(end, wide, "linspace"), steps)
    return _made(numbers, dtype, device, requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """The identity matrix, (n, n), or its first rows and columns, (n, m). float32 if dtype is None."""
    n, m = (as_int(size, "eye", "size", least=0) for size in (n, n if m is None else m))
    return _made(np.eye(n, m), dtype or float32, device, requires_grad)


def randn(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal numbers, drawn from `generator` (the default generator if None). float32 if dtype is None."""
    _refuse_dtype("randn", dtype, "biu")
    numbers = (generator or default_generator).numpy.standard_normal(_shape("randn", sizes, size))
    return _made(numbers, dtype or float32, device, requires_grad)


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal numbers of the shape, dtype and device of another tensor."""
    need_tensors("randn_like", input)
    dtype, device = dtype or input.dtype, device or input.device
    return randn(input.shape, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad)


def rand(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1), drawn from `generator` (the default generator if None). float32 if dtype is None."""
    _refuse_dtype("rand", dtype, "biu")
    dtype = dtype or float32
    width = dtype if np.dtype(dtype).itemsize >= 4 else float32  # NumPy draws no float16
    numbers = (generator or default_generator).numpy.random(_shape("rand", sizes, size), dtype=width)
    if np.dtype(dtype) == np.float16:
        numbers = np.floor(numbers * np.float32(2048)) / np.float32(2048)  # rounding up would give 1
    return _made(numbers, dtype, device, requires_grad)


def randint(
    low: int = 0,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Uniform integers in [low, high), or in [0, low) when called as randint(high, size). int64 if dtype is None."""
    if size is None:
        high, size = None, high
    low, high = (as_int(limit, "randint", "limit") for limit in ((0, low) if high is None else (low, high)))
    shape, dtype = _shape("randint", (), size), dtype or int64
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.iinfo(int64)
    smallest, largest = (0, 1) if np.dtype(dtype).kind == "b" else (limits.min, min(limits.max, np.iinfo(int64).max))
    if not smallest <= low < high <= largest + 1:
        raise RuntimeError(f"randint: expected low < high within the range of {np.dtype(dtype)}, got {low} and {high}")
    return _made((generator or default_generator).numpy.integers(low, high, shape), dtype, device)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None, device: str | None = None) -> Tensor:
    """The numbers 0 … n − 1 in random order. int64 if dtype is None."""
    _refuse_dtype("randperm", dtype, "b")
    as_scalar(as_int(n, "randperm", "n", least=0), dtype or int64, "randperm")
    return _made((generator or default_generator).numpy.permutation(n), dtype or int64, device)


def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None) -> Tensor:
    """Indices drawn with these probabilities, or numbers proportional to them.  input: (V,) or (R, V) -> (..., num_samples).

    Without replacement, the indices of a row differ. The numbers are not PyTorch's.
    """
    need_tensors("multinomial", input)
    num_samples = as_int(num_samples, "multinomial", "num_samples")
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
    need_tensors("allclose", input, other)
    broadcast("allclose", input.shape, other.shape)
    if input.dtype != other.dtype:
        raise RuntimeError(f"allclose: expected one dtype for both tensors, got {input.dtype} and {other.dtype}")
    return np.allclose(input.array, other.array, rtol, atol)


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    need_tensors("equal", input, other)
    return input.shape == other.shape and (input.array == other.array).all().item()
