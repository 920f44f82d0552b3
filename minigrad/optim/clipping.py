"""The gradients of many parameters at once: dropping them, and clipping their common norm."""

import math
from functools import reduce
from typing import Iterable

import numpy as np

import kernels
from minigrad.function import check_one_device
from minigrad.ops.operands import as_float
from minigrad.tensor import Tensor


def zero_grads(parameters: Iterable[Tensor], set_to_none: bool = True) -> None:
    """Drop the gradients of tensors, or with set_to_none=False overwrite them with zeros."""
    for p in parameters:
        if set_to_none:
            p.grad = None
        elif p.grad is not None:
            p.grad.zero_()


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients by one factor so that their common Euclidean norm is at most max_norm.

    Returns the norm before scaling, a tensor of one number. If it is NaN or infinite, error_if_nonfinite=True raises
    RuntimeError.  Source: Pascanu et al. 2013 (arXiv:1211.5063), §3.2.
    """
    if norm_type != 2:
        raise NotImplementedError(f"clip_grad_norm_: only the Euclidean norm (norm_type 2) is implemented, got {norm_type}")
    if not as_float(max_norm, "clip_grad_norm_", "max_norm") >= 0:
        raise ValueError(f"clip_grad_norm_: expected max_norm of at least 0, got {max_norm}")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    tensors = [p.grad for p in parameters if p.grad is not None]
    if not tensors:
        return Tensor(np.zeros((), np.float32))
    check_one_device("clip_grad_norm_", tensors)
    xp = kernels.array_module(tensors[0].array)
    dtypes = {grad.dtype for grad in tensors}
    batches = [
        [grad.array for grad in tensors if grad.dtype == dtype] for dtype in dtypes
    ]  # a kernel takes arrays of one dtype
    norm = reduce(xp.hypot, [kernels.serving(grads[0]).global_norm(grads) for grads in batches])
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {float(norm)}; they cannot be clipped")
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)
    if xp is not np or factor != 1:  # a GPU always scales, since reading the factor would wait for it
        for grads in batches:
            kernels.serving(grads[0]).scale_arrays(grads, factor)
        for grad in tensors:
            grad.changed()
    return Tensor(xp.asarray(norm, np.result_type(*dtypes)))
