"""Root mean square normalisation on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.gpu import Source, blocks_for, contiguous, deliver, empty, f32, i32, multiprocessors, result, row_teams

SOURCE = Source(__file__)


def rms_norm_forward(x, weight=None, *, eps=1e-5, out=None):
    """See reference.rms_norm_forward; all arrays are float32."""
    x, weight = contiguous(x), contiguous(weight)
    y, rstd = result(x, x.shape, out, "rms_norm_forward"), empty(x, x.shape[:-1])
    grid, block = row_teams(rstd.size, x.shape[-1])
    SOURCE.launch("rms_norm_forward", grid, block, x, weight, y, rstd, i32(rstd.size), i32(x.shape[-1]), f32(eps))
    return deliver(y, out), rstd


def rms_norm_backward(dy, x, weight, rstd, *, needs=(True, True), out=(None, None), accumulate=False):
    """See reference.rms_norm_backward."""
    dy, x, weight, rstd = (contiguous(a) for a in (dy, x, weight, rstd))
    rows, columns = rstd.size, x.shape[-1]
    dx = dweight = None
    if needs[0]:
        dx = result(x, x.shape, out[0], "rms_norm_backward")
        grid, block = row_teams(rows, columns)
        args = dy, x, weight, rstd, dx, i32(rows), i32(columns)
        SOURCE.launch("rms_norm_backward_input", grid, block, *args)
        dx = deliver(dx, out[0])
    if needs[1]:
        rows_of_strip = max(32, blocks_for(rows, 4 * multiprocessors(x)))
        strips = empty(x, (max(1, blocks_for(rows, rows_of_strip)), columns))
        args = dy, x, rstd, strips, i32(rows), i32(columns), i32(rows_of_strip)
        SOURCE.launch("rms_norm_weight_sums", (blocks_for(columns, 32), len(strips)), (32, 32), *args)
        accumulate = accumulate and out[1] is not None
        total = result(x, (columns,), out[1], "rms_norm_backward")
        args = strips, total, i32(len(strips)), i32(columns), i32(accumulate and total is out[1])
        SOURCE.launch("rms_norm_add_strips", (blocks_for(columns, 128),), (128,), *args)
        dweight = deliver(total, out[1], accumulate)
    return dx, dweight
