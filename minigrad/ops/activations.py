"""Activations, softmax and dropout."""

from minigrad.function import Function
from minigrad.ops.arithmetic import _floating
from minigrad.ops.axes import need_float, one_axis
from minigrad.random import default_generator


class Sigmoid(Function):
    # Written with exp(−|x|), which cannot overflow: 1/(1 + e⁻ˣ) for x ≥ 0, eˣ/(1 + eˣ) below.
    @staticmethod
    def forward(ctx, x):
        xp = ctx.xp
        small = xp.exp(-xp.abs(x))
        y = xp.where(x >= 0, 1 / (1 + small), small / (1 + small))
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
        small = ctx.xp.exp(-ctx.xp.abs(x))
        return dy * ctx.xp.where(x >= 0, small / (1 + small), 1 / (1 + small))


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

    # y = max(x, 0):  dx = dy where y > 0; 0 at x = 0, as PyTorch has it.
    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy * (y > 0)


class GELU(Function):
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
    @staticmethod
    def forward(ctx, x, p, seed):
        ctx.save(p, seed)
        return ctx.kernels.dropout(x, p, seed)

    # The mask is made again from the seed: see kernels/dropout.
    @staticmethod
    def backward(ctx, dy):
        p, seed = ctx.saved
        return ctx.kernels.dropout(dy, p, seed), None, None


def sigmoid(input):
    """1 / (1 + exp(−x)), elementwise."""
    return Sigmoid.apply(_floating(input))


def logsigmoid(input):
    """log sigmoid(x), elementwise, exact where sigmoid itself rounds to 0 or 1."""
    need_float("logsigmoid", input)
    return LogSigmoid.apply(input)


def tanh(input):
    return Tanh.apply(_floating(input))


def relu(input):
    return ReLU.apply(input)


def gelu(input, approximate="none"):
    """x Φ(x), exactly ("none") or in GPT-2's form ("tanh").  Hendrycks, Gimpel 2016 (arXiv:1606.08415)."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    need_float("gelu", input)
    return GELU.apply(input, approximate)


def _along(function, name, input, dim, dtype):
    if dim is None:
        raise TypeError(f"{name} needs dim=…, the axis to normalise over (usually -1)")
    input = input if dtype is None else input.to(dtype)
    need_float(name, input)
    axis = one_axis(name, input, dim)
    return function.apply(input, axis) if input.ndim else function.apply(input.reshape(1), 0).reshape(())


def softmax(input, dim=None, dtype=None):
    """exp(x) / Σ exp(x) along `dim`."""
    return _along(Softmax, "softmax", input, dim, dtype)


def log_softmax(input, dim=None, dtype=None):
    """x − log Σ exp(x) along `dim`."""
    return _along(LogSoftmax, "log_softmax", input, dim, dtype)


def dropout(input, p=0.5, training=True, inplace=False, *, generator=None):
    """While training, zero each element with probability p and scale the rest by 1/(1 − p).

    The mask comes from one number drawn from `generator` (the default generator unless given).
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be between 0 and 1, got {p}")
    if inplace:
        raise NotImplementedError("dropout: inplace=True is not supported; use the result")
    need_float("dropout", input)
    if not training or p == 0:
        return input
    seed = (generator or default_generator).draw_seed()
    return Dropout.apply(input, p, seed)
