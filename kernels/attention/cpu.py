"""Attention on the CPU in float32, without ever storing the (T, S) matrix of scores.

The kernels equal `naive_attention` below: one pass over the keys keeps a running maximum and a running sum for each query, and
rescales the sums so far whenever the maximum grows. Memory is linear in T.
Source: Milakov, Gimelshein 2018, Online normalizer calculation for softmax (arXiv:1805.02867), Algorithm 3.
"""

import math
from collections import namedtuple

import numpy as np
from numba import prange, types

from kernels.attention import reference
from kernels.buffers import copy_to_out, has_rows, row_result
from kernels.contract import follows
from kernels.launch import CACHE_GAP, address, inner, kernel, kernel_lock, scratch, threads_for
from kernels.simd import (
    WIDTH,
    Rows,
    add_rows,
    dot,
    exp_to_zero,
    four_dots,
    load,
    maximum,
    next_task,
    prefetch_floats,
    row_of,
    store,
)
from kernels.tile import ROWS as TILE_ROWS
from kernels.tile import packer, register_tile, unpack


def naive_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """softmax(scale · q kᵀ) v of one head.  q: (T, D), k and v: (S, D) -> (T, D)."""
    y = np.zeros_like(q)  # (T, D)
    for t in range(len(q)):
        top, total = -math.inf, 0.0
        for s in range(len(k)):
            score = scale * float(q[t] @ k[s])
            new_top = max(top, score)
            rescale, weight = math.exp(top - new_top), math.exp(score - new_top)
            total = total * rescale + weight
            y[t] = y[t] * rescale + weight * v[s]
            top = new_top
        y[t] /= total
    return y


# What the kernels do differently:
#
# - They take a block of queries and a block of keys at a time, small enough for the first-level cache, so that both products
#   are matrix products for the register tile (kernels/tile.py).
# - A block holds the transposed scores Sᵀ: a row for each key, a column for each query. The maximum and the sum over keys then
#   run down the columns, WIDTH queries at a time. And the tile writes Pᵀ in just the order in which Oᵀ = Vᵀ Pᵀ reads it.
# - They skip blocks that the causal mask hides completely.
# - A task is a head, or a range of queries if there are few heads. Threads draw tasks until none is left.
# - While one head is computed, they prefetch the rows of the next, because packing those rows would otherwise wait for memory.
#
# Addresses count bytes, 4 for a float32. Capitals follow the papers: Q, P, O, dQ …

_F, _MINUS_INFINITY = types.float32, np.float32(-np.inf)

ROWS = TILE_ROWS  # keys or features in a tile
QUERIES = 2 * WIDTH  # queries in a panel: two vectors
BLOCK = 2 * QUERIES  # queries in a block of the backward pass
STEP = math.lcm(ROWS, 4)  # the forward pass takes keys and features in tiles and in fours
KEYS = 256 // STEP * STEP  # keys in a block of the forward pass: 32 kB of scores with AVX-512
KEYS_BACKWARD = 64 // ROWS * ROWS  # keys in a block of the backward pass, which holds two blocks of scores
PREFETCH_ROWS = 2  # rows of the next head to prefetch at a time
FEW_QUERIES = 4  # up to this many queries read keys and values in place

_tile = register_tile(ROWS, 2)  # Sᵀ = K Qᵀ, Oᵀ += Vᵀ Pᵀ, dPᵀ = V dOᵀ
_pack_rows, _pack_queries = packer(ROWS), packer(QUERIES)


# The sizes and the mask of all heads. Query t sees the keys up to t + offset if `causal`, else all.
Problem = namedtuple("Problem", "B H T S D causal offset scale")
# A head. q, y: Rows (T, D); k, v: Rows (S, D); the address of its T logsumexps; its first key that is not padding.
Head = namedtuple("Head", "q k v y logsumexp start")
# The head to prefetch: addresses and row steps of its n arrays, (n,) each; rows prefetched so far, (1,); rows, floats in a row.
NextHead = namedtuple("NextHead", "arrays steps progress T D")
# Addresses in a thread's scratch memory: a head's packed keys and values, then the numbers of a panel of queries.
ForwardRoom = namedtuple("ForwardRoom", "keys values Q P O top total rescale end")


@inner
def forward_room(start, S, D):
    S_padded, D_padded = -(-S // STEP) * STEP, -(-D // STEP) * STEP
    values = start + 4 * (S_padded * D + WIDTH)
    Q = values + 4 * (S_padded * D_padded + WIDTH)
    P = Q + 4 * D * QUERIES
    O = P + 4 * KEYS * QUERIES
    top = O + 4 * D_padded * QUERIES
    total = top + 4 * QUERIES
    rescale = total + 4 * QUERIES
    return ForwardRoom(start, values, Q, P, O, top, total, rescale, rescale + 4 * (QUERIES + CACHE_GAP))


@inner
def _rows(views, i, head, H):
    """The rows of array i in one of the B · H heads.  views: (n, 4), see _views."""
    return Rows(views[i, 0] + 4 * (head // H * views[i, 1] + head % H * views[i, 2]), views[i, 3])


@inner
def _head(views, i, problem, logsumexp, starts):
    """Head i.  views: see _views; the first four rows describe q, k, v and y."""
    H = problem.H
    q, k, v, y = _rows(views, 0, i, H), _rows(views, 1, i, H), _rows(views, 2, i, H), _rows(views, 3, i, H)
    return Head(q, k, v, y, logsumexp + 4 * i * problem.T, min(problem.S, max(0, starts[i // H])))


@inner
def _next_head(views, head, H, T, D):
    arrays = views[:, 0] + 4 * (head // H * views[:, 1] + head % H * views[:, 2])
    return NextHead(arrays, views[:, 3], np.zeros(1, np.int64), T, D)


@inner
def _prefetch(ahead):
    """Prefetch the next few rows of the next head."""
    for t in range(ahead.progress[0], min(ahead.T, ahead.progress[0] + PREFETCH_ROWS)):
        for i in range(len(ahead.arrays)):
            prefetch_floats(ahead.arrays[i] + 4 * t * ahead.steps[i], ahead.D)
    ahead.progress[0] += PREFETCH_ROWS


@inner
def _visible_end(problem, t):
    """The end of the keys that queries before t can see."""
    return min(problem.S, max(0, t + problem.offset)) if problem.causal else problem.S


@inner
def _fill(target, n, value):
    for i in range(n):
        store(target, i, value)


@inner
def _scale(target, n, factor):
    for i in range(n):
        store(target, i, load(target, i) * factor)


@inner
def _scale_columns(target, rows, factors):
    """Multiply each of QUERIES columns by its own factor, four rows at a time."""
    for r in range(0, rows, 4):
        for i in range(QUERIES):
            for n in range(r, r + 4):
                store(target, n * QUERIES + i, load(target, n * QUERIES + i) * load(factors, i))


@inner
def _finite(top):
    """The maximum of the scores, or 0 if no key is visible: exp(-inf − 0) is 0, exp(-inf + inf) would be NaN."""
    return top if top != _MINUS_INFINITY else _F(0.0)


@inner
def _pack_features(rows, S, padded, D, target):
    """Pack S rows of D features as target[panel][key][feature]: ROWS features a panel, `padded` keys, zeros beyond S."""
    _pack_rows(rows.address, 1, rows.step, D, S, padded, target)
    for d in range(0, D, ROWS):
        _fill(target + 4 * (d * padded + S * ROWS), (padded - S) * ROWS, _F(0.0))


@inner
def _softmax_step(P, keys, top, total, rescale):
    """Turn scores into exp(score − new maximum), four keys at a time, and update the running values of each query (column).

    top: maximum so far; total: sum so far; rescale: the factor by which the earlier terms shrink.
    """
    for i in range(QUERIES):
        store(rescale, i, load(top, i))
    for j in range(0, keys, 4):
        row = P + 4 * j * QUERIES
        for i in range(QUERIES):
            a = maximum(load(row, i), load(row, QUERIES + i))
            b = maximum(load(row, 2 * QUERIES + i), load(row, 3 * QUERIES + i))
            store(top, i, maximum(load(top, i), maximum(a, b)))
    for i in range(QUERIES):
        shift = _finite(load(top, i))
        store(rescale, i, exp_to_zero(load(rescale, i) - shift))
        store(total, i, load(total, i) * load(rescale, i))
    for j in range(0, keys, 4):
        row = P + 4 * j * QUERIES
        for i in range(QUERIES):
            shift = _finite(load(top, i))
            p0, p1 = exp_to_zero(load(row, i) - shift), exp_to_zero(load(row, QUERIES + i) - shift)
            p2, p3 = exp_to_zero(load(row, 2 * QUERIES + i) - shift), exp_to_zero(load(row, 3 * QUERIES + i) - shift)
            store(row, i, p0)
            store(row, QUERIES + i, p1)
            store(row, 2 * QUERIES + i, p2)
            store(row, 3 * QUERIES + i, p3)
            store(total, i, load(total, i) + ((p0 + p1) + (p2 + p3)))


@inner
def _forward_panel(head, first_query, n, problem, room, ahead):
    """Attention of n ≤ QUERIES queries of a head whose keys and values are packed."""
    D, padded = problem.D, -(-problem.S // STEP) * STEP
    _pack_queries(row_of(head.q, first_query), head.q.step, 1, n, D, D, room.Q)
    _scale(room.Q, D * QUERIES, problem.scale)
    _fill(room.top, QUERIES, _MINUS_INFINITY)
    _fill(room.total, QUERIES, _F(0.0))
    end = _visible_end(problem, first_query + n)
    first = head.start // STEP * STEP
    _fill(room.O, -(-D // ROWS) * ROWS * QUERIES, _F(0.0))
    for k0 in range(first, end, KEYS):
        keys = -(-(min(end, k0 + KEYS) - k0) // STEP) * STEP
        for j in range(0, keys, ROWS):
            _prefetch(ahead)
            _tile(room.keys + 4 * (k0 + j) * D, room.Q, room.P + 4 * j * QUERIES, D, QUERIES, False, 0)
        for j in range(keys):
            hidden = k0 + j - problem.offset - first_query if problem.causal else 0  # this many queries do not see the key
            if k0 + j < head.start or k0 + j >= end:
                hidden = QUERIES
            _fill(room.P + 4 * j * QUERIES, hidden, _MINUS_INFINITY)
        _softmax_step(room.P, keys, room.top, room.total, room.rescale)
        if k0 > first:
            _scale_columns(room.O, D, room.rescale)
        for d in range(0, D, ROWS):
            _tile(room.values + 4 * (d * padded + k0 * ROWS), room.P, room.O + 4 * d * QUERIES, keys, QUERIES, True, 0)
    for i in range(QUERIES):
        store(room.rescale, i, _F(1.0) / load(room.total, i) if load(room.total, i) != _F(0.0) else _F(0.0))
    _scale_columns(room.O, D, room.rescale)
    unpack(room.O, QUERIES, n, D, row_of(head.y, first_query), head.y.step)
    for i in range(n):
        store(head.logsumexp, first_query + i, _F(math.log(load(room.total, i))) + load(room.top, i))


@inner
def forward_head(head, t0, t1, problem, room, ahead):
    """Attention of the queries t0…t1 − 1 of a head."""
    S, D, end = problem.S, problem.D, _visible_end(problem, t1)
    _pack_rows(head.k.address, head.k.step, 1, end, D, D, room.keys)  # [panel][d][key]
    _pack_features(head.v, end, -(-S // STEP) * STEP, D, room.values)
    for t in range(t0, t1, QUERIES):
        _forward_panel(head, t, min(QUERIES, t1 - t), problem, room, ahead)


@inner
def attend(q, keys, values, start, end, D, scale, scores, y):
    """Attention of one query to the keys start…end − 1, read in place: reading them takes most of a generation step's time.

    q, y: addresses of D floats; keys, values: Rows; scores: address of memory for `end` floats.

    Returns:
        The largest score (-inf if there are no keys), and the sum of exp(score − the largest).
    """
    j = start
    while j + 4 <= end:
        products = four_dots(q, row_of(keys, j), keys.step, D)
        for i in range(4):
            store(scores, j + i, products[i] * scale)
        j += 4
    while j < end:
        store(scores, j, dot(q, row_of(keys, j), D) * scale)
        j += 1
    top, total = _MINUS_INFINITY, _F(0.0)
    for j in range(start, end):
        top = maximum(top, load(scores, j))
    shift = _finite(top)
    for j in range(start, end):
        p = exp_to_zero(load(scores, j) - shift)
        store(scores, j, p)
        total += p
    _fill(y, D, _F(0.0))
    add_rows(scores + 4 * start, row_of(values, start), values.step, end - start, D, y)
    if total != _F(0.0):
        _scale(y, D, _F(1.0) / total)
    return top, total


@inner
def one_query(head, t, problem, scores):
    """Attention of query t of a head.  scores: address of memory for problem.S floats."""
    end = _visible_end(problem, t + 1)
    q, y = row_of(head.q, t), row_of(head.y, t)
    top, total = attend(q, head.k, head.v, head.start, end, problem.D, problem.scale, scores, y)
    store(head.logsumexp, t, _F(math.log(total)) + top)


@kernel
def _forward(views, starts, logsumexp, numbers, chunk, memory, tasks, threads):
    """Attention of all heads, in tasks of `chunk` queries.

    views: (4, 4), see _views, for q, k, v, y; starts: (B,); numbers: a Problem; tasks: address of a zeroed counter.
    """
    problem = Problem(*numbers)
    H, T, S, D = problem.H, problem.T, problem.S, problem.D
    heads, chunks = problem.B * H, (T + chunk - 1) // chunk
    for thread in prange(threads):
        room = forward_room(memory + thread * forward_room(0, S, D).end, S, D)
        task = next_task(tasks)
        while task < heads * chunks:
            # The last queries see the most keys, so their tasks take longest and come first.
            i, t0 = task // chunks, (chunks - 1 - task % chunks) * chunk
            t1, head = min(T, t0 + chunk), _head(views, i, problem, logsumexp, starts)
            if T <= FEW_QUERIES:
                for t in range(t0, t1):
                    one_query(head, t, problem, room.keys)
            else:
                # The head of this thread's next task, if all threads advance equally.
                next_head = min(heads - 1, (task + threads) // chunks)
                forward_head(head, t0, t1, problem, room, _next_head(views, next_head, H, T, D))
            task = next_task(tasks)


def _readable(x: np.ndarray) -> np.ndarray:
    """x if it is float32 with contiguous rows, as the kernels require; else a copy."""
    return x if has_rows(x) else np.ascontiguousarray(x, np.float32)


def _views(*arrays: np.ndarray) -> np.ndarray:
    """(n, 4): the address of each array (B, H, rows, D), and the floats from one batch, head and row to the next."""
    return np.array([(address(x), *(s // 4 for s in x.strides[:3])) for x in arrays], np.int64)


def starts_of(key_start, B: int) -> np.ndarray:
    """The first key of each text that is not padding, (B,)."""
    return np.zeros(B, np.int64) if key_start is None else np.array(np.broadcast_to(key_start, (B,)), np.int64)


def _problem(q: np.ndarray, S: int, causal_offset: int | None, scale: float | None) -> Problem:
    B, H, T, D = q.shape
    factor = np.float32(1 / math.sqrt(D) if scale is None else scale)
    return Problem(B, H, T, S, D, causal_offset is not None, int(causal_offset or 0), factor)


@follows(reference.attention_forward)
def attention_forward(q, k, v, *, scale=None, causal_offset=None, key_start=None, out=None):
    """See kernels/attention/reference.py."""
    (B, H, T, D), S = q.shape, k.shape[-2]
    y, logsumexp = row_result(out, q.shape), np.empty((B, H, T), np.float32)
    if not S or not y.size:
        y[...], logsumexp[...] = 0, -np.inf
        return copy_to_out(y, out), logsumexp
    views = [*map(_readable, (q, k, v)), y]
    threads, tasks = threads_for(B * H * T * S * D // 8), np.zeros(1, np.int64)
    # A task is a head, unless there are too few heads to keep all threads busy to the end.
    chunk = T if B * H >= 4 * threads or T <= FEW_QUERIES else -(-T // (-(-4 * threads // (B * H)) * QUERIES)) * QUERIES
    numbers = tuple(_problem(q, S, causal_offset, scale))
    with kernel_lock:
        memory = scratch(threads * forward_room.py_func(0, S, D).end // 4)
        _forward(_views(*views), starts_of(key_start, B), address(logsumexp), numbers, chunk, memory, address(tasks), threads)
    return copy_to_out(y, out), logsumexp


# The backward pass computes for each block of queries and each block of keys, again with a row for each key:
#   Sᵀ = K Qᵀ,   Pᵀ = exp(Sᵀ − L),   dPᵀ = V dOᵀ,   dSᵀ = Pᵀ (dPᵀ − row),
#   dV += Pᵀ dO,   dK += dSᵀ Q,   dQᵀ += Kᵀ dSᵀ.
# The dV and dK products read their first operand from the block in place; the tile accepts any distance between rows.
_queries_tile = register_tile(ROWS, 2, b_row=BLOCK)  # dQᵀ: the block is the second operand
_keys_tile = register_tile(ROWS, 2, a_row=BLOCK, a_column=1)  # dV, dK: the block is the first operand

# Addresses in a thread's scratch memory: a head's packed keys (in two orders) and values; a block of queries and a block of
# upstream gradients (in two orders each, see _pack_block); a block of weights and a block of their gradients; the sums of dQ,
# dK and dV; logsumexp and row of the block's queries.
BackwardRoom = namedtuple("BackwardRoom", "K K_features V Q Q_up dO dO_up P dP dQ dK dV logsumexp row end")


@inner
def backward_room(start, S, D):
    S_padded, D_padded, D_wide = -(-S // ROWS) * ROWS, -(-D // ROWS) * ROWS, -(-D // QUERIES) * QUERIES
    K_features = start + 4 * (S_padded * D + WIDTH)
    V = K_features + 4 * (S_padded * D_padded + WIDTH)
    Q = V + 4 * (S_padded * D + WIDTH)
    Q_up = Q + 4 * BLOCK * D
    dO = Q_up + 4 * BLOCK * D_wide
    dO_up = dO + 4 * BLOCK * D
    P = dO_up + 4 * BLOCK * D_wide
    dP = P + 4 * BLOCK * KEYS_BACKWARD
    dQ = dP + 4 * BLOCK * KEYS_BACKWARD
    dK = dQ + 4 * BLOCK * D_padded
    dV = dK + 4 * S_padded * D_wide
    logsumexp = dV + 4 * S_padded * D_wide
    row = logsumexp + 4 * BLOCK
    end = row + 4 * (BLOCK + CACHE_GAP)
    return BackwardRoom(start, K_features, V, Q, Q_up, dO, dO_up, P, dP, dQ, dK, dV, logsumexp, row, end)


@inner
def _pack_block(x, x_step, n, D, sideways, upright):
    """Pack n ≤ BLOCK rows in both orders: sideways[panel][d][row] and upright[panel][row][d], zeros beyond n."""
    _fill(sideways + 4 * (n // QUERIES * QUERIES) * D, (BLOCK - n // QUERIES * QUERIES) * D, _F(0.0))
    _pack_queries(x, x_step, 1, n, D, D, sideways)
    _pack_queries(x, 1, x_step, D, n, BLOCK, upright)
    for d in range(0, D, QUERIES):
        _fill(upright + 4 * (d * BLOCK + n * QUERIES), (BLOCK - n) * QUERIES, _F(0.0))


@inner
def _weights(P, dP, logsumexp, row):
    """Turn scores S into P = exp(S − logsumexp), and dP into dS = P (dP − row), in place: ROWS keys, a panel of queries."""
    for r in range(ROWS):
        p_row, d_row = P + 4 * r * BLOCK, dP + 4 * r * BLOCK
        for i in range(QUERIES):
            p = exp_to_zero(load(p_row, i) - load(logsumexp, i))
            store(p_row, i, p)
            store(d_row, i, p * (load(d_row, i) - load(row, i)))


@inner
def _backward_block(k0, keys, first_query, start, end, problem, room, ahead):
    """Add what one block of queries and one block of keys contribute to dQᵀ, dK and dV."""
    D, D_wide, padded = problem.D, -(-problem.D // QUERIES) * QUERIES, -(-problem.S // ROWS) * ROWS
    # The first `before` queries do not see key k0, the first before + 1 do not see key k0 + 1, and so on.
    before = k0 - problem.offset - first_query if problem.causal else -keys
    for j in range(0, keys, ROWS):
        first = max(0, before + j) // QUERIES * QUERIES
        for i in range(first, BLOCK, QUERIES):
            place = 4 * (j * BLOCK + i)
            _prefetch(ahead)
            _tile(room.K + 4 * (k0 + j) * D, room.Q + 4 * i * D, room.P + place, D, BLOCK, False, 0)
            _tile(room.V + 4 * (k0 + j) * D, room.dO + 4 * i * D, room.dP + place, D, BLOCK, False, 0)
        for r in range(j, j + ROWS):
            hidden = before + r if start <= k0 + r < end else BLOCK
            if hidden > first:
                _fill(room.P + 4 * (r * BLOCK + first), hidden - first, _MINUS_INFINITY)
        for i in range(first, BLOCK, QUERIES):
            place = 4 * (j * BLOCK + i)
            _weights(room.P + place, room.dP + place, room.logsumexp + 4 * i, room.row + 4 * i)
    for i in range(0, BLOCK, QUERIES):
        visible = min(keys, i + QUERIES - before)
        if visible > 0:
            for d in range(0, D, ROWS):
                features, sums = room.K_features + 4 * (d * padded + k0 * ROWS), room.dQ + 4 * (d * BLOCK + i)
                _queries_tile(features, room.dP + 4 * i, sums, visible, BLOCK, True, 0)
    for d in range(0, D, QUERIES):
        for j in range(0, keys, ROWS):
            first = max(0, before + j)  # less than BLOCK: the last query sees the last key
            block, place = 4 * (j * BLOCK + first), 4 * ((k0 + j) * D_wide + d)
            up = 4 * (d * BLOCK + first * QUERIES)
            _keys_tile(room.P + block, room.dO_up + up, room.dV + place, BLOCK - first, D_wide, True, 0)
            _keys_tile(room.dP + block, room.Q_up + up, room.dK + place, BLOCK - first, D_wide, True, 0)


@inner
def _write_sums(sums, step, S, D, factor, target):
    """target: (S, D) = sums · factor."""
    for s in range(S):
        for d in range(D):
            store(target.address, s * target.step + d, load(sums, s * step + d) * factor)


@inner
def backward_head(head, dout, dq, dk, dv, problem, room, ahead):
    """One head's gradients.  dout, dq: Rows (T, D); dk, dv: Rows (S, D)."""
    q, k, v, y, logsumexp, start = head
    T, S, D, scale = problem.T, problem.S, problem.D, problem.scale
    padded, D_padded, D_wide = -(-S // ROWS) * ROWS, -(-D // ROWS) * ROWS, -(-D // QUERIES) * QUERIES
    _pack_rows(k.address, k.step, 1, S, D, D, room.K)
    _pack_features(k, S, padded, D, room.K_features)
    _pack_rows(v.address, v.step, 1, S, D, D, room.V)
    _fill(room.dK, padded * D_wide, _F(0.0))
    _fill(room.dV, padded * D_wide, _F(0.0))
    for t in range(0, T, BLOCK):
        n = min(BLOCK, T - t)
        _pack_block(row_of(q, t), q.step, n, D, room.Q, room.Q_up)
        _scale(room.Q, BLOCK * D, scale)
        _pack_block(row_of(dout, t), dout.step, n, D, room.dO, room.dO_up)
        _fill(room.logsumexp, BLOCK, _F(np.inf))  # beyond the last query every weight is exp(0 − inf) = 0
        _fill(room.row, BLOCK, _F(0.0))
        for i in range(n):
            store(room.logsumexp, i, _finite(load(logsumexp, t + i)))
            store(room.row, i, dot(row_of(dout, t + i), row_of(y, t + i), D))
        _fill(room.dQ, D_padded * BLOCK, _F(0.0))
        end = _visible_end(problem, t + n)
        for k0 in range(start // ROWS * ROWS, end, KEYS_BACKWARD):
            keys = -(-(min(end, k0 + KEYS_BACKWARD) - k0) // ROWS) * ROWS
            _backward_block(k0, keys, t, start, end, problem, room, ahead)
        _scale(room.dQ, D * BLOCK, scale)
        unpack(room.dQ, BLOCK, n, D, row_of(dq, t), dq.step)
    _write_sums(room.dK, D_wide, S, D, scale, dk)
    _write_sums(room.dV, D_wide, S, D, _F(1.0), dv)


@kernel
def _backward(views, starts, logsumexp, numbers, memory, tasks, threads):
    """views: (8, 4), see _views, for q, k, v, y, dout, dq, dk, dv; the rest as in _forward. A task is a head."""
    problem = Problem(*numbers)
    H, T, S, D = problem.H, problem.T, problem.S, problem.D
    heads = problem.B * H
    for thread in prange(threads):
        room = backward_room(memory + thread * backward_room(0, S, D).end, S, D)
        i = next_task(tasks)
        while i < heads:
            rows = T if T <= 512 else 0  # the rows of a longer head would leave the cache before their use
            ahead = _next_head(views[:5], min(heads - 1, i + threads), H, rows, D)
            dout, dq, dk, dv = _rows(views, 4, i, H), _rows(views, 5, i, H), _rows(views, 6, i, H), _rows(views, 7, i, H)
            backward_head(_head(views, i, problem, logsumexp, starts), dout, dq, dk, dv, problem, room, ahead)
            i = next_task(tasks)


@follows(reference.attention_backward)
def attention_backward(
    dout, q, k, v, y, logsumexp, *, scale=None, causal_offset=None, key_start=None, out=(None, None, None)
) -> tuple[np.ndarray, ...]:
    """See kernels/attention/reference.py."""
    (B, H, T, D), S = q.shape, k.shape[-2]
    grads = [row_result(buffer, x.shape) for buffer, x in zip(out, (q, k, v), strict=True)]
    if S and q.size:
        views = [*map(_readable, (q, k, v, y, dout)), *grads]
        logsumexp, tasks = np.ascontiguousarray(logsumexp, np.float32), np.zeros(1, np.int64)
        threads = min(threads_for(B * H * T * S * D // 8), B * H)
        numbers = tuple(_problem(q, S, causal_offset, scale))
        with kernel_lock:
            memory = scratch(threads * backward_room.py_func(0, S, D).end // 4)
            _backward(_views(*views), starts_of(key_start, B), address(logsumexp), numbers, memory, address(tasks), threads)
    else:
        for grad in grads:
            grad[...] = 0
    return tuple(copy_to_out(grad, buffer) for grad, buffer in zip(grads, out, strict=True))
