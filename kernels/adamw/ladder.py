"""The ladder of AdamW: what a single pass over memory, one division per weight and threads each buy."""

import math
from typing import Any

import numba
import numpy as np

from kernels.adamw import cpu, reference
from kernels.ladders import Ladder, normal, on_one_thread

STEP, LR, BETA1, BETA2, EPS, DECAY = 5, 1e-3, 0.9, 0.95, 1e-8, 0.1
SETTINGS: dict[str, Any] = dict(step=STEP, lr=LR, beta1=BETA1, beta2=BETA2, eps=EPS, weight_decay=DECAY)
RATE, ROOT = LR / (1 - BETA1**STEP), math.sqrt(1 - BETA2**STEP)


def whole_arrays(grad, m, v, param):
    """NumPy, one array per step: some 15 passes over memory"""
    reference.adamw_step([param], [grad], [m], [v], **SETTINGS)


@numba.njit(error_model="numpy")
def plain(grad, m, v, param):
    """one pass over memory"""
    for i in range(len(param)):
        m[i] = np.float32(BETA1) * m[i] + np.float32(1 - BETA1) * grad[i]
        v[i] = np.float32(BETA2) * v[i] + np.float32(1 - BETA2) * grad[i] * grad[i]
        update = np.float32(RATE) * m[i] / (np.sqrt(v[i]) / np.float32(ROOT) + np.float32(EPS))
        param[i] = param[i] * np.float32(1 - LR * DECAY) - update


@on_one_thread
def fused(grad, m, v, param):
    """one division per weight: the kernel on one core"""
    cpu.adamw_step([param], [grad], [m], [v], **SETTINGS)


def threads(grad, m, v, param):
    """all cores: the engine's kernel"""
    cpu.adamw_step([param], [grad], [m], [v], **SETTINGS)


def ladders(size: int | None = None) -> list[Ladder]:
    """A step over `size` thousand weights, 16,384 thousand by default."""
    n = 1000 * (size or 16384)
    arguments = (normal(n, seed=1), np.zeros(n, np.float32), np.zeros(n, np.float32), normal(n))
    rungs = (whole_arrays, plain, fused, threads)
    return [Ladder("adamw", "update", (n,), rungs, arguments, 7 * 4 * n, "copying")]
