"""One token of each text through a whole GPT on the CPU: the reference's Decoder, float32, one call of a compiled function.

Each matrix is read once, by all threads together, each multiplying some of its rows with the x of every text. Four rows are
under way at a time, so that the loads of one hide behind the additions of another; for the second text they come from the
cache. Rows of int8 become floats in the registers, after they came from memory: a quarter of the bytes.
"""

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from kernels.decode.reference import Layer, Matrix, Norm, quantize_rows  # noqa: F401  (part of this set, too)
from kernels.gelu.cpu import gelu_tanh
from kernels.launch import address, as_flat, inner, kernel, workers
from kernels.simd import FLOAT, add_rows, dot, dot_products, exp, four_dots, load, maximum, prefetch, store, take_number

_F = types.float32
TASK = 1 << 15  # weights of a matrix that a thread takes at a time: some microseconds of reading
AHEAD = 4096  # bytes: the processor's own prefetching stops at every row's end, and at every page's
LINEAR, GELU = 0, 1

# A layer as a row of addresses; 0 stands for what is not there.
(NORM_1, NORM_1_BIAS, QKV, QKV_SCALE, QKV_BIAS, MERGE, MERGE_SCALE, MERGE_BIAS, NORM_2, NORM_2_BIAS, WIDEN, WIDEN_SCALE,
 WIDEN_BIAS, NARROW, NARROW_SCALE, NARROW_BIAS) = range(16)  # fmt: skip


@intrinsic
def load_byte(typing, address, index):
    """The int8 number `index` of those that start at `address`, as a float32."""

    def emit(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.sitofp(builder.load(builder.gep(pointer, [args[1]])), FLOAT)

    return types.float32(types.int64, types.int64), emit


_byte_dot, _four_byte_dots = dot_products(load_byte, 1)


@inner
def _rows(w, scale, bias, x, K, first, last, y, N, B, add, bend):
    """y[:, first:last] (+)= x W[first:last]ᵀ + bias, bent by GELU where that is asked for.  x: (B, K), y: (B, N)"""
    r, width = first, K if scale != 0 else 4 * K  # bytes of a row
    while r < last:
        n = 4 if r + 4 <= last else 1
        if n == 4:
            for i in range(0, 4 * width, 64):
                prefetch(w + r * width + AHEAD + i)
        for b in range(B):
            here, place = x + 4 * b * K, b * N + r
            if n == 4:
                s = _four_byte_dots(here, w + r * K, K, K) if scale != 0 else four_dots(here, w + 4 * r * K, K, K)
            else:
                one = _byte_dot(here, w + r * K, K) if scale != 0 else dot(here, w + 4 * r * K, K)
                s = (one, one, one, one)
            for i in range(n):
                value = s[i] * load(scale, r + i) if scale != 0 else s[i]
                if bias != 0:
                    value += load(bias, r + i)
                store(y, place + i, value + load(y, place + i) if add else value)
        r += n
    if bend == GELU:
        for b in range(B):
            for i in range(b * N + first, b * N + last):
                store(y, i, gelu_tanh(load(y, i)))


@inner
def _norms(x, weight, bias, C, eps, rms, y, B):
    """x, y: (B, C)"""
    for b in range(B):
        _norm(x + 4 * b * C, weight, bias, C, eps, rms, y + 4 * b * C)


@inner
def _norm(x, weight, bias, C, eps, rms, y):
    mean = _F(0.0)
    if not rms:
        for c in range(C):
            mean += load(x, c)
        mean /= _F(C)
    square = _F(0.0)
    for c in range(C):
        square += (load(x, c) - mean) * (load(x, c) - mean)
    rstd = _F(1.0) / np.sqrt(square / _F(C) + eps)
    for c in range(C):
        store(y, c, (load(x, c) - mean) * rstd * load(weight, c))
    if bias != 0:
        for c in range(C):
            store(y, c, load(y, c) + load(bias, c))


@inner
def _turn(x, cos, sin, D):
    half = D // 2
    for j in range(half):
        a, b = load(x, j), load(x, j + half)
        store(x, j, a * load(cos, j) - b * load(sin, j))
        store(x, j + half, b * load(cos, j) + a * load(sin, j))


@inner
def _attend(q, k, v, S, D, scale, weights, y):
    """One head: q: (D,) against k, v: (S, D); weights: room for S numbers."""
    s = 0
    while s + 4 <= S:
        a, b, c, d = four_dots(q, k + 4 * s * D, D, D)
        store(weights, s, a * scale)
        store(weights, s + 1, b * scale)
        store(weights, s + 2, c * scale)
        store(weights, s + 3, d * scale)
        s += 4
    while s < S:
        store(weights, s, dot(q, k + 4 * s * D, D) * scale)
        s += 1
    top = load(weights, 0)
    for s in range(S):
        top = maximum(top, load(weights, s))
    total = _F(0.0)
    for s in range(S):
        e = exp(load(weights, s) - top)
        store(weights, s, e)
        total += e
    for d in range(D):
        store(y, d, _F(0.0))
    add_rows(weights, v, D, S, D, y)
    for d in range(D):
        store(y, d, load(y, d) / total)


@inner
def _group(g, qkv, k_cache, v_cache, context, H, G, D, length, cos, sin, weights, y):
    """The heads that share keys and values g: these are turned and remembered first."""
    k, v = qkv + 4 * (H + g) * D, qkv + 4 * (H + G + g) * D
    if cos != 0:
        _turn(k, cos, sin, D)
    place = 4 * g * context * D
    for d in range(D):
        store(k_cache + place, length * D + d, load(k, d))
        store(v_cache + place, length * D + d, load(v, d))
    scale = _F(1.0) / np.sqrt(_F(D))
    for h in range(g * (H // G), (g + 1) * (H // G)):
        q = qkv + 4 * h * D
        if cos != 0:
            _turn(q, cos, sin, D)
        _attend(q, k_cache + place, v_cache + place, length + 1, D, scale, weights + 4 * h * context, y + 4 * h * D)


@inner
def _gate(x, F, B):
    """(B, 2F) becomes (B, F) in the same place: SiLU(x[:, :F]) · x[:, F:], SiLU(g) = g / (1 + e⁻ᵍ)."""
    for b in range(B):
        gate, up = x + 8 * b * F, x + 8 * b * F + 4 * F
        for i in range(F):
            store(x, b * F + i, load(gate, i) / (_F(1.0) + exp(-load(gate, i))) * load(up, i))


@inner
def _share(w, scale, bias, x, K, N, y, B, add, bend, parts, tasks):
    """One thread's share of y (+)= x Wᵀ + bias: a long run of W's rows, then short ones, until all N are taken.

    A long run comes from memory fastest; the short ones are there for whoever is done first.
    """
    long, short = N * 3 // (4 * parts) // 4 * 4, max(4, TASK // K // 4 * 4)
    task = take_number(tasks)
    while True:
        first = task * long if task < parts else parts * long + (task - parts) * short
        if first >= N:
            break
        _rows(w, scale, bias, x, K, first, min(N, first + (long if task < parts else short)), y, N, B, add, bend)
        task = take_number(tasks)


@inner
def _share_of_heads(qkv, caches, i, context, H, G, D, B, lengths, cos, sin, weights, y, tasks):
    """One thread's share of layer i's attention, of every text b to what it has said itself."""
    C, task = H * D, take_number(tasks)
    while task < B * G:
        b, g = task // G, task % G
        turn = 4 * b * (D // 2)
        _group(
            g, qkv + 4 * b * (C + 2 * G * D), caches[b, i, 0], caches[b, i, 1], context, H, G, D, lengths[b],
            cos + turn if cos != 0 else 0, sin + turn, weights + 4 * b * H * context, y + 4 * b * C,
        )  # fmt: skip
        task = take_number(tasks)


@kernel
def _token(
    table, caches, norm, norm_bias, head, head_scale, V, x, C, H, G, W, context, lengths, cos, sin, eps, rms, gated, room,
    logits, tasks, parts,
):  # fmt: skip
    """All layers and the head.  table: (layers, 16) and caches: (B, layers, 2), addresses; x: (B, C), changed on the way.

    W: rows of the widening matrix; room: C + (C + 2GD) + C + W + H · context floats a text; tasks: zeroed counters, five a
    layer and one.
    """
    D, B = C // H, len(lengths)
    h, qkv = room, room + 4 * B * C
    y = qkv + 4 * B * (C + 2 * G * D)
    wide = y + 4 * B * C
    weights = wide + 4 * B * W
    F, bend = (W // 2, LINEAR) if gated else (W, GELU)
    for i in range(len(table)):
        t = table[i]
        _norms(x, t[NORM_1], t[NORM_1_BIAS], C, eps, rms, h, B)
        for _ in prange(parts):
            _share(t[QKV], t[QKV_SCALE], t[QKV_BIAS], h, C, C + 2 * G * D, qkv, B, False, LINEAR, parts, tasks)
        for _ in prange(parts):
            _share_of_heads(qkv, caches, i, context, H, G, D, B, lengths, cos, sin, weights, y, tasks + 8)
        for _ in prange(parts):
            _share(t[MERGE], t[MERGE_SCALE], t[MERGE_BIAS], y, C, C, x, B, True, LINEAR, parts, tasks + 16)
        _norms(x, t[NORM_2], t[NORM_2_BIAS], C, eps, rms, h, B)
        for _ in prange(parts):
            _share(t[WIDEN], t[WIDEN_SCALE], t[WIDEN_BIAS], h, C, W, wide, B, False, bend, parts, tasks + 24)
        if gated:
            _gate(wide, F, B)
        for _ in prange(parts):
            _share(t[NARROW], t[NARROW_SCALE], t[NARROW_BIAS], wide, F, C, x, B, True, LINEAR, parts, tasks + 32)
        tasks += 40
    _norms(x, norm, norm_bias, C, eps, rms, h, B)
    for _ in prange(parts):
        _share(head, head_scale, 0, h, C, V, logits, B, False, LINEAR, parts, tasks)


class Decoder:
    """See kernels/decode/reference.py. The arrays given are kept, and must be contiguous: their addresses are used."""

    def __init__(self, layers, norm, head, *, n_head, n_kv_head, eps, rms=False, gated=False):
        layers = [Layer(*(self._ready(part) for part in layer)) for layer in layers]
        self.kept = layers, self._ready(norm), self._ready(head)
        self.table = np.array([self._addresses(*layer) for layer in layers], np.int64)  # (layers, 16)
        (V, C), W = head.weight.shape, len(layers[0].widen.weight)
        D = C // n_head
        self.V, self.C, self.H, self.G, self.W, self.eps, self.rms, self.gated = V, C, n_head, n_kv_head, W, eps, rms, gated
        self.room_without_weights = 3 * C + 2 * n_kv_head * D + W
        self.room = np.empty(0, np.float32)
        self.caches = None, None
        self.parts = workers(C * W * len(layers))

    @staticmethod
    def _ready(part):
        flat = tuple(None if a is None else as_flat(a) for a in part if a is None or a.ndim == 1)
        if isinstance(part, Norm):
            return Norm(*flat)
        kind = np.int8 if part.scale is not None else np.float32
        return Matrix(np.ascontiguousarray(part.weight, kind), *flat)

    @staticmethod
    def _addresses(norm_1, qkv, merge, norm_2, widen, narrow):
        return [0 if a is None else address(a) for part in (norm_1, qkv, merge, norm_2, widen, narrow) for a in part]

    def _cache_addresses(self, caches):
        """The table of where keys and values are, (B, layers, 2); made anew where the arrays are others than last time."""
        arrays = [a for text in caches for pair in text for a in pair]
        known, table = self.caches
        if known is None or len(known) != len(arrays) or any(a is not b for a, b in zip(known, arrays)):
            shape = arrays[0].shape
            if any(not a.flags.c_contiguous or a.dtype != np.float32 or a.shape != shape for a in arrays):
                raise ValueError("Decoder.step: the caches must be contiguous float32 arrays (1, G, context, D)")
            table = np.array([address(a) for a in arrays], np.int64).reshape(len(caches), -1, 2)
            self.caches = arrays, table
            self.room = np.empty(len(caches) * (self.room_without_weights + self.H * shape[2]), np.float32)
        return table

    def step(self, x, caches, lengths, turn=None):
        """See kernels/decode/reference.py."""
        table, context = self._cache_addresses(caches), caches[0][0][0].shape[2]
        lengths = np.array(lengths, np.int64)
        if not (0 <= lengths.min() and lengths.max() < context):
            raise ValueError(f"Decoder.step: the cache has room for {context} tokens and holds {lengths.max()}")
        x, logits = np.array(x, np.float32, order="C"), np.empty((len(lengths), self.V), np.float32)
        cos, sin = (None, None) if turn is None else (as_flat(a) for a in turn)
        tasks = np.zeros(5 * table.shape[1] + 1, np.int64)
        _, norm, head = self.kept
        _token(
            self.table, table, address(norm.weight), 0 if norm.bias is None else address(norm.bias),
            address(head.weight), 0 if head.scale is None else address(head.scale), self.V, address(x), self.C, self.H, self.G,
            self.W, context, lengths, 0 if turn is None else address(cos), 0 if turn is None else address(sin),
            np.float32(self.eps), self.rms, self.gated, address(self.room), address(logits), address(tasks), self.parts,
        )  # fmt: skip
        return logits
