"""Layer normalisation on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels import gpu
from kernels.arrays import Array, Gradients
from kernels.contract import follows
from kernels.gpu import Source, contiguous, empty, f32, finish_output, i32, output_buffer
from kernels.layernorm import reference

SOURCE = Source(__file__)
WIDEST_FUSED = 8 * 512  # columns that the largest team keeps in registers in layernorm_backward_wide


def layernorm_plain(x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """layernorm_forward by the plain kernel, for reading and measuring."""
    x = contiguous(x)
    y, mean, rstd = empty(x, x.shape), empty(x, x.shape[:-1]), empty(x, x.shape[:-1])
    args = x, weight, bias, y, mean, rstd, i32(mean.size), i32(x.shape[-1]), f32(eps)
    SOURCE.launch("layernorm_plain", (gpu.blocks_for(mean.size, 128),), (128,), *args)
    return y, mean, rstd


@follows(reference.layernorm_forward)
def layernorm_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """See reference.layernorm_forward; all arrays are float32."""
    x, weight, bias = contiguous(x), contiguous(weight), contiguous(bias)
    y = output_buffer(x, x.shape, out)
    mean, rstd = empty(x, x.shape[:-1]), empty(x, x.shape[:-1])
    rows, columns = mean.size, x.shape[-1]
    args = x, weight, bias, y, mean, rstd, i32(rows), i32(columns), f32(eps), gpu.aligned(x, y, weight, bias)
    SOURCE.launch("layernorm_forward", *gpu.row_teams(rows, columns), *args)
    return finish_output(y, out), mean, rstd


@follows(reference.layernorm_backward)
def layernorm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    *,
    plus: Array | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
    accumulate: bool = False,
) -> Gradients:
    """See reference.layernorm_backward."""
    dy, x, weight, mean, rstd = contiguous(dy), contiguous(x), contiguous(weight), contiguous(mean), contiguous(rstd)
    plus = contiguous(plus)
    rows, columns = mean.size, x.shape[-1]
    dx = strips = None
    need_sums = needs[1] or needs[2]
    if needs[0]:
        dx = output_buffer(x, x.shape, out[0])
        args = dy, x, weight, mean, rstd, plus, dx
        if need_sums and columns % 4 == 0 and columns <= WIDEST_FUSED and rows:
            strips = _fused_backward(x, args, rows, columns)
        else:
            SOURCE.launch("layernorm_backward_input", *gpu.row_teams(rows, columns), *args, i32(rows), i32(columns))
        dx = finish_output(dx, out[0])
    if not need_sums:
        return dx, None, None
    if strips is None:
        strips = _weight_sums(dy, x, mean, rstd, rows, columns)
    return dx, *_add_strips(*strips, needs[1:], out[1:], accumulate)


def _fused_backward(x: Array, args: tuple[Array | None, ...], rows: int, columns: int) -> tuple[Array, Array]:
    """Write dx, and return the partial sums of dweight and dbias, (strips, columns) each.

    A thread has 16 numbers of each array if a warp has the whole row, else 8. The grid has as many teams as the GPU runs at
    once, and each team leaves one strip, so the number of strips does not grow with the rows.
    """
    wide = columns > 512
    block = (32 * gpu.blocks_for(columns, 256), 1) if wide else (32, 4)
    threads_at_once = (1024 if wide else 512) * gpu.device(x).multiprocessors
    teams = gpu.blocks_for(min(rows, threads_at_once // block[0]), block[1]) * block[1]
    dweights, dbiases = empty(x, (teams, columns)), empty(x, (teams, columns))
    dy, _, weight, _, _, plus, dx = args
    sizes = i32(rows), i32(columns), gpu.aligned(dy, x, weight, plus, dx)
    kernel = "layernorm_backward_wide" if wide else "layernorm_backward"
    SOURCE.launch(kernel, (teams // block[1],), block, *args, dweights, dbiases, *sizes)
    return dweights, dbiases


def _weight_sums(dy: Array, x: Array, mean: Array, rstd: Array, rows: int, columns: int) -> tuple[Array, Array]:
    n_strips, rows_of_strip = gpu.row_strips(rows, 4 * gpu.device(x).multiprocessors)
    dweights, dbiases = empty(x, (n_strips, columns)), empty(x, (n_strips, columns))
    args = dy, x, mean, rstd, dweights, dbiases, i32(rows), i32(columns), i32(rows_of_strip)
    SOURCE.launch("layernorm_weight_sums", (gpu.blocks_for(columns, 32), n_strips), (32, 32), *args)
    return dweights, dbiases


def _add_strips(dweights: Array, dbiases: Array, needs: tuple[bool, ...], out: Gradients, accumulate: bool) -> Gradients:
    """Add up the strips in one launch. Returns dweight and dbias, or None for a gradient that is not needed."""
    n, columns = dweights.shape
    sums = [output_buffer(dweights, (columns,), o) if need else None for o, need in zip(out, needs)]
    in_place = [i32(accumulate and total is o) for total, o in zip(sums, out)]
    grid = gpu.blocks_for(columns, 32), 2
    SOURCE.launch("layernorm_add_strips", grid, (32, 32), dweights, dbiases, *sums, i32(n), i32(columns), *in_place)
    dweight, dbias = (None if total is None else finish_output(total, o, accumulate) for total, o in zip(sums, out))
    return dweight, dbias
