"""Elementwise arithmetic with broadcasting: one expression forward, one line of calculus back.

A number that Python or NumPy brings along does not change a tensor's dtype: float32 stays float32.
"""

import numbers

import numpy as np

import kernels
from kernels import unbroadcast
from minigrad.function import Function
from minigrad.ops.axes import broadcast
from minigrad.tensor import Tensor, float32


def _pair(a, b, name):
    """Make two operands of the same float dtype out of tensors and numbers, by PyTorch's promotion rules."""
    for value in (a, b):
        if not isinstance(value, (Tensor, numbers.Number, np.ndarray)):
            raise TypeError(f"{name} takes tensors and numbers, not {type(value).__name__}")
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        raise TypeError(f"{name} needs at least one tensor, got {type(a).__name__} and {type(b).__name__}")
    xp = kernels.array_module(a.array if isinstance(a, Tensor) else b.array)
    a, b = (_as_tensor(value, xp) for value in (a, b))
    target = common_dtype(a, b)
    broadcast(name, _shape(a), _shape(b))
    return _cast(a, target), _cast(b, target)


def _as_tensor(value, xp):
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        return Tensor(xp.asarray(value))
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def common_dtype(*values):
    """The wider category (bool < int < float) decides; within one, tensors with dimensions outrank those without."""
    rank = {"b": 0, "i": 1, "u": 1, "f": 2}
    tensors = [t for t in values if isinstance(t, Tensor)]
    ranked = [(rank[t.dtype.kind], t.ndim > 0, t.dtype) for t in tensors]
    top = max(r for r, _, _ in ranked)
    best = [(has_dims, d) for r, has_dims, d in ranked if r == top]
    dims = max(h for h, _ in best)
    dtype = np.result_type(*(d for h, d in best if h == dims))
    for number in (v for v in values if not isinstance(v, Tensor)):
        if isinstance(number, float) and dtype.kind != "f":
            dtype = float32
        elif dtype.kind == "b" and not isinstance(number, bool):
            dtype = np.dtype("int64")
    return dtype


def _cast(value, dtype):
    return to_dtype(value, dtype) if isinstance(value, Tensor) else dtype.type(value)


def _shape(x):
    return getattr(x, "shape", ())


class Cast(Function):
    @staticmethod
    def forward(ctx, x, dtype):
        return x.astype(dtype)

    @staticmethod
    def backward(ctx, dy):
        return dy, None  # the engine casts a gradient to its tensor's dtype


class Add(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(_shape(a), _shape(b))
        return a + b

    # y = a + b:  da = dy,  db = dy, summed over what was broadcast.
    @staticmethod
    def backward(ctx, dy):
        a_shape, b_shape = ctx.saved
        da = unbroadcast(dy, a_shape) if ctx.needs[0] else None
        return da, unbroadcast(dy, b_shape) if ctx.needs[1] else None


class Sub(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(_shape(a), _shape(b))
        return a - b

    # y = a − b:  da = dy,  db = −dy.
    @staticmethod
    def backward(ctx, dy):
        a_shape, b_shape = ctx.saved
        da = unbroadcast(dy, a_shape) if ctx.needs[0] else None
        return da, unbroadcast(-dy, b_shape) if ctx.needs[1] else None


class Mul(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        return a * b

    # y = a b:  da = dy b,  db = dy a.
    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        da = unbroadcast(dy * b, _shape(a)) if ctx.needs[0] else None
        return da, unbroadcast(dy * a, _shape(b)) if ctx.needs[1] else None


class Div(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        with np.errstate(divide="ignore", invalid="ignore"):
            return a / b

    # y = a / b:  da = dy / b,  db = −dy a / b².
    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        da = unbroadcast(dy / b, _shape(a)) if ctx.needs[0] else None
        return da, unbroadcast(-dy * a / (b * b), _shape(b)) if ctx.needs[1] else None


class Pow(Function):
    @staticmethod
    def forward(ctx, a, b):
        with np.errstate(divide="ignore", invalid="ignore"):
            y = a**b
        ctx.save(a, b, y)
        return y

    # y = aᵇ:  da = dy b aᵇ⁻¹  (0 where b is 0, even at a = 0),  db = dy y ln a  (0 where a is 0, the limit for b > 0).
    @staticmethod
    def backward(ctx, dy):
        a, b, y = ctx.saved
        xp = ctx.xp
        da = db = None
        with np.errstate(divide="ignore", invalid="ignore"):
            if ctx.needs[0]:
                da = unbroadcast(dy * xp.where(b == 0, xp.zeros_like(y), b * a ** (b - 1)), _shape(a))
            if ctx.needs[1]:
                db = unbroadcast(dy * xp.where(a == 0, xp.zeros_like(y), y * xp.log(a)), _shape(b))
        return da, db


class Extremum(Function):
    @staticmethod
    def forward(ctx, a, b, larger):
        ctx.save(a, b, larger)
        return ctx.xp.maximum(a, b) if larger else ctx.xp.minimum(a, b)

    # y = max(a, b) or min(a, b): the one that is taken gets the gradient; equal ones share it, as PyTorch has it.
    @staticmethod
    def backward(ctx, dy):
        a, b, larger = ctx.saved
        half = dy.dtype.type(0.5)
        to_a = (a > b if larger else a < b) + half * (a == b)
        da = unbroadcast(dy * to_a.astype(dy.dtype), _shape(a)) if ctx.needs[0] else None
        return da, unbroadcast(dy * (1 - to_a).astype(dy.dtype), _shape(b)) if ctx.needs[1] else None, None


class Neg(Function):
    @staticmethod
    def forward(ctx, x):
        return -x

    @staticmethod
    def backward(ctx, dy):
        return -dy


class Exp(Function):
    @staticmethod
    def forward(ctx, x):
        with np.errstate(over="ignore"):
            y = ctx.xp.exp(x)
        ctx.save(y)
        return y

    # y = eˣ:  dx = dy y.
    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy * y


class Log(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            return ctx.xp.log(x)

    # y = ln x:  dx = dy / x.
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        with np.errstate(divide="ignore", invalid="ignore"):
            return dy / x


class Sqrt(Function):
    @staticmethod
    def forward(ctx, x):
        with np.errstate(invalid="ignore"):
            y = ctx.xp.sqrt(x)
        ctx.save(y)
        return y

    # y = √x:  dx = dy / (2 y).
    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        with np.errstate(divide="ignore", invalid="ignore"):
            return dy / (2 * y)


class Abs(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return ctx.xp.abs(x)

    # y = |x|:  dx = dy sign(x), which is 0 at 0.
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        return dy * ctx.xp.sign(x)


class Clamp(Function):
    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save(x, low, high)
        return ctx.xp.clip(x, low, high)

    # Inside the bounds (and on them) y = x, outside y is constant.
    @staticmethod
    def backward(ctx, dy):
        x, low, high = ctx.saved
        inside = ctx.xp.ones(x.shape, bool)
        if low is not None:
            inside &= x >= low
        if high is not None:
            inside &= x <= high
        return dy * inside, None, None


def to_dtype(input, dtype):
    """The tensor in another dtype; itself if it has that dtype already. Gradients return in the original dtype."""
    dtype = np.dtype(dtype)
    return input if input.dtype == dtype else Cast.apply(input, dtype)


def add(input, other):
    return Add.apply(*_pair(input, other, "add"))


def sub(input, other):
    return Sub.apply(*_pair(input, other, "sub"))


def mul(input, other):
    return Mul.apply(*_pair(input, other, "mul"))


def div(input, other):
    """input / other; integers are divided as float32, as in PyTorch."""
    a, b = _pair(input, other, "div")
    if (a.dtype if isinstance(a, Tensor) else b.dtype).kind != "f":
        a, b = (to_dtype(t, float32) if isinstance(t, Tensor) else float32.type(t) for t in (a, b))
    return Div.apply(a, b)


def pow(input, exponent):
    return Pow.apply(*_pair(input, exponent, "pow"))


def maximum(input, other):
    return Extremum.apply(*_pair(input, other, "maximum"), True)


def minimum(input, other):
    return Extremum.apply(*_pair(input, other, "minimum"), False)


def neg(input):
    if input.dtype.kind == "b":
        raise TypeError("neg of a boolean tensor is not defined; use ~ to invert a mask")
    return Neg.apply(input)


def _floating(input):
    return input if input.dtype.kind == "f" else to_dtype(input, float32)


def exp(input):
    return Exp.apply(_floating(input))


def log(input):
    return Log.apply(_floating(input))


def sqrt(input):
    return Sqrt.apply(_floating(input))


def rsqrt(input):
    return div(1.0, sqrt(input))


def abs(input):
    return Abs.apply(input)


def square(input):
    return mul(input, input)


def clamp(input, min=None, max=None):
    """Limit every element to [min, max]; either may be None, not both."""
    if min is None and max is None:
        raise ValueError("clamp needs min, max or both")
    bounds = [bound for bound in (min, max) if bound is not None]
    if not all(isinstance(bound, numbers.Number) for bound in bounds):
        raise TypeError("clamp takes numbers as bounds; for tensors use minimum() and maximum()")
    input = to_dtype(input, common_dtype(input, *(b.item() if isinstance(b, np.generic) else b for b in bounds)))
    return Clamp.apply(input, *(None if b is None else input.dtype.type(b) for b in (min, max)))


# Comparisons have no gradient.


def _compare(name):
    def compare(input, other):
        a, b = _pair(input, other, name)
        a, b = (t.array if isinstance(t, Tensor) else t for t in (a, b))
        xp = kernels.array_module(input.array if isinstance(input, Tensor) else other.array)
        try:
            return Tensor(xp.asarray(getattr(xp, name)(a, b)))
        except TypeError:
            raise TypeError(f"{name} is not defined for {a.dtype}; make masks with comparisons") from None

    compare.__name__ = name
    compare.__doc__ = f"{name}, elementwise; without a gradient."
    return compare


eq, ne, lt, le, gt, ge = map(_compare, ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"))
logical_and, logical_or = map(_compare, ("logical_and", "logical_or"))
bitwise_and, bitwise_or = map(_compare, ("bitwise_and", "bitwise_or"))


def bitwise_not(input):
    return Tensor(kernels.array_module(input.array).invert(input.array))


def logical_not(input):
    return Tensor(kernels.array_module(input.array).logical_not(input.array))


def isnan(input):
    return Tensor(kernels.array_module(input.array).isnan(input.array))


def isfinite(input):
    return Tensor(kernels.array_module(input.array).isfinite(input.array))
