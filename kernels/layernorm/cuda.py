"""Layer normalisation on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.gpu import (  # fmt: skip
    Source,
    blocks_for,
    contiguous,
    deliver,
    empty,
    f32,
    i32,
    multiprocessors,
    result,
    row_teams,
    vectorises,
)

SOURCE = Source(__file__)
LONGEST_HELD = 8 * 512  # columns that the largest team can hold in registers on the way back


def layernorm_forward(x, weight=None, bias=None, *, eps=1e-5, out=None):
    """See reference.layernorm_forward; all arrays are float32."""
    x, weight, bias = contiguous(x), contiguous(weight), contiguous(bias)
    y = result(x, x.shape, out, "layernorm_forward")
    mean, rstd = empty(x, x.shape[:-1]), empty(x, x.shape[:-1])
    rows, columns = mean.size, x.shape[-1]
    grid, block = row_teams(rows, columns)
    aligned = i32(vectorises(x, y, weight, bias))
    SOURCE.launch("layernorm_forward", grid, block, x, weight, bias, y, mean, rstd, i32(rows), i32(columns), f32(eps), aligned)
    return deliver(y, out), mean, rstd


def layernorm_backward(
    dy, x, weight, mean, rstd, *, plus=None, needs=(True, True, True), out=(None, None, None), accumulate=False
):
    """See reference.layernorm_backward."""
    dy, x, weight, mean, rstd, plus = (contiguous(a) for a in (dy, x, weight, mean, rstd, plus))
    rows, columns = mean.size, x.shape[-1]
    dx = result(x, x.shape, out[0], "layernorm_backward") if needs[0] else None
    dweights = dbiases = None
    if needs[0] and (needs[1] or needs[2]) and columns % 4 == 0 and columns <= LONGEST_HELD and rows:
        # 16 numbers of each array a thread where a warp has the whole row, else 8. As many teams as the GPU runs at once: each
        # then leaves one strip of partial sums, however many rows there are.
        wide = columns > 512
        block = (32 * blocks_for(columns, 256), 1) if wide else (32, 4)
        at_once = (1024 if wide else 512) * multiprocessors(x)
        teams = blocks_for(min(rows, at_once // block[0]), block[1]) * block[1]
        dweights, dbiases = empty(x, (teams, columns)), empty(x, (teams, columns))
        aligned = i32(vectorises(dy, x, weight, plus, dx))
        kernel = "layernorm_backward_wide" if wide else "layernorm_backward"
        SOURCE.launch(
            kernel, (teams // block[1],), block, dy, x, weight, mean, rstd, plus, dx, dweights, dbiases,
            i32(rows), i32(columns), aligned,
        )  # fmt: skip
    else:
        if needs[0]:
            grid, block = row_teams(rows, columns)
            args = dy, x, weight, mean, rstd, plus, dx, i32(rows), i32(columns)
            SOURCE.launch("layernorm_backward_input", grid, block, *args)
        if needs[1] or needs[2]:
            dweights, dbiases = _weight_sums(dy, x, mean, rstd, rows, columns)
    dx = deliver(dx, out[0]) if needs[0] else None
    if not (needs[1] or needs[2]):
        return dx, None, None
    return dx, *_add_strips(dweights, dbiases, needs[1:], out[1:], accumulate)


def _weight_sums(dy, x, mean, rstd, rows, columns):
    rows_of_strip = max(32, blocks_for(rows, 4 * multiprocessors(x)))
    strips = max(1, blocks_for(rows, rows_of_strip))
    dweights, dbiases = empty(x, (strips, columns)), empty(x, (strips, columns))
    args = dy, x, mean, rstd, dweights, dbiases, i32(rows), i32(columns), i32(rows_of_strip)
    SOURCE.launch("layernorm_weight_sums", (blocks_for(columns, 32), strips), (32, 32), *args)
    return dweights, dbiases


def _add_strips(dweights, dbiases, needs, out, accumulate):
    """dweight and dbias, each where it is needed: the sums over the strips, by one launch."""
    n, columns = dweights.shape
    totals = [result(dweights, (columns,), o, "layernorm_backward") if need else None for o, need in zip(out, needs)]
    in_place = [i32(accumulate and total is o) for total, o in zip(totals, out)]
    grid = blocks_for(columns, 32), 2
    args = dweights, dbiases, *totals, i32(n), i32(columns), *in_place
    SOURCE.launch("layernorm_add_strips", grid, (32, 32), *args)
    adding = [accumulate and o is not None for o in out]
    return tuple(None if t is None else deliver(t, o, add) for t, o, add in zip(totals, out, adding))


def layernorm_plain(x, weight, bias, eps=1e-5):
    """layernorm_forward by the kernel that gives each row to one thread: to read and to measure, not to use."""
    x = contiguous(x)
    y, mean, rstd = empty(x, x.shape), empty(x, x.shape[:-1]), empty(x, x.shape[:-1])
    args = x, weight, bias, y, mean, rstd, i32(mean.size), i32(x.shape[-1]), f32(eps)
    SOURCE.launch("layernorm_plain", (blocks_for(mean.size, 128),), (128,), *args)
    return y, mean, rstd
