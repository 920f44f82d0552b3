"""Scaled dot-product attention on a GPU: reference.py's signatures over the kernels in cuda.cu.

q, k and v may be any views whose last axis is contiguous, such as the three parts of one projection, since the kernels take
strides. The result is a (B, H, T, D) view of memory ordered (B, T, H, D), so joining the heads copies nothing.

kernels.gpu.set_matmul_precision applies here too, but in "bf16" attention rounds to TF32: the tiles lie in shared memory as
float32 either way, so shorter numbers would gain nothing.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kernels import gpu
from kernels.arrays import Array, array_module
from kernels.attention import reference
from kernels.contract import follows
from kernels.gpu import Argument, Source, Strided, empty, f32, finish_output, i32

TILE, THREADS = 64, 128
# The forward tiles fit an H100's shared memory up to this width. The backward tiles fit there up to 192, and up to 64 on GPUs
# with 99 KB for each block.
WIDEST_HEAD = 256
PLAIN_QUERIES = 8  # up to this many queries, the plain kernel reads no more than the tiled one and fills the GPU better


@follows(reference.attention_forward)
def attention_forward(
    q, k, v, *, scale=None, causal_offset=None, key_start=None, out: Array | None = None
) -> tuple[Array, Array]:
    """See reference.attention_forward; all arrays are float32."""
    source = _source(q)
    B, H, T, D = q.shape
    q, k, v = (_rows_contiguous(a) for a in (q, k, v))
    y = out
    if y is None or y.strides[-1] != 4:
        y = empty(q, (B, T, H, D)).swapaxes(1, 2)  # (B, H, T, D)
    logsumexp = empty(q, (B, H, T))
    arrays = Strided(q), Strided(k), Strided(v), Strided(y), logsumexp, _strides(q, k, v, y)
    settings = _settings(q, k, scale, causal_offset, key_start)
    if T <= PLAIN_QUERIES:
        source.launch("attention_plain", (T, B * H), (256,), *arrays, *settings)
    else:
        grid, shared = (gpu.blocks_for(T, TILE), B * H), _shared_bytes(source, q, 3)
        source.launch("attention_forward", grid, (THREADS,), *arrays, *settings, _aligned_rows(q, k, v), shared=shared)
    return finish_output(y, out), logsumexp


@follows(reference.attention_backward)
def attention_backward(
    dout, q, k, v, y, logsumexp, *, scale=None, causal_offset=None, key_start=None, out=(None, None, None)
) -> tuple[Array, ...]:
    """See reference.attention_backward."""
    source = _source(q)
    B, H, T, D = q.shape
    dout, q, k, v, y = (_rows_contiguous(a) for a in (dout, q, k, v, y))
    logsumexp = gpu.contiguous(logsumexp)
    dq, dk, dv = (o if o is not None and o.strides[-1] == 4 else empty(x, x.shape) for o, x in zip(out, (q, k, v), strict=True))
    row_dots = empty(q, (B, H, T))
    args = Strided(dout), Strided(y), row_dots, _strides(dout, y), i32(H), i32(T), i32(D)
    source.launch("attention_row_dots", (gpu.blocks_for(T, 4), B * H), (32, 4), *args)
    inputs = Strided(dout), Strided(q), Strided(k), Strided(v), logsumexp, row_dots
    settings = *_settings(q, k, scale, causal_offset, key_start), _aligned_rows(dout, q, k, v)
    shared = _shared_bytes(source, q, 4)
    for name, length, grads in (("keys", k.shape[2], (dk, dv)), ("queries", T, (dq,))):
        outputs, strides = [Strided(grad) for grad in grads], _strides(dout, q, k, v, *grads)
        grid = (gpu.blocks_for(length, TILE), B * H)
        source.launch(f"attention_backward_{name}", grid, (THREADS,), *inputs, *outputs, strides, *settings, shared=shared)
    return tuple(finish_output(grad, buffer) for grad, buffer in zip((dq, dk, dv), out, strict=True))


def _source(q: Array) -> Source:
    """cuda.cu compiled for q's head width, rounded up to a multiple of 16, and for the chosen precision."""
    D = q.shape[-1]
    if D > WIDEST_HEAD:
        raise ValueError(f"attention on a GPU: expected heads of up to {WIDEST_HEAD} numbers, got {D}")
    tensor_cores = gpu.matmul_precision() != "fp32"
    if tensor_cores:
        gpu.require_tensor_cores(q, gpu.matmul_precision())
    return gpu.source_with(Path(__file__), HEAD_DIM=16 * max(1, gpu.blocks_for(D, 16)), TENSOR_CORES=int(tensor_cores))


def _rows_contiguous(x: Array) -> Array:
    return x if x.strides[-1] == 4 or x.shape[-1] == 1 else array_module(x).ascontiguousarray(x)


def _settings(q: Array, k: Array, scale: float | None, causal_offset: int | None, key_start) -> tuple[Argument, ...]:
    """The arguments from key_start to causal_offset, which all the kernels share."""
    _, H, T, D = q.shape
    start = None if key_start is None else array_module(q).asarray(key_start, np.int64)
    factor = f32(1 / math.sqrt(D) if scale is None else scale)
    return start, i32(H), i32(T), i32(k.shape[2]), i32(D), factor, i32(causal_offset is not None), i32(causal_offset or 0)


def _aligned_rows(*arrays: Array) -> np.int32:
    return i32(all(gpu.address(a) % 16 == 0 and all(s % 16 == 0 for s in a.strides[:-1]) for a in arrays))


def _shared_bytes(source: Source, q: Array, tiles: int) -> int:
    """Bytes of shared memory for `tiles` tiles of rows and one tile of weights, with PITCH and WEIGHT_PITCH as in cuda.cu.

    Raises:
        ValueError: if q's device cannot give a block that much.
    """
    pitch = source.defines["HEAD_DIM"] + (8 if source.defines["TENSOR_CORES"] else 4)
    needed, limit = 4 * TILE * (tiles * pitch + TILE + 4), gpu.device(q)
    if needed > limit.shared:
        raise ValueError(
            f"attention {'forward' if tiles == 3 else 'backward'} over heads of {q.shape[-1]} numbers needs {needed:,} bytes "
            f"of shared memory a block, and {limit.name} has {limit.shared:,}; use narrower heads"
        )
    return needed


def _strides(*arrays: Array) -> Array:
    """The strides of each tensor's batch, head and row axes, in elements, on the device.

    Every training step uses the same few sets of strides, so only the first step copies them to the device.
    """
    return _strides_on(array_module(arrays[0]), tuple(s // 4 for a in arrays for s in a.strides[:3]))


@lru_cache(maxsize=None)  # never dropped: recorded graphs contain the addresses
def _strides_on(xp: Any, strides: tuple[int, ...]) -> Array:
    return xp.asarray(np.array(strides, np.int64))
