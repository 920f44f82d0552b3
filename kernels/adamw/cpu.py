"""AdamW and the gradient norm on the CPU: the reference's signatures, float32, one launch for the whole list of arrays.

A model's parameters come in dozens of arrays, most of them small. The kernels therefore take a table of their addresses, cut
them all into spans of at most SPAN elements, and the threads draw spans until none is left: started once, one pass over memory.
The update reads four arrays and writes three; everything it computes in between stays in registers.
"""

import math

import numpy as np
from numba import prange, types

from kernels.adamw import reference
from kernels.launch import address, inner, kernel, workers
from kernels.simd import load, store, take_number

_F = types.float32
SPAN = 1 << 16  # elements, of each of 4 arrays: 256 kB, a long way along memory


def _spans(lists):
    """A table of spans, one row each: where the span begins in every list's array, and its length; a counter from which the
    threads draw their next span; the number of elements.

    The arrays must be C-contiguous float32; they are kept alive by the caller.
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
def _update(param, grad, m, v, n, decay, beta1, beta2, rate, eps, grad_scale):
    for i in range(n):
        g = load(grad, i) * grad_scale
        mi = load(m, i) * beta1 + (_F(1.0) - beta1) * g
        vi = load(v, i) * beta2 + (_F(1.0) - beta2) * g * g
        store(m, i, mi)
        store(v, i, vi)
        store(param, i, load(param, i) * decay - rate * mi / (np.sqrt(vi) + eps))


@kernel
def _step(table, decay, beta1, beta2, rate, eps, grad_scale, tasks, parts):  # table: (spans, 5)
    for _ in prange(parts):
        t = take_number(tasks)
        while t < len(table):
            p, g, m, v, n = table[t]
            _update(p, g, m, v, n, decay, beta1, beta2, rate, eps, grad_scale)
            t = take_number(tasks)


@inner
def _squares(x, n):
    total = 0.0
    for i in range(n):
        value = types.float64(load(x, i))
        total += value * value
    return total


@kernel
def _square_sums(table, sums, tasks, parts):  # table: (spans, 2)  sums: (spans,) float64
    for _ in prange(parts):
        t = take_number(tasks)
        while t < len(table):
            sums[t] = _squares(table[t, 0], table[t, 1])
            t = take_number(tasks)


@inner
def _multiply(x, n, factor):
    for i in range(n):
        store(x, i, load(x, i) * factor)


@kernel
def _scale(table, factor, tasks, parts):  # table: (spans, 2)
    for _ in prange(parts):
        t = take_number(tasks)
        while t < len(table):
            _multiply(table[t, 0], table[t, 1], factor)
            t = take_number(tasks)


def _direct(array):
    """Whether a kernel may update this array by its address."""
    return array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable


def adamw_step(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay, grad_scale=1.0):
    """See kernels/adamw/reference.py."""
    settings = dict(step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, grad_scale=grad_scale)
    lists = [[], [], [], []]
    for param, grad, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        if grad.shape == param.shape == m.shape == v.shape and _direct(param) and _direct(m) and _direct(v):
            row = param, np.ascontiguousarray(grad, np.float32), m, v
            for arrays, array in zip(lists, row, strict=True):
                arrays.append(array)
        else:
            reference.adamw_step([param], [grad], [m], [v], **settings)
    if not lists[0]:
        return
    table, tasks, elements = _spans(lists)
    # Both bias corrections in one factor (Kingma, Ba 2015, end of section 2): one division a weight in place of two.
    correction2 = math.sqrt(1 - beta2**step)
    rate = lr * correction2 / (1 - beta1**step)
    numbers = 1 - lr * weight_decay, beta1, beta2, rate, eps * correction2, grad_scale
    _step(table, *map(np.float32, numbers), address(tasks), workers(4 * elements))


def global_norm(arrays):
    """See kernels/adamw/reference.py."""
    arrays = [np.ascontiguousarray(a, np.float32) for a in arrays]
    if not arrays:
        return np.sqrt(np.float64(0))
    table, tasks, elements = _spans([arrays])
    sums = np.empty(len(table))  # one sum a span, added up in one order whoever computed them
    _square_sums(table, sums, address(tasks), workers(elements))
    return np.sqrt(sums.sum())


def scale_arrays(arrays, factor):
    """See kernels/adamw/reference.py."""
    direct = [a for a in arrays if _direct(a)]
    reference.scale_arrays([a for a in arrays if not _direct(a)], factor)
    if direct:
        table, tasks, elements = _spans([direct])
        _scale(table, np.float32(factor), address(tasks), workers(elements))
