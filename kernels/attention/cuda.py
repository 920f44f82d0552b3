"""Scaled dot-product attention on a GPU: reference.py's signatures over the kernels in cuda.cu.

q, k and v may be any views whose last axis is contiguous, such as the three parts of one projection: the kernels are told the
strides. The result lies in memory as (B, T, H, D), seen as (B, H, T, D), so that joining the heads again copies nothing.

Where matrix products are to use the tensor cores (kernels.gpu.set_matmul_precision), so do those in here. In "bf16" too they
round to TF32: the tiles lie in shared memory as float32 either way, so the shorter numbers would gain nothing.
"""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from kernels.arrays import array_module
from kernels.gpu import (  # fmt: skip
    Strided,
    address,
    blocks_for,
    device,
    empty,
    f32,
    i32,
    matmul_precision,
    require_tensor_cores,
    source_with,
)

TILE, THREADS = 64, 128
WIDEST_HEAD = 256  # forward, on an H100; the tiles of backward fit there up to 192, on GPUs with 99 KB a block up to 64
PLAIN_QUERIES = 8  # up to so many queries a head, the plain kernel reads no more than the tiled one and fills the GPU better


def attention_forward(q, k, v, *, scale=None, causal_offset=None, key_start=None, out=None):
    """See reference.attention_forward; all arrays are float32."""
    source = _source(q)
    B, H, T, D = q.shape
    S = k.shape[2]
    q, k, v = (_rows_contiguous(a) for a in (q, k, v))
    y = out
    if y is None or y.strides[-1] != 4:
        y = empty(q, (B, T, H, D)).swapaxes(1, 2)  # (B, H, T, D)
    logsumexp = empty(q, (B, H, T))
    head = Strided(q), Strided(k), Strided(v), Strided(y), logsumexp, _strides(q, k, v, y), _key_start(key_start, q)
    tail = *_sizes(q, S), _scale(q, scale), *_causal(causal_offset)
    if T <= PLAIN_QUERIES:
        source.launch("attention_plain", (T, B * H), (256,), *head, *tail)
    else:
        grid = (blocks_for(T, TILE), B * H)
        source.launch("attention_forward", grid, (THREADS,), *head, *tail, _aligned(q, k, v), shared=_shared(source, q, 3))
    if out is not None and y is not out:
        out[...] = y
        y = out
    return y, logsumexp


def attention_backward(dout, q, k, v, y, logsumexp, *, scale=None, causal_offset=None, key_start=None, out=(None, None, None)):
    """See reference.attention_backward."""
    source = _source(q)
    B, H, T, D = q.shape
    S = k.shape[2]
    dout, q, k, v, y = (_rows_contiguous(a) for a in (dout, q, k, v, y))
    dq, dk, dv = (o if o is not None and o.strides[-1] == 4 else empty(x, x.shape) for o, x in zip(out, (q, k, v), strict=True))
    rows, key_start = empty(q, (B, H, T)), _key_start(key_start, q)
    start = Strided(dout), Strided(q), Strided(k), Strided(v), logsumexp, rows
    tail = key_start, *_sizes(q, S), _scale(q, scale), *_causal(causal_offset), _aligned(dout, q, k, v)
    args = Strided(dout), Strided(y), rows, _strides(dout, y), i32(H), i32(T), i32(D)
    source.launch("attention_rows", (blocks_for(T, 4), B * H), (32, 4), *args)
    for name, length, results in (("keys", S, (dk, dv)), ("queries", T, (dq,))):
        args = *start, *(Strided(r) for r in results), _strides(dout, q, k, v, *results), *tail
        grid = (blocks_for(length, TILE), B * H)
        source.launch(f"attention_backward_{name}", grid, (THREADS,), *args, shared=_shared(source, q, 4))
    grads = []
    for grad, buffer in zip((dq, dk, dv), out, strict=True):
        if buffer is not None and buffer is not grad:
            buffer[...] = grad
        grads.append(grad if buffer is None else buffer)
    return tuple(grads)


def _source(q):
    D = q.shape[-1]
    if D > WIDEST_HEAD:
        raise ValueError(f"attention on a GPU takes heads of up to {WIDEST_HEAD} numbers, these have {D}")
    head_dim = 16 * max(1, blocks_for(D, 16))
    tensor_cores = matmul_precision() != "fp32"
    if tensor_cores:
        require_tensor_cores(q, matmul_precision())
    return source_with(Path(__file__), HEAD_DIM=head_dim, TENSOR_CORES=int(tensor_cores))


def _rows_contiguous(x):
    return x if x.strides[-1] == 4 or x.shape[-1] == 1 else array_module(x).ascontiguousarray(x)


def _sizes(q, S):
    return i32(q.shape[1]), i32(q.shape[2]), i32(S), i32(q.shape[3])


def _scale(q, scale):
    return f32(1 / math.sqrt(q.shape[-1]) if scale is None else scale)


def _causal(offset):
    return i32(offset is not None), i32(offset or 0)


def _key_start(key_start, like):
    if key_start is None:
        return None
    return array_module(like).asarray(key_start, np.int64)


def _aligned(*arrays):
    return i32(all(address(a) % 16 == 0 and all(s % 16 == 0 for s in a.strides[:-1]) for a in arrays))


def _shared(source, q, tiles):
    """Bytes of shared memory: `tiles` tiles of rows and one of weights, with PITCH and WEIGHT_PITCH as in cuda.cu.
    ValueError where no block on q's device may have so many."""
    pitch = source.defines["HEAD_DIM"] + (8 if source.defines["TENSOR_CORES"] else 4)
    needed, there = 4 * TILE * (tiles * pitch + TILE + 4), device(q)
    if needed > there.shared:
        raise ValueError(
            f"attention {'forward' if tiles == 3 else 'backward'} over heads of {q.shape[-1]} numbers needs {needed:,} bytes "
            f"of shared memory a block, and {there.name} has {there.shared:,}: use narrower heads"
        )
    return needed


def _strides(*arrays):
    """Batch, head and row stride of each tensor, in numbers, on the device. The same strides come back every step, so the
    few that there are stay there: only the first step copies any."""
    return _strides_on(array_module(arrays[0]), tuple(s // 4 for a in arrays for s in a.strides[:3]))


@lru_cache(maxsize=None)  # never dropped: recorded graphs hold their addresses
def _strides_on(xp, strides):
    return xp.asarray(np.array(strides, np.int64))
