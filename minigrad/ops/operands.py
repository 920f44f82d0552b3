"""Operands as callers pass them, made ready for an operation: dtypes, shapes, axes, devices and indices.

Dtypes follow PyTorch's promotion rules. A number changes a tensor's dtype only if it is of a higher kind: a float32
tensor stays float32 beside any number, and an int64 tensor becomes float32 beside 0.5.
Every check raises an error that names the operation and the shapes.
"""

import numbers
import operator
from functools import wraps
from typing import Any, Callable, Iterable, TypeVar, cast

import numpy as np

import kernels
from minigrad.dtypes import float32, int64
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
        return x.astype(dtype)

    @staticmethod
    def backward(ctx, dy):
        return dy, None  # the engine casts a gradient to its tensor's dtype


def to_dtype(input: TensorT, dtype: Any) -> TensorT:
    """The tensor in another dtype; the tensor itself if it has that dtype. Its gradient has the original dtype."""
    dtype = np.dtype(dtype)
    return input if input.dtype == dtype else Cast.apply(input, dtype)


def to_float(input: TensorT) -> TensorT:
    """The tensor as it is if it holds floats, in float32 otherwise."""
    return input if input.dtype.kind == "f" else to_dtype(input, float32)


def is_operand(value: Any) -> bool:
    """Whether a value is a tensor, a number or a NumPy array."""
    return isinstance(value, (TensorBase, numbers.Number, np.ndarray))


def promote_pair(a: Operand, b: Operand, name: str) -> tuple[Any, Any]:
    """Two operands (tensors, arrays or numbers, at least one a tensor) as tensors or NumPy scalars of one dtype."""
    for value in (a, b):
        if not is_operand(value):
            raise TypeError(f"{name}: expected tensors and numbers, got {type(value).__name__}")
    if not isinstance(a, TensorBase) and not isinstance(b, TensorBase):
        raise TypeError(f"{name}: expected at least one tensor, got {type(a).__name__} and {type(b).__name__}")
    xp = array_module_of(a, b)
    a, b = (_as_operand(value, xp) for value in (a, b))
    dtype = common_dtype(a, b)
    broadcast(name, shape_of(a), shape_of(b))
    return _cast(a, dtype, name), _cast(b, dtype, name)


def array_module_of(*operands: Any) -> Any:
    """numpy or cupy, whichever made the first tensor among the operands."""
    return kernels.array_module(next(t.array for t in operands if isinstance(t, TensorBase)))


def _as_operand(value, xp):
    if isinstance(value, TensorBase):
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        return wrap(xp.asarray(value))
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _cast(value, dtype, name):
    return to_dtype(value, dtype) if isinstance(value, TensorBase) else dtype.type(fitting(value, dtype, name))


def fitting(value: Any, dtype: np.dtype, name: str) -> Any:
    """The value; OverflowError if it is an integer that the dtype cannot hold."""
    if isinstance(value, int) and dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise OverflowError(f"{name}: {value} does not fit {dtype}; convert the tensor, for example with .long()")
    return value


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
    """Raise TypeError unless all tensors hold floats of one dtype. None is skipped."""
    dtypes = {t.dtype for t in tensors if t is not None}
    if len(dtypes) == 1 and next(iter(dtypes)).kind == "f":
        return
    names = " and ".join(sorted(map(str, dtypes)))
    if any(d.kind != "f" for d in dtypes):
        raise TypeError(f"{name}: expected floating-point tensors, got {names}; convert with .float()")
    raise TypeError(f"{name}: expected one dtype for all tensors, got {names}; convert with .to(dtype)")


def need_numbers(name: str, *values: Any, instead: str) -> None:
    """Raise TypeError if all values (tensors, arrays or NumPy numbers) are booleans."""
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
    rank = max(input.ndim + room, 1)
    if not isinstance(dim, (int, np.integer)) or isinstance(dim, bool):
        raise TypeError(f"{name}: expected an int as dim, got {type(dim).__name__}")
    if not -rank <= dim < rank:
        raise IndexError(f"{name}: dim={dim} is out of range for a tensor of shape {input.shape}")
    return int(dim) % rank


def several_axes(name: str, input: TensorBase, dim: Dim) -> tuple[int, ...]:
    """`dim` (None for all, an int or several) as a sorted tuple of axes; () for a tensor of no dimensions."""
    if dim is None or not isinstance(dim, (int, np.integer)) and not tuple(dim):
        return tuple(range(input.ndim))
    axes = sorted(one_axis(name, input, d) for d in ([dim] if isinstance(dim, (int, np.integer)) else dim))
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: dim={dim} names an axis twice")
    return tuple(axes) if input.ndim else ()


def as_sizes(sizes: tuple) -> tuple[int, ...]:
    """Sizes that were passed as f(2, 3) or f((2, 3))."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(map(operator.index, sizes))


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
