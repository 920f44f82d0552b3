"""Losses: cross-entropy fused with its softmax, negative log-likelihood, and squared error."""

from typing import Any

import numpy as np

from minigrad.engine import TensorBase, TensorT
from minigrad.function import Function, check_one_device
from minigrad.ops.arithmetic import eq, mul, neg, sub
from minigrad.ops.indexing import gather, masked_fill
from minigrad.ops.operands import check_ids, in_float32, need_float
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
    """The sum of the losses, divided by the number of targets that are not ignored."""

    @staticmethod
    def forward(ctx, losses, targets, ignore_index):
        count = ctx.xp.maximum((targets != ignore_index).sum(), 1).astype(losses.dtype)
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
    losses = CrossEntropy.apply(reshape(rows, -1, classes), flat, settings)  # (R,)
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
    if input.shape != target.shape:
        raise RuntimeError(f"mse_loss: shapes {input.shape} and {target.shape} must agree")
    if input.dtype.kind != "f" and target.dtype.kind != "f":
        need_float("mse_loss", input)
    difference = sub(input, target)
    squared = mul(difference, difference)
    return squared if reduction == "none" else sum(squared) if reduction == "sum" else mean(squared)


def _check_settings(name: str, reduction: str, **unsupported: Any | None) -> None:
    if any(value is not None for value in unsupported.values()):
        raise NotImplementedError(f"{name}: {', '.join(unsupported)} are not implemented; use reduction=…")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")


def _check_tensors(name: str, input: Any, target: Any) -> None:
    for role, t in (("input", input), ("target", target)):
        if not isinstance(t, TensorBase):
            raise TypeError(f"{name}: {role} must be a tensor, got {type(t).__name__}; convert it with tensor(…)")
    check_one_device(name, (input, target))
    need_float(name, input)
