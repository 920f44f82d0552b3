"""Elementwise arithmetic with broadcasting: one expression forward, one line of calculus back."""

import numbers
from typing import Any

import numpy as np

from kernels import unbroadcast
from minigrad.dtypes import bool_, float16, float32, int64
from minigrad.engine import TensorBase, TensorT
from minigrad.function import Function
from minigrad.ops.operands import (
    Number,
    Operand,
    as_scalar,
    checked_pair,
    common_dtype,
    in_dtype,
    need_numbers,
    need_tensors,
    promote_pair,
    shape_of,
    to_dtype,
    to_float,
)


class Add(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(shape_of(a), shape_of(b))
        return a + b

    # y = a + b:  da = dy,  db = dy, summed over the broadcast axes.
    @staticmethod
    def backward(ctx, dy):
        a_shape, b_shape = ctx.saved
        da = unbroadcast(dy, a_shape) if ctx.needs[0] else None
        return da, unbroadcast(dy, b_shape) if ctx.needs[1] else None


class Sub(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(shape_of(a), shape_of(b))
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
        ctx.save(a if ctx.needs[1] else None, b if ctx.needs[0] else None, shape_of(a), shape_of(b))
        return a * b

    # y = a b:  da = dy b,  db = dy a.
    @staticmethod
    def backward(ctx, dy):
        a, b, a_shape, b_shape = ctx.saved
        da = unbroadcast(dy * b, a_shape) if ctx.needs[0] else None
        return da, unbroadcast(dy * a, b_shape) if ctx.needs[1] else None


class Div(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a if ctx.needs[1] else None, b, shape_of(a))
        with np.errstate(divide="ignore", invalid="ignore"):
            return a / b

    # y = a / b:  da = dy / b,  db = −dy a / b².
    @staticmethod
    def backward(ctx, dy):
        a, b, a_shape = ctx.saved
        da = unbroadcast(dy / b, a_shape) if ctx.needs[0] else None
        return da, unbroadcast(-dy * a / (b * b), shape_of(b)) if ctx.needs[1] else None


class Pow(Function):
    @staticmethod
    def forward(ctx, a, b):
        with np.errstate(divide="ignore", invalid="ignore"):
            y = a**b if b.dtype.kind != "i" else _whole_power(ctx.xp, a, b)
        ctx.save(a, b, y)
        return y

    # y = aᵇ:  da = dy b aᵇ⁻¹  (0 where b is 0, even at a = 0),  db = dy y ln a  (0 where a = 0 and b ≥ 0, the limit).
    @staticmethod
    def backward(ctx, dy):
        a, b, y = ctx.saved
        xp = ctx.xp
        da = db = None
        with np.errstate(divide="ignore", invalid="ignore"):
            if ctx.needs[0]:
                da = unbroadcast(dy * xp.where(b == 0, xp.zeros_like(y), b * a ** (b - 1)), shape_of(a))
            if ctx.needs[1]:
                db = unbroadcast(dy * xp.where((a == 0) & (b >= 0), xp.zeros_like(y), y * xp.log(a)), shape_of(b))
        return da, db


def _whole_power(xp, a, b):
    """aᵇ of integers. As in PyTorch, 1 / aᵇ is rounded towards 0 for a negative b: it is 0 unless a is 1 or −1."""
    negative = b < 0
    y = a ** xp.where(negative, b & 1, b)
    return xp.where(negative & (xp.abs(a) != 1), 0, y)


class Extremum(Function):
    @staticmethod
    def forward(ctx, a, b, larger):
        ctx.save(a, b, larger)
        return ctx.xp.maximum(a, b) if larger else ctx.xp.minimum(a, b)

    # y = max(a, b) or min(a, b): the larger (smaller) element gets the gradient; equal elements share it, as in PyTorch.
    @staticmethod
    def backward(ctx, dy):
        a, b, larger = ctx.saved
        low, high = (a, b) if larger else (b, a)
        dy = ctx.xp.where(a == b, dy / 2, dy)
        da = unbroadcast(ctx.xp.where(low < high, 0, dy), shape_of(a)) if ctx.needs[0] else None
        return da, unbroadcast(ctx.xp.where(low > high, 0, dy), shape_of(b)) if ctx.needs[1] else None, None


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


class Cos(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        with np.errstate(invalid="ignore"):
            return ctx.xp.cos(x)

    # y = cos x:  dx = −dy sin x.
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        with np.errstate(invalid="ignore"):
            return -dy * ctx.xp.sin(x)


class Sin(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        with np.errstate(invalid="ignore"):
            return ctx.xp.sin(x)

    # y = sin x:  dx = dy cos x.
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        with np.errstate(invalid="ignore"):
            return dy * ctx.xp.cos(x)


class Remainder(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        with np.errstate(invalid="ignore"):
            return a % b

    # y = a − b ⌊a / b⌋:  da = dy,  db = −dy ⌊a / b⌋.
    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        if np.isscalar(a):
            raise NotImplementedError("remainder: number % tensor has no derivative, as in PyTorch; make the number a tensor")
        da = unbroadcast(dy, shape_of(a)) if ctx.needs[0] else None
        with np.errstate(divide="ignore", invalid="ignore"):
            return da, unbroadcast(-dy * (a // b), shape_of(b)) if ctx.needs[1] else None


class FloorDivide(Function):
    @staticmethod
    def forward(ctx, a, b):
        with np.errstate(divide="ignore", invalid="ignore"):
            return a // b

    @staticmethod
    def backward(ctx, dy):
        raise NotImplementedError("backward of floor_divide is not implemented, as in PyTorch; call it on .detach()")


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

    # y = |x|:  dx = dy sign(x), which is 0 at 0 and, as in PyTorch, at NaN.
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        return dy * ((x > 0).astype(dy.dtype) - (x < 0))


class Clamp(Function):
    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save(x, low, high)
        return ctx.xp.clip(x, low, high)

    # Between the bounds, and on them, y = x; outside, y is constant.
    @staticmethod
    def backward(ctx, dy):
        x, low, high = ctx.saved
        inside = ctx.xp.ones(x.shape, bool)
        if low is not None:
            inside &= x >= low
        if high is not None:
            inside &= x <= high
        return dy * inside, None, None


def _elementwise(function: type[Function], name: str, input: Operand, other: Operand, floats: bool = False) -> Any:
    """`function` of two operands of one dtype, which is a float dtype with floats=True.

    As in PyTorch, float16 and a number (or a tensor of no dimensions) are computed in float32 and rounded once.
    """
    a, b, dtype = checked_pair(input, other, name)
    wide = float32 if floats and dtype.kind != "f" or dtype == float16 and not shape_of(b) else dtype
    y = function.apply(in_dtype(a, wide, name), in_dtype(b, wide, name))
    return to_dtype(y, dtype) if dtype == float16 else y


def _scaled(name: str, input: Operand, other: Operand, alpha: Number) -> Any:
    """alpha · other, as an operand beside `input`."""
    if isinstance(alpha, (int, float)) and alpha == 1:
        return other
    _, b, dtype = checked_pair(input, other, name)
    if dtype.kind == "b" or dtype.kind != "f" and isinstance(alpha, float):
        raise RuntimeError(f"{name}: expected alpha=1 for booleans and an int for integers, got {alpha}; convert with .float()")
    alpha = as_scalar(alpha, dtype, name).item()
    return mul(b, alpha) if isinstance(b, TensorBase) else b * alpha


def add(input: TensorT, other: Operand, *, alpha: Number = 1) -> TensorT:
    """input + alpha · other, elementwise."""
    return Add.apply(*promote_pair(input, _scaled("add", input, other, alpha), "add"))


def sub(input: TensorT, other: Operand, *, alpha: Number = 1) -> TensorT:
    """input − alpha · other, elementwise."""
    for value in (input, other):
        if isinstance(value, bool) or getattr(value, "dtype", float32) == bool_:
            raise TypeError("sub: expected numbers, got booleans; combine masks with &, | and ~")
    return Sub.apply(*promote_pair(input, _scaled("sub", input, other, alpha), "sub"))


def mul(input: TensorT, other: Operand) -> TensorT:
    """input · other, elementwise."""
    return _elementwise(Mul, "mul", input, other)


def div(input: Any, other: Operand) -> Any:
    """input / other, elementwise; integers are divided as float32, as in PyTorch."""
    return _elementwise(Div, "div", input, other, floats=True)


def remainder(input: TensorT, other: Operand) -> TensorT:
    """input − other · ⌊input / other⌋, elementwise: it has the sign of other, as Python's % does."""
    return Remainder.apply(*_divisible("remainder", input, other))


def floor_divide(input: TensorT, other: Operand) -> TensorT:
    """⌊input / other⌋, elementwise. It has no backward pass."""
    _divisible("floor_divide", input, other)
    return _elementwise(FloorDivide, "floor_divide", input, other)


def _divisible(name: str, input: Operand, other: Operand) -> tuple[Any, Any]:
    """Two promoted operands.  Raises RuntimeError for a division of integers by zero."""
    a, b = promote_pair(input, other, name)
    need_numbers(name, a, b, instead="convert a mask with .long()")
    if b.dtype.kind != "f" and not np.all(getattr(b, "array", b)):
        raise RuntimeError(f"{name}: an integer cannot be divided by zero; convert the tensor with .float()")
    return a, b


def pow(input: TensorT, exponent: Operand) -> TensorT:
    """input to the power of exponent, elementwise."""
    a, b, dtype = checked_pair(input, exponent, "pow")
    if not isinstance(b, TensorBase):
        if dtype.kind != "f" and b < 0:
            raise RuntimeError("pow: an integer to a negative power is no integer; convert the tensor with .float()")
        b = as_scalar(b, dtype, "pow")
    a, b = in_dtype(a, dtype, "pow"), in_dtype(b, dtype, "pow")
    need_numbers("pow", a, b, instead="convert a mask with .long()")
    return Pow.apply(a, b)


def maximum(input: TensorT, other: Operand) -> TensorT:
    """The larger of two elements; equal elements share the gradient."""
    need_tensors("maximum", input, other)
    return Extremum.apply(*promote_pair(input, other, "maximum"), True)


def minimum(input: TensorT, other: Operand) -> TensorT:
    """The smaller of two elements; equal elements share the gradient."""
    need_tensors("minimum", input, other)
    return Extremum.apply(*promote_pair(input, other, "minimum"), False)


def neg(input: TensorT) -> TensorT:
    """−input, elementwise."""
    need_numbers("neg", input, instead="use ~ to invert a mask")
    return Neg.apply(input)


def exp(input: TensorT) -> TensorT:
    """e to the power of each element."""
    return Exp.apply(to_float("exp", input))


def log(input: TensorT) -> TensorT:
    """The natural logarithm of each element."""
    return Log.apply(to_float("log", input))


def cos(input: TensorT) -> TensorT:
    """The cosine of each element, in radians."""
    return Cos.apply(to_float("cos", input))


def sin(input: TensorT) -> TensorT:
    """The sine of each element, in radians."""
    return Sin.apply(to_float("sin", input))


def sqrt(input: TensorT) -> TensorT:
    """The square root of each element."""
    return Sqrt.apply(to_float("sqrt", input))


def rsqrt(input: TensorT) -> TensorT:
    """1 / √input, elementwise."""
    return Div.apply(*promote_pair(1.0, sqrt(input), "rsqrt"))


def abs(input: TensorT) -> TensorT:
    """The absolute value of each element."""
    need_numbers("abs", input, instead="a mask has no sign")
    return Abs.apply(input)


def square(input: TensorT) -> TensorT:
    """The square of each element; a mask counts as integers."""
    need_tensors("square", input)
    input = to_dtype(input, int64) if input.dtype.kind == "b" else input
    return mul(input, input)


def clamp(input: TensorT, min: Number | None = None, max: Number | None = None) -> TensorT:
    """Each element limited to [min, max]; None leaves one side open."""
    need_tensors("clamp", input)
    if min is None and max is None:
        raise ValueError("clamp: expected min, max or both, got neither")
    bounds = [bound for bound in (min, max) if bound is not None]
    if not all(isinstance(bound, numbers.Number) for bound in bounds):
        raise TypeError("clamp: expected numbers as bounds; for tensors use minimum() and maximum()")
    input = to_dtype(input, common_dtype(input, *(b.item() if isinstance(b, np.generic) else b for b in bounds)))
    return Clamp.apply(input, *(None if b is None else as_scalar(b, input.dtype, "clamp") for b in (min, max)))


class ArithmeticMethods(TensorBase):
    """The functions above as methods and operators: x.exp() is exp(x), and x + y is add(x, y)."""

    __slots__ = ()

    add, sub, mul, div, pow, neg = add, sub, mul, div, pow, neg
    exp, log, sqrt, rsqrt, abs, square = exp, log, sqrt, rsqrt, abs, square
    cos, sin, remainder, floor_divide = cos, sin, remainder, floor_divide
    clamp, maximum, minimum = clamp, maximum, minimum

    __add__ = add
    __sub__ = sub
    __mul__ = mul
    __truediv__ = div
    __floordiv__ = floor_divide
    __mod__ = remainder
    __pow__ = pow
    __neg__ = neg
    __abs__ = abs

    def __pos__(self: TensorT) -> TensorT:
        return self

    # Reversed operators: Python calls these for `number + tensor`.

    __radd__ = add
    __rmul__ = mul

    def __rsub__(self: TensorT, other: Any) -> TensorT:
        return sub(other, self)

    def __rtruediv__(self: TensorT, other: Any) -> TensorT:
        return mul(div(1.0, self), other)  # rounded twice, as in PyTorch

    def __rfloordiv__(self: TensorT, other: Any) -> TensorT:
        return floor_divide(other, self)

    def __rmod__(self: TensorT, other: Any) -> TensorT:
        return remainder(other, self)

    def __rpow__(self: TensorT, other: Any) -> TensorT:
        return pow(other, self)
