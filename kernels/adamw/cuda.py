"""AdamW and the gradient norm on a GPU: reference.py's signatures over the kernels in cuda.cu.

`grad_scale` and `factor` may also be a zero-dimensional array on the GPU (float32 or float64). Clipping then computes its
factor there, and the CPU never waits for the norm.
"""

import math
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from kernels import gpu
from kernels.adamw import reference
from kernels.arrays import Array, Arrays, array_module
from kernels.contract import follows
from kernels.gpu import Source, empty, f32, i32, i64

SOURCE = Source(__file__)
BLOCK = (256,)
CHUNK = 4096  # elements of a block, as in cuda.cu
PER_SPAN = reference.SPAN // CHUNK
_tables: dict[tuple, tuple[Array, Array]] = {}  # addresses and lengths of arrays -> (table, blocks) on the device


@lru_cache(maxsize=64)
def _constants(step: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> tuple[np.float32, ...]:
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    return tuple(map(f32, (1 - lr * weight_decay, beta1, beta2, 1 - beta1, 1 - beta2, lr / correction1, correction2, eps)))


def _factor(value: Any) -> tuple[np.float32, Array | None]:
    """The kernels' two arguments for a factor: a number, and an array or None; the factor is their product."""
    if getattr(value, "shape", None) == () and not isinstance(value, np.generic):
        return f32(1), value.astype(np.float32)  # queued: the CPU does not wait
    return f32(value), None


def _table(*lists: Arrays) -> tuple[Array, Array]:
    """cuda.cu's (table, blocks) for these lists of contiguous float32 arrays.

    Parameters and moments stay in place, and gradients return to the same places in CuPy's pool at every step, so after the
    first steps the table is already on the device. A new table is a copy of a few kilobytes.
    """
    xp, sizes = array_module(lists[0][0]), [a.size for a in lists[0]]
    key = (xp.__name__, *map(gpu.address, chain(*lists)), *sizes)
    if key not in _tables:
        if len(_tables) > 64:
            _tables.clear()
        blocks = [(i, j) for i, size in enumerate(sizes) for j in range(gpu.blocks_for(size, CHUNK))]
        table = np.array(key[1:], np.int64)
        _tables[key] = xp.asarray(table), xp.asarray(np.array(blocks, np.int32).reshape(-1, 2))
    return _tables[key]


def adamw_plain(param: Array, grad: Array, m: Array, v: Array, *, grad_scale: float = 1.0, **settings: Any) -> None:
    """adamw_step for one array by the plain kernel, for reading and measuring; `settings` are those of adamw_step."""
    args: tuple[Any, ...] = param, grad, m, v, i64(param.size), f32(grad_scale), *_constants(**settings)
    SOURCE.launch("adamw_plain", *gpu.elementwise(param.size), *args)


@follows(reference.adamw_step)
def adamw_step(
    params: Arrays, grads: Arrays, exp_avgs: Arrays, exp_avg_sqs: Arrays, *, grad_scale: float | Array = 1.0, **settings: Any
) -> None:
    """See reference.adamw_step, also for the settings; the arrays are float32."""
    lists = params, grads, exp_avgs, exp_avg_sqs
    if not params:
        return
    buffers = [list(map(gpu.contiguous, arrays)) for arrays in lists]
    table, blocks = _table(*buffers)
    args = table, blocks, i32(len(params)), *_factor(grad_scale), *_constants(**settings)
    SOURCE.launch("adamw", (len(blocks),), BLOCK, *args, reach=list(chain(*buffers)))
    for arrays, results in zip((params, exp_avgs, exp_avg_sqs), (buffers[0], *buffers[2:])):
        _copy_back(arrays, results)


@follows(reference.square_sums)
def square_sums(arrays: Arrays) -> Array:
    """See reference.square_sums."""
    if not arrays:
        return np.zeros(0)
    sums, _ = _chunk_sums(arrays)
    chunks = [gpu.blocks_for(a.size, CHUNK) for a in arrays]
    padded = [-(-n // PER_SPAN) * PER_SPAN for n in chunks]  # an array's last span may have fewer chunks
    spans, at, start = array_module(sums).zeros(sum(padded), np.float64), 0, 0
    for n, room in zip(chunks, padded):
        spans[at : at + n] = sums[start : start + n]
        at, start = at + room, start + n
    return spans.reshape(-1, PER_SPAN).sum(axis=1)


@follows(reference.global_norm)
def global_norm(arrays: Arrays) -> Array:
    """See reference.global_norm. The zero-dimensional float64 result stays on the device; reading it waits for the GPU."""
    if not arrays:
        return np.zeros(())
    sums, chunks = _chunk_sums(arrays)
    norm = empty(sums, (), np.float64)
    SOURCE.launch("root_of_sum", (1,), (1024,), sums, norm, i32(chunks))
    return norm


def _chunk_sums(arrays: Arrays) -> tuple[Array, int]:
    """The sum of squares of each chunk, and the number of chunks."""
    arrays = list(map(gpu.contiguous, arrays))
    table, blocks = _table(arrays)
    sums = empty(table, max(1, len(blocks)), np.float64)
    SOURCE.launch("square_sums", (len(blocks),), BLOCK, table, blocks, i32(len(arrays)), sums, reach=arrays)
    return sums, len(blocks)


@follows(reference.scale_arrays)
def scale_arrays(arrays: Arrays, factor: float | Array) -> None:
    """See reference.scale_arrays."""
    if arrays:
        buffers = list(map(gpu.contiguous, arrays))
        table, blocks = _table(buffers)
        SOURCE.launch("scale_arrays", (len(blocks),), BLOCK, table, blocks, i32(len(arrays)), *_factor(factor), reach=buffers)
        _copy_back(arrays, buffers)


def _copy_back(arrays: Arrays, buffers: Arrays) -> None:
    """Write the buffers of strided arrays, which `contiguous` made, back to these arrays."""
    for array, buffer in zip(arrays, buffers):
        if buffer is not array:
            array[...] = buffer
