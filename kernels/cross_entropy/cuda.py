"""Cross-entropy on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels import gpu
from kernels.arrays import Array
from kernels.contract import follows
from kernels.cross_entropy import reference
from kernels.gpu import Source, contiguous, empty, f32, finish_output, i32, i64, output_buffer

SOURCE = Source(__file__)


def cross_entropy_plain(logits: Array, targets: Array, ignore_index: int = -100) -> tuple[Array, Array]:
    """cross_entropy_forward by the plain kernel, for reading and measuring."""
    logits = contiguous(logits)
    rows, classes = logits.shape
    targets = gpu.int64_indices(targets)
    losses, logsumexp = empty(logits, rows), empty(logits, rows)
    args = logits, targets, losses, logsumexp, i32(rows), i32(classes), i64(ignore_index)
    SOURCE.launch("cross_entropy_plain", (gpu.blocks_for(rows, 128),), (128,), *args)
    return losses, logsumexp


@follows(reference.cross_entropy_forward)
def cross_entropy_forward(
    logits: Array, targets: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """See reference.cross_entropy_forward; logits are float32. On a GPU a target out of range gives a loss of NaN."""
    logits = contiguous(logits)
    rows, classes = logits.shape
    targets = gpu.int64_indices(targets)
    losses, logsumexp = empty(logits, rows), empty(logits, rows)
    settings = i32(rows), i32(classes), i64(ignore_index), f32(label_smoothing), gpu.aligned(logits)
    SOURCE.launch("cross_entropy_forward", *gpu.row_teams(rows, classes), logits, targets, losses, logsumexp, *settings)
    return losses, logsumexp


@follows(reference.cross_entropy_backward)
def cross_entropy_backward(
    dlosses: Array,
    logits: Array,
    targets: Array,
    logsumexp: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> Array:
    """See reference.cross_entropy_backward; `out` may be the logits' own buffer."""
    dlosses, logits, logsumexp = contiguous(dlosses), contiguous(logits), contiguous(logsumexp)
    rows, classes = logits.shape
    targets = gpu.int64_indices(targets)
    dlogits = output_buffer(logits, logits.shape, out)
    arrays = dlosses, logits, targets, logsumexp, dlogits
    settings = i32(rows), i32(classes), i64(ignore_index), f32(label_smoothing), gpu.aligned(logits, dlogits)
    SOURCE.launch("cross_entropy_backward", *gpu.row_teams(rows, classes), *arrays, *settings)
    return finish_output(dlogits, out)
