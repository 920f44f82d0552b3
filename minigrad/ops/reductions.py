"""Reductions: sums, means, extremes; a gradient is spread back over what was reduced."""

from typing import NamedTuple

import kernels
from minigrad.function import Function
from minigrad.ops.arithmetic import Sqrt, add, div, exp, log, maximum, minimum, mul, sub
from minigrad.ops.axes import need_float, one_axis, several_axes
from minigrad.tensor import Tensor


def _reduced(array, axes, shape):
    """Give `array` back its reduced axes, with length one, so that it broadcasts against `shape`."""
    return array.reshape([1 if i in axes else n for i, n in enumerate(shape)])


class Sum(Function):
    @staticmethod
    def forward(ctx, x, axes, keepdim):
        ctx.save(x.shape, axes)
        return x.sum(axis=axes, keepdims=keepdim)

    # Every element was added once: each gets the whole gradient of its sum.
    @staticmethod
    def backward(ctx, dy):
        shape, axes = ctx.saved
        return ctx.xp.broadcast_to(_reduced(dy, axes, shape), shape), None, None


class Extreme(Function):
    """The largest or smallest over axes; elements that attain it share the gradient equally, as PyTorch's amax has it."""

    @staticmethod
    def forward(ctx, x, axes, keepdim, largest):
        y = x.max(axis=axes, keepdims=keepdim) if largest else x.min(axis=axes, keepdims=keepdim)
        ctx.save(x, y, axes)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y, axes = ctx.saved
        winner = (x == _reduced(y, axes, x.shape)).astype(x.dtype)
        return _reduced(dy, axes, x.shape) * winner / winner.sum(axis=axes, keepdims=True), None, None, None


class RootOfSquares(Sqrt):
    """√ of a sum of squares: a norm or a deviation. Its slope at 0 is infinite; PyTorch takes 0 there, and so do we."""

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return ctx.xp.where(y == 0, 0, dy / (2 * ctx.xp.where(y == 0, 1, y)))


def sum(input, dim=None, keepdim=False):
    """The sum over `dim` (an int, several, or all). Booleans are counted."""
    return Sum.apply(input, several_axes("sum", input, dim), keepdim)


def _count(input, axes):
    count = 1
    for axis in axes:
        count *= input.shape[axis]
    return count


def mean(input, dim=None, keepdim=False):
    if input.dtype.kind != "f":
        raise RuntimeError(f"mean of a tensor of dtype {input.dtype} is not defined; convert it with .float() first")
    axes = several_axes("mean", input, dim)
    return div(Sum.apply(input, axes, keepdim), _count(input, axes))


def var(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    """The variance over `dim`, divided by N − correction; correction is 1 (unbiased) unless told otherwise."""
    axes = several_axes("var", input, dim)
    correction = (1 if unbiased else 0) if correction is None else correction
    freedom = _count(input, axes) - correction
    centred = sub(input, mean(input, axes, keepdim=True))
    return div(Sum.apply(mul(centred, centred), axes, keepdim), freedom if freedom > 0 else 0)


def std(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    return RootOfSquares.apply(var(input, dim, unbiased, keepdim, correction=correction))


def norm(input, p=2, dim=None, keepdim=False):
    """The Euclidean norm over `dim`."""
    if p != 2:
        raise NotImplementedError(f"norm: only p=2 is implemented, got {p}")
    return RootOfSquares.apply(Sum.apply(mul(input, input), several_axes("norm", input, dim), keepdim))


def amax(input, dim=None, keepdim=False):
    """The largest element over `dim`; equal ones share the gradient."""
    return Extreme.apply(input, several_axes("amax", input, dim), keepdim, True)


def amin(input, dim=None, keepdim=False):
    """The smallest element over `dim`; equal ones share the gradient."""
    return Extreme.apply(input, several_axes("amin", input, dim), keepdim, False)


class ValuesAndIndices(NamedTuple):
    values: Tensor
    indices: Tensor


def _extreme(name, over_axes, arg, elementwise):
    def extreme(input, dim=None, keepdim=False):
        if isinstance(dim, Tensor):
            return elementwise(input, dim)
        if dim is None or not input.ndim:
            best = over_axes(input)
            return best if dim is None else ValuesAndIndices(best, arg(input))
        axis = one_axis(name, input, dim)
        indices = arg(input, axis, keepdim=True)
        values = input.gather(axis, indices)
        if not keepdim:
            values, indices = values.squeeze(axis), indices.squeeze(axis)
        return ValuesAndIndices(values, indices)

    extreme.__name__ = name
    extreme.__doc__ = f"{name}(x): the extreme of all. {name}(x, dim): (values, indices) along dim. {name}(x, y): elementwise."
    return extreme


def _arg(name):
    def arg(input, dim=None, keepdim=False):
        axis = None if dim is None or not input.ndim else one_axis(name, input, dim)
        found = getattr(kernels.array_module(input.array), name)(input.array, axis=axis, keepdims=keepdim)
        return Tensor(kernels.array_module(input.array).asarray(found))

    arg.__name__ = name
    arg.__doc__ = f"The index of the first extreme element along dim, or of all, flattened; int64, without a gradient ({name})."
    return arg


argmax, argmin = _arg("argmax"), _arg("argmin")
max = _extreme("max", amax, argmax, maximum)
min = _extreme("min", amin, argmin, minimum)


def logsumexp(input, dim, keepdim=False):
    """log Σ exp(x) over `dim`, with the maximum taken out first so that exp cannot overflow."""
    need_float("logsumexp", input)
    axes = several_axes("logsumexp", input, dim)
    top = Tensor(input.array.max(axis=axes, keepdims=True))
    top.array[~kernels.array_module(top.array).isfinite(top.array)] = 0
    total = add(log(Sum.apply(exp(sub(input, top)), axes, True)), top)
    return total if keepdim else total.squeeze(axes)


def cumsum(input, dim):
    """Running sums along `dim`."""
    axis = one_axis("cumsum", input, dim)
    return CumSum.apply(input, axis) if input.ndim else input.clone()


class CumSum(Function):
    @staticmethod
    def forward(ctx, x, axis):
        ctx.save(axis)
        return x.cumsum(axis=axis)

    # y_i = Σ_{j ≤ i} x_j:  x_j reaches every later y, so dx_j = Σ_{i ≥ j} dy_i, a running sum from the other end.
    @staticmethod
    def backward(ctx, dy):
        (axis,) = ctx.saved
        return ctx.xp.flip(ctx.xp.flip(dy, axis).cumsum(axis=axis), axis), None


def all(input, dim=None, keepdim=False):
    """Whether every element is true (nonzero), over `dim` or altogether; without a gradient."""
    axes = several_axes("all", input, dim)
    return Tensor(kernels.array_module(input.array).asarray(input.array.all(axis=axes, keepdims=keepdim)))


def any(input, dim=None, keepdim=False):
    """Whether some element is true (nonzero), over `dim` or altogether; without a gradient."""
    axes = several_axes("any", input, dim)
    return Tensor(kernels.array_module(input.array).asarray(input.array.any(axis=axes, keepdims=keepdim)))
