"""Reductions: sums, means, extremes. The gradient is spread back over the reduced axes."""

import math
from typing import Any, NamedTuple

import numpy as np

import kernels
from minigrad.dtypes import int64
from minigrad.engine import TensorBase, TensorT, wrap
from minigrad.function import Function
from minigrad.ops.arithmetic import Sqrt, add, clamp, div, exp, log, maximum, minimum, mul, sub
from minigrad.ops.indexing import gather
from minigrad.ops.operands import Dim, in_float32, need_float, need_numbers, need_tensors, one_axis, several_axes
from minigrad.ops.shape import reshape, squeeze


def _with_axes(array, axes, shape):
    """A reduced array with its axes back, each of length one, so that it broadcasts against `shape`."""
    return array.reshape([1 if i in axes else n for i, n in enumerate(shape)])


def _dtype_of_sums(array):
    """The dtype of a sum, as in PyTorch: integers and booleans are added up in int64."""
    return array.dtype if array.dtype.kind == "f" else int64


def _accumulator(array):
    """The dtype to add up in: float16 would lose the digits of a long sum."""
    return np.float32 if array.dtype == np.float16 else _dtype_of_sums(array)


class Sum(Function):
    @staticmethod
    def forward(ctx, x, axes, keepdim):
        ctx.save(x.shape, axes)
        return x.sum(axis=axes, keepdims=keepdim, dtype=_accumulator(x)).astype(_dtype_of_sums(x), copy=False)

    # Every element was added once: each gets the whole gradient of its sum.
    @staticmethod
    def backward(ctx, dy):
        shape, axes = ctx.saved
        return ctx.xp.broadcast_to(_with_axes(dy, axes, shape), shape), None, None


class Extreme(Function):
    """The largest or smallest element over axes. Elements that tie share the gradient equally, as in PyTorch's amax."""

    @staticmethod
    def forward(ctx, x, axes, keepdim, largest):
        y = x.max(axis=axes, keepdims=keepdim) if largest else x.min(axis=axes, keepdims=keepdim)
        ctx.save(x, y, axes)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y, axes = ctx.saved
        winner = (x == _with_axes(y, axes, x.shape)).astype(x.dtype)
        with np.errstate(invalid="ignore"):  # beside a NaN nothing wins, and the gradient is NaN, as in PyTorch
            return _with_axes(dy, axes, x.shape) * winner / winner.sum(axis=axes, keepdims=True), None, None, None


class RootOfSquares(Sqrt):
    """√ of a sum of squares: a norm or a deviation. Its slope at 0 is infinite; like PyTorch, we take 0 there."""

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return ctx.xp.where(y == 0, 0, dy / (2 * ctx.xp.where(y == 0, 1, y)))


class CumSum(Function):
    @staticmethod
    def forward(ctx, x, axis):
        ctx.save(axis)
        return x.cumsum(axis=axis, dtype=_accumulator(x)).astype(_dtype_of_sums(x), copy=False)

    # y_i = Σ_{j ≤ i} x_j:  x_j reaches every later y, so dx_j = Σ_{i ≥ j} dy_i, a running sum from the other end.
    @staticmethod
    def backward(ctx, dy):
        (axis,) = ctx.saved
        return ctx.xp.flip(ctx.xp.flip(dy, axis).cumsum(axis=axis), axis), None


def sum(input: TensorT, dim: Dim = None, keepdim: bool = False) -> TensorT:
    """The sum over `dim` (an int, several, or all). For booleans, the number of True elements."""
    return Sum.apply(input, several_axes("sum", input, dim), keepdim)


def mean(input: TensorT, dim: Dim = None, keepdim: bool = False) -> TensorT:
    """The mean over `dim`."""
    axes = several_axes("mean", input, dim)
    if input.dtype.kind != "f":
        raise RuntimeError(f"mean: expected a floating-point tensor, got {input.dtype}; convert it with .float()")
    return div(Sum.apply(input, axes, keepdim), _count(input, axes))


def _count(input: TensorBase, axes: tuple[int, ...]) -> int:
    return math.prod(input.shape[axis] for axis in axes)


@in_float32
def var(
    input: TensorT, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
) -> TensorT:
    """The variance over `dim`: Σ (x − mean)² / (N − correction). If None, correction is 1 (unbiased) or 0."""
    if isinstance(dim, bool):  # var(False) is var(unbiased=False), as in PyTorch
        return var(input, None, dim, keepdim, correction=correction)
    axes = several_axes("var", input, dim)
    correction = (1 if unbiased else 0) if correction is None else correction
    freedom = _count(input, axes) - correction
    centred = sub(input, mean(input, axes, keepdim=True))
    return div(Sum.apply(mul(centred, centred), axes, keepdim), freedom if freedom > 0 else 0)


@in_float32
def std(
    input: TensorT, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
) -> TensorT:
    """The standard deviation over `dim`, √ of `var`."""
    return RootOfSquares.apply(var(input, dim, unbiased, keepdim, correction=correction))


@in_float32
def norm(input: TensorT, p: float = 2, dim: Dim = None, keepdim: bool = False) -> TensorT:
    """The Euclidean norm over `dim`."""
    if p != 2:
        raise NotImplementedError(f"norm: expected p=2, got {p}; other norms are not implemented")
    need_float("norm", input)
    return RootOfSquares.apply(Sum.apply(mul(input, input), several_axes("norm", input, dim), keepdim))


def normalize(input: TensorT, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> TensorT:
    """input divided by its Euclidean norm along `dim`, or by eps where the norm is smaller."""
    return div(input, clamp(norm(input, p, dim, keepdim=True), min=eps))


def amax(input: TensorT, dim: Dim = None, keepdim: bool = False) -> TensorT:
    """The largest element over `dim`; elements that tie share the gradient."""
    return Extreme.apply(input, _axes_with_elements("amax", input, dim), keepdim, True)


def amin(input: TensorT, dim: Dim = None, keepdim: bool = False) -> TensorT:
    """The smallest element over `dim`; elements that tie share the gradient."""
    return Extreme.apply(input, _axes_with_elements("amin", input, dim), keepdim, False)


def _axes_with_elements(name: str, input: TensorBase, dim: Dim) -> tuple[int, ...]:
    axes = several_axes(name, input, dim)
    if not _count(input, axes):
        raise IndexError(f"{name}: expected at least one element over dim={dim}, got a tensor of shape {input.shape}")
    return axes


def argmax(input: TensorT, dim: int | None = None, keepdim: bool = False) -> TensorT:
    """The index of the first largest element along `dim`, or of the flattened tensor; int64, without a gradient."""
    return _index_of("argmax", input, dim, keepdim)


def argmin(input: TensorT, dim: int | None = None, keepdim: bool = False) -> TensorT:
    """The index of the first smallest element along `dim`, or of the flattened tensor; int64, without a gradient."""
    return _index_of("argmin", input, dim, keepdim)


def _index_of(name: str, input: TensorT, dim: int | None, keepdim: bool) -> TensorT:
    need_numbers(name, input, instead="convert a mask with .long()")
    return _first(name, input, None if dim is None else one_axis(name, input, dim), keepdim)


def _first(name: str, input: TensorT, axis: int | None, keepdim: bool) -> TensorT:
    _axes_with_elements(name, input, axis)
    axis = axis if input.ndim else None
    xp = kernels.array_module(input.array)
    return wrap(xp.asarray(getattr(xp, name)(input.array, axis=axis, keepdims=keepdim)))


class ValuesAndIndices(NamedTuple):
    """The extreme elements along an axis, and where they are."""

    values: Any
    indices: Any


def max(input: TensorT, dim: int | TensorBase | None = None, keepdim: bool = False) -> Any:
    """max(x) is the largest element, max(x, dim) is (values, indices) along dim, and max(x, y) is maximum(x, y)."""
    need_tensors("max", input)
    if isinstance(dim, TensorBase):
        return maximum(input, dim)
    return amax(input) if dim is None else _values_and_indices("max", input, dim, keepdim)


def min(input: TensorT, dim: int | TensorBase | None = None, keepdim: bool = False) -> Any:
    """min(x) is the smallest element, min(x, dim) is (values, indices) along dim, and min(x, y) is minimum(x, y)."""
    need_tensors("min", input)
    if isinstance(dim, TensorBase):
        return minimum(input, dim)
    return amin(input) if dim is None else _values_and_indices("min", input, dim, keepdim)


def _values_and_indices(name: str, input: TensorT, dim: int, keepdim: bool) -> ValuesAndIndices:
    axis = one_axis(name, input, dim)
    indices = _first(f"arg{name}", input, axis, keepdim=True)
    values = gather(input, axis, indices)
    return ValuesAndIndices(values, indices) if keepdim else ValuesAndIndices(squeeze(values, axis), squeeze(indices, axis))


@in_float32
def logsumexp(input: TensorT, dim: Dim, keepdim: bool = False) -> TensorT:
    """log Σ exp(x) over `dim`. The maximum is subtracted first, so that exp cannot overflow."""
    need_float("logsumexp", input)
    axes = several_axes("logsumexp", input, dim)
    if not _count(input, axes):
        return log(Sum.apply(input, axes, keepdim))  # the sum of no elements is 0
    xp = kernels.array_module(input.array)
    top = xp.asarray(input.array.max(axis=axes, keepdims=True))
    top = wrap(xp.where(xp.isfinite(top), top, 0))
    total = add(log(Sum.apply(exp(sub(input, top)), axes, True)), top)
    return total if keepdim else squeeze(total, axes)


def cumsum(input: TensorT, dim: int) -> TensorT:
    """Running sums along `dim`."""
    axis = one_axis("cumsum", input, dim)
    return CumSum.apply(input, axis) if input.ndim else reshape(CumSum.apply(reshape(input, 1), 0), ())


def all(input: TensorT, dim: Dim = None, keepdim: bool = False) -> TensorT:
    """Whether every element over `dim` is nonzero; without a gradient."""
    return _truth("all", input, dim, keepdim)


def any(input: TensorT, dim: Dim = None, keepdim: bool = False) -> TensorT:
    """Whether some element over `dim` is nonzero; without a gradient."""
    return _truth("any", input, dim, keepdim)


def _truth(name: str, input: TensorT, dim: Dim, keepdim: bool) -> TensorT:
    """all or any; uint8 for a uint8 tensor, PyTorch's old kind of mask. As in PyTorch, dim=() reduces no axis here."""
    axes = () if isinstance(dim, (tuple, list)) and not dim else several_axes(name, input, dim)
    result = getattr(input.array, name)(axis=axes, keepdims=keepdim)
    return wrap(kernels.array_module(input.array).asarray(result, input.dtype if input.dtype == np.uint8 else bool))


class ReductionMethods(TensorBase):
    """The functions above as methods: x.sum(0) is sum(x, 0)."""

    __slots__ = ()

    sum, mean, var, std, norm, logsumexp, cumsum = sum, mean, var, std, norm, logsumexp, cumsum
    max, min, amax, amin, argmax, argmin = max, min, amax, amin, argmax, argmin
    all, any = all, any
