"""AdamW and the gradient norm on a GPU: reference.py's signatures over the kernels in cuda.cu.

`grad_scale` and `factor` may also be an array of no dimensions (float32 or float64) that lives on the GPU: clipping can
then compute its factor there, and nothing waits for the norm to arrive at the CPU.
"""

import math
from functools import lru_cache

import numpy as np

from kernels.arrays import array_module
from kernels.gpu import Source, address, blocks_for, empty, f32, i32, i64

SOURCE = Source(__file__)
THREADS = 256
CHUNK = 4096  # numbers that one block works on, as in cuda.cu
_tables = {}  # addresses and lengths of lists of arrays -> the table of cuda.cu, on the device


@lru_cache(maxsize=64)
def _constants(step, lr, beta1, beta2, eps, weight_decay):
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    numbers = 1 - lr * weight_decay, beta1, beta2, 1 - beta1, 1 - beta2, lr / correction1, correction2, eps
    return tuple(f32(c) for c in numbers)


def _factor(value):
    """(a number, an array or None) whose product is meant."""
    if getattr(value, "shape", None) == () and not isinstance(value, np.generic):
        return f32(1), value.astype(np.float32)  # an array of no dimensions; the conversion is queued like all else
    return f32(value), None


def _table(*lists):
    """(table, blocks) of cuda.cu for these lists of float32 arrays.

    Parameters and moments stay where they are, and gradients come back to the same places in CuPy's pool from step to
    step, so that after the first steps the table is found on the device; a new one is a copy of a few kilobytes.
    """
    for arrays in lists:
        for a in arrays:
            if a.dtype != np.float32 or not a.flags.c_contiguous:
                raise TypeError(f"the optimiser's kernels take contiguous float32 arrays, got {a.dtype} of shape {a.shape}")
    xp = array_module(lists[0][0])
    sizes = [a.size for a in lists[0]]
    key = (xp.__name__, *(address(a) for arrays in lists for a in arrays), *sizes)
    found = _tables.get(key)
    if found is None:
        if len(_tables) > 64:
            _tables.clear()
        blocks = [(i, j) for i, size in enumerate(sizes) for j in range(blocks_for(size, CHUNK))]
        table = np.array(key[1:], np.int64)
        found = _tables[key] = xp.asarray(table), xp.asarray(np.array(blocks, np.int32).reshape(-1, 2))
    return found


def adamw_step(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay, grad_scale=1.0):
    """See reference.adamw_step; float32 contiguous arrays, updated in place, by one launch for all."""
    lists = params, grads, exp_avgs, exp_avg_sqs
    if not params:
        return
    for same in zip(*lists, strict=True):
        if len({a.shape for a in same}) > 1:
            raise ValueError(f"adamw_step: a parameter, its gradient and its moments have shapes {[a.shape for a in same]}")
    table, blocks = _table(*lists)
    number, array = _factor(grad_scale)
    args = table, blocks, i32(len(params)), number, array, *_constants(step, lr, beta1, beta2, eps, weight_decay)
    SOURCE.launch("adamw", (len(blocks),), (THREADS,), *args, reach=[a for arrays in lists for a in arrays])


def global_norm(arrays):
    """See reference.global_norm.  Returns a float64 array of no dimensions, on the device: reading it waits for it."""
    if not arrays:
        return np.zeros(())
    table, blocks = _table(arrays)
    sums, norm = empty(table, max(1, len(blocks)), np.float64), empty(table, (), np.float64)
    SOURCE.launch("square_sums", (len(blocks),), (THREADS,), table, blocks, i32(len(arrays)), sums, reach=arrays)
    SOURCE.launch("root_of_sum", (1,), (1024,), sums, norm, i32(len(blocks)))
    return norm


def scale_arrays(arrays, factor):
    """See reference.scale_arrays."""
    if not arrays:
        return
    table, blocks = _table(arrays)
    args = table, blocks, i32(len(arrays)), *_factor(factor)
    SOURCE.launch("scale_arrays", (len(blocks),), (THREADS,), *args, reach=arrays)


def adamw_plain(param, grad, m, v, *, step, lr, beta1, beta2, eps, weight_decay, grad_scale=1.0):
    """adamw_step for one array, by the kernel that moves four bytes a thread: to read and to measure, not to use."""
    constants = _constants(step, lr, beta1, beta2, eps, weight_decay)
    grid = (blocks_for(param.size, THREADS),)
    SOURCE.launch("adamw_plain", grid, (THREADS,), param, grad, m, v, i64(param.size), f32(grad_scale), *constants)
