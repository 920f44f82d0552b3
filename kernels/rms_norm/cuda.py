"""Root mean square normalisation on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels import gpu
from kernels.arrays import Array, Gradients
from kernels.contract import follows
from kernels.gpu import Source, contiguous, empty, f32, finish_output, i32, output_buffer
from kernels.rms_norm import reference

SOURCE = Source(__file__)


@follows(reference.rms_norm_forward)
def rms_norm_forward(
    x: Array, weight: Array | None = None, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array]:
    """See reference.rms_norm_forward; all arrays are float32."""
    x, weight = contiguous(x), contiguous(weight)
    y, rstd = output_buffer(x, x.shape, out), empty(x, x.shape[:-1])
    rows, columns = rstd.size, x.shape[-1]
    SOURCE.launch("rms_norm_forward", *gpu.row_teams(rows, columns), x, weight, y, rstd, i32(rows), i32(columns), f32(eps))
    return finish_output(y, out), rstd


@follows(reference.rms_norm_backward)
def rms_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    rstd: Array,
    *,
    needs: tuple[bool, bool] = (True, True),
    out: Gradients = (None, None),
    accumulate: bool = False,
) -> Gradients:
    """See reference.rms_norm_backward."""
    dy, x, weight, rstd = contiguous(dy), contiguous(x), contiguous(weight), contiguous(rstd)
    rows, columns = rstd.size, x.shape[-1]
    dx = dweight = None
    if needs[0]:
        dx = output_buffer(x, x.shape, out[0])
        arrays = dy, x, weight, rstd, dx
        SOURCE.launch("rms_norm_backward_input", *gpu.row_teams(rows, columns), *arrays, i32(rows), i32(columns))
        dx = finish_output(dx, out[0])
    if needs[1]:
        n_strips, rows_of_strip = gpu.row_strips(rows, 4 * gpu.device(x).multiprocessors)
        strips = empty(x, (n_strips, columns))
        sizes = i32(rows), i32(columns), i32(rows_of_strip)
        SOURCE.launch("rms_norm_weight_sums", (gpu.blocks_for(columns, 32), n_strips), (32, 32), dy, x, rstd, strips, *sizes)
        accumulate = accumulate and out[1] is not None
        dweight = output_buffer(x, (columns,), out[1])
        in_place = i32(accumulate and dweight is out[1])
        args = strips, dweight, i32(n_strips), i32(columns), in_place
        SOURCE.launch("rms_norm_add_strips", (gpu.blocks_for(columns, 128),), (128,), *args)
        dweight = finish_output(dweight, out[1], accumulate)
    return dx, dweight
