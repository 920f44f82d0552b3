"""Activations, softmax and dropout."""

from typing import Any, Callable

from minigrad.engine import TensorBase, TensorT
from minigrad.function import Function
from minigrad.ops.operands import as_float, in_float32, need_float, need_numbers, one_axis, to_dtype, to_float
from minigrad.ops.shape import clone, reshape
from minigrad.random import Generator, default_generator


def sigmoid_of(xp: Any, x: Any) -> Any:
    """σ(x) of an array, written with exp(−|x|), which cannot overflow: 1/(1 + e⁻ˣ) for x ≥ 0, eˣ/(1 + eˣ) below."""
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))


class Sigmoid(Function):
    @staticmethod
    def forward(ctx, x):
        y = sigmoid_of(ctx.xp, x)
        ctx.save(y)
        return y

    # y = σ(x):  dx = dy y (1 − y).
    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy * y * (1 - y)


class LogSigmoid(Function):
    # log σ(x) = −log(1 + e⁻ˣ) = min(x, 0) − log(1 + e^−|x|): no overflow, and no log of a rounded zero.
    @staticmethod
    def forward(ctx, x):
        xp = ctx.xp
        ctx.save(x)
        return xp.minimum(x, 0) - xp.log1p(xp.exp(-xp.abs(x)))

    # y = log σ(x):  dx = dy (1 − σ(x)) = dy σ(−x).
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        return dy * sigmoid_of(ctx.xp, -x)


class Tanh(Function):
    @staticmethod
    def forward(ctx, x):
        y = ctx.xp.tanh(x)
        ctx.save(y)
        return y

    # y = tanh x:  dx = dy (1 − y²).
    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy * (1 - y * y)


class ReLU(Function):
    @staticmethod
    def forward(ctx, x):
        y = ctx.xp.maximum(x, 0)
        ctx.save(y)
        return y

    # y = max(x, 0):  dx = dy where y > 0; at x = 0 it is 0 and at NaN it is dy, as in PyTorch.
    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return ctx.xp.where(y <= 0, dy.dtype.type(0), dy)


class SiLU(Function):
    @staticmethod
    def forward(ctx, x):
        s = sigmoid_of(ctx.xp, x)
        ctx.save(x, s)
        return x * s

    # y = x σ(x):  dx = dy (σ + x σ (1 − σ)) = dy σ (1 + x (1 − σ)).
    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved
        return dy * s * (1 + x * (1 - s))


class GELU(Function):
    """Derivation: kernels/gelu/reference.py, gelu_backward."""

    @staticmethod
    def forward(ctx, x, approximate):
        ctx.save(x, approximate)
        return ctx.kernels.gelu_forward(x, approximate=approximate)

    @staticmethod
    def backward(ctx, dy):
        x, approximate = ctx.saved
        return ctx.kernels.gelu_backward(dy, x, approximate=approximate), None


def _last(x, dim):
    """The axis `dim` moved to the end, where the kernels work."""
    return x if dim in (-1, x.ndim - 1) else x.swapaxes(dim, -1)


class Softmax(Function):
    """Derivation: kernels/softmax/reference.py, softmax_backward."""

    @staticmethod
    def forward(ctx, x, dim):
        y = ctx.kernels.softmax_forward(_last(x, dim))
        ctx.save(y, dim)
        return _last(y, dim)

    @staticmethod
    def backward(ctx, dy):
        y, dim = ctx.saved
        return _last(ctx.kernels.softmax_backward(_last(dy, dim), y), dim), None


class LogSoftmax(Function):
    """Derivation: kernels/softmax/reference.py, log_softmax_backward."""

    @staticmethod
    def forward(ctx, x, dim):
        y = ctx.kernels.log_softmax_forward(_last(x, dim))
        ctx.save(y, dim)
        return _last(y, dim)

    @staticmethod
    def backward(ctx, dy):
        y, dim = ctx.saved
        return _last(ctx.kernels.log_softmax_backward(_last(dy, dim), y), dim), None


class Dropout(Function):
    """Derivation: kernels/dropout/reference.py. The backward pass draws the same mask again, from the seed."""

    @staticmethod
    def forward(ctx, x, p, seed):
        ctx.save(p, seed)
        return ctx.kernels.dropout(x, p, seed)

    @staticmethod
    def backward(ctx, dy):
        p, seed = ctx.saved
        return ctx.kernels.dropout(dy, p, seed), None, None


def sigmoid(input: TensorT) -> TensorT:
    """1 / (1 + exp(−x)), elementwise."""
    return Sigmoid.apply(to_float("sigmoid", input))


def logsigmoid(input: TensorT) -> TensorT:
    """log sigmoid(x), elementwise; exact also where sigmoid itself rounds to 0 or 1."""
    need_float("logsigmoid", input)
    return LogSigmoid.apply(input)


def silu(input: TensorT, inplace: bool = False) -> TensorT:
    """x · sigmoid(x), elementwise; also called swish.  Source: Elfwing et al. 2017 (arXiv:1702.03118)."""
    if inplace:
        raise NotImplementedError("silu: inplace=True is not implemented; use the result")
    need_float("silu", input)
    return SiLU.apply(input)


def tanh(input: TensorT) -> TensorT:
    """The hyperbolic tangent, elementwise."""
    return Tanh.apply(to_float("tanh", input))


def relu(input: TensorT) -> TensorT:
    """max(x, 0), elementwise."""
    need_numbers("relu", input, instead="a mask has no sign")
    return ReLU.apply(input)


def gelu(input: TensorT, approximate: str = "none") -> TensorT:
    """x Φ(x), where Φ is the normal distribution function.  Source: Hendrycks, Gimpel 2016 (arXiv:1606.08415).

    approximate: "none" for the exact function, "tanh" for GPT-2's approximation.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: expected approximate='none' or 'tanh', got {approximate!r}")
    need_float("gelu", input)
    return GELU.apply(input, approximate)


_softmax, _log_softmax = in_float32(Softmax.apply), in_float32(LogSoftmax.apply)


def _along(function: Callable, name: str, input: TensorT, dim: int | None, dtype: Any) -> TensorT:
    if dim is None:
        raise TypeError(f"{name}: expected dim=…, the axis to normalise over (usually -1)")
    input = input if dtype is None else to_dtype(input, dtype)
    need_float(name, input)
    axis = one_axis(name, input, dim)
    if not input.array.size:
        return clone(input)
    return function(input, axis) if input.ndim else reshape(function(reshape(input, 1), 0), ())


def softmax(input: TensorT, dim: int | None = None, dtype: Any = None) -> TensorT:
    """exp(x) / Σ exp(x) along `dim`.

    >>> import minigrad as mg
    >>> mg.tensor([0.0, 1.0, 2.0]).softmax(-1)
    tensor([0.09  , 0.2447, 0.6652])
    """
    return _along(_softmax, "softmax", input, dim, dtype)


def log_softmax(input: TensorT, dim: int | None = None, dtype: Any = None) -> TensorT:
    """x − log Σ exp(x) along `dim`."""
    return _along(_log_softmax, "log_softmax", input, dim, dtype)


def dropout(
    input: TensorT, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator | None = None
) -> TensorT:
    """While training, zero each element with probability p and scale the others by 1/(1 − p).

    The seed of the mask is drawn from `generator` (the default generator if None). inplace=True is not implemented.
    """
    if not 0 <= as_float(p, "dropout", "p") <= 1:
        raise ValueError(f"dropout: expected p between 0 and 1, got {p}")
    if inplace:
        raise NotImplementedError("dropout: inplace=True is not implemented; use the result")
    need_float("dropout", input)
    if not training or p == 0:
        return input
    return Dropout.apply(input, p, (generator or default_generator).draw_seed())


class ActivationMethods(TensorBase):
    """The functions above as methods."""

    __slots__ = ()

    sigmoid, logsigmoid, tanh, relu = sigmoid, logsigmoid, tanh, relu
    softmax, log_softmax = softmax, log_softmax
