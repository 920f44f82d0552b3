"""Matrix products on a GPU: reference.py's signatures over the ladder of kernels in cuda.cu."""

import numpy as np

from kernels.arrays import unbroadcast
from kernels.gelu.cuda import gelu_backward
from kernels.gpu import (  # fmt: skip
    Source,
    Strided,
    address,
    blocks_for,
    contiguous,
    deliver,
    empty,
    i32,
    i64,
    matmul_precision,
    multiprocessors,
    require_tensor_cores,
    result,
    vectorises,
)
from kernels.matmul.reference import check_epilogue

SOURCE = Source(__file__)
ACTIVATIONS = {None: 0, "gelu": 1, "gelu_tanh": 2}
LADDER = {  # rung: (block, results in a block as rows × columns, whether the grid counts rows first)
    "matmul_naive": ((32, 8), (32, 8), True),
    "matmul_coalesced": ((32, 8), (8, 32), False),
    "matmul_shared": ((32, 32), (32, 32), False),
    "matmul_registers_1d": ((512,), (64, 64), False),
}
STAGES, SLAB = 3, {"matmul_fp32": 8 * 132, "matmul_tf32": 16 * 128, "matmul_bf16": 16 * 128}  # as in cuda.cu, in numbers
TILES = {"matmul_registers_2d": (64, 256), "matmul_fp32": (128, 128), "matmul_tf32": (128, 128), "matmul_bf16": (128, 128)}


def matmul(
    a, b, *, transpose_a=False, transpose_b=False, bias=None, activation=None, preactivation=None, accumulate=False, out=None,
    kernel=None,
):  # fmt: skip
    """See reference.matmul; all arrays are float32. `kernel` forces one of TILES, else the shape and the precision choose."""
    check_epilogue(activation, accumulate, out)
    if a.ndim == 2 or b.ndim > 2:
        rows, batch = None, np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    else:  # one matrix b for a whole batch of a: a single product with more rows, where a's rows lie in line
        rows, batch = (None, a.shape[:-2]) if transpose_a else (a.shape[:-1], ())
        a = a if rows is None else contiguous(a).reshape(-1, a.shape[-1])
    M, K = a.shape[-2:][::-1] if transpose_a else a.shape[-2:]
    K_of_b, N = b.shape[-2:][::-1] if transpose_b else b.shape[-2:]
    if K != K_of_b:
        raise ValueError(f"matmul: the inner sizes differ, {K} of {a.shape} and {K_of_b} of {b.shape}")
    shape = (*batch, M, N) if rows is None else (*rows, N)
    c = result(a, shape, out, "matmul")
    if c is not out and accumulate:
        accumulate_later, accumulate = True, False
    else:
        accumulate_later = False
    pre = None if preactivation is None else result(a, shape, preactivation, "matmul")
    epilogue = contiguous(bias), pre, ACTIVATIONS[activation], accumulate
    _product(a, b, c, (M, N, K), batch, transpose_a, transpose_b, epilogue, kernel)
    if pre is not None:
        deliver(pre, preactivation)
    return deliver(c, out, accumulate_later)


def _product(a, b, c, sizes, batch, transpose_a, transpose_b, epilogue, kernel):
    (M, N, K), n_batch = sizes, int(np.prod(batch, dtype=int))
    bias, pre, activation, accumulate = epilogue
    if not (M and N and n_batch):
        return
    a, pitch_a, stride_a, transpose_a = _operand(a, batch, transpose_a)
    b, pitch_b, stride_b, transpose_b = _operand(b, batch, transpose_b)
    kernel, shares = _plan(a, M, N, K, n_batch, kernel)
    tile, threads = TILES[kernel]
    target, passed = c, (bias, pre, i32(activation), i32(accumulate))
    if shares > 1:
        target, passed = empty(c, (shares, M, N)), (None, None, i32(0), i32(0))
    aligned_c = i32(N % 4 == 0 and vectorises(target, *passed[:2]))
    grid = blocks_for(M, tile), blocks_for(N, tile), n_batch * shares
    SOURCE.launch(
        kernel, grid, (threads,), Strided(a), Strided(b), target, i32(M), i32(N), i32(K), i32(pitch_a), i32(pitch_b),
        i32(transpose_a), i32(transpose_b), i64(stride_a), i64(stride_b), i32(shares), *passed,
        i32(_aligned(a, pitch_a, stride_a)), i32(_aligned(b, pitch_b, stride_b)), aligned_c,
        shared=4 * STAGES * 2 * SLAB.get(kernel, 0),
    )  # fmt: skip
    if shares > 1:
        aligned_c = i32(N % 4 == 0 and vectorises(c, bias, pre))
        args = target, c, i32(shares), i32(M), i32(N), bias, pre, i32(activation), i32(accumulate), aligned_c
        SOURCE.launch("matmul_add_shares", (blocks_for(N, 512), M), (128,), *args)


def _plan(a, M, N, K, n_batch, kernel):
    """(kernel, shares of k): large tiles do the most arithmetic a read, as long as there are enough of them to fill the GPU."""
    precision, fill = matmul_precision(), multiprocessors(a)
    blocks = blocks_for(M, 128) * blocks_for(N, 128) * n_batch
    shares = 1
    if blocks < fill and n_batch == 1 and M < 65536:
        shares = max(1, min(K // 256, 2 * fill // blocks))
    if kernel is None:
        kernel = f"matmul_{precision}"
        if precision == "fp32" and (min(M, N) <= 64 or 2 * blocks * shares < fill):
            kernel = "matmul_registers_2d"
            small = blocks_for(M, 64) * blocks_for(N, 64) * n_batch
            shares = max(1, min(K // 256, 2 * fill // small)) if shares > 1 else 1
    if kernel in ("matmul_tf32", "matmul_bf16"):
        require_tensor_cores(a, kernel[-4:])
    return kernel, shares


def _operand(x, batch, transpose):
    """(array, pitch of its rows, stride from batch to batch, whether it enters transposed); copied only if it must be."""
    if x.ndim == 2:
        rows, columns = x.strides[0] // 4, x.strides[1] // 4
        if columns == 1 and rows >= x.shape[1]:
            return x, rows, 0, transpose
        if rows == 1 and columns >= x.shape[0]:  # a transposed view: its base read the other way round
            return x.swapaxes(0, 1), columns, 0, not transpose
    if x.strides[-2] == 4 and x.swapaxes(-1, -2).flags.c_contiguous:
        x, transpose = x.swapaxes(-1, -2), not transpose
    x = contiguous(x)
    size = x.shape[-2] * x.shape[-1]
    if x.size == size:
        return x, x.shape[-1], 0, transpose
    if x.shape[:-2] != tuple(batch):
        x = _expanded(x, batch)
    return x, x.shape[-1], size, transpose


def _expanded(x, batch):
    full = empty(x, (*batch, *x.shape[-2:]))
    full[...] = x
    return full


def _aligned(x, pitch, stride):
    """Whether every row begins at a multiple of 16 bytes, so that its numbers can be copied four at a time."""
    return address(x) % 16 == 0 and pitch % 4 == 0 and stride % 4 == 0


def matmul_rung(name, a, b):
    """a @ b by one of the first four rungs of the ladder, (M, K) and (K, N): to read and to measure, not to use."""
    a, b = contiguous(a), contiguous(b)
    (M, K), N = a.shape, b.shape[1]
    c = empty(a, (M, N))
    block, (rows, columns), rows_first = LADDER[name]
    grid = blocks_for(M, rows), blocks_for(N, columns)
    SOURCE.launch(name, grid if rows_first else grid[::-1], block, a, b, c, i32(M), i32(N), i32(K))
    return c


# The derivations of the three functions below stand in reference.py; they are the same products, called here.
def matmul_backward(dy, a, b, *, transpose_a=False, transpose_b=False, needs=(True, True)):
    """See reference.matmul_backward."""
    da = db = None
    if needs[0]:
        if transpose_a:
            da = matmul(b, dy, transpose_a=transpose_b, transpose_b=True)  # (..., K, M)
        else:
            da = matmul(dy, b, transpose_b=not transpose_b)  # (..., M, K)
        da = unbroadcast(da, a.shape)
    if needs[1]:
        if b.ndim == 2 and dy.ndim > 2 and not transpose_a:  # one matrix for a whole batch: its gradient is one product too
            dy, a = contiguous(dy).reshape(-1, dy.shape[-1]), contiguous(a).reshape(-1, a.shape[-1])
        if transpose_b:
            db = matmul(dy, a, transpose_a=True, transpose_b=transpose_a)  # (..., N, K)
        else:
            db = matmul(a, dy, transpose_a=not transpose_a)  # (..., K, N)
        db = unbroadcast(db, b.shape)
    return da, db


def linear_forward(x, weight, bias=None, *, activation=None, out=None):
    """See reference.linear_forward."""
    shape = (*x.shape[:-1], len(weight))
    rows = contiguous(x).reshape(-1, x.shape[-1])  # (R, I)
    y = result(x, shape, out, "linear_forward")
    z = None if activation is None else empty(x, shape)
    flat_z = None if z is None else z.reshape(len(rows), len(weight))
    matmul(
        rows, weight, transpose_b=True, bias=bias, activation=activation, preactivation=flat_z,
        out=y.reshape(len(rows), len(weight)),
    )  # fmt: skip
    return deliver(y, out), z


def linear_backward(
    dy, x, weight, z=None, *, activation=None, needs=(True, True, True), out=(None, None, None), accumulate=False
):
    """See reference.linear_backward."""
    if activation is not None:
        dy = gelu_backward(dy, z, approximate="tanh" if activation == "gelu_tanh" else "none")
    dz = contiguous(dy).reshape(-1, dy.shape[-1])  # (R, O)
    rows = contiguous(x).reshape(-1, x.shape[-1])  # (R, I)
    dx = dweight = dbias = None
    if needs[0]:
        dx = result(x, x.shape, out[0], "linear_backward")
        matmul(dz, weight, out=dx.reshape(rows.shape))
        dx = deliver(dx, out[0])
    if needs[1]:
        dweight = matmul(dz, rows, transpose_a=True, out=out[1], accumulate=accumulate and out[1] is not None)
    if needs[2]:
        dbias = _column_sums(dz, out[2], accumulate and out[2] is not None)
    return dx, dweight, dbias


def _column_sums(x, out, accumulate):
    """Σ_rows x, in two steps of fixed order: strips of the rows, then the strips."""
    total = result(x, x.shape[1:], out, "linear_backward")
    in_place = accumulate and total is out
    rows, columns = x.shape
    rows_of_strip = max(32, blocks_for(rows, 64))
    strips = blocks_for(rows, rows_of_strip)
    if strips > 1:
        grid, partial = (blocks_for(columns, 32), strips), empty(x, (strips, columns))
        SOURCE.launch("column_sums", grid, (32, 32), x, partial, i32(rows), i32(columns), i32(rows_of_strip), i32(0))
        x, rows = partial, strips
    grid = (blocks_for(columns, 32), 1)
    SOURCE.launch("column_sums", grid, (32, 32), x, total, i32(rows), i32(columns), i32(max(rows, 1)), i32(in_place))
    return deliver(total, out, accumulate)
