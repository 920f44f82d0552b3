"""A transformer block on the CPU in float32, with the arrays between its operations in the core's caches.

The kernels equal the operations one after another (reference.py), in other loops. Operation by operation, all B texts pass
through memory a dozen times and the threads wait for each other after every pass. Here a task is a few texts, and a thread
takes them through the whole block:

    forward    for a few rows at a time: norm_1, qkv
               for a head at a time:     attention
               for a few rows at a time: merge, + x, norm_2, widen, gelu, narrow, + middle
    backward   the same three loops in reverse order, with the gradients of all but the four matrices

A few rows are as many as fit a block of matmul/block.py. The threads pack the four matrices once and share them. The gradients
of the matrices sum over all texts, so they are four ordinary products at the end.

With fewer texts than threads, some threads would have nothing to do. Then the operations run one after another. The same
holds for up to FEW_ROWS rows with a cache: packing the matrices would take longer than the products.
"""

import math
from collections import namedtuple

import numpy as np
from numba import prange

from kernels.attention.cpu import (
    FEW_QUERIES,
    Head,
    NextHead,
    Problem,
    attention_backward,
    attention_forward,
    backward_head,
    backward_room,
    forward_head,
    forward_room,
    one_query,
    starts_of,
)
from kernels.block import reference
from kernels.block.reference import Operations, Parameters, Saved
from kernels.buffers import has_rows, write
from kernels.contract import follows, unchecked
from kernels.gelu.cpu import FORMS, gelu_tanh_slope
from kernels.launch import CACHE_GAP, address, inner, kernel, kernel_lock, scratch, share, threads_for
from kernels.layernorm.cpu import Row, backward_row, forward_row, layernorm_backward, layernorm_forward
from kernels.matmul.block import ROOM, TALLEST, Epilogue, Operand, Piece, block_product
from kernels.matmul.cpu import FEW_ROWS, linear_backward, linear_forward, matmul
from kernels.simd import Rows, load, next_task, row_of, store
from kernels.tile import COLUMNS, ROWS, packer

MOST_ROWS = 256  # rows of a task, unless a single text is longer
HEIGHT = TALLEST // ROWS * ROWS  # rows that pass through a loop at a time

# The parameters without the matrices, by their numbers in Parameters, and their sizes as multiples of C: in this order their
# gradients lie in a task's `sums`.
_SMALL = {0: 1, 1: 1, 3: 3, 5: 1, 6: 1, 7: 1, 9: 4, 11: 1}
_GELU = FORMS["tanh"]
_matmul = unchecked(matmul)
_OPERATIONS = Operations(
    layernorm_forward, layernorm_backward, linear_forward, linear_backward, attention_forward, attention_backward
)
_pack = packer(COLUMNS)

# The sizes: B texts of T tokens, after `seen` tokens in the cache; width C, H heads; `texts` texts are a task; the scale of
# attention, eps of the norms.
Sizes = namedtuple("Sizes", "B T seen C H texts scale eps")
# The cache: addresses of keys and values (0 for no cache), and the floats from one text, head and token to the next.
Cache = namedtuple("Cache", "keys values text head token")
_NO_CACHE = Cache(0, 0, 0, 0, 0)
# Addresses of arrays. The names are those of reference.py; d… are gradients.
Forward = namedtuple("Forward", "x y normal_1 mean_1 rstd_1 qkv attended logsumexp middle normal_2 mean_2 rstd_2 z wide")
Backward = namedtuple("Backward", "dy dz dmiddle dqkv dx")
# A packed matrix, the second factor of a product: its address, and its size (K, N).
Packed = namedtuple("Packed", "address K N")
Weights = namedtuple("Weights", "qkv merge widen narrow")  # packed
# Addresses in a thread's scratch memory: room for block_product; for HEIGHT rows, the gradients of `wide` and of a norm's
# output; for a task, the gradient of `attended`; room for attention.
Room = namedtuple("Room", "product dwide dnormal dattended attention")


@inner
def _weights(packed, sizes, forward):
    """The four packed matrices: transposed for the forward pass (x Wᵀ), as they stand for the backward pass (dy W)."""
    C = sizes.C
    a, b, c, d = packed
    if forward:
        return Weights(Packed(a, C, 3 * C), Packed(b, C, C), Packed(c, C, 4 * C), Packed(d, 4 * C, C))
    return Weights(Packed(a, 3 * C, C), Packed(b, C, C), Packed(c, 4 * C, C), Packed(d, C, 4 * C))


@inner
def _pack_share(weight, packed, transposed, thread, threads):
    """Pack this thread's share of the columns of a matrix, which lies at `weight` as it stands or transposed."""
    K, N = packed.K, packed.N
    row_step, column_step = (1, K) if transposed else (N, 1)
    first, last = share((N + COLUMNS - 1) // COLUMNS, thread, threads)
    j = first * COLUMNS
    _pack(weight + 4 * j * column_step, column_step, row_step, min(N, last * COLUMNS) - j, K, K, packed.address + 4 * j * K)


@inner
def _pack_shares(p, weights, transposed, thread, threads):
    _pack_share(p.qkv_weight, weights.qkv, transposed, thread, threads)
    _pack_share(p.merge_weight, weights.merge, transposed, thread, threads)
    _pack_share(p.widen_weight, weights.widen, transposed, thread, threads)
    _pack_share(p.narrow_weight, weights.narrow, transposed, thread, threads)


@inner
def _product(a, b, rows, c, add, epilogue, room):
    """C = A B, or += if `add`, for a few rows that are contiguous in memory.  a, c: addresses; b: Packed."""
    block_product(Operand(a, b.K, 1), b.address, b.K, Piece(c, b.N, rows, b.N), add, True, epilogue, room)


@inner
def _copy(source, n, target):
    for i in range(n):
        store(target, i, load(source, i))


@inner
def _add_rows(x, rows, n, sums):
    """sums: (n,) += the sum of the rows of x, (rows, n)."""
    for r in range(rows):
        row = x + 4 * r * n
        for i in range(n):
            sums[i] += load(row, i)


@inner
def _times_slope(dwide, z, n, dz):
    for i in range(n):
        store(dz, i, load(dwide, i) * gelu_tanh_slope(load(z, i)))


@inner
def _normalise(x, weight, bias, rows, sizes, y, mean, rstd):
    """The norm of a few rows."""
    step = 4 * sizes.C
    for r in range(rows):
        row_mean, row_rstd = forward_row(x + r * step, weight, bias, sizes.C, sizes.eps, y + r * step)
        store(mean, r, row_mean)
        store(rstd, r, row_rstd)


@inner
def _normalise_backward(dy, x, weight, mean, rstd, plus, rows, C, dx, dweight, dbias):
    """The gradient of the norm of a few rows, plus the gradient along the residual stream."""
    for r in range(rows):
        i = 4 * r * C
        backward_row(Row(dy + i, x + i, weight, plus + i, dx + i), C, load(mean, r), load(rstd, r), dweight, dbias)


@inner
def _heads_of(qkv, text, h, sizes):
    """The rows of q, k and v of head h of a text in qkv, (B, T, 3C)."""
    q = qkv + 4 * (text * sizes.T * 3 * sizes.C + h * (sizes.C // sizes.H))
    return Rows(q, 3 * sizes.C), Rows(q + 4 * sizes.C, 3 * sizes.C), Rows(q + 8 * sizes.C, 3 * sizes.C)


@inner
def _merged_head(x, text, h, sizes):
    """The rows of head h of a text in x, (B, T, C)."""
    return Rows(x + 4 * (text * sizes.T * sizes.C + h * (sizes.C // sizes.H)), sizes.C)


@inner
def _head(a, text, h, sizes):
    """Head h of a text."""
    q, k, v = _heads_of(a.qkv, text, h, sizes)
    return Head(q, k, v, _merged_head(a.attended, text, h, sizes), a.logsumexp + 4 * (text * sizes.H + h) * sizes.T, 0)


@inner
def _problem(sizes):
    """The attention of one text."""
    return Problem(1, sizes.H, sizes.T, sizes.seen + sizes.T, sizes.C // sizes.H, True, sizes.seen, sizes.scale)


@inner
def _cached_head(a, cache, text, h, sizes, start):
    """Head h of a text whose keys and values lie in the cache, to which its new ones are added."""
    head = _head(a, text, h, sizes)
    D, place = sizes.C // sizes.H, 4 * (text * cache.text + h * cache.head)
    keys, values = Rows(cache.keys + place, cache.token), Rows(cache.values + place, cache.token)
    for t in range(sizes.T):
        _copy(row_of(head.k, t), D, row_of(keys, sizes.seen + t))
        _copy(row_of(head.v, t), D, row_of(values, sizes.seen + t))
    return Head(head.q, keys, values, head.y, head.logsumexp, min(sizes.seen + sizes.T, max(0, start)))


@inner
def _nothing_ahead():
    """No next head to prefetch: the caches hold it already."""
    return NextHead(np.empty(0, np.int64), np.empty(0, np.int64), np.zeros(1, np.int64), 0, 0)


@inner
def _forward_texts(first, last, a, p, cache, starts, weights, sizes, room, ahead):
    """The texts first…last − 1 through the whole block."""
    T, C = sizes.T, sizes.C
    begin, end = first * T, last * T
    for row in range(begin, end, HEIGHT):
        rows, i, j = min(HEIGHT, end - row), 4 * row, 4 * row * C
        _normalise(a.x + j, p.norm_1_weight, p.norm_1_bias, rows, sizes, a.normal_1 + j, a.mean_1 + i, a.rstd_1 + i)
        _product(a.normal_1 + j, weights.qkv, rows, a.qkv + 3 * j, False, Epilogue(p.qkv_bias, 0, 0, 0), room.product)
    for text in range(first, last):
        for h in range(sizes.H):
            cached = cache.keys != 0
            head = _cached_head(a, cache, text, h, sizes, starts[text]) if cached else _head(a, text, h, sizes)
            if T <= FEW_QUERIES:
                for t in range(T):
                    one_query(head, t, _problem(sizes), room.attention)
            else:
                space = forward_room(room.attention, sizes.seen + T, C // sizes.H)
                forward_head(head, 0, T, _problem(sizes), space, ahead)
    for row in range(begin, end, HEIGHT):
        rows, i, j = min(HEIGHT, end - row), 4 * row, 4 * row * C
        middle, normal, z, wide, y = a.middle + j, a.normal_2 + j, a.z + 4 * j, a.wide + 4 * j, a.y + j
        _copy(a.x + j, rows * C, middle)
        _product(a.attended + j, weights.merge, rows, middle, True, Epilogue(p.merge_bias, 0, 0, 0), room.product)
        _normalise(middle, p.norm_2_weight, p.norm_2_bias, rows, sizes, normal, a.mean_2 + i, a.rstd_2 + i)
        _product(normal, weights.widen, rows, wide, False, Epilogue(p.widen_bias, z, 4 * C, _GELU), room.product)
        _copy(middle, rows * C, y)
        _product(wide, weights.narrow, rows, y, True, Epilogue(p.narrow_bias, 0, 0, 0), room.product)


@kernel
def _forward(arrays, parameters, past, starts, numbers, packed, memory, room_floats, tasks, threads):
    """The block.

    arrays, parameters, past, numbers: a Forward, the addresses of Parameters, Cache, Sizes; starts: (B,), each text's first
    token after the padding, unused without a cache; packed: four addresses of memory for the packed matrices; memory: the
    address of room_floats floats for each thread; tasks: the address of a zeroed counter.
    """
    a = Forward(*arrays)
    p = Parameters(*parameters)
    cache = Cache(*past)
    sizes = Sizes(*numbers)
    for thread in prange(threads):
        _pack_shares(p, _weights(packed, sizes, True), True, thread, threads)
    for thread in prange(threads):
        start = memory + 4 * thread * room_floats
        room, weights, ahead = Room(start, 0, 0, 0, start + 4 * ROOM), _weights(packed, sizes, True), _nothing_ahead()
        task = next_task(tasks)
        while task * sizes.texts < sizes.B:
            first = task * sizes.texts
            _forward_texts(first, min(sizes.B, first + sizes.texts), a, p, cache, starts, weights, sizes, room, ahead)
            task = next_task(tasks)


@inner
def _backward_texts(first, last, a, d, p, weights, sizes, room, ahead, sums):
    """The gradients of the texts first…last − 1.  sums: (13C,), the gradients of the biases and norms, see _SMALL."""
    T, C = sizes.T, sizes.C
    begin, end, none = first * T, last * T, Epilogue(0, 0, 0, 0)
    for row in range(begin, end, HEIGHT):
        rows, i, j = min(HEIGHT, end - row), 4 * row, 4 * row * C
        dy, dz, dmiddle = d.dy + j, d.dz + 4 * j, d.dmiddle + j
        _add_rows(dy, rows, C, sums[12 * C : 13 * C])
        _product(dy, weights.narrow, rows, room.dwide, False, none, room.product)
        _times_slope(room.dwide, a.z + 4 * j, rows * 4 * C, dz)
        _add_rows(dz, rows, 4 * C, sums[8 * C : 12 * C])
        _product(dz, weights.widen, rows, room.dnormal, False, none, room.product)
        dweight, dbias = sums[6 * C : 7 * C], sums[7 * C : 8 * C]
        mean, rstd = a.mean_2 + i, a.rstd_2 + i
        _normalise_backward(room.dnormal, a.middle + j, p.norm_2_weight, mean, rstd, dy, rows, C, dmiddle, dweight, dbias)
        _add_rows(dmiddle, rows, C, sums[5 * C : 6 * C])
        _product(dmiddle, weights.merge, rows, room.dattended + j - 4 * begin * C, False, none, room.product)
    for text in range(first, last):
        for h in range(sizes.H):
            dq, dk, dv = _heads_of(d.dqkv, text, h, sizes)
            dout, space = _merged_head(room.dattended, text - first, h, sizes), backward_room(room.attention, T, C // sizes.H)
            backward_head(_head(a, text, h, sizes), dout, dq, dk, dv, _problem(sizes), space, ahead)
    for row in range(begin, end, HEIGHT):
        rows, i, j = min(HEIGHT, end - row), 4 * row, 4 * row * C
        _add_rows(d.dqkv + 3 * j, rows, 3 * C, sums[2 * C : 5 * C])
        _product(d.dqkv + 3 * j, weights.qkv, rows, room.dnormal, False, none, room.product)
        dweight, dbias = sums[:C], sums[C : 2 * C]
        mean, rstd = a.mean_1 + i, a.rstd_1 + i
        _normalise_backward(
            room.dnormal, a.x + j, p.norm_1_weight, mean, rstd, d.dmiddle + j, rows, C, d.dx + j, dweight, dbias
        )


@kernel
def _backward(arrays, gradients, parameters, numbers, packed, memory, room_floats, sums, tasks, threads):
    """The gradients of all but the matrices.

    gradients: a Backward; sums: (tasks, 13C + CACHE_GAP), zeros, of each task; the rest as in _forward.
    """
    a = Forward(*arrays)
    d = Backward(*gradients)
    p = Parameters(*parameters)
    sizes = Sizes(*numbers)
    T, C = sizes.T, sizes.C
    for thread in prange(threads):
        _pack_shares(p, _weights(packed, sizes, False), False, thread, threads)
    for thread in prange(threads):
        start = memory + 4 * thread * room_floats
        dwide = start + 4 * ROOM
        dnormal = dwide + 16 * HEIGHT * C
        dattended = dnormal + 4 * HEIGHT * C
        room = Room(start, dwide, dnormal, dattended, dattended + 4 * sizes.texts * T * C)
        weights, ahead = _weights(packed, sizes, False), _nothing_ahead()
        task = next_task(tasks)
        while task * sizes.texts < sizes.B:
            first = task * sizes.texts
            _backward_texts(first, min(sizes.B, first + sizes.texts), a, d, p, weights, sizes, room, ahead, sums[task])
            task = next_task(tasks)


def _sizes(x: np.ndarray, seen: int, n_head: int, eps: float, threads: int) -> Sizes:
    B, T, C = x.shape
    texts = max(1, min(MOST_ROWS // T, B // (2 * threads)))
    return Sizes(B, T, seen, C, n_head, texts, np.float32(1 / math.sqrt(C // n_head)), np.float32(eps))


def _scratch(C: int, room_floats: int, threads: int) -> tuple[tuple[int, ...], int]:
    """The addresses of memory for four packed matrices, and of room for each thread."""
    ends = np.cumsum([n * C * C + 4 * C * COLUMNS for n in (3, 1, 4, 4)])
    start = scratch(int(ends[-1]) + room_floats * threads)
    second, third, fourth, rooms = (start + 4 * int(end) for end in ends)
    return (start, second, third, fourth), rooms


def _threads_for(x: np.ndarray) -> int:
    return threads_for(12 * x.shape[-1] * x.size // 16)


@follows(reference.block_forward)
def block_forward(x, parameters, *, n_head, eps=1e-5):
    """See kernels/block/reference.py."""
    if len(x) < _threads_for(x) or not x.size:
        return unchecked(reference.block_forward)(x, parameters, n_head=n_head, eps=eps, operations=_OPERATIONS)
    return _run(x, parameters, n_head, eps, _NO_CACHE, np.empty(0, np.int64), 0)


@follows(reference.block_with_cache)
def block_with_cache(x, parameters, keys, values, *, n_head, seen, key_start=None, eps=1e-5):
    """See kernels/block/reference.py."""
    (B, T, _), in_place = x.shape, has_rows(keys) and has_rows(values) and keys.strides == values.strides
    if B < _threads_for(x) or B * T <= FEW_ROWS or not x.size or not in_place:
        settings: dict = dict(n_head=n_head, seen=seen, key_start=key_start, eps=eps, operations=_OPERATIONS)
        return unchecked(reference.block_with_cache)(x, parameters, keys, values, **settings)
    cache = Cache(address(keys), address(values), *(step // 4 for step in keys.strides[:3]))
    return _run(x, parameters, n_head, eps, cache, starts_of(key_start, B), seen)[0]


def _run(x, parameters, n_head, eps, cache, starts, seen) -> tuple[np.ndarray, Saved]:
    B, T, C = x.shape
    threads = _threads_for(x)
    x, parameters = np.ascontiguousarray(x, np.float32), [np.ascontiguousarray(p, np.float32) for p in parameters]
    narrow, wide, row = (B, T, C), (B, T, 4 * C), (B, T)
    shapes = narrow, row, row, (B, T, 3 * C), narrow, (B, n_head, T), narrow, narrow, row, row, wide, wide
    y, saved = np.empty(narrow, np.float32), Saved(*(np.empty(shape, np.float32) for shape in shapes))
    tasks = np.zeros(1, np.int64)
    sizes = _sizes(x, seen, n_head, eps, threads)
    room_floats = ROOM + forward_room.py_func(0, seen + T, C // n_head).end // 4
    arrays, weights = tuple(map(address, (x, y, *saved))), tuple(map(address, parameters))
    with kernel_lock:
        packed, memory = _scratch(C, room_floats, threads)
        _forward(arrays, weights, tuple(cache), starts, tuple(sizes), packed, memory, room_floats, address(tasks), threads)
    return y, saved


@follows(reference.block_backward)
def block_backward(dy, x, parameters, saved, *, n_head, out=(None,) * 12, accumulate=False):
    """See kernels/block/reference.py."""
    B, T, C = x.shape
    threads = _threads_for(x)
    if B < threads or not x.size:
        settings: dict = dict(n_head=n_head, out=out, accumulate=accumulate, operations=_OPERATIONS)
        return unchecked(reference.block_backward)(dy, x, parameters, saved, **settings)
    dy, x, *parameters = (np.ascontiguousarray(a, np.float32) for a in (dy, x, *parameters))
    s = Saved(*(np.ascontiguousarray(a, np.float32) for a in saved))
    dx, dmiddle, dqkv, dz = (np.empty((B, T, n * C), np.float32) for n in (1, 1, 3, 4))
    tasks = np.zeros(1, np.int64)
    sizes = _sizes(x, 0, n_head, 0.0, threads)
    room_floats = ROOM + 5 * HEIGHT * C + sizes.texts * T * C + backward_room.py_func(0, T, C // n_head).end // 4
    sums = np.zeros((-(-B // sizes.texts), 13 * C + CACHE_GAP), np.float32)
    arrays, weights = (address(x), 0, *map(address, s)), tuple(map(address, parameters))
    gradients = tuple(map(address, (dy, dz, dmiddle, dqkv, dx)))
    with kernel_lock:
        packed, memory = _scratch(C, room_floats, threads)
        _backward(arrays, gradients, weights, tuple(sizes), packed, memory, room_floats, sums, address(tasks), threads)
    grads: list[np.ndarray | None] = [None] * 12
    total, first = sums.sum(axis=0), 0
    for i, multiple in _SMALL.items():
        last = first + multiple * C
        grads[i] = write(total[first:last], out[i], accumulate)
        first = last
    for i, upstream, factor in ((2, dqkv, s.normal_1), (4, dmiddle, s.attended), (8, dz, s.normal_2), (10, dy, s.wide)):
        rows = upstream.reshape(B * T, -1), factor.reshape(B * T, -1)
        grads[i] = _matmul(*rows, transpose_a=True, out=out[i], accumulate=accumulate and out[i] is not None)
    return dx, tuple(grads)
