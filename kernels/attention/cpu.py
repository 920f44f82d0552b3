"""Attention on the CPU: the reference's signatures, float32, and never a (T, S) matrix.

The score matrix of one head is computed in blocks of a few dozen queries by some keys that stay in the nearest cache. The
softmax goes along (Milakov, Gimelshein 2018, arXiv:1805.02867): for each query a running maximum and a running sum are kept,
and what was summed so far is rescaled when the maximum grows. Memory is linear in T.

Everything is turned on its side. A block holds the scores as Sᵀ: a row for each key, a column for each query. Then

- the softmax over keys runs down the columns: maximum and sum of WIDTH queries at a time, none across a vector register;
- the block, as the register tile wrote it, is in the very order in which the tile wants the second operand of Oᵀ = Vᵀ Pᵀ,
  so between the two products nothing is rearranged.

Blocks that no query may see (causal) are skipped, not masked. Tasks are heads, or ranges of queries where heads are few.
While one head is computed, memory is asked for the rows of the next: packing them would otherwise wait for each.
"""

import math

import numpy as np
from numba import prange, types

from kernels.launch import APART, address, delivered, inner, kernel, result, running, scratch, workers
from kernels.simd import WIDTH, add_rows, dot, exp_to_zero, load, maximum, prefetch_numbers, store, take_number
from kernels.tile import ROWS, packer, register_tile, unpack

_F = types.float32

QUERIES = 2 * WIDTH  # in a panel: two vectors
BLOCK = 2 * QUERIES  # queries in a block of the backward pass
KEYS = 256  # in a block of the forward pass: 32 kB of scores with AVX-512
KEYS_BACK = 64  # in a block of the backward pass, which holds two such blocks
AT_ONCE = 2  # rows of the next head to ask for at a time
FEW = 4  # queries, up to which keys and values are read in place, once

_tile = register_tile(ROWS, 2)  # Sᵀ = K Qᵀ, Oᵀ += Vᵀ Pᵀ, and what resembles them in the backward pass
_pack_rows, _pack_queries = packer(ROWS), packer(QUERIES)
_MINUS_INFINITY = -np.inf


@inner
def _head(addresses, steps, number, H):
    """Where the arrays of head `number` of all B · H begin."""
    return addresses + 4 * (number // H * steps[:, 0] + number % H * steps[:, 1])


@inner
def _ask(ahead):
    """Ask memory for the next head's next few rows.  ahead: its arrays, floats from row to row of each, asked, rows, width."""
    arrays, steps, asked, T, D = ahead
    for t in range(asked[0], min(T, asked[0] + AT_ONCE)):
        for i in range(len(arrays)):
            prefetch_numbers(arrays[i] + 4 * t * steps[i], D)
    asked[0] += AT_ONCE


@inner
def _fill(target, n, value):
    for i in range(n):
        store(target, i, value)


@inner
def _scale(target, n, factor):
    for i in range(n):
        store(target, i, load(target, i) * factor)


@inner
def _copy_rows(source, source_row, n, D, factor, target, target_row):
    """n rows of D floats, multiplied by the factor."""
    for i in range(n):
        for d in range(D):
            store(target, i * target_row + d, load(source, i * source_row + d) * factor)


@inner
def _scale_columns(target, rows, factors):
    """Multiply each of QUERIES columns by its own factor, four rows at a time."""
    for r in range(0, rows, 4):
        for i in range(QUERIES):
            for n in range(r, r + 4):
                store(target, n * QUERIES + i, load(target, n * QUERIES + i) * load(factors, i))


@inner
def _pack_features(v, v_row, S, D, padded, target):
    """S rows of D features, in panels of ROWS features: target[panel][key][feature]; `padded` keys each, zeros beyond S."""
    _pack_rows(v, 1, v_row, D, S, padded, target)
    for d in range(0, D, ROWS):
        _fill(target + 4 * (d * padded + S * ROWS), (padded - S) * ROWS, _F(0.0))


@inner
def _softmax_step(P, keys, top, total, rescale):
    """exp(P − new maximum), column by column, four keys at a time; top, total: of each query; rescale: of what came before."""
    for i in range(QUERIES):
        store(rescale, i, load(top, i))
    for j in range(0, keys, 4):
        row = P + 4 * j * QUERIES
        for i in range(QUERIES):
            a = maximum(load(row, i), load(row, QUERIES + i))
            b = maximum(load(row, 2 * QUERIES + i), load(row, 3 * QUERIES + i))
            store(top, i, maximum(load(top, i), maximum(a, b)))
    for i in range(QUERIES):
        shift = load(top, i) if load(top, i) != _F(_MINUS_INFINITY) else _F(0.0)  # nothing seen yet: exp(-inf − 0) = 0
        store(rescale, i, exp_to_zero(load(rescale, i) - shift))
        store(total, i, load(total, i) * load(rescale, i))
    for j in range(0, keys, 4):
        row = P + 4 * j * QUERIES
        for i in range(QUERIES):
            shift = load(top, i) if load(top, i) != _F(_MINUS_INFINITY) else _F(0.0)
            p0, p1 = exp_to_zero(load(row, i) - shift), exp_to_zero(load(row, QUERIES + i) - shift)
            p2, p3 = exp_to_zero(load(row, 2 * QUERIES + i) - shift), exp_to_zero(load(row, 3 * QUERIES + i) - shift)
            store(row, i, p0)
            store(row, QUERIES + i, p1)
            store(row, 2 * QUERIES + i, p2)
            store(row, 3 * QUERIES + i, p3)
            store(total, i, load(total, i) + ((p0 + p1) + (p2 + p3)))


@inner
def _forward_panel(q, q_row, n, D, first_query, start, S, offset, causal, scale, padded, out, out_row, lse, room, ahead):
    """A panel of n ≤ QUERIES queries over the keys start…S−1.  room: (9,), see _forward_places; ahead: see _ask."""
    packed_k, packed_v, Q, P, O, top, total, rescale, _ = room  # noqa: E741  (the paper's name)
    _pack_queries(q, q_row, 1, n, D, D, Q)
    _scale(Q, D * QUERIES, scale)
    _fill(top, QUERIES, _F(_MINUS_INFINITY))
    _fill(total, QUERIES, _F(0.0))
    end = min(S, max(0, first_query + n + offset)) if causal else S
    first = start // ROWS * ROWS
    _fill(O, -(-D // ROWS) * ROWS * QUERIES, _F(0.0))
    for k0 in range(first, end, KEYS):
        keys = -(-(min(end, k0 + KEYS) - k0) // ROWS) * ROWS
        for j in range(0, keys, ROWS):
            _ask(ahead)
            _tile(packed_k + 4 * (k0 + j) * D, Q, P + 4 * j * QUERIES, D, QUERIES, False)
        for j in range(keys):
            hidden = k0 + j - offset - first_query if causal else 0  # so many of the queries do not see this key
            if k0 + j < start or k0 + j >= end:
                hidden = QUERIES
            _fill(P + 4 * j * QUERIES, hidden, _F(_MINUS_INFINITY))
        _softmax_step(P, keys, top, total, rescale)
        if k0 > first:
            _scale_columns(O, D, rescale)
        for d in range(0, D, ROWS):
            _tile(packed_v + 4 * (d * padded + k0 * ROWS), P, O + 4 * d * QUERIES, keys, QUERIES, True)
    for i in range(QUERIES):
        store(rescale, i, _F(1.0) / load(total, i) if load(total, i) != _F(0.0) else _F(0.0))
    _scale_columns(O, D, rescale)
    unpack(O, QUERIES, n, D, out, out_row)
    for i in range(n):
        store(lse, i, _F(math.log(load(total, i))) + load(top, i))


@inner
def _one_query(q, D, start, end, scale, k, k_row, v, v_row, out, lse, scores):
    """One query over the keys start…end−1, which are read in place: a step of generation, bound by that reading."""
    top, total = _F(_MINUS_INFINITY), _F(0.0)
    for j in range(start, end):
        score = dot(q, k + 4 * j * k_row, D) * scale
        store(scores, j, score)
        top = maximum(top, score)
    shift = top if top != _F(_MINUS_INFINITY) else _F(0.0)
    for j in range(start, end):
        p = exp_to_zero(load(scores, j) - shift)
        store(scores, j, p)
        total += p
    _fill(out, D, _F(0.0))
    add_rows(scores + 4 * start, v + 4 * start * v_row, v_row, end - start, D, out)
    if total != _F(0.0):
        _scale(out, D, _F(1.0) / total)
    store(lse, 0, _F(math.log(total)) + top)


def _forward_places(S, D):
    """Where in a thread's room lies what _forward_panel works with, counted in floats; last, how large the room is."""
    padded, D_padded = -(-S // ROWS) * ROWS, -(-D // ROWS) * ROWS
    head = padded * D + WIDTH, padded * D_padded + WIDTH  # packed keys and values
    panel = D * QUERIES, KEYS * QUERIES, D_padded * QUERIES, QUERIES, QUERIES, QUERIES + APART  # Q, P, O, top, total, rescale
    return np.cumsum((0, *head, *panel))


@kernel
def _forward(addresses, steps, starts, lse, B, H, T, S, D, causal, offset, scale, chunk, room, places, tasks, parts):
    """addresses: (4,) and steps: (4, 3), floats from batch to batch, head to head, row to row, of q, k, v, out."""
    rows = steps[:, 2]
    chunks = (T + chunk - 1) // chunk
    padded = -(-S // ROWS) * ROWS
    for worker in prange(parts):
        own = room + 4 * (places + places[-1] * worker)
        task = take_number(tasks)
        while task < B * H * chunks:
            # The last queries see the most keys: they are the longest tasks and come first.
            head, t0 = task // chunks, (chunks - 1 - task % chunks) * chunk
            t1 = min(T, t0 + chunk)
            q, k, v, out = _head(addresses, steps, head, H)
            lse_head, start = lse + 4 * head * T, min(S, max(0, starts[head // H]))
            if T <= FEW:
                for t in range(t0, t1):
                    _one_query(
                        q + 4 * t * rows[0], D, start, min(S, t + offset + 1) if causal else S, scale,
                        k, rows[1], v, rows[2], out + 4 * t * rows[3], lse_head + 4 * t, own[0],
                    )  # fmt: skip
            else:
                end = min(S, max(0, t1 + offset)) if causal else S
                _pack_rows(k, rows[1], 1, end, D, D, own[0])  # [panel][d][key]
                _pack_features(v, rows[2], end, D, padded, own[1])
                following = min(B * H - 1, (task + parts) // chunks)  # the thread's next head, if all go in step
                ahead = (_head(addresses, steps, following, H), rows, np.zeros(1, np.int64), T, D)
                for t in range(t0, t1, QUERIES):
                    _forward_panel(
                        q + 4 * t * rows[0], rows[0], min(QUERIES, t1 - t), D, t, start, S, offset, causal, scale,
                        padded, out + 4 * t * rows[3], rows[3], lse_head + 4 * t, own, ahead,
                    )  # fmt: skip
            task = take_number(tasks)


def _rows(x):
    """x if its last axis has unit steps, else a contiguous copy."""
    fits = x.dtype == np.float32 and (x.strides[-1] == 4 or x.shape[-1] == 1) and not any(s % 4 for s in x.strides)
    return x if fits else np.ascontiguousarray(x, np.float32)


def _steps(*arrays):
    return np.array([[s // 4 for s in x.strides[:3]] for x in arrays], np.int64)


def _starts(key_start, B):
    return np.zeros(B, np.int64) if key_start is None else np.array(np.broadcast_to(key_start, (B,)), np.int64)


def _buffer(out, shape):
    """`out` if it can be written row by row, else a new array."""
    fits = out is not None and out.shape == shape and _rows(out) is out
    return out if fits else result(None, shape)


def attention_forward(q, k, v, *, scale=None, causal_offset=None, key_start=None, out=None):
    """See kernels/attention/reference.py."""
    (B, H, T, D), S = q.shape, k.shape[-2]
    y, lse = _buffer(out, q.shape), np.empty((B, H, T), np.float32)
    if not S or not y.size:
        y[...], lse[...] = 0, -np.inf
        return delivered(y, out), lse
    q, k, v = _rows(q), _rows(k), _rows(v)
    parts, places = workers(B * H * T * S * D // 8), _forward_places(S, D)
    # A task is a head, unless there are too few of them to keep all threads busy to the end.
    chunk = T if B * H >= 4 * parts or T <= FEW else -(-T // (-(-4 * parts // (B * H)) * QUERIES)) * QUERIES
    addresses, tasks = np.array([address(x) for x in (q, k, v, y)], np.int64), np.zeros(1, np.int64)
    with running:
        room = scratch(parts * int(places[-1]))
        _forward(
            addresses, _steps(q, k, v, y), _starts(key_start, B), address(lse),
            B, H, T, S, D, causal_offset is not None, int(causal_offset or 0),
            np.float32(1 / math.sqrt(D) if scale is None else scale), chunk, room, places, address(tasks), parts,
        )  # fmt: skip
    return delivered(y, out), lse


# The backward pass computes, for each block of queries and each block of keys, again with keys as rows:
#   Sᵀ = K Qᵀ,   Pᵀ = exp(Sᵀ − L),   dPᵀ = V dOᵀ,   dSᵀ = Pᵀ (dPᵀ − row),
#   dV += Pᵀ dO,   dK += dSᵀ Q,   dQᵀ += Kᵀ dSᵀ.
# The first operand of the dV and dK products is the block as it stands: the register tile takes any distance between rows.
_queries_tile = register_tile(ROWS, 2, b_row=BLOCK)  # dQᵀ: the block is the second operand
_keys_tile = register_tile(ROWS, 2, a_row=BLOCK, a_column=1)  # dV, dK: the block is the first operand


@inner
def _pack_block(x, x_row, n, D, sideways, upright):
    """A block of n ≤ BLOCK rows in both orders: sideways[panel][d][row], upright[panel][row][d]; filled up with zeros."""
    _fill(sideways + 4 * (n // QUERIES * QUERIES) * D, (BLOCK - n // QUERIES * QUERIES) * D, _F(0.0))
    _pack_queries(x, x_row, 1, n, D, D, sideways)
    _pack_queries(x, 1, x_row, D, n, BLOCK, upright)
    for d in range(0, D, QUERIES):
        _fill(upright + 4 * (d * BLOCK + n * QUERIES), (BLOCK - n) * QUERIES, _F(0.0))


@inner
def _weights(P, dP, lse, row):
    """In place, for ROWS keys and a panel of queries: P = exp(S − lse) from the scores, dS = P (dP − row) from dP."""
    for r in range(ROWS):
        p_row, d_row = P + 4 * r * BLOCK, dP + 4 * r * BLOCK
        for i in range(QUERIES):
            p = exp_to_zero(load(p_row, i) - load(lse, i))
            store(p_row, i, p)
            store(d_row, i, p * (load(d_row, i) - load(row, i)))


@inner
def _backward_block(room, k0, keys, first_query, start, end, offset, causal, D, D_wide, padded, ahead):
    """One block of queries with one block of keys: adds to dQᵀ, dK and dV.  room: as in _backward_head; ahead: see _ask."""
    K, K_features, V, Q, Q_up, dO, dO_up, P, dP, dQ, dK, dV, lse, row, _ = room
    before = k0 - offset - first_query if causal else -keys  # so many of the queries do not see key k0, one more not the next
    for j in range(0, keys, ROWS):
        first = max(0, before + j) // QUERIES * QUERIES
        for i in range(first, BLOCK, QUERIES):
            place = 4 * (j * BLOCK + i)
            _ask(ahead)
            _tile(K + 4 * (k0 + j) * D, Q + 4 * i * D, P + place, D, BLOCK, False)
            _tile(V + 4 * (k0 + j) * D, dO + 4 * i * D, dP + place, D, BLOCK, False)
        for r in range(j, j + ROWS):
            hidden = before + r if start <= k0 + r < end else BLOCK
            if hidden > first:
                _fill(P + 4 * (r * BLOCK + first), hidden - first, _F(_MINUS_INFINITY))
        for i in range(first, BLOCK, QUERIES):
            place = 4 * (j * BLOCK + i)
            _weights(P + place, dP + place, lse + 4 * i, row + 4 * i)
    for i in range(0, BLOCK, QUERIES):
        seen = min(keys, i + QUERIES - before)
        if seen > 0:
            for d in range(0, D, ROWS):
                place = 4 * (d * BLOCK + i)
                _queries_tile(K_features + 4 * (d * padded + k0 * ROWS), dP + 4 * i, dQ + place, seen, BLOCK, True)
    for d in range(0, D, QUERIES):
        for j in range(0, keys, ROWS):
            first = max(0, before + j)  # less than BLOCK: the last query sees the last key
            block, place = 4 * (j * BLOCK + first), 4 * ((k0 + j) * D_wide + d)
            up = 4 * (d * BLOCK + first * QUERIES)
            _keys_tile(P + block, dO_up + up, dV + place, BLOCK - first, D_wide, True)
            _keys_tile(dP + block, Q_up + up, dK + place, BLOCK - first, D_wide, True)


def _backward_places(S, D):
    """Where in a thread's room lies what _backward_head works with, counted in floats; last, how large the room is."""
    padded, D_padded, D_wide = -(-S // ROWS) * ROWS, -(-D // ROWS) * ROWS, -(-D // QUERIES) * QUERIES
    head = padded * D + WIDTH, padded * D_padded + WIDTH, padded * D + WIDTH  # K, K_features, V
    block = 2 * (BLOCK * D, BLOCK * D_wide) + 2 * (BLOCK * KEYS_BACK,)  # Q, Q_up, dO, dO_up, P, dP
    sums = BLOCK * D_padded, padded * D_wide, padded * D_wide  # dQ, dK, dV
    return np.cumsum((0, *head, *block, *sums, BLOCK, BLOCK + APART))  # lse, row


@inner
def _backward_head(head, lse, rows, start, T, S, D, causal, offset, scale, room, ahead):
    """head: (8,) addresses, rows: (8,) floats from row to row, of dout, q, k, v, y, dq, dk, dv; room: see _backward_places."""
    dout, q, k, v, y, dq, dk, dv = head
    padded, D_padded, D_wide = -(-S // ROWS) * ROWS, -(-D // ROWS) * ROWS, -(-D // QUERIES) * QUERIES
    K, K_features, V, Q, Q_up, dO, dO_up, P, dP, dQ, dK, dV, lse_block, row_block, _ = room
    _pack_rows(k, rows[2], 1, S, D, D, K)
    _pack_features(k, rows[2], S, D, padded, K_features)
    _pack_rows(v, rows[3], 1, S, D, D, V)
    _fill(dK, padded * D_wide, _F(0.0))
    _fill(dV, padded * D_wide, _F(0.0))
    for t in range(0, T, BLOCK):
        n = min(BLOCK, T - t)
        _pack_block(q + 4 * t * rows[1], rows[1], n, D, Q, Q_up)
        _scale(Q, BLOCK * D, scale)
        _pack_block(dout + 4 * t * rows[0], rows[0], n, D, dO, dO_up)
        _fill(lse_block, BLOCK, _F(np.inf))  # queries beyond the last: exp(0 − inf) = 0, they weigh nothing
        _fill(row_block, BLOCK, _F(0.0))
        for i in range(n):
            value = load(lse, t + i)
            store(lse_block, i, value if value != _F(_MINUS_INFINITY) else _F(0.0))
            store(row_block, i, dot(dout + 4 * (t + i) * rows[0], y + 4 * (t + i) * rows[4], D))
        _fill(dQ, D_padded * BLOCK, _F(0.0))
        end = min(S, max(0, t + n + offset)) if causal else S
        for k0 in range(start // ROWS * ROWS, end, KEYS_BACK):
            keys = -(-(min(end, k0 + KEYS_BACK) - k0) // ROWS) * ROWS
            _backward_block(room, k0, keys, t, start, end, offset, causal, D, D_wide, padded, ahead)
        _scale(dQ, D * BLOCK, scale)
        unpack(dQ, BLOCK, n, D, dq + 4 * t * rows[5], rows[5])
    _copy_rows(dK, D_wide, S, D, scale, dk, rows[6])
    _copy_rows(dV, D_wide, S, D, _F(1.0), dv, rows[7])


@kernel
def _backward(addresses, steps, starts, lse, B, H, T, S, D, causal, offset, scale, room, places, tasks, parts):
    """addresses: (8,) and steps: (8, 3) of dout, q, k, v, y, dq, dk, dv."""
    for worker in prange(parts):
        own = room + 4 * (places + places[-1] * worker)
        task = take_number(tasks)
        while task < B * H:
            until = T if T <= 512 else 0  # of a longer head, the cache would not keep the rows until their turn
            ahead = (_head(addresses, steps, min(B * H - 1, task + parts), H)[:5], steps[:, 2], np.zeros(1, np.int64), until, D)
            _backward_head(
                _head(addresses, steps, task, H), lse + 4 * task * T, steps[:, 2], min(S, max(0, starts[task // H])),
                T, S, D, causal, offset, scale, own, ahead,
            )  # fmt: skip
            task = take_number(tasks)


def attention_backward(dout, q, k, v, y, logsumexp, *, scale=None, causal_offset=None, key_start=None, out=(None, None, None)):
    """See kernels/attention/reference.py."""
    (B, H, T, D), S = q.shape, k.shape[-2]
    grads = [_buffer(o, x.shape) for o, x in zip(out, (q, k, v), strict=True)]
    if not T or not S or not q.size:
        for grad in grads:
            grad[...] = 0
        return tuple(delivered(g, o) for g, o in zip(grads, out, strict=True))
    arrays = [*map(_rows, (dout, q, k, v, y)), *grads]
    lse = np.ascontiguousarray(logsumexp, np.float32)
    addresses, tasks = np.array([address(x) for x in arrays], np.int64), np.zeros(1, np.int64)
    parts, places = min(workers(B * H * T * S * D // 8), B * H), _backward_places(S, D)
    with running:
        room = scratch(parts * int(places[-1]))
        _backward(
            addresses, _steps(*arrays), _starts(key_start, B), address(lse),
            B, H, T, S, D, causal_offset is not None, int(causal_offset or 0),
            np.float32(1 / math.sqrt(D) if scale is None else scale), room, places, address(tasks), parts,
        )  # fmt: skip
    return tuple(delivered(g, o) for g, o in zip(grads, out, strict=True))
