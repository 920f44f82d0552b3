"""Matrix products on the CPU: the reference's signatures, float32.

What makes it fast, from the inside out (`python -m kernels.bench matmul` measures what each step buys):

1. A register tile (kernels/tile.py): 8 rows by 3 vectors of C stay in registers while k runs.
2. Blocks: K is cut into pieces of at most 512 and the rows into pieces of at most 96, so that the packed piece of A, 197 kB,
   stays in a core's second-level cache while all panels of B pass by it.
3. Packing: operands are copied, a piece at a time, into the tile's order. All four transpose forms differ only here. Where it
   can be, it is saved, or done behind the multiply-adds (block.py).
4. Threads: they pack B together, once; then each draws blocks of rows of C until none is left.
5. What follows the product (bias, GELU) is done to each panel of C just after its last sum, while it is still in the cache.

A product with few rows, such as one step of text generation, is another matter: every element of B is used only a few times,
so reading B is all the work, and packing it would triple that. `_few_rows` reads it once, in place (few_rows.py).

Every element of C is summed in an order that only the shapes decide about (along k, or where C has few rows perhaps in slices
of k), whichever thread does it: the result does not depend on the number of threads.
"""

import math
from functools import cache, partial

import numpy as np
from numba import prange

from kernels.gelu.cpu import FORMS, slopes_and_sums
from kernels.launch import APART, address, as_flat, as_rows, delivered, kernel, result, running, scratch, workers
from kernels.matmul import few_rows, reference
from kernels.matmul.block import DEEPEST, ROOM, TALLEST, block_of, finish
from kernels.simd import take_number
from kernels.tile import COLUMNS, ROWS, packer

WIDEST = 64 * COLUMNS  # columns of B that are packed at once
ENOUGH = WIDEST * DEEPEST // 2  # numbers of B to pack at once: 3.1 MB with AVX-512, to stay in the third-level cache
HANDFUL = 4 * COLUMNS  # columns of B that a thread packs at a time
FEW = 8  # rows, up to which B is read in place

_pack_b = packer(COLUMNS)


def _packed_at_once(N, K):
    """(columns, rows) of B that are packed at once, as many rows each time, and no fewer than DEEPEST if there are as many.

    That is up to twice ENOUGH numbers where B is wide: with fewer rows at a time, C would be read and written too often.
    """
    columns = min(N, WIDEST)
    rows = ENOUGH // (-(-columns // COLUMNS) * COLUMNS) // DEEPEST * DEEPEST
    times = -(-K // max(DEEPEST, rows))
    return columns, -(-K // times)


@kernel
def _product(
    a, a_i, a_k, b, b_k, b_j, c, c_row, N, K, add, bias, pre, pre_row, activation, wide, deep, rows, own, shared, tasks, parts
):  # fmt: skip
    """One product by all threads.  a, b, c, bias, pre: addresses; a_i … b_j: floats from one element to the next.

    wide, deep: how much of B is packed at once; rows: where the blocks of rows of C begin, and M; own: ROOM floats for each
    thread; shared: room for packed B; tasks: zeroed counters, two for each time that B is packed.
    """
    blocks = len(rows) - 1
    for j0 in range(0, N, wide):
        columns = min(wide, N - j0)
        panels = (columns + COLUMNS - 1) // COLUMNS
        # With fewer blocks of rows than threads, the columns are shared out too.
        strips = 1 if blocks >= parts else min(panels, (parts + blocks - 1) // blocks)
        for k0 in range(0, K, deep):
            depth = min(deep, K - k0)
            pieces = (depth + DEEPEST - 1) // DEEPEST
            for _ in prange(parts):
                task = take_number(tasks)
                while task // pieces * HANDFUL < columns:
                    j, piece = task // pieces * HANDFUL, task % pieces
                    first, after = depth * piece // pieces, depth * (piece + 1) // pieces
                    source, target = b + 4 * ((k0 + first) * b_k + (j0 + j) * b_j), shared + 4 * (j * depth + first * COLUMNS)
                    _pack_b(source, b_j, b_k, min(HANDFUL, columns - j), after - first, depth, target)
                    task = take_number(tasks)
            tasks += 8
            for worker in prange(parts):
                task = take_number(tasks)
                while task < blocks * strips:
                    block, strip = task // strips, task % strips
                    i, below = rows[block], rows[block + 1]
                    left = panels * strip // strips * COLUMNS
                    right = min(columns, panels * (strip + 1) // strips * COLUMNS)
                    j = j0 + left
                    block_of(
                        a + 4 * (i * a_i + k0 * a_k), a_i, a_k, shared + 4 * left * depth, depth,
                        c + 4 * (i * c_row + j), c_row, below - i, right - left, add or k0 > 0, k0 + depth == K,
                        bias + 4 * j if bias != 0 else 0, pre + 4 * (i * pre_row + j) if pre != 0 else 0, pre_row,
                        activation, own + 4 * ROOM * worker,
                    )  # fmt: skip
                    task = take_number(tasks)
            tasks += 8


@kernel
def _products(table, a_i, a_k, b_k, b_j, c_row, M, N, K, add, bias, pre_row, activation, wide, deep, own, room, tasks, parts):
    """Many small products, each by one thread.  table: (products, 4), the addresses of a, b, c and pre of each."""
    for worker in prange(parts):
        mine = own + 4 * (ROOM + room) * worker
        shared = mine + 4 * ROOM
        task = take_number(tasks)
        while task < len(table):
            a, b, c, pre = table[task]
            for j0 in range(0, N, wide):
                columns = min(wide, N - j0)
                for k0 in range(0, K, deep):
                    depth = min(deep, K - k0)
                    _pack_b(b + 4 * (k0 * b_k + j0 * b_j), b_j, b_k, columns, depth, depth, shared)
                    for i in range(0, M, TALLEST):
                        block_of(
                            a + 4 * (i * a_i + k0 * a_k), a_i, a_k, shared, depth,
                            c + 4 * (i * c_row + j0), c_row, min(TALLEST, M - i), columns, add or k0 > 0, k0 + depth == K,
                            bias + 4 * j0 if bias != 0 else 0, pre + 4 * (i * pre_row + j0) if pre != 0 else 0, pre_row,
                            activation, mine,
                        )  # fmt: skip
            task = take_number(tasks)


@kernel
def _few_rows(x, b, b_k, b_j, c, c_row, M, N, K, add, bias, pre, pre_row, activation, sliced, room, parts):
    """x: (M, K), contiguous; sliced: whether B's rows are handed out whole; room: then, for all SLICES but the first."""
    if sliced:
        for part in prange(parts):
            for s in range(few_rows.SLICES * part // parts, few_rows.SLICES * (part + 1) // parts):
                few_rows.of_slice(s, x, b, b_k, M, K, N, c, c_row, room, add)
        few_rows.add_slices(M, N, c, c_row, room)
        finish(c, c_row, M, N, bias, pre, pre_row, activation)
        return
    for part in prange(parts):
        unit = few_rows.FOUR if b_k == 1 else few_rows.WHOLE
        units = (N + unit - 1) // unit
        first, last = units * part // parts * unit, min(N, units * (part + 1) // parts * unit)
        if b_k == 1:
            few_rows.transposed(x, b, b_j, M, K, first, last, c, c_row, add)
        else:
            few_rows.plain(x, K, b, b_k, M, K, first, last, c, c_row, add)
        bias_here, pre_here = bias + 4 * first if bias != 0 else 0, pre + 4 * first if pre != 0 else 0
        finish(c + 4 * first, c_row, M, last - first, bias_here, pre_here, pre_row, activation)


ACTIVATIONS = {None: 0, "gelu": FORMS["none"], "gelu_tanh": FORMS["tanh"]}


def _steps(x):
    """Floats from one row, and from one column, of x to the next; a step along an axis of length 1 is never taken."""
    rows, columns = x.strides[-2] // 4, x.strides[-1] // 4
    return (rows if x.shape[-2] > 1 else x.shape[-1]), (columns if x.shape[-1] > 1 else 1)


def _readable(x):
    """x if its elements follow one another along one of the last two axes, as all that reads it needs; else a copy.

    (An axis of length 1 does not count: x.strides[-2] of a matrix's column, transposed, is 4 as well.)
    """
    if x.dtype == np.float32 and 1 in _steps(x) and not any(s % 4 for s in x.strides):
        return x
    return np.ascontiguousarray(x, np.float32)


@cache
def _blocks_of_rows(M, parts):
    """Where blocks of M rows begin, and M: tall ones first, then ever lower ones, so that all threads end at about one time.

    There are as many of each height as threads; the lowest have four tiles, where there are so many, as lower ones wait for B.
    """
    tiles, begins = -(-M // ROWS), [0]
    while left := tiles - begins[-1]:
        height = min(TALLEST // ROWS, max(4, -(-left // (2 * parts))), -(-left // parts))
        begins += [min(begins[-1] + height * i, tiles) for i in range(1, min(parts, -(-left // height)) + 1)]
    return np.minimum(ROWS * np.array(begins, np.int64), M)


def _into(c, a, b, add, bias, pre, activation):
    """c = a @ b and what follows, for one pair of matrices; c and pre have unit steps along their rows."""
    (M, K), N = a.shape, b.shape[1]
    steps_b, addresses = _steps(b), (0 if bias is None else address(bias), 0 if pre is None else address(pre))
    after = (add, *addresses, 0 if pre is None else _steps(pre)[0], activation)
    with running:
        if M <= FEW:
            x = np.ascontiguousarray(a)
            sliced = steps_b[0] != 1 and N <= few_rows.SHORT and K >= few_rows.DEEP
            room = scratch((few_rows.SLICES - 1) * (M * N + APART)) if sliced else 0
            sizes, parts = (M, N, K), workers(2 * N * K)
            _few_rows(address(x), address(b), *steps_b, address(c), _steps(c)[0], *sizes, *after, sliced, room, parts)
            return
        parts = workers(M * N * K // 16)
        wide, deep = _packed_at_once(N, K)
        tasks = np.zeros(2 * -(-N // wide) * -(-K // deep), np.int64)
        own = scratch(parts * ROOM + deep * (wide + COLUMNS))
        _product(
            address(a), *_steps(a), address(b), *steps_b, address(c), _steps(c)[0], N, K, *after,
            wide, deep, _blocks_of_rows(M, parts), own, own + 4 * parts * ROOM, address(tasks), parts,
        )  # fmt: skip


def _batch_into(c, a, b, add, bias, pre, activation):
    """The same for stacks (S, M, K) and (S, K, N) of matrices: small ones a thread each, large ones by all threads together."""
    (S, M, K), N = a.shape, b.shape[2]
    parts = min(workers(S * M * N * K // 16), S)
    if S < 2 * parts or M <= FEW or M * N * K > 2**27:
        for s in range(S):
            _into(c[s], a[s], b[s], add, bias, None if pre is None else pre[s], activation)
        return
    table = np.zeros((S, 4), np.int64)
    for column, x in enumerate((a, b, c, pre)):
        if x is not None:
            table[:, column] = address(x) + np.arange(S) * x.strides[0]
    tasks = np.zeros(1, np.int64)
    wide, deep = _packed_at_once(N, K)
    room = deep * (wide + COLUMNS)
    with running:
        own = scratch(parts * (ROOM + room))
        _products(
            table, *_steps(a), *_steps(b), _steps(c)[0], M, N, K, add, 0 if bias is None else address(bias),
            0 if pre is None else _steps(pre)[0], activation, wide, deep, own, room, address(tasks), parts,
        )  # fmt: skip


def _fits(x, shape):
    """Whether x is a buffer of this shape that can be computed into: float32, unit steps along its rows."""
    if x is None or x.dtype != np.float32 or x.shape != shape:
        return False
    return (x.strides[-1] == 4 or shape[-1] == 1) and not any(s % 4 for s in x.strides)


def matmul(
    a, b, *, transpose_a=False, transpose_b=False, bias=None, activation=None, preactivation=None, accumulate=False, out=None
):
    """See kernels/matmul/reference.py."""
    if a.ndim < 2 or b.ndim < 2 or not a.size or not b.size:
        return reference.matmul(
            a, b, transpose_a=transpose_a, transpose_b=transpose_b, bias=bias, activation=activation,
            preactivation=preactivation, accumulate=accumulate, out=out,
        )  # fmt: skip
    reference.check_epilogue(activation, accumulate, out)
    a = _readable(a.swapaxes(-1, -2) if transpose_a else a)  # (..., M, K)
    b = _readable(b.swapaxes(-1, -2) if transpose_b else b)  # (..., K, N)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: {a.shape} @ {b.shape} does not fit: {a.shape[-1]} columns against {b.shape[-2]} rows")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) if a.ndim > 2 or b.ndim > 2 else ()
    shape = (*batch, a.shape[-2], b.shape[-1])  # (..., M, N)
    if out is not None and out.shape != shape:
        raise ValueError(f"matmul: out has shape {out.shape} but the product has shape {shape}")
    c = out if _fits(out, shape) else np.empty(shape, np.float32)
    if accumulate and c is not out:
        c[...] = out
    pre = preactivation if preactivation is None or _fits(preactivation, shape) else np.empty(shape, np.float32)
    bias = None if bias is None else as_flat(bias)
    after = bool(accumulate), bias, pre, ACTIVATIONS[activation]

    contiguous = c.flags.c_contiguous and (pre is None or pre.flags.c_contiguous)
    if not batch:
        _into(c, a, b, *after)
    elif b.size == b.shape[-1] * b.shape[-2] and contiguous and a.flags.c_contiguous and a.shape[:-2] == batch:
        # One matrix b for the whole batch: the rows of all matrices a are the rows of a single product.
        flat_pre = None if pre is None else pre.reshape(-1, shape[-1])
        b = b.reshape(b.shape[-2:]) if b.flags.c_contiguous else b[(0,) * (b.ndim - 2)]
        _into(c.reshape(-1, shape[-1]), a.reshape(-1, a.shape[-1]), b, after[0], bias, flat_pre, after[3])
    else:
        _each(c, np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:])), *after)
    if pre is not preactivation:
        preactivation[...] = pre
    return delivered(c, out)


def _each(c, a, b, add, bias, pre, activation):
    """Products with leading axes of any steps: all but the last of them are walked through here."""
    if c.ndim > 3:
        for s in range(len(c)):
            _each(c[s], a[s], b[s], add, bias, None if pre is None else pre[s], activation)
    else:
        _batch_into(c, a, b, add, bias, pre, activation)


matmul_backward = partial(reference.matmul_backward, matmul=matmul)


def linear_forward(x, weight, bias=None, *, activation=None, out=None):
    """See kernels/matmul/reference.py."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # (R, I)
    shape = (*x.shape[:-1], len(weight))
    z = None if activation is None else np.empty((len(rows), len(weight)), np.float32)
    y = result(out, shape)
    matmul(
        rows, weight, transpose_b=True, bias=bias, activation=activation, preactivation=z, out=y.reshape(len(rows), len(weight))
    )
    return delivered(y, out), None if z is None else z.reshape(shape)


def linear_backward(
    dy, x, weight, z=None, *, activation=None, needs=(True, True, True), out=(None, None, None), accumulate=False
):
    """See kernels/matmul/reference.py."""
    dz = as_rows(dy)  # (R, O)
    sums = np.zeros((workers(dz.size), dz.shape[1]), np.float32)  # every thread its own sum, then the sum of those
    if activation is not None or needs[2]:
        upstream, dz = dz, dz if activation is None else np.empty_like(dz)
        slopes_and_sums(upstream, dz if activation is None else as_rows(z), dz, ACTIVATIONS[activation], sums)
    rows = x.reshape(len(dz), x.shape[-1])  # (R, I)
    dx = dweight = dbias = None
    if needs[0]:
        dx = result(out[0], x.shape)
        matmul(dz, weight, out=dx.reshape(rows.shape))
        dx = delivered(dx, out[0])
    if needs[1]:
        dweight = matmul(dz, rows, transpose_a=True, out=out[1], accumulate=accumulate and out[1] is not None)
    if needs[2]:
        dbias = sums.sum(axis=0)  # (O,)
        if out[2] is not None:
            out[2][...] = out[2] + dbias if accumulate else dbias
            dbias = out[2]
    return dx, dweight, dbias
