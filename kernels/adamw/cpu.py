"""AdamW and the gradient norm on the CPU in float32, one kernel call for a whole list of arrays.

The update equals `naive_adamw`, applied to every array. A model has dozens of arrays, most of them small. The fast version
cuts all of them into spans of at most SPAN numbers, and the threads draw spans until none is left. So the threads start only
once, and pass over memory only once: they read four arrays and write three.
"""

import math
from collections import namedtuple
from typing import Any

import numpy as np
from numba import prange, types

from kernels.adamw import reference
from kernels.adamw.reference import SPAN
from kernels.arrays import Array, Arrays
from kernels.contract import follows, unchecked
from kernels.launch import address, exact, inner, kernel, threads_for
from kernels.simd import load, next_task, store

# One step's settings. decay is 1 − lr · weight_decay; rate and eps include both bias corrections.
Settings = namedtuple("Settings", "decay beta1 beta2 rate eps grad_scale")


def naive_adamw(param: Array, grad: Array, m: Array, v: Array, s: Settings) -> None:
    """Update one array (N,) and its moments in place."""
    for i in range(len(param)):
        g = grad[i] * s.grad_scale
        m[i] = s.beta1 * m[i] + (1 - s.beta1) * g
        v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g
        param[i] = param[i] * s.decay - s.rate * m[i] / (math.sqrt(v[i]) + s.eps)


_F = types.float32


def _spans(*lists: Arrays) -> tuple[Array, Array, int]:
    """Cut the C-contiguous float32 arrays of parallel lists into spans; the caller must keep the arrays alive.

    Returns:
        table: (spans, lists + 1), the span's address in each list's array, and its length.
        tasks: a zeroed counter from which the threads draw spans.
        elements: how many numbers a list has.
    """
    columns = len(lists)
    sizes = np.array([a.size for a in lists[0]], np.int64)  # (n,)
    starts = np.array([[address(a) for a in arrays] for arrays in lists], np.int64).reshape(columns, -1)  # (columns, n)
    counts = -(-sizes // SPAN)  # (n,)  spans in each array
    owner = np.repeat(np.arange(len(sizes)), counts)  # (spans,)
    offset = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)) * SPAN  # (spans,)
    table = np.empty((len(owner), columns + 1), np.int64)
    table[:, :columns] = starts[:, owner].T + 4 * offset[:, None]
    table[:, columns] = np.minimum(sizes[owner] - offset, SPAN)
    return table, np.zeros(1, np.int64), int(sizes.sum())


@exact
def _in_order(average, beta, g, factor):
    """β · average + (1 − β) · g · factor, multiplied from left to right."""
    return average * beta + (_F(1.0) - beta) * g * factor


@inner
def _update(param, grad, m, v, n, s):
    for i in range(n):
        g = load(grad, i) * s.grad_scale
        mi = load(m, i) * s.beta1 + (_F(1.0) - s.beta1) * g
        vi = load(v, i) * s.beta2 + (_F(1.0) - s.beta2) * g * g
        # The compiler may expand (1 − β) g² to g² − β g², which is NaN from |g| = 1.8e19 on, where g² overflows.
        mi = mi if abs(mi) < _F(np.inf) else _in_order(load(m, i), s.beta1, g, _F(1.0))
        vi = vi if vi < _F(np.inf) else _in_order(load(v, i), s.beta2, g, g)
        store(m, i, mi)
        store(v, i, vi)
        store(param, i, load(param, i) * s.decay - s.rate * mi / (np.sqrt(vi) + s.eps))


@kernel
def _step(table, numbers, tasks, threads):  # table: (spans, 5)  numbers: a Settings
    settings = Settings(*numbers)
    for _ in prange(threads):
        t = next_task(tasks)
        while t < len(table):
            param, grad, m, v, n = table[t]
            _update(param, grad, m, v, n, settings)
            t = next_task(tasks)


@inner
def _squares(x, n):
    total = 0.0
    for i in range(n):
        value = types.float64(load(x, i))
        total += value * value
    return total


@kernel
def _square_sums(table, sums, tasks, threads):  # table: (spans, 2)  sums: (spans,) float64
    for _ in prange(threads):
        t = next_task(tasks)
        while t < len(table):
            sums[t] = _squares(table[t, 0], table[t, 1])
            t = next_task(tasks)


@inner
def _multiply(x, n, factor):
    for i in range(n):
        store(x, i, load(x, i) * factor)


@kernel
def _scale(table, factor, tasks, threads):  # table: (spans, 2)
    for _ in prange(threads):
        t = next_task(tasks)
        while t < len(table):
            _multiply(table[t, 0], table[t, 1], factor)
            t = next_task(tasks)


def _settings(
    step: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, grad_scale: float = 1.0
) -> tuple[np.float32, ...]:
    # A factor that combines both bias corrections saves a division for each weight (Kingma, Ba 2015, end of section 2).
    correction2 = math.sqrt(1 - beta2**step)
    rate = lr * correction2 / (1 - beta1**step)
    return tuple(map(np.float32, Settings(1 - lr * weight_decay, beta1, beta2, rate, eps * correction2, grad_scale)))


@follows(reference.adamw_step)
def adamw_step(params: Arrays, grads: Arrays, exp_avgs: Arrays, exp_avg_sqs: Arrays, **settings: Any) -> None:
    """See kernels/adamw/reference.py, which lists the settings too."""
    in_place = []
    for param, grad, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        if all(a.flags.c_contiguous for a in (param, m, v)):
            in_place.append((param, np.ascontiguousarray(grad, np.float32), m, v))
        else:
            reference.adamw_step([param], [grad], [m], [v], **settings)
    if in_place:
        table, tasks, elements = _spans(*zip(*in_place))
        _step(table, _settings(**settings), address(tasks), threads_for(4 * elements))


@follows(reference.square_sums)
def square_sums(arrays: Arrays) -> Array:
    """See kernels/adamw/reference.py."""
    arrays = [np.ascontiguousarray(a, np.float32) for a in arrays]
    if not arrays:
        return np.zeros(0)
    table, tasks, elements = _spans(arrays)
    sums = np.empty(len(table))  # in the order of the spans, whichever thread computed each
    _square_sums(table, sums, address(tasks), threads_for(elements))
    return sums


@follows(reference.global_norm)
def global_norm(arrays: Arrays) -> Array:
    """See kernels/adamw/reference.py."""
    return np.sqrt(unchecked(square_sums)(arrays).sum())


@follows(reference.scale_arrays)
def scale_arrays(arrays: Arrays, factor: float) -> None:
    """See kernels/adamw/reference.py."""
    in_place = [a for a in arrays if a.flags.c_contiguous]
    reference.scale_arrays([a for a in arrays if not a.flags.c_contiguous], factor)
    if in_place:
        table, tasks, elements = _spans(in_place)
        _scale(table, np.float32(factor), address(tasks), threads_for(elements))
