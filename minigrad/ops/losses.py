"""Losses: cross-entropy fused with its softmax, and what else the chapters grade with."""

import numpy as np

from minigrad.function import Function, check_one_device
from minigrad.ops.axes import need_float
from minigrad.ops.indexing import check_ids
from minigrad.ops.shape import reshape
from minigrad.tensor import Tensor


class CrossEntropy(Function):
    @staticmethod
    def forward(ctx, logits, targets, settings):
        losses, logsumexp = ctx.kernels.cross_entropy_forward(logits, targets, **settings)
        ctx.save(logits, targets, logsumexp, settings)
        return losses

    @staticmethod
    def backward(ctx, dlosses):
        logits, targets, logsumexp, settings = ctx.saved
        return ctx.kernels.cross_entropy_backward(dlosses, logits, targets, logsumexp, **settings), None, None


class MeanOverGraded(Function):
    @staticmethod
    def forward(ctx, losses, targets, ignore_index):
        graded = ctx.xp.maximum((targets != ignore_index).sum(), 1).astype(losses.dtype)
        ctx.save(losses.shape, graded)
        return losses.sum() / graded

    @staticmethod
    def backward(ctx, dy):
        shape, graded = ctx.saved
        return ctx.xp.broadcast_to(dy / graded, shape), None, None


def cross_entropy(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0
):
    """−log softmax(input)[target], averaged over the targets that are graded.

    input: (R, V) logits, or (V,), or (R, V, d1, …).  target: (R,) class indices, or (), or (R, d1, …); a target equal to
    ignore_index contributes nothing to the loss, to its average or to the gradient.
    reduction: "mean", "sum" or "none".  If every target is ignored the mean is 0, with zero gradients (PyTorch gives NaN).
    """
    if weight is not None or size_average is not None or reduce is not None:
        raise NotImplementedError("cross_entropy: weight, size_average and reduce are not implemented; use reduction=…")
    check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be between 0 and 1, got {label_smoothing}")
    check_logits_and_targets("cross_entropy", input, target)
    if target.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets must be class indices (integers), got {target.dtype}")
    expected = () if input.ndim == 1 else (input.shape[0], *input.shape[2:])
    if input.ndim == 0 or target.shape != expected:
        raise RuntimeError(f"cross_entropy: logits {input.shape} need targets of shape {expected}, got {target.shape}")
    classes = input.shape[0] if input.ndim == 1 else input.shape[1]
    rows = input if input.ndim < 3 else input.transpose(1, -1)  # the classes last …
    if input.ndim > 3:  # … and the other axes back in their order
        rows = input.permute(0, *range(2, input.ndim), 1)
    flat = target.array.reshape(-1)
    if isinstance(flat, np.ndarray):
        check_ids(flat[flat != ignore_index], classes, "cross_entropy: target class")
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    losses = CrossEntropy.apply(reshape(rows, -1, classes), flat, settings)  # (R,)
    if reduction == "mean":
        return MeanOverGraded.apply(losses, flat, ignore_index)
    return losses.sum() if reduction == "sum" else reshape(losses, target.shape)


def check_logits_and_targets(name, input, target):
    for what, t in (("input", input), ("target", target)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: {what} must be a tensor, not {type(t).__name__}; wrap it with tensor(…)")
    check_one_device(name, (input, target))
    need_float(name, input)


def nll_loss(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """−input[target] for log-probabilities.  input: (R, V), target: (R,)."""
    if weight is not None or size_average is not None or reduce is not None:
        raise NotImplementedError("nll_loss: weight, size_average and reduce are not implemented; use reduction=…")
    check_reduction("nll_loss", reduction)
    check_logits_and_targets("nll_loss", input, target)
    if input.ndim != 2 or target.shape != input.shape[:1]:
        raise RuntimeError(f"nll_loss needs input (R, V) and target (R,), got {input.shape} and {target.shape}")
    ignored = target == ignore_index
    picked = input.gather(1, target.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)  # (R,)
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "mean":
        return MeanOverGraded.apply(losses, target.array, ignore_index)
    return losses.sum() if reduction == "sum" else losses


def mse_loss(input, target, size_average=None, reduce=None, reduction="mean"):
    """(input − target)², averaged, summed or as it is."""
    if size_average is not None or reduce is not None:
        raise NotImplementedError("mse_loss: size_average and reduce are not implemented; use reduction=…")
    check_reduction("mse_loss", reduction)
    if input.shape != target.shape:
        raise RuntimeError(f"mse_loss: shapes {input.shape} and {target.shape} must agree")
    squared = (input - target) * (input - target)
    return squared if reduction == "none" else squared.sum() if reduction == "sum" else squared.mean()


def check_reduction(name, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
