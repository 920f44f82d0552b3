"""Losses: cross-entropy fused with its softmax, negative log-likelihood, binary cross-entropy, divergence, and distances."""

from typing import Any

import numpy as np

from minigrad.engine import TensorBase, TensorT
from minigrad.function import Function, check_one_device
from minigrad.ops.activations import logsigmoid
from minigrad.ops.arithmetic import abs, add, div, exp, mul, neg, sub
from minigrad.ops.comparisons import eq
from minigrad.ops.indexing import gather, masked_fill
from minigrad.ops.operands import broadcast, check_ids, in_float32, need_float
from minigrad.ops.reductions import mean, sum
from minigrad.ops.shape import permute, reshape, squeeze, transpose, unsqueeze


class CrossEntropy(Function):
    """Derivation: kernels/cross_entropy/reference.py, cross_entropy_backward."""

    @staticmethod
    def forward(ctx, logits, targets, settings):
        losses, logsumexp = ctx.kernels.cross_entropy_forward(logits, targets, **settings)
        ctx.save(logits, targets, logsumexp, settings)
        return losses

    @staticmethod
    def backward(ctx, dlosses):
        logits, targets, logsumexp, settings = ctx.saved
        return ctx.kernels.cross_entropy_backward(dlosses, logits, targets, logsumexp, **settings), None, None


class MeanOverTargets(Function):
    """The sum of the losses, divided by the number of targets that are not ignored; NaN without any targets."""

    @staticmethod
    def forward(ctx, losses, targets, ignore_index):
        count = ctx.xp.maximum((targets != ignore_index).sum(), 1 if targets.size else ctx.xp.nan).astype(losses.dtype)
        ctx.save(losses.shape, count)
        return losses.sum() / count

    @staticmethod
    def backward(ctx, dy):
        shape, count = ctx.saved
        return ctx.xp.broadcast_to(dy / count, shape), None, None


@in_float32
def cross_entropy(
    input: TensorT,
    target: TensorBase,
    weight: None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> TensorT:
    """−log softmax(input)[target], averaged over the targets.

    Args:
        input: logits, (R, V), or (V,), or (R, V, d1, …).
        target: class indices, (R,), or (), or (R, d1, …).
        weight, size_average, reduce: not implemented.
        ignore_index: a target of this value adds nothing to the loss, the average or the gradient.
        reduction: "mean", "sum" or "none". The mean is 0 if every target is ignored (PyTorch gives NaN).
        label_smoothing: probability that is spread evenly over all classes.

    Returns:
        One number, or with reduction "none" the shape of target.

    Raises:
        IndexError: for a target outside 0…V − 1 (on the CPU).

    >>> import minigrad as mg
    >>> cross_entropy(mg.zeros(3, 8), mg.tensor([0, 5, -100]))  # a uniform guess among 8 costs ln 8
    tensor(2.0794)
    """
    _check_settings("cross_entropy", reduction, weight=weight, size_average=size_average, reduce=reduce)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: expected label_smoothing between 0 and 1, got {label_smoothing}")
    _check_tensors("cross_entropy", input, target)
    need_float("cross_entropy", input)
    if target.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets must be class indices (integers), got {target.dtype}")
    expected = () if input.ndim == 1 else (*input.shape[:1], *input.shape[2:])
    if input.ndim == 0 or target.shape != expected:
        raise RuntimeError(f"cross_entropy: logits {input.shape} need targets of shape {expected}, got {target.shape}")
    classes = input.shape[0] if input.ndim == 1 else input.shape[1]
    rows = input if input.ndim < 3 else transpose(input, 1, -1)  # the classes last …
    if input.ndim > 3:  # … and the other axes in their order
        rows = permute(input, 0, *range(2, input.ndim), 1)
    flat = target.array.reshape(-1)
    if isinstance(flat, np.ndarray):
        check_ids(flat[flat != ignore_index], classes, "cross_entropy: target class")
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    losses = CrossEntropy.apply(reshape(rows, flat.size, classes), flat, settings)  # (R,)
    if reduction == "mean":
        return MeanOverTargets.apply(losses, flat, ignore_index)
    return sum(losses) if reduction == "sum" else reshape(losses, target.shape)


def nll_loss(
    input: TensorT,
    target: TensorBase,
    weight: None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
) -> TensorT:
    """−input[target].  input: log-probabilities, (R, V), target: (R,); the other arguments are those of cross_entropy."""
    _check_settings("nll_loss", reduction, weight=weight, size_average=size_average, reduce=reduce)
    _check_tensors("nll_loss", input, target)
    need_float("nll_loss", input)
    if input.ndim != 2 or target.shape != input.shape[:1]:
        raise RuntimeError(f"nll_loss: expected input (R, V) and target (R,), got {input.shape} and {target.shape}")
    ignored = eq(target, ignore_index)
    log_probs = squeeze(gather(input, 1, unsqueeze(masked_fill(target, ignored, 0), 1)), 1)  # (R,)
    losses = neg(masked_fill(log_probs, ignored, 0.0))
    if reduction == "mean":
        return MeanOverTargets.apply(losses, target.array, ignore_index)
    return sum(losses) if reduction == "sum" else losses


def mse_loss(
    input: TensorT, target: TensorBase, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> TensorT:
    """(input − target)², averaged, summed, or element by element (reduction "none")."""
    _check_settings("mse_loss", reduction, size_average=size_average, reduce=reduce)
    _check_pair("mse_loss", input, target)
    if input.dtype.kind != "f" and target.dtype.kind != "f":
        need_float("mse_loss", input)
    difference = sub(input, target)
    return _reduced(mul(difference, difference), reduction)


def l1_loss(
    input: TensorT, target: TensorBase, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> TensorT:
    """|input − target|, averaged, summed, or element by element (reduction "none")."""
    _check_settings("l1_loss", reduction, size_average=size_average, reduce=reduce)
    _check_pair("l1_loss", input, target)
    need_float("l1_loss", input)
    return _reduced(abs(sub(input, target)), reduction)


class BinaryCrossEntropy(Function):
    # −(t ln x + (1 − t) ln(1 − x)), with logarithms of at least −100: a wrong certainty costs 100, as in PyTorch, not infinity.
    @staticmethod
    def forward(ctx, x, target):
        ctx.save(x, target)
        with np.errstate(divide="ignore"):
            log_x, log_rest = ctx.xp.maximum(ctx.xp.log(x), -100), ctx.xp.maximum(ctx.xp.log1p(-x), -100)
        return (target - 1) * log_rest - target * log_x

    # dx = dy (x − t) / (x (1 − x)), with a denominator of at least 1e-12;  dt = dy (ln(1 − x) − ln x), infinite at 0 and 1.
    @staticmethod
    def backward(ctx, dy):
        x, target = ctx.saved
        dx = dtarget = None
        if ctx.needs[0]:
            dx = dy * (x - target) / ctx.xp.maximum(x * (1 - x), 1e-12)
        if ctx.needs[1]:
            with np.errstate(divide="ignore", invalid="ignore"):
                dtarget = dy * (ctx.xp.log1p(-x) - ctx.xp.log(x))
        return dx, dtarget


@in_float32
def binary_cross_entropy(
    input: TensorT,
    target: TensorBase,
    weight: TensorBase | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> TensorT:
    """−(target ln input + (1 − target) ln(1 − input)), where input is the predicted probability of class 1.

    Args:
        input: probabilities, of any shape.
        target: the same shape and dtype; usually 0 or 1.
        weight: factor on each element's loss; broadcast to the shape of input.
        size_average, reduce: not implemented.
        reduction: "mean", "sum" or "none".

    Raises:
        RuntimeError: for an input or target that is NaN or outside 0…1 (on the CPU).
    """
    _check_settings("binary_cross_entropy", reduction, size_average=size_average, reduce=reduce)
    _check_pair("binary_cross_entropy", input, target)
    need_float("binary_cross_entropy", input, target)
    for role, array, advice in (
        ("input", input.array, "pass logits to binary_cross_entropy_with_logits"),
        ("target", target.array, "pass the probability of class 1"),
    ):
        if isinstance(array, np.ndarray) and not (wrong := array[~((array >= 0) & (array <= 1))]).size == 0:
            raise RuntimeError(f"binary_cross_entropy: expected {role} between 0 and 1, got {wrong[0]}; {advice}")
    losses = BinaryCrossEntropy.apply(input, target)
    return _reduced(_weighted("binary_cross_entropy", losses, weight), reduction)


@in_float32
def binary_cross_entropy_with_logits(
    input: TensorT,
    target: TensorBase,
    weight: TensorBase | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    pos_weight: TensorBase | None = None,
) -> TensorT:
    """binary_cross_entropy(sigmoid(input), target), exact for large logits too.

    pos_weight: factor on the loss of class 1, broadcast; above 1 it favours recall. The rest is binary_cross_entropy's.
    """
    name = "binary_cross_entropy_with_logits"
    _check_settings(name, reduction, size_average=size_average, reduce=reduce)
    _check_pair(name, input, target)
    need_float(name, input, target)
    # ln σ(−x) = ln σ(x) − x, so the loss −t ln σ(x) − (1 − t) ln σ(−x) is (1 − t) x − ln σ(x).
    log_likelihood = logsigmoid(input)
    if pos_weight is not None:
        factor = add(mul(sub(pos_weight, 1), target), 1)  # 1 where t = 0, pos_weight where t = 1
        log_likelihood = _weighted(name, log_likelihood, factor)
    return _reduced(_weighted(name, neg(add(mul(input, sub(target, 1)), log_likelihood)), weight), reduction)


class XLogX(Function):
    # y = x ln x, and 0 at x = 0.
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            return ctx.xp.where(x == 0, x, x * ctx.xp.log(x))

    # dx = dy (ln x + 1). At x = 0 the slope is infinite; PyTorch's gradient there is NaN.
    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        with np.errstate(divide="ignore", invalid="ignore"):
            return ctx.xp.where(x == 0, dy.dtype.type("nan"), dy * (ctx.xp.log(x) + 1))


@in_float32
def kl_div(
    input: TensorT,
    target: TensorBase,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> TensorT:
    """target (ln target − input): the terms of the Kullback-Leibler divergence of `target` from exp(input).

    Args:
        input: log-probabilities.
        target: probabilities, or with log_target=True log-probabilities.
        size_average, reduce: not implemented.
        reduction: "batchmean" (the sum over the first size of input: the divergence itself), "mean" (over all elements), "sum"
            or "none".
    """
    _check_settings("kl_div", reduction, ("mean", "sum", "none", "batchmean"), size_average=size_average, reduce=reduce)
    _check_tensors("kl_div", input, target)
    need_float("kl_div", input, target)
    losses: TensorT
    if log_target:
        losses = neg(mul(sub(input, target), exp(target)))
    else:
        losses = sub(XLogX.apply(target), mul(input, target))
    if reduction == "batchmean":
        return div(sum(losses), input.shape[0] if input.ndim else 1)
    return _reduced(losses, reduction)


def _reduced(losses: TensorT, reduction: str) -> TensorT:
    return losses if reduction == "none" else sum(losses) if reduction == "sum" else mean(losses)


def _weighted(name: str, losses: TensorT, weight: TensorBase | None) -> TensorT:
    if weight is None:
        return losses
    if not isinstance(weight, TensorBase):
        raise TypeError(f"{name}: expected a tensor as weight, got {type(weight).__name__}; convert it with tensor(…)")
    if broadcast(name, weight.shape, losses.shape) != losses.shape:
        raise RuntimeError(f"{name}: expected a weight that broadcasts to {losses.shape}, got shape {weight.shape}")
    return mul(losses, weight)


def _check_pair(name: str, input: Any, target: Any) -> None:
    """Raise unless input and target are tensors of one shape on one device."""
    _check_tensors(name, input, target)
    if input.shape != target.shape:
        raise RuntimeError(f"{name}: shapes {input.shape} and {target.shape} must agree")


def _check_settings(
    name: str, reduction: str, reductions: tuple[str, ...] = ("mean", "sum", "none"), **unsupported: Any | None
) -> None:
    if any(value is not None for value in unsupported.values()):
        raise NotImplementedError(f"{name}: {', '.join(unsupported)} are not implemented; use reduction=…")
    if reduction not in reductions:
        raise ValueError(f"{name}: expected reduction {', '.join(map(repr, reductions))}, got {reduction!r}")


def _check_tensors(name: str, input: Any, target: Any) -> None:
    for role, t in (("input", input), ("target", target)):
        if not isinstance(t, TensorBase):
            raise TypeError(f"{name}: {role} must be a tensor, got {type(t).__name__}; convert it with tensor(…)")
    check_one_device(name, (input, target))
