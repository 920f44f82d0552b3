"""AdamW and the gradient norm on a GPU: reference.py's signatures over the kernels in cuda.cu.

`grad_scale` and `factor` may also be an array of no dimensions (float32 or float64) that lives on the GPU: clipping can then
compute its factor there, and nothing waits for the norm to arrive at the CPU.
"""

import math
from functools import lru_cache

import numpy as np

from kernels.gpu import Source, blocks_for, empty, f32, i32, i64, multiprocessors, vectorises

SOURCE = Source(__file__)
THREADS = 256


@lru_cache(maxsize=64)
def _constants(step, lr, beta1, beta2, eps, weight_decay):
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    return tuple(f32(c) for c in (1 - lr * weight_decay, beta1, beta2, 1 - beta1, 1 - beta2, lr / correction1, correction2, eps))


def _factor(value):
    """(a number, an array or None) whose product is meant."""
    if getattr(value, "shape", None) == () and not isinstance(value, np.generic):
        return f32(1), value.astype(np.float32)  # an array of no dimensions; the conversion is queued like everything else
    return f32(value), None


def adamw_step(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay, grad_scale=1.0):
    """See reference.adamw_step; float32 contiguous arrays, updated in place."""
    constants, (scale, scale_array) = _constants(step, lr, beta1, beta2, eps, weight_decay), _factor(grad_scale)
    for param, grad, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        grid, aligned = (blocks_for(param.size, 4 * THREADS),), i32(vectorises(param, grad, m, v))
        SOURCE.launch("adamw", grid, (THREADS,), param, grad, m, v, i64(param.size), scale, scale_array, *constants, aligned)


def global_norm(arrays):
    """See reference.global_norm.  Returns a float64 array of no dimensions, on the device: reading its value waits for it."""
    most = 8 * multiprocessors(arrays[0])
    blocks = [min(most, blocks_for(a.size, 4 * THREADS)) for a in arrays]
    sums, norm = empty(arrays[0], max(1, sum(blocks)), np.float64), empty(arrays[0], (), np.float64)
    first = 0
    for a, n in zip(arrays, blocks):
        SOURCE.launch("square_sums", (n,), (THREADS,), a, i64(a.size), sums, i32(first), i32(vectorises(a)))
        first += n
    SOURCE.launch("root_of_sum", (1,), (1024,), sums, norm, i32(first))
    return norm


def scale_arrays(arrays, factor):
    """See reference.scale_arrays."""
    number, array = _factor(factor)
    for a in arrays:
        SOURCE.launch("scale_array", (blocks_for(a.size, THREADS),), (THREADS,), a, i64(a.size), number, array)
