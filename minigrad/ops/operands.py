"""Operands as callers pass them, made ready for an operation: dtypes, shapes, axes, devices and indices.

Dtypes follow PyTorch's promotion rules. A number changes a tensor's dtype only if it is of a higher kind: a float32
tensor stays float32 beside any number, and an int64 tensor becomes float32 beside 0.5.
Every check raises an error that names the operation and the shapes.
"""

import math
import numbers
import operator
from functools import wraps
from typing import Any, Callable, Iterable, TypeVar, cast

import numpy as np

import kernels
from minigrad.dtypes import bool_, float32, int64
from minigrad.engine import TensorBase, TensorT, wrap
from minigrad.function import Function, check_one_device

Number = bool | int | float | np.generic
Operand = TensorBase | Number | np.ndarray
Dim = int | Iterable[int] | None  # None: all axes
CallableT = TypeVar("CallableT", bound=Callable)

# ── dtypes ──

KIND_RANK = {"b": 0, "i": 1, "u": 1, "f": 2}  # booleans, integers, floats: a result has the highest kind among the operands


class Cast(Function):
    @staticmethod
    def forward(ctx, x, dtype):
        return cast_array(x, dtype)

    @staticmethod
    def backward(ctx, dy):
        return dy, None  # the engine casts a gradient to its tensor's dtype


def cast_array(array: Any, dtype: Any) -> Any:
    """A copy of the array in another dtype, as C casts numbers: an integer wraps around, and 1e5 is infinite in float16."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def to_dtype(input: TensorT, dtype: Any) -> TensorT:
    """The tensor in another dtype; the tensor itself if it has that dtype. Its gradient has the original dtype."""
    dtype = np.dtype(dtype)
    return input if input.dtype == dtype else Cast.apply(input, dtype)


def to_float(name: str, input: TensorT) -> TensorT:
    """The tensor as it is if it holds floats, in float32 otherwise."""
    need_tensors(name, input)
    return input if input.dtype.kind == "f" else to_dtype(input, float32)


def is_operand(value: Any) -> bool:
    """Whether a value is a tensor, a number or a NumPy array."""
    return isinstance(value, (TensorBase, numbers.Number, np.ndarray))


def promote_pair(a: Operand, b: Operand, name: str) -> tuple[Any, Any]:
    """Two operands (tensors, arrays or numbers, at least one a tensor) as tensors or NumPy scalars of one dtype."""
    a, b, dtype = checked_pair(a, b, name)
    return in_dtype(a, dtype, name), in_dtype(b, dtype, name)


def checked_pair(a: Operand, b: Operand, name: str) -> tuple[Any, Any, np.dtype]:
    """Two operands that fit, as tensors or Python numbers, and the dtype of their result."""
    for value in (a, b):
        if not is_operand(value):
            raise TypeError(f"{name}: expected tensors and numbers, got {type(value).__name__}")
    if not isinstance(a, TensorBase) and not isinstance(b, TensorBase):
        raise TypeError(f"{name}: expected at least one tensor, got {type(a).__name__} and {type(b).__name__}")
    xp = array_module_of(a, b)
    a, b = (_as_operand(value, xp) for value in (a, b))
    broadcast(name, shape_of(a), shape_of(b))
    return a, b, common_dtype(a, b)


def in_dtype(value: Any, dtype: np.dtype, name: str) -> Any:
    """An operand of an operation that computes in `dtype`: a tensor, or a NumPy scalar. A float may become infinite."""
    return to_dtype(value, dtype) if isinstance(value, TensorBase) else as_scalar(value, dtype, name, infinite=True)


def array_module_of(*operands: Any) -> Any:
    """numpy or cupy, whichever made the first tensor among the operands."""
    return kernels.array_module(next(t.array for t in operands if isinstance(t, TensorBase)))


def _as_operand(value, xp):
    if isinstance(value, TensorBase):
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        return wrap(xp.asarray(value))
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def as_scalar(value: Any, dtype: Any, name: str, *, infinite: bool = False) -> Any:
    """A number, or a tensor of no dimensions, as a NumPy scalar of `dtype`: the one check of a number that is stored.

    As in PyTorch, a float loses its fraction in an integer dtype, and -1 is 255 in uint8.

    Args:
        infinite: whether a float that is too large for the dtype becomes infinite, as results of arithmetic do.

    Raises:
        TypeError: for anything but a real number.
        RuntimeError: for a number that the dtype cannot hold.
    """
    dtype, number = np.dtype(dtype), getattr(value, "array", value)
    if hasattr(number, "dtype") and not number.ndim:
        number = number.item()
    if not isinstance(number, (int, float)):
        got = f"shape {value.shape}" if isinstance(value, (TensorBase, np.ndarray)) else type(value).__name__
        raise TypeError(f"{name}: expected a real number, got {got}; pass an int, a float or a tensor of no dimensions")
    if not _holds(dtype, number, infinite):
        raise RuntimeError(f"{name}: expected a number that {dtype} can hold, got {number}; use another dtype")
    return cast_array(np.asarray(number), dtype)[()]


def _holds(dtype, number, infinite):
    limits: Any = np.iinfo(int64 if dtype.kind in "bf" else dtype)
    if isinstance(number, float) and dtype.kind in "bf":
        return dtype.kind == "b" or infinite or not math.isfinite(number) or abs(number) <= float(np.finfo(dtype).max)
    return (limits.min or -limits.max) <= number <= limits.max


def default_dtype(number: Any) -> np.dtype:
    """The dtype of a tensor made from one number: bool, int64 or float32."""
    kind = np.dtype(getattr(number, "dtype", type(number))).kind
    return bool_ if kind == "b" else int64 if kind in "iu" else float32


def check_kind(array: Any, name: str) -> None:
    """Raise TypeError unless an array holds booleans, integers or real floats."""
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected booleans, integers or real floats, got an array of {array.dtype}; convert it first")


def common_dtype(*values: Any) -> np.dtype:
    """The dtype of a result: its kind is the highest among the values (bool < int < float).

    Of several dtypes of that kind, a tensor with axes outweighs a 0-d tensor, which outweighs a number.
    """
    tensors = [t for t in values if isinstance(t, TensorBase)]
    ranked = [(KIND_RANK[t.dtype.kind], t.ndim > 0, t.dtype) for t in tensors]
    top = max(r for r, _, _ in ranked)
    best = [(has_dims, d) for r, has_dims, d in ranked if r == top]
    dims = max(h for h, _ in best)
    dtype = np.result_type(*(d for h, d in best if h == dims))
    for number in (v for v in values if not isinstance(v, TensorBase)):
        if isinstance(number, float) and dtype.kind != "f":
            dtype = float32
        elif dtype.kind == "b" and not isinstance(number, bool):
            dtype = int64
    return dtype


def need_float(name: str, *tensors: TensorBase | None) -> None:
    """Raise TypeError unless all values are tensors of floats, of one dtype. None is skipped."""
    need_tensors(name, *(t for t in tensors if t is not None))
    dtypes = {t.dtype for t in tensors if t is not None}
    if len(dtypes) == 1 and next(iter(dtypes)).kind == "f":
        return
    names = " and ".join(sorted(map(str, dtypes)))
    if any(d.kind != "f" for d in dtypes):
        raise TypeError(f"{name}: expected floating-point tensors, got {names}; convert with .float()")
    raise TypeError(f"{name}: expected one dtype for all tensors, got {names}; convert with .to(dtype)")


def need_numbers(name: str, *values: Any, instead: str) -> None:
    """Raise TypeError if all values (tensors or NumPy numbers) are booleans, or one is neither."""
    need_tensors(name, *(value for value in values if not isinstance(value, np.generic)))
    if all(value.dtype.kind == "b" for value in values):
        raise TypeError(f"{name}: expected numbers, got booleans; {instead}")


def in_float32(operation: CallableT) -> CallableT:
    """Decorator: compute with float16 tensors in float32 and round the result, as PyTorch does where many numbers add up."""

    @wraps(operation)
    def widened(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        if not any(isinstance(t, TensorBase) and t.dtype == np.float16 for t in values):
            return operation(*args, **kwargs)
        wide = [_widen(value) for value in args]
        return to_dtype(operation(*wide, **{name: _widen(value) for name, value in kwargs.items()}), np.float16)

    return cast(CallableT, widened)


def _widen(value):
    return to_dtype(value, float32) if isinstance(value, TensorBase) and value.dtype == np.float16 else value


def need_tensors(name: str, *values: Any) -> None:
    """Raise TypeError unless all values are tensors, as PyTorch does where a number will not do."""
    for value in values:
        if not isinstance(value, TensorBase):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}; convert it with tensor(…)")


# ── shapes and axes ──


def broadcast(name: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the shapes broadcast to."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast") from None


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a tensor or array; () for a number."""
    return getattr(value, "shape", ())


def one_axis(name: str, input: TensorBase, dim: int, room: int = 0) -> int:
    """`dim` as a number from 0 to rank − 1 (+ `room`, for a new axis). A tensor of no dimensions counts as having one."""
    need_tensors(name, input)
    rank = max(input.ndim + room, 1)
    dim = as_int(dim, name, "dim")
    if not -rank <= dim < rank:
        raise IndexError(f"{name}: dim={dim} is out of range for a tensor of shape {input.shape}")
    return dim % rank


def several_axes(name: str, input: TensorBase, dim: Dim) -> tuple[int, ...]:
    """`dim` (None for all, an int or several) as a sorted tuple of axes; () for a tensor of no dimensions."""
    need_tensors(name, input)
    dims = () if dim is None else tuple(dim) if isinstance(dim, Iterable) else (dim,)
    if not dims:
        return tuple(range(input.ndim))
    axes = sorted(one_axis(name, input, d) for d in dims)
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: dim={dim} names an axis twice")
    return tuple(axes) if input.ndim else ()


def as_sizes(name: str, sizes: tuple, least: int | None = None) -> tuple[int, ...]:
    """Sizes or axes that were passed as f(2, 3) or f((2, 3)), each at least `least`."""
    several = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    return tuple(as_int(size, name, "dim" if least is None else "size", least) for size in several)


def as_int(value: Any, name: str, meaning: str, least: int | None = None) -> int:
    """A setting that has to be a whole number, and at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an int as {meaning}, got {type(value).__name__}")
    value = operator.index(value)
    if least is not None and value < least:
        raise RuntimeError(f"{name}: expected {meaning} of at least {least}, got {value}")
    return value


def as_float(value: Any, name: str, meaning: str) -> float:
    """A setting that has to be a real number, or a tensor of no dimensions."""
    return float(as_scalar(value, np.float64, f"{name}, {meaning}"))


def check_normalized(name: str, input: TensorBase, normalized_shape: Any, **parameters: TensorBase | None) -> None:
    """Raise unless a normalisation is over the last axis, and its weight and bias fit."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if len(shape) != 1:
        raise NotImplementedError(f"{name}: only the last axis can be normalised, got normalized_shape={shape}")
    if input.shape[-1:] != shape:
        raise RuntimeError(f"{name}: input has shape {input.shape}, which does not end in {shape[0]}")
    for parameter, t in parameters.items():
        if t is not None and t.shape != shape:
            raise RuntimeError(f"{name}: {parameter} has shape {t.shape}, expected {shape}")
    need_float(name, input, *parameters.values())


# ── devices, indices, writing ──


def array_on_device(input: TensorBase, value: Any, name: str) -> Any:
    """The array of a mask or an index, on the device of `input`. A NumPy array is sent there; a tensor has to be there."""
    if not hasattr(value, "dtype"):
        raise TypeError(f"{name}: expected a tensor or an array, got {type(value).__name__}")
    if not isinstance(value, TensorBase):
        return kernels.to_device(value, input.device)
    check_one_device(name, (input, value))
    return value.array


def check_ids(ids: Any, count: int, name: str) -> None:
    """Raise IndexError, naming the first wrong id, unless all lie in 0…count − 1.

    On a GPU this checks nothing, because the CPU would have to wait; there the kernels answer a wrong id with NaN.
    """
    if isinstance(ids, np.ndarray) and ids.size and not (0 <= ids.min() and ids.max() < count):
        wrong = ids[(ids < 0) | (ids >= count)].flat[0]
        raise IndexError(f"{name} {wrong} is outside 0…{count - 1}")
