"""AdamW and the gradient norm on the CPU in float32, one kernel call for a whole list of arrays.

The update equals `naive_adamw`, applied to every array. A model has dozens of arrays, most of them small. The fast version
therefore cuts all of them into spans of at most SPAN numbers, and the threads draw spans until none is left: one start of the
threads, one pass over memory. It reads four arrays and writes three; everything in between stays in registers.
"""

import math
from collections import namedtuple
from collections.abc import Sequence

import numpy as np
from numba import prange, types

from kernels.adamw import reference
from kernels.launch import address, inner, kernel, threads_for
from kernels.simd import load, next_task, store

# One step's settings. decay is 1 − lr · weight_decay; rate and eps include both bias corrections.
Settings = namedtuple("Settings", "decay beta1 beta2 rate eps grad_scale")


def naive_adamw(param: np.ndarray, grad: np.ndarray, m: np.ndarray, v: np.ndarray, s: Settings) -> None:
    """Update one array (N,) and its moments in place."""
    for i in range(len(param)):
        g = grad[i] * s.grad_scale
        m[i] = s.beta1 * m[i] + (1 - s.beta1) * g
        v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g
        param[i] = param[i] * s.decay - s.rate * m[i] / (math.sqrt(v[i]) + s.eps)


_F = types.float32
SPAN = 1 << 16  # numbers in a span: 256 kB of each of 4 arrays, long runs of memory


def _spans(lists: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut the arrays of parallel lists into spans.

    The arrays must be C-contiguous float32, and the caller keeps them alive.

    Returns:
        table: (spans, lists + 1), the span's address in each list's array, and its length.
        tasks: a zeroed counter from which the threads draw spans.
        The number of elements in one list.
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


@inner
def _update(param, grad, m, v, n, s):
    for i in range(n):
        g = load(grad, i) * s.grad_scale
        mi = load(m, i) * s.beta1 + (_F(1.0) - s.beta1) * g
        vi = load(v, i) * s.beta2 + (_F(1.0) - s.beta2) * g * g
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


def _writable_in_place(array: np.ndarray) -> bool:
    return array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable


def adamw_step(
    params: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    exp_avgs: Sequence[np.ndarray],
    exp_avg_sqs: Sequence[np.ndarray],
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    grad_scale: float = 1.0,
) -> None:
    """See kernels/adamw/reference.py."""
    settings: dict = dict(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, grad_scale=grad_scale)
    lists: list[list[np.ndarray]] = [[], [], [], []]
    for param, grad, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        if grad.shape == param.shape == m.shape == v.shape and all(map(_writable_in_place, (param, m, v))):
            for arrays, array in zip(lists, (param, np.ascontiguousarray(grad, np.float32), m, v), strict=True):
                arrays.append(array)
        else:
            reference.adamw_step([param], [grad], [m], [v], step=step, **settings)
    if not lists[0]:
        return
    table, tasks, elements = _spans(lists)
    # Both bias corrections in one factor saves a division for each weight (Kingma, Ba 2015, end of section 2).
    correction2 = math.sqrt(1 - beta2**step)
    rate = lr * correction2 / (1 - beta1**step)
    numbers = Settings(1 - lr * weight_decay, beta1, beta2, rate, eps * correction2, grad_scale)
    _step(table, tuple(map(np.float32, numbers)), address(tasks), threads_for(4 * elements))


def global_norm(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """See kernels/adamw/reference.py."""
    arrays = [np.ascontiguousarray(a, np.float32) for a in arrays]
    if not arrays:
        return np.sqrt(np.float64(0))
    table, tasks, elements = _spans([arrays])
    sums = np.empty(len(table))  # one for each span: they are added in this order, whichever thread computed them
    _square_sums(table, sums, address(tasks), threads_for(elements))
    return np.sqrt(sums.sum())


def scale_arrays(arrays: Sequence[np.ndarray], factor: float) -> None:
    """See kernels/adamw/reference.py."""
    direct = [a for a in arrays if _writable_in_place(a)]
    reference.scale_arrays([a for a in arrays if not _writable_in_place(a)], factor)
    if direct:
        table, tasks, elements = _spans([direct])
        _scale(table, np.float32(factor), address(tasks), threads_for(elements))
