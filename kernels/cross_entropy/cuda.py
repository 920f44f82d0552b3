"""Cross-entropy on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.gpu import (
    Source,
    blocks_for,
    contiguous,
    deliver,
    empty,
    f32,
    i32,
    i64,
    indices,
    result,
    row_teams,
    vectorises,
)

SOURCE = Source(__file__)


def cross_entropy_forward(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    """See reference.cross_entropy_forward; logits are float32. On a GPU a target that is no class gives a loss of NaN."""
    logits = contiguous(logits)
    rows, classes = logits.shape
    targets = indices(targets, classes, "cross_entropy_forward", ignore_index)
    losses, logsumexp = empty(logits, rows), empty(logits, rows)
    grid, block = row_teams(rows, classes)
    SOURCE.launch(
        "cross_entropy_forward", grid, block, logits, targets, losses, logsumexp, i32(rows), i32(classes), i64(ignore_index),
        f32(label_smoothing), i32(vectorises(logits)),
    )  # fmt: skip
    return losses, logsumexp


def cross_entropy_backward(dlosses, logits, targets, logsumexp, *, ignore_index=-100, label_smoothing=0.0, out=None):
    """See reference.cross_entropy_backward; `out` may be the logits' own buffer."""
    dlosses, logits, logsumexp = contiguous(dlosses), contiguous(logits), contiguous(logsumexp)
    rows, classes = logits.shape
    targets = indices(targets, classes, "cross_entropy_backward", ignore_index)
    dlogits = result(logits, logits.shape, out, "cross_entropy_backward")
    grid, block = row_teams(rows, classes)
    SOURCE.launch(
        "cross_entropy_backward", grid, block, dlosses, logits, targets, logsumexp, dlogits, i32(rows), i32(classes),
        i64(ignore_index), f32(label_smoothing), i32(vectorises(logits, dlogits)),
    )  # fmt: skip
    return deliver(dlogits, out)


def cross_entropy_plain(logits, targets, ignore_index=-100):
    """cross_entropy_forward by the kernel that gives each row to one thread: to read and to measure, not to use."""
    logits = contiguous(logits)
    rows, classes = logits.shape
    targets = indices(targets, classes, "cross_entropy_plain", ignore_index)
    losses, logsumexp = empty(logits, rows), empty(logits, rows)
    args = logits, targets, losses, logsumexp, i32(rows), i32(classes), i64(ignore_index)
    SOURCE.launch("cross_entropy_plain", (blocks_for(rows, 128),), (128,), *args)
    return losses, logsumexp
