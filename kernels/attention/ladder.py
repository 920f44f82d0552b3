"""The ladder of causal attention: what avoiding the (T, T) matrix of scores buys."""

import math

import numba
import numpy as np

from kernels.attention import cpu, reference
from kernels.ladders import Ladder, normal, on_one_thread
from kernels.launch import SAFE
from kernels.simd import exp
from kernels.softmax.cpu import row_maximum


def whole_matrix(q, k, v, y):
    """NumPy, every score in memory"""
    return reference.attention_forward(q, k, v, causal_offset=0)[0]


@numba.njit(error_model="numpy")
def plain(q, k, v, y):
    """a query at a time, no matrix, libm's exp"""
    _, H, T, D = q.shape
    scores = np.empty(T, np.float32)
    scale = np.float32(1 / math.sqrt(D))
    for h in range(H):
        for t in range(T):
            top = np.float32(-np.inf)
            for s in range(t + 1):  # a query sees the keys up to its own
                score = np.float32(0)
                for d in range(D):
                    score += q[0, h, t, d] * k[0, h, s, d]
                scores[s] = score * scale
                top = max(top, scores[s])
            total = np.float32(0)
            y[0, h, t] = 0
            for s in range(t + 1):
                weight = np.float32(math.exp(scores[s] - top))
                total += weight
                for d in range(D):
                    y[0, h, t, d] += weight * v[0, h, s, d]
            for d in range(D):
                y[0, h, t, d] /= total


@numba.njit(error_model="numpy", fastmath=SAFE)
def vectors(q, k, v, y):
    """sums in vector registers, exp as a polynomial"""
    _, H, T, D = q.shape
    scores = np.empty(T, np.float32)
    scale = np.float32(1 / math.sqrt(D))
    for h in range(H):
        for t in range(T):
            for s in range(t + 1):
                score = np.float32(0)
                for d in range(D):
                    score += q[0, h, t, d] * k[0, h, s, d]
                scores[s] = score * scale
            top, total = row_maximum(scores[: t + 1]), np.float32(0)
            for s in range(t + 1):
                scores[s] = exp(scores[s] - top)
                total += scores[s]
            y[0, h, t] = 0
            for s in range(t + 1):
                for d in range(D):
                    y[0, h, t, d] += scores[s] * v[0, h, s, d]
            for d in range(D):
                y[0, h, t, d] /= total


@on_one_thread
def blocks(q, k, v, y):
    """blocks of scores in register tiles: the kernel on one core"""
    return cpu.attention_forward(q, k, v, causal_offset=0, out=y)[0]


def threads(q, k, v, y):
    """all cores: the engine's kernel"""
    return cpu.attention_forward(q, k, v, causal_offset=0, out=y)[0]


def ladders(size: int | None = None) -> list[Ladder]:
    """Six heads of width 64 over 512 tokens, whatever `size` is; `size` limits T in the table that follows the ladder."""
    shape = _, H, T, D = 1, 6, 512, 64
    q, k, v = (normal(*shape, seed=seed) for seed in range(3))
    rungs = (whole_matrix, plain, vectors, blocks, threads)
    operations = 2 * H * T * (T + 1) * D  # two products over the visible keys
    arguments = (q, k, v, np.empty_like(q))
    return [Ladder("attention", "forward", shape, rungs, arguments, operations, "multiplying", remark="causal")]
