"""Reductions: sums, means, extremes; a gradient is spread back over what was reduced."""

from typing import NamedTuple

import kernels
from minigrad.function import Function
from minigrad.ops.arithmetic import add, div, exp, log, maximum, minimum, mul, sqrt, sub
from minigrad.tensor import Tensor


def _axes(name, input, dim):
    """dim (None, an int or several) as a sorted tuple of non-negative axes."""
    if dim is None or dim == ():
        return tuple(range(input.ndim))
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    rank = input.ndim or 1
    if not set(dims) <= set(range(-rank, rank)):
        raise IndexError(f"{name}: dim={dim} is out of range for a tensor of shape {input.shape}")
    axes = tuple(sorted(d % rank for d in dims))
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: dim={dim} names an axis twice")
    return axes if input.ndim else ()


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
    """Maximum over axes; the gradient is shared equally among the elements that attain it, as PyTorch's amax does."""

    @staticmethod
    def forward(ctx, x, axes, keepdim):
        y = x.max(axis=axes, keepdims=keepdim)
        ctx.save(x, y, axes)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y, axes = ctx.saved
        winner = (x == _reduced(y, axes, x.shape)).astype(x.dtype)
        return _reduced(dy, axes, x.shape) * winner / winner.sum(axis=axes, keepdims=True), None, None


def sum(input, dim=None, keepdim=False):
    """The sum over `dim` (an int, several, or all). Booleans are counted."""
    return Sum.apply(input, _axes("sum", input, dim), keepdim)


def _count(input, axes):
    count = 1
    for axis in axes:
        count *= input.shape[axis]
    return count


def mean(input, dim=None, keepdim=False):
    if input.dtype.kind != "f":
        raise RuntimeError(f"mean of a tensor of dtype {input.dtype} is not defined; convert it with .float() first")
    axes = _axes("mean", input, dim)
    return div(Sum.apply(input, axes, keepdim), _count(input, axes))


def var(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    """The variance over `dim`, divided by N − correction; correction is 1 (unbiased) unless told otherwise."""
    axes = _axes("var", input, dim)
    correction = (1 if unbiased else 0) if correction is None else correction
    freedom = _count(input, axes) - correction
    centred = sub(input, mean(input, axes, keepdim=True))
    return div(Sum.apply(mul(centred, centred), axes, keepdim), freedom if freedom > 0 else 0)


def std(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    return sqrt(var(input, dim, unbiased, keepdim, correction=correction))


def norm(input, p=2, dim=None, keepdim=False):
    """The Euclidean norm over `dim`."""
    if p != 2:
        raise NotImplementedError(f"norm: only p=2 is implemented, got {p}")
    return sqrt(Sum.apply(mul(input, input), _axes("norm", input, dim), keepdim))


def amax(input, dim=None, keepdim=False):
    """The largest element over `dim`; equal ones share the gradient."""
    return Extreme.apply(input, _axes("amax", input, dim), keepdim)


def amin(input, dim=None, keepdim=False):
    return -amax(-input, dim, keepdim)


class ValuesAndIndices(NamedTuple):
    values: Tensor
    indices: Tensor


def _extreme(name, sign, arg, elementwise):
    def extreme(input, dim=None, keepdim=False):
        if isinstance(dim, Tensor):
            return elementwise(input, dim)
        if dim is None:
            return sign * amax(sign * input)
        indices = arg(input, dim, keepdim=True)
        values = input.gather(dim, indices)
        if not keepdim:
            values, indices = values.squeeze(dim), indices.squeeze(dim)
        return ValuesAndIndices(values, indices)

    extreme.__name__ = name
    extreme.__doc__ = f"{name}(x): the extreme of all. {name}(x, dim): (values, indices) along dim. {name}(x, y): elementwise."
    return extreme


def _arg(name):
    def arg(input, dim=None, keepdim=False):
        found = getattr(kernels.array_module(input.array), name)(input.array, axis=dim, keepdims=keepdim)
        return Tensor(kernels.array_module(input.array).asarray(found))

    arg.__name__ = name
    arg.__doc__ = f"The index of the first extreme element along dim, or of all, flattened; int64, without a gradient ({name})."
    return arg


argmax, argmin = _arg("argmax"), _arg("argmin")
max = _extreme("max", 1, argmax, maximum)
min = _extreme("min", -1, argmin, minimum)


def logsumexp(input, dim, keepdim=False):
    """log Σ exp(x) over `dim`, with the maximum taken out first so that exp cannot overflow."""
    axes = _axes("logsumexp", input, dim)
    top = Tensor(input.array.max(axis=axes, keepdims=True))
    top.array[~kernels.array_module(top.array).isfinite(top.array)] = 0
    total = add(log(Sum.apply(exp(sub(input, top)), axes, True)), top)
    return total if keepdim else total.squeeze(axes)


def cumsum(input, dim):
    """Running sums along `dim`."""
    return CumSum.apply(input, _axes("cumsum", input, dim)[0])


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
    return Tensor(kernels.array_module(input.array).asarray(input.array.all(axis=dim, keepdims=keepdim)))


def any(input, dim=None, keepdim=False):
    return Tensor(kernels.array_module(input.array).asarray(input.array.any(axis=dim, keepdims=keepdim)))
