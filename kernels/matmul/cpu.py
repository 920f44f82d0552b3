"""Matrix products on the CPU in float32.

The kernels equal the three loops of `naive_matmul`. They do the same multiply-adds in blocks, so that every number they load is
used many times.
"""

from functools import cache, partial

import numpy as np
from numba import prange

from kernels.buffers import copy_to_out, row_result, write
from kernels.contract import follows, unchecked
from kernels.gelu.cpu import FORMS, slopes_and_sums
from kernels.launch import CACHE_GAP, address, as_flat, as_rows, kernel, kernel_lock, scratch, share, threads_for
from kernels.matmul import few_rows, reference
from kernels.matmul.block import DEPTH, ROOM, TALLEST, Epilogue, Operand, Piece, block_product, epilogue_at, finish, operand_at
from kernels.simd import Rows, next_task
from kernels.tile import COLUMNS, ROWS, packer


def naive_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b.  a: (M, K), b: (K, N) -> (M, N)."""
    c = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            for k in range(a.shape[1]):
                c[i, j] += a[i, k] * b[k, j]
    return c


# What makes it fast, from the inside out (`python -m kernels.bench matmul` measures each step):
#
# 1. Register tile (kernels/tile.py): 8 rows by 3 vectors of C stay in registers while k runs (6 by 2 with AVX2).
# 2. Blocks: K is cut into steps of at most 512 and the rows into blocks of at most 96. A packed piece of A, 197 kB, then stays
#    in a core's second-level cache while all panels of B pass by. If that cache is small, the blocks are lower (block.py).
# 3. Packing: operands are copied, a piece at a time, into the tile's order. The four transpose forms differ only here. Where
#    possible, packing is skipped or mixed with the multiply-adds (block.py).
# 4. Threads: they pack B together, once. Then each draws blocks of rows of C until none is left.
# 5. A tile's sums start from the bias, and GELU follows each tile while it is in the first-level cache.
#
# A product with few rows, as in text generation, uses every element of B only a few times. Reading B takes nearly all its time,
# and packing would triple that, so few_rows.py reads B once, in place.
#
# The shapes alone decide in which order an element of C is summed, so the result does not depend on the number of threads.

WIDEST = 64 * COLUMNS  # most columns of B to pack at once
MOST_PACKED = WIDEST * DEPTH // 2  # numbers of B to pack at once, to fit the third-level cache: 3.1 MB with AVX-512
PACKED_COLUMNS = 4 * COLUMNS  # columns of B that a thread packs at a time
FEW_ROWS = 8  # up to this many rows, B is read in place

_pack_b = packer(COLUMNS)


def _packed_at_once(N: int, K: int) -> tuple[int, int]:
    """(columns, rows) of B to pack at once: the same number of rows each time, and at least DEPTH if B has that many.

    For a wide B this is up to twice MOST_PACKED numbers: with fewer rows at a time, C would be read and written too often.
    """
    columns = min(N, WIDEST)
    rows = MOST_PACKED // (-(-columns // COLUMNS) * COLUMNS) // DEPTH * DEPTH
    times = -(-K // max(DEPTH, rows))
    return columns, -(-K // times)


@kernel
def _product(a, b, c, K, begins, add, epilogue, team):
    """One product by all threads.  a, b, c, epilogue: the numbers of two Operands, a Piece, an Epilogue.

    begins: the first row of each block of rows of C, and M; team: (columns, rows) of B to pack at once, the number of threads,
    and three addresses: of two zeroed task counters for each packing, of ROOM floats for each thread, and of packed B.
    """
    a = Operand(*a)  # one statement each: Numba must see the constructor's call to pass a tuple to a parallel loop
    b = Operand(*b)
    c = Piece(*c)
    epilogue = Epilogue(*epilogue)
    wide, deep, threads, tasks, rooms, packed = team
    blocks = len(begins) - 1
    for j0 in range(0, c.columns, wide):
        columns = min(wide, c.columns - j0)
        panels = (columns + COLUMNS - 1) // COLUMNS
        # With fewer blocks of rows than threads, the threads also share the columns.
        strips = 1 if blocks >= threads else min(panels, (threads + blocks - 1) // blocks)
        for k0 in range(0, K, deep):
            depth = min(deep, K - k0)
            steps = (depth + DEPTH - 1) // DEPTH
            for _ in prange(threads):
                task = next_task(tasks)
                while task // steps * PACKED_COLUMNS < columns:
                    j, step = task // steps * PACKED_COLUMNS, task % steps
                    first, last = depth * step // steps, depth * (step + 1) // steps
                    source, target = operand_at(b, k0 + first, j0 + j), packed + 4 * (j * depth + first * COLUMNS)
                    count = min(PACKED_COLUMNS, columns - j)
                    _pack_b(source.address, b.column_step, b.row_step, count, last - first, depth, target)
                    task = next_task(tasks)
            tasks += 8
            for thread in prange(threads):
                task = next_task(tasks)
                while task < blocks * strips:
                    block, strip = task // strips, task % strips
                    i, end = begins[block], begins[block + 1]
                    left = panels * strip // strips * COLUMNS
                    right = min(columns, panels * (strip + 1) // strips * COLUMNS)
                    piece = Piece(c.address + 4 * (i * c.step + j0 + left), c.step, end - i, right - left)
                    a_block, b_block, last_step = operand_at(a, i, k0), packed + 4 * left * depth, k0 + depth == K
                    epilogue_here, room = epilogue_at(epilogue, i, j0 + left), rooms + 4 * ROOM * thread
                    block_product(a_block, b_block, depth, piece, add or k0 > 0, last_step, epilogue_here, room)
                    task = next_task(tasks)
            tasks += 8


@kernel
def _products(table, steps, sizes, add, bias, activation, team):
    """Many small products of one shape, each by one thread.

    table: (products, 4), the addresses of each product's a, b, c and preactivation; steps: floats between neighbouring rows and
    columns of a and of b, and between rows of c and of preactivation; sizes: M, N, K; bias: an address or 0; team: (columns,
    rows) of B to pack at once, floats of packed B, the number of threads, the addresses of a zeroed task counter and of scratch
    memory.
    """
    a_row, a_column, b_row, b_column, c_row, pre_row = steps
    M, N, K = sizes
    wide, deep, packed_floats, threads, tasks, memory = team
    for thread in prange(threads):
        room = memory + 4 * (ROOM + packed_floats) * thread
        packed = room + 4 * ROOM
        task = next_task(tasks)
        while task < len(table):
            a_address, b_address, c_address, pre_address = table[task]
            a, b = Operand(a_address, a_row, a_column), Operand(b_address, b_row, b_column)
            epilogue = Epilogue(bias, pre_address, pre_row, activation)
            for j0 in range(0, N, wide):
                columns = min(wide, N - j0)
                for k0 in range(0, K, deep):
                    depth = min(deep, K - k0)
                    _pack_b(operand_at(b, k0, j0).address, b_column, b_row, columns, depth, depth, packed)
                    for i in range(0, M, TALLEST):
                        c = Piece(c_address + 4 * (i * c_row + j0), c_row, min(TALLEST, M - i), columns)
                        a_block, epilogue_here, last_step = operand_at(a, i, k0), epilogue_at(epilogue, i, j0), k0 + depth == K
                        block_product(a_block, packed, depth, c, add or k0 > 0, last_step, epilogue_here, room)
            task = next_task(tasks)


@kernel
def _few_rows(x, b, c, K, add, epilogue, partial_sums, threads):
    """A product with few rows.  x: address of (M, K), contiguous; b, c, epilogue: as in _product.

    partial_sums: address of memory for all slices of B but the first; 0 if the threads share the columns of C instead.
    """
    b = Operand(*b)
    c = Piece(*c)
    epilogue = Epilogue(*epilogue)
    if partial_sums != 0:
        for thread in prange(threads):
            first, last = share(few_rows.SLICES, thread, threads)
            for s in range(first, last):
                few_rows.slice_product(s, x, Rows(b.address, b.row_step), K, c, partial_sums, add)
        few_rows.add_slices(c, partial_sums)
        finish(c, epilogue)
        return
    for thread in prange(threads):
        unit = few_rows.DOT_GROUP if b.row_step == 1 else few_rows.LOOP_GROUP
        first, last = share((c.columns + unit - 1) // unit, thread, threads)
        first, last = first * unit, min(c.columns, last * unit)
        here = Piece(c.address + 4 * first, c.step, c.rows, last - first)
        if b.row_step == 1:
            few_rows.dot_product_columns(x, Rows(b.address + 4 * first * b.column_step, b.column_step), K, here, add)
        else:
            few_rows.weighted_rows(Rows(x, K), Rows(b.address + 4 * first, b.row_step), K, here, add)
        finish(here, epilogue_at(epilogue, 0, first))


ACTIVATIONS = {None: 0, "gelu": FORMS["none"], "gelu_tanh": FORMS["tanh"]}


def _steps(x: np.ndarray) -> tuple[int, int]:
    """Floats from one row, and from one column, of x to the next; an axis of length 1 counts as contiguous."""
    rows, columns = x.strides[-2] // 4, x.strides[-1] // 4
    return (rows if x.shape[-2] > 1 else x.shape[-1]), (columns if x.shape[-1] > 1 else 1)


def _readable(x: np.ndarray) -> np.ndarray:
    """x if it is float32 and contiguous along one of the last two axes, as the kernels require; else a copy."""
    readable = x.dtype == np.float32 and 1 in _steps(x) and not any(s % 4 for s in x.strides)
    return x if readable else np.ascontiguousarray(x, np.float32)


@cache
def _blocks_of_rows(M: int, threads: int) -> np.ndarray:
    """The first row of each block of M rows, and M. Tall blocks come first, then lower ones, so all threads finish together.

    Each height has a block for every thread, except perhaps the last heights. A block has at least four tiles, since smaller
    blocks would wait for B. It has fewer only if the rows left do not give every thread four.
    """
    tiles, begins = -(-M // ROWS), [0]
    while left := tiles - begins[-1]:
        height = min(TALLEST // ROWS, max(4, -(-left // (2 * threads))), -(-left // threads))
        begins += [min(begins[-1] + height * i, tiles) for i in range(1, min(threads, -(-left // height)) + 1)]
    return np.minimum(ROWS * np.array(begins, np.int64), M)


def _epilogue(bias: np.ndarray | None, pre: np.ndarray | None, activation: int) -> tuple[int, int, int, int]:
    """The numbers of an Epilogue."""
    pre_address, pre_step = (0, 0) if pre is None else (address(pre), _steps(pre)[0])
    return 0 if bias is None else address(bias), pre_address, pre_step, activation


def _matmul_into(c, a, b, add, bias, pre, activation) -> None:
    """c = a @ b and its epilogue, for one pair of matrices; c and pre have contiguous rows."""
    (M, K), N = a.shape, b.shape[1]
    target, epilogue, (b_row, b_column) = (address(c), _steps(c)[0], M, N), _epilogue(bias, pre, activation), _steps(b)
    operand = address(b), b_row, b_column
    with kernel_lock:
        if M <= FEW_ROWS:
            x = np.ascontiguousarray(a)
            sliced = b_row != 1 and N <= few_rows.SHORT and K >= few_rows.DEEP
            room = scratch((few_rows.SLICES - 1) * (M * N + CACHE_GAP)) if sliced else 0
            _few_rows(address(x), operand, target, K, add, epilogue, room, threads_for(2 * N * K))
            return
        threads = threads_for(M * N * K // 16)
        wide, deep = _packed_at_once(N, K)
        tasks = np.zeros(2 * -(-N // wide) * -(-K // deep), np.int64)
        rooms = scratch(threads * ROOM + deep * (wide + COLUMNS))
        team = wide, deep, threads, address(tasks), rooms, rooms + 4 * threads * ROOM
        _product((address(a), *_steps(a)), operand, target, K, _blocks_of_rows(M, threads), add, epilogue, team)


def _batch_matmul_into(c, a, b, add, bias, pre, activation) -> None:
    """Products of stacks (…, M, K) and (…, K, N): small ones by one thread each, large ones by all threads together."""
    (S, M, K), N = a.shape[-3:], b.shape[-1]
    threads = min(threads_for(S * M * N * K // 16), S)
    if c.ndim > 3 or S < 2 * threads or M <= FEW_ROWS or M * N * K > 2**27:
        into = _batch_matmul_into if c.ndim > 3 else _matmul_into
        for s in range(len(c)):
            into(c[s], a[s], b[s], add, bias, None if pre is None else pre[s], activation)
        return
    table = np.zeros((S, 4), np.int64)
    for column, x in enumerate((a, b, c, pre)):
        if x is not None:
            table[:, column] = address(x) + np.arange(S) * x.strides[0]
    tasks = np.zeros(1, np.int64)
    wide, deep = _packed_at_once(N, K)
    packed_floats = deep * (wide + COLUMNS)
    bias_address, _, pre_row, _ = _epilogue(bias, pre, activation)
    steps = *_steps(a), *_steps(b), _steps(c)[0], pre_row
    with kernel_lock:
        team = wide, deep, packed_floats, threads, address(tasks), scratch(threads * (ROOM + packed_floats))
        _products(table, steps, (M, N, K), add, bias_address, activation, team)


@follows(reference.matmul)
def matmul(
    a, b, *, transpose_a=False, transpose_b=False, bias=None, activation=None, preactivation=None, accumulate=False, out=None
) -> np.ndarray:
    """See kernels/matmul/reference.py."""
    if not a.size or not b.size:
        forms: dict = dict(transpose_a=transpose_a, transpose_b=transpose_b, bias=bias, activation=activation)
        return reference.matmul(a, b, **forms, preactivation=preactivation, accumulate=accumulate, out=out)
    a = _readable(a.swapaxes(-1, -2) if transpose_a else a)  # (..., M, K)
    b = _readable(b.swapaxes(-1, -2) if transpose_b else b)  # (..., K, N)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) if a.ndim > 2 or b.ndim > 2 else ()
    shape = (*batch, a.shape[-2], b.shape[-1])  # (..., M, N)
    c = row_result(out, shape)
    if accumulate and out is not None and c is not out:
        c[...] = out
    pre = None if preactivation is None else row_result(preactivation, shape)
    bias = None if bias is None else as_flat(bias)
    add, code = bool(accumulate), ACTIVATIONS[activation]

    contiguous = c.flags.c_contiguous and (pre is None or pre.flags.c_contiguous)
    if not batch:
        _matmul_into(c, a, b, add, bias, pre, code)
    elif b.size == b.shape[-1] * b.shape[-2] and contiguous and a.flags.c_contiguous and a.shape[:-2] == batch:
        # One matrix b for the whole batch: the rows of all matrices a are the rows of a single product.
        flat_pre = None if pre is None else pre.reshape(-1, shape[-1])
        b = b.reshape(b.shape[-2:]) if b.flags.c_contiguous else b[(0,) * (b.ndim - 2)]
        _matmul_into(c.reshape(-1, shape[-1]), a.reshape(-1, a.shape[-1]), b, add, bias, flat_pre, code)
    else:
        a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
        _batch_matmul_into(c, a, b, add, bias, pre, code)
    if pre is not None:
        copy_to_out(pre, preactivation)
    return copy_to_out(c, out)


_with_our_product = dict(matmul=unchecked(matmul))
matmul_backward = follows(reference.matmul_backward)(partial(unchecked(reference.matmul_backward), **_with_our_product))
linear_forward = follows(reference.linear_forward)(partial(unchecked(reference.linear_forward), **_with_our_product))


@follows(reference.linear_backward)
def linear_backward(
    dy, x, weight, z=None, *, activation=None, needs=(True, True, True), out=(None, None, None), accumulate=False
) -> reference.Gradients:
    """See kernels/matmul/reference.py."""
    dz = as_rows(dy)  # (R, O)
    sums = np.zeros((threads_for(dz.size), dz.shape[1]), np.float32)  # each thread sums its own rows; the sums are added below
    if activation is not None or needs[2]:
        upstream, dz = dz, dz if activation is None else np.empty_like(dz)
        slopes_and_sums(upstream, dz if z is None else as_rows(z), dz, ACTIVATIONS[activation], sums)
    rest: dict = dict(needs=(*needs[:2], False), out=out, accumulate=accumulate)
    dx, dweight, _ = unchecked(reference.linear_backward)(dz, x, weight, **rest, **_with_our_product)
    dbias = write(sums.sum(axis=0), out[2], accumulate) if needs[2] else None  # (O,)
    return dx, dweight, dbias
