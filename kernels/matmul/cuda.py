"""Matrix products on a GPU: reference.py's signatures over the ladder of kernels in cuda.cu."""

from typing import NamedTuple

import numpy as np

from kernels import gpu
from kernels.arrays import Array
from kernels.contract import follows
from kernels.gelu.cuda import gelu_backward
from kernels.gpu import Source, Strided, contiguous, empty, finish_output, i32, i64, output_buffer
from kernels.matmul import reference

SOURCE = Source(__file__)
ACTIVATIONS = {None: 0, "gelu": 1, "gelu_tanh": 2}
LADDER = {  # rung: (block, results in a block as rows × columns, whether the grid counts rows first)
    "matmul_naive": ((32, 8), (32, 8), True),
    "matmul_coalesced": ((32, 8), (8, 32), False),
    "matmul_shared": ((32, 32), (32, 32), False),
    "matmul_registers_1d": ((512,), (64, 64), False),
}
TILES = {"matmul_registers_2d": (64, 256), "matmul_fp32": (128, 128), "matmul_tf32": (128, 128), "matmul_bf16": (128, 128)}
STAGES, SLAB = 3, {"matmul_fp32": 8 * 132, "matmul_tf32": 16 * 128, "matmul_bf16": 16 * 128}  # as in cuda.cu, in elements


def matmul_rung(name: str, a: Array, b: Array) -> Array:
    """a @ b by one of the first four rungs, (M, K) and (K, N), for reading and measuring."""
    a, b = contiguous(a), contiguous(b)
    (M, K), N = a.shape, b.shape[1]
    c = empty(a, (M, N))
    block, (rows, columns), rows_first = LADDER[name]
    grid = gpu.blocks_for(M, rows), gpu.blocks_for(N, columns)
    SOURCE.launch(name, grid if rows_first else grid[::-1], block, a, b, c, i32(M), i32(N), i32(K))
    return c


class _Operand(NamedTuple):
    """One factor as the kernels address it."""

    array: Array
    pitch: int  # elements from row to row
    stride: int  # elements from batch row to batch row; 0 if all of them share one matrix
    transpose: bool

    @property
    def aligned(self) -> np.int32:
        """1 if every row starts at a multiple of 16 bytes, so that a kernel may copy four elements at a time."""
        return i32(gpu.address(self.array) % 16 == 0 and self.pitch % 4 == 0 and self.stride % 4 == 0)


class _Epilogue(NamedTuple):
    """The epilogue of a product (see reference.matmul), in the order of a kernel's parameters."""

    bias: Array | None = None
    preactivation: Array | None = None
    activation: np.int32 = i32(0)
    accumulate: np.int32 = i32(0)


@follows(reference.matmul)
def matmul(
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Array | None = None,
    activation: str | None = None,
    preactivation: Array | None = None,
    accumulate: bool = False,
    out: Array | None = None,
    kernel: str | None = None,
) -> Array:
    """See reference.matmul; all arrays are float32.

    kernel: a name in TILES; if None, the shape and the precision choose.
    """
    batch: tuple[int, ...] = ()
    leading: tuple[int, ...] | None = None  # axes that become rows of a
    if a.ndim == 2 or b.ndim > 2:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    elif transpose_a:
        batch = a.shape[:-2]
    else:  # a batch of a shares one matrix b, so it is a single product with more rows
        leading, a = a.shape[:-1], contiguous(a).reshape(-1, a.shape[-1])
    M, K = a.shape[-2:][::-1] if transpose_a else a.shape[-2:]
    N = b.shape[-2 if transpose_b else -1]
    shape = (*batch, M, N) if leading is None else (*leading, N)
    c = output_buffer(a, shape, out)
    accumulate_later = accumulate and c is not out
    pre = None if preactivation is None else output_buffer(a, shape, preactivation)
    epilogue = _Epilogue(contiguous(bias), pre, i32(ACTIVATIONS[activation]), i32(accumulate and not accumulate_later))
    n_batch = int(np.prod(batch, dtype=int))
    if M and N and n_batch:
        _product(_operand(a, batch, transpose_a), _operand(b, batch, transpose_b), c, (M, N, K), n_batch, epilogue, kernel)
    if pre is not None:
        finish_output(pre, preactivation)
    return finish_output(c, out, accumulate_later)


def _product(
    a: _Operand, b: _Operand, c: Array, sizes: tuple[int, int, int], n_batch: int, epilogue: _Epilogue, kernel: str | None
) -> None:
    M, N, K = sizes
    kernel, shares = _plan(c, M, N, K, n_batch, kernel)
    tile, threads = TILES[kernel]
    grid = gpu.blocks_for(M, tile), gpu.blocks_for(N, tile), n_batch * shares
    target, first_epilogue = (c, epilogue) if shares == 1 else (empty(c, (shares, M, N)), _Epilogue())
    strides = i32(a.pitch), i32(b.pitch), i32(a.transpose), i32(b.transpose), i64(a.stride), i64(b.stride)
    product = Strided(a.array), Strided(b.array), target, i32(M), i32(N), i32(K), *strides, i32(shares)
    alignment = a.aligned, b.aligned, _aligned_output(target, first_epilogue)
    SOURCE.launch(kernel, grid, (threads,), *product, *first_epilogue, *alignment, shared=4 * STAGES * 2 * SLAB.get(kernel, 0))
    if shares > 1:
        total = target, c, i32(shares), i32(M), i32(N), *epilogue, _aligned_output(c, epilogue)
        SOURCE.launch("matmul_add_shares", (gpu.blocks_for(N, 512), M), (128,), *total)


def _plan(like: Array, M: int, N: int, K: int, n_batch: int, kernel: str | None) -> tuple[str, int]:
    """(kernel, number of shares of k). Large tiles do the most arithmetic per read, if enough of them exist to fill the GPU."""
    precision, fill = gpu.matmul_precision(), gpu.device(like).multiprocessors
    blocks = gpu.blocks_for(M, 128) * gpu.blocks_for(N, 128) * n_batch
    shares = 1
    if blocks < fill and n_batch == 1 and M < 65536:
        shares = max(1, min(K // 256, 2 * fill // blocks))
    if kernel is None:
        kernel = f"matmul_{precision}"
        if precision == "fp32" and (min(M, N) <= 64 or 2 * blocks * shares < fill):
            kernel = "matmul_registers_2d"
            small_blocks = gpu.blocks_for(M, 64) * gpu.blocks_for(N, 64) * n_batch
            shares = max(1, min(K // 256, 2 * fill // small_blocks)) if shares > 1 else 1
    if kernel in ("matmul_tf32", "matmul_bf16"):
        gpu.require_tensor_cores(like, kernel[-4:])
    return kernel, shares


def _operand(x: Array, batch: tuple[int, ...], transpose: bool) -> _Operand:
    """x as the kernels address it; copied only if no pitch and stride describe it."""
    if x.ndim == 2:
        rows, columns = x.strides[0] // 4, x.strides[1] // 4
        if columns == 1 and rows >= x.shape[1]:
            return _Operand(x, rows, 0, transpose)
        if rows == 1 and columns >= x.shape[0]:  # a transposed view: take its base, transposed once more
            return _Operand(x.swapaxes(0, 1), columns, 0, not transpose)
    if x.strides[-2] == 4 and x.swapaxes(-1, -2).flags.c_contiguous:
        x, transpose = x.swapaxes(-1, -2), not transpose
    x = contiguous(x)
    size = x.shape[-2] * x.shape[-1]
    if x.size == size:
        return _Operand(x, x.shape[-1], 0, transpose)
    if x.shape[:-2] != tuple(batch):
        expanded = empty(x, (*batch, *x.shape[-2:]))
        expanded[...] = x
        x = expanded
    return _Operand(x, x.shape[-1], size, transpose)


def _aligned_output(c: Array, epilogue: _Epilogue) -> np.int32:
    return gpu.aligned(c, epilogue.bias, epilogue.preactivation) if c.shape[-1] % 4 == 0 else i32(0)


@follows(reference.matmul_backward)
def matmul_backward(dy: Array, a: Array, b: Array, *, transpose_a=False, transpose_b=False, needs=(True, True)):
    """See reference.matmul_backward."""
    shape = a.shape
    if b.ndim == 2 and dy.ndim > 2 and not transpose_a:  # the whole batch shared b, so both gradients are single products
        dy, a = contiguous(dy).reshape(-1, dy.shape[-1]), contiguous(a).reshape(-1, a.shape[-1])
    forms: dict = dict(transpose_a=transpose_a, transpose_b=transpose_b, needs=needs)
    da, db = reference.matmul_backward(dy, a, b, **forms, matmul=matmul)
    return None if da is None else da.reshape(shape), db


@follows(reference.linear_forward)
def linear_forward(
    x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None, out: Array | None = None
) -> tuple[Array, Array | None]:
    """See reference.linear_forward."""
    shape = (*x.shape[:-1], len(weight))
    rows = contiguous(x).reshape(-1, x.shape[-1])  # (R, I)
    flat = len(rows), len(weight)  # (R, O)
    y = output_buffer(x, shape, out)
    z = None if activation is None else empty(x, shape)
    flat_z = None if z is None else z.reshape(flat)
    matmul(rows, weight, transpose_b=True, bias=bias, activation=activation, preactivation=flat_z, out=y.reshape(flat))
    return finish_output(y, out), z


@follows(reference.linear_backward)
def linear_backward(
    dy, x, weight, z=None, *, activation=None, needs=(True, True, True), out=(None, None, None), accumulate=False
) -> reference.Gradients:
    """See reference.linear_backward."""
    if activation is not None:
        dy = gelu_backward(dy, z, approximate="tanh" if activation == "gelu_tanh" else "none")
    dz = contiguous(dy).reshape(-1, dy.shape[-1])  # (R, O)
    rest: dict = dict(needs=(*needs[:2], False), out=out, accumulate=accumulate)
    dx, dweight, _ = reference.linear_backward(dz.reshape(dy.shape), contiguous(x), weight, **rest, matmul=matmul)
    return dx, dweight, _column_sums(dz, out[2], accumulate and out[2] is not None) if needs[2] else None


def _column_sums(x: Array, out: Array | None, accumulate: bool) -> Array:
    """Σ_rows x in two steps of fixed order: over the rows of each strip, then over the strips."""
    total = output_buffer(x, x.shape[1:], out)
    in_place = accumulate and total is out
    rows, columns = x.shape
    n_strips, rows_of_strip = gpu.row_strips(rows, 64)
    if n_strips > 1:
        grid, strips = (gpu.blocks_for(columns, 32), n_strips), empty(x, (n_strips, columns))
        SOURCE.launch("column_sums", grid, (32, 32), x, strips, i32(rows), i32(columns), i32(rows_of_strip), i32(0))
        x, rows = strips, n_strips
    grid = (gpu.blocks_for(columns, 32), 1)
    SOURCE.launch("column_sums", grid, (32, 32), x, total, i32(rows), i32(columns), i32(max(rows, 1)), i32(in_place))
    return finish_output(total, out, accumulate)
