"""One token of each text through a whole GPT on the CPU: the reference's Decoder in float32, as one compiled function.

Nearly all its time goes into the matrix products, `naive_rows` below, and nearly all of theirs into reading the weights. The
fast version differs in three ways:

- Each thread reads a share of the rows of a matrix once, and multiplies them by the x of every text.
- A thread takes four rows at a time, so the loads of one row hide behind the additions of another. From the second text on, the
  rows come from the cache.
- int8 weights become floats in the registers, so memory delivers a quarter of the bytes.
"""

from collections import namedtuple
from operator import is_not

import numpy as np
from llvmlite import ir
from numba import prange, types

from kernels.attention.cpu import attend
from kernels.decode import reference
from kernels.gelu.cpu import gelu_tanh
from kernels.launch import address, as_flat, inner, kernel, threads_for
from kernels.simd import Rows, dot, dot_products, exp, four_dots, instruction, load, next_task, prefetch, store


def naive_rows(weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y = x Wᵀ + bias with W = scale · weight.  weight: (N, K) int8, scale and bias: (N,), x: (B, K) -> (B, N)."""
    y = np.zeros((len(x), len(weight)), np.float32)
    for n in range(len(weight)):
        for b in range(len(x)):
            for k in range(weight.shape[1]):
                y[b, n] += x[b, k] * weight[n, k]
            y[b, n] = y[b, n] * scale[n] + bias[n]
    return y


quantize_rows = reference.quantize_rows  # quantizing happens once, when a model is loaded

_F = types.float32
TASK = 1 << 15  # weights of a short task, read in a few microseconds
AHEAD = 4096  # bytes to prefetch ahead; the processor's own prefetching stops at every row's end, and at every page's
NORM_1, QKV, MERGE, NORM_2, WIDEN, NARROW = 0, 2, 5, 8, 10, 13  # where a layer's addresses begin in its row of the table


# A linear layer: the addresses of its weight (rows, columns), of int8's scales (0 for float32) and of its bias (0 for none).
Weights = namedtuple("Weights", "weight scale bias rows columns")
# The addresses of a norm's weight and bias (0 for none), and its form.
NormWeights = namedtuple("NormWeights", "weight bias eps rms")
# C = H · D channels, H heads of queries and G of keys, W rows of the widening matrix, V logits, `context` tokens of cache.
Sizes = namedtuple("Sizes", "C H G W V context")
# One text's attention: addresses of the new q, k, v, of cached keys and values, of angles (0 for none), of scores and result;
# and `length`, the number of cached tokens.
Attention = namedtuple("Attention", "qkv keys values length cos sin scores y")


@instruction(_F, types.int64, types.int64)
def load_byte(builder, address, index):
    """Read the int8 number `index` of an array that starts at `address`, as a float32."""
    number = builder.load(builder.gep(builder.inttoptr(address, ir.IntType(8).as_pointer()), [index]))
    return builder.sitofp(number, ir.FloatType())


_byte_dot, _four_byte_dots = dot_products(load_byte, 1)


@inner
def _multiply_rows(w, first, last, x, y, B, add, gelu):
    """y[:, first:last] = x W[first:last]ᵀ + bias, or += if `add`, then GELU if `gelu`.  w: Weights; x: (B, K); y: (B, N)."""
    weight, scale, bias, N, K = w
    r, width = first, K if scale != 0 else 4 * K  # bytes of a row
    while r < last:
        n = 4 if r + 4 <= last else 1
        if n == 4:
            for i in range(0, 4 * width, 64):
                prefetch(weight + r * width + AHEAD + i)
        for b in range(B):
            here, place = x + 4 * b * K, b * N + r
            if n == 4:
                s = _four_byte_dots(here, weight + r * K, K, K) if scale != 0 else four_dots(here, weight + 4 * r * K, K, K)
            else:
                product = _byte_dot(here, weight + r * K, K) if scale != 0 else dot(here, weight + 4 * r * K, K)
                s = (product, product, product, product)
            for i in range(n):
                value = s[i] * load(scale, r + i) if scale != 0 else s[i]
                if bias != 0:
                    value += load(bias, r + i)
                store(y, place + i, value + load(y, place + i) if add else value)
        r += n
    if gelu:
        for b in range(B):
            for i in range(b * N + first, b * N + last):
                store(y, i, gelu_tanh(load(y, i)))


@inner
def _norm_rows(x, norm, C, y, B):
    """Normalise each row of x and write it to y.  x, y: (B, C)."""
    for b in range(B):
        row, target = x + 4 * b * C, y + 4 * b * C
        mean = _F(0.0)
        if not norm.rms:
            for c in range(C):
                mean += load(row, c)
            mean /= _F(C)
        square = _F(0.0)
        for c in range(C):
            square += (load(row, c) - mean) * (load(row, c) - mean)
        rstd = _F(1.0) / np.sqrt(square / _F(C) + norm.eps)
        for c in range(C):
            store(target, c, (load(row, c) - mean) * rstd * load(norm.weight, c))
        if norm.bias != 0:
            for c in range(C):
                store(target, c, load(target, c) + load(norm.bias, c))


@inner
def _rotate(x, cos, sin, D):
    half = D // 2
    for j in range(half):
        a, b = load(x, j), load(x, j + half)
        store(x, j, a * load(cos, j) - b * load(sin, j))
        store(x, j + half, b * load(cos, j) + a * load(sin, j))


@inner
def _group(g, text, sizes):
    """Rotate and cache the new keys and values of group g, then compute its heads.  text: an Attention."""
    C, H, G, _, _, context = sizes
    D = C // H
    k, v = text.qkv + 4 * (H + g) * D, text.qkv + 4 * (H + G + g) * D
    if text.cos != 0:
        _rotate(k, text.cos, text.sin, D)
    keys, values = text.keys + 4 * g * context * D, text.values + 4 * g * context * D
    for d in range(D):
        store(keys, text.length * D + d, load(k, d))
        store(values, text.length * D + d, load(v, d))
    scale = _F(1.0) / np.sqrt(_F(D))
    for h in range(g * (H // G), (g + 1) * (H // G)):
        q = text.qkv + 4 * h * D
        if text.cos != 0:
            _rotate(q, text.cos, text.sin, D)
        attend(
            q, Rows(keys, D), Rows(values, D), 0, text.length + 1, D, scale, text.scores + 4 * h * context, text.y + 4 * h * D
        )


@inner
def _gate(x, F, B):
    """Turn (B, 2F) into (B, F) in place: SiLU(x[:, :F]) · x[:, F:], SiLU(g) = g / (1 + e⁻ᵍ)."""
    for b in range(B):
        gate, up = x + 8 * b * F, x + 8 * b * F + 4 * F
        for i in range(F):
            store(x, b * F + i, load(gate, i) / (_F(1.0) + exp(-load(gate, i))) * load(up, i))


@inner
def _weights(table, i, rows, columns):
    """The linear layer whose three addresses begin at table[i]."""
    return Weights(table[i], table[i + 1], table[i + 2], rows, columns)


@inner
def _share_of_rows(w, x, y, B, add, gelu, tasks, threads):
    """One thread's share of y (+)= x Wᵀ + bias: a long run of W's rows, then short runs until none is left.

    Memory delivers a long run fastest. The short runs go to threads that finish early.
    """
    N, long, short = w.rows, w.rows * 3 // (4 * threads) // 4 * 4, max(4, TASK // w.columns // 4 * 4)
    task = next_task(tasks)
    while True:
        first = task * long if task < threads else threads * long + (task - threads) * short
        if first >= N:
            break
        _multiply_rows(w, first, min(N, first + (long if task < threads else short)), x, y, B, add, gelu)
        task = next_task(tasks)


@kernel
def _token(table, caches, lengths, last, numbers, form, room, team):
    """All layers and the output layer. An address of 0 means None.

    table: (layers, 16), the addresses of each Layer's arrays, in order; caches: (B, layers, 2), of keys and values.
    lengths: (B,) tokens in each text; last: addresses of the last norm's weight and bias, and of the output layer's weight and
    scale; numbers: a Sizes; form: eps, rms, gated.
    room: addresses of x (B, C), which is overwritten, of the angles' cos and sin, of the logits, and of scratch memory for
    C + (C + 2GD) + C + W + H · context floats a text.
    team: the number of threads, and the address of zeroed task counters, five for each layer and one for the output layer.
    """
    sizes = Sizes(*numbers)
    C, H, G, W, V, context = numbers
    eps, rms, gated = form
    x, cos, sin, logits, h = room
    threads, tasks = team
    D, B = C // H, len(lengths)
    QKV_WIDTH = C + 2 * G * D
    qkv = h + 4 * B * C
    y = qkv + 4 * B * QKV_WIDTH
    wide = y + 4 * B * C
    weights = wide + 4 * B * W
    F = W // 2 if gated else W
    for i in range(len(table)):
        t = table[i]
        _norm_rows(x, NormWeights(t[NORM_1], t[NORM_1 + 1], eps, rms), C, h, B)
        for _ in prange(threads):
            _share_of_rows(_weights(t, QKV, QKV_WIDTH, C), h, qkv, B, False, False, tasks, threads)
        for _ in prange(threads):
            task = next_task(tasks + 8)
            while task < B * G:
                b, g = task // G, task % G
                turn, scores = 4 * b * (D // 2) if cos != 0 else 0, weights + 4 * b * H * context
                keys, values, q = caches[b, i, 0], caches[b, i, 1], qkv + 4 * b * QKV_WIDTH
                _group(g, Attention(q, keys, values, lengths[b], cos + turn, sin + turn, scores, y + 4 * b * C), sizes)
                task = next_task(tasks + 8)
        for _ in prange(threads):
            _share_of_rows(_weights(t, MERGE, C, C), y, x, B, True, False, tasks + 16, threads)
        _norm_rows(x, NormWeights(t[NORM_2], t[NORM_2 + 1], eps, rms), C, h, B)
        for _ in prange(threads):
            _share_of_rows(_weights(t, WIDEN, W, C), h, wide, B, False, not gated, tasks + 24, threads)
        if gated:
            _gate(wide, F, B)
        for _ in prange(threads):
            _share_of_rows(_weights(t, NARROW, C, F), wide, x, B, True, False, tasks + 32, threads)
        tasks += 40
    norm, norm_bias, head, head_scale = last
    _norm_rows(x, NormWeights(norm, norm_bias, eps, rms), C, h, B)
    for _ in prange(threads):
        _share_of_rows(Weights(head, head_scale, 0, V, C), h, logits, B, False, False, tasks, threads)


def _address(array: np.ndarray | None) -> int:
    return 0 if array is None else address(array)


def _contiguous(part):
    """The Norm or Matrix with contiguous arrays: float32, or int8 for a weight that has scales."""
    weight_type = np.float32 if getattr(part, "scale", None) is None else np.int8
    weight, *others = part
    return type(part)(np.ascontiguousarray(weight, weight_type), *(None if a is None else as_flat(a) for a in others))


class Decoder:
    """See kernels/decode/reference.py. A Decoder uses the addresses of the weights, so their arrays must stay in place."""

    def __init__(self, layers, norm, head, *, n_head, n_kv_head, eps, rms=False, gated=False) -> None:
        reference.check_weights(layers, norm, head, (n_head, n_kv_head), rms, gated)
        layers = [reference.Layer(*map(_contiguous, layer)) for layer in layers]
        norm, head = _contiguous(norm), _contiguous(head)
        self.arrays = layers, norm, head  # keeps the arrays alive
        table = [[_address(a) for part in layer for a in part] for layer in layers]
        self.table = np.array(table, np.int64)  # (layers, 16)
        self.last = _address(norm.weight), _address(norm.bias), _address(head.weight), _address(head.scale)
        (V, C), W = head.weight.shape, len(layers[0].widen.weight)
        self.C, self.H, self.G, self.W, self.V = C, n_head, n_kv_head, W, V
        self.form = np.float32(eps), bool(rms), bool(gated)
        self.threads = threads_for(C * W * len(layers))
        self.cache_arrays: list[np.ndarray] = []
        self.cache_table = np.empty((0, 0, 2), np.int64)
        self.room = np.empty(0, np.float32)

    def _addresses_of(self, caches) -> np.ndarray:
        """The addresses of keys and values, (B, layers, 2); computed anew only if the arrays differ from the last step's."""
        arrays, texts = [a for text in caches for pair in text for a in pair], len(self.cache_table)
        if texts != len(caches) or len(arrays) != len(self.cache_arrays) or any(map(is_not, arrays, self.cache_arrays)):
            reference.check_caches(caches, len(self.table), self.G, self.C // self.H)
            if arrays[0].dtype != np.float32:
                raise TypeError(f"Decoder.step: expected caches in float32, got {arrays[0].dtype}; make them anew")
            shape = arrays[0].shape
            self.cache_arrays = arrays
            self.cache_table = np.array([address(a) for a in arrays], np.int64).reshape(len(caches), -1, 2)
            floats = 3 * self.C + 2 * self.G * (self.C // self.H) + self.W + self.H * shape[2]  # for each text
            self.room = np.empty(len(caches) * floats, np.float32)
        return self.cache_table

    def step(self, x, caches, lengths, turn=None) -> np.ndarray:
        """See kernels/decode/reference.py."""
        table = self._addresses_of(caches)
        lengths, context = reference.check_inputs(x, lengths, turn, caches, self.C), caches[0][0][0].shape[2]
        x, logits = np.array(x, np.float32, order="C"), np.empty((len(lengths), self.V), np.float32)
        cos, sin = (None, None) if turn is None else (np.array(a, np.float32, order="C") for a in turn)
        tasks = np.zeros(5 * table.shape[1] + 1, np.int64)
        sizes = self.C, self.H, self.G, self.W, self.V, context
        room = address(x), _address(cos), _address(sin), address(logits), address(self.room)
        _token(self.table, table, lengths, self.last, sizes, self.form, room, (self.threads, address(tasks)))
        return logits
