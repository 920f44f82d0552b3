"""What the models after GPT-2 changed in its block: RMSNorm, rotary positions, gated MLPs."""

from functools import lru_cache

import numpy as np

import kernels
from minigrad.function import Function
from minigrad.ops.axes import need_float


class RMSNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        y, rstd = ctx.kernels.rms_norm_forward(x, weight, eps=eps)
        ctx.save(x, weight, rstd)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, rstd = ctx.saved
        return *ctx.kernels.rms_norm_backward(dy, x, weight, rstd, needs=ctx.needs[:2]), None


class Rotary(Function):
    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save(cos, sin)
        return ctx.kernels.rotary(x, cos, sin)

    # y = R x with R a rotation:  dx = Rᵀ dy, the rotation back.
    @staticmethod
    def backward(ctx, dy):
        return ctx.kernels.rotary(dy, *ctx.saved, inverse=True), None, None


class SwiGLU(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return ctx.kernels.swiglu_forward(x)

    @staticmethod
    def backward(ctx, dy):
        return ctx.kernels.swiglu_backward(dy, *ctx.saved)


def rms_norm(input, normalized_shape, weight=None, eps=None):
    """x / √(mean of x² + eps) over the last axis, then scaled by weight.  Zhang, Sennrich 2019 (arXiv:1910.07467).

    eps: the dtype's own precision where None, as in PyTorch.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if len(shape) != 1:
        raise NotImplementedError(f"rms_norm: only the last axis can be normalised, got normalized_shape={shape}")
    if input.shape[-1:] != shape:
        raise RuntimeError(f"rms_norm: input has shape {input.shape}, which does not end in {shape[0]}")
    if weight is not None and weight.shape != shape:
        raise RuntimeError(f"rms_norm: weight has shape {weight.shape}, expected {shape}")
    need_float("rms_norm", input, weight)
    return RMSNorm.apply(input, weight, float(np.finfo(input.dtype).eps) if eps is None else eps)


@lru_cache(maxsize=64)  # all layers of a model, and all steps of training, ask for the same few
def _angles(start, T, D, base, dtype, device):
    turns = np.arange(start, start + T)[:, None] * base ** -(np.arange(0, D, 2) / D)  # (T, D/2), in radians
    return tuple(kernels.to_device(f(turns).astype(dtype), device) for f in (np.cos, np.sin))


def rotary(input, start=0, base=10000.0):
    """Turn queries or keys by their positions start, start + 1, … (not in PyTorch).  Su et al. 2021 (arXiv:2104.09864).

    input: (B, H, T, D), D even -> the same shape.  Number j and number j + D/2 of a row are a point on a plane, which is
    turned by position · base^(−2j/D).
    """
    if input.ndim != 4 or input.shape[-1] % 2:
        raise RuntimeError(f"rotary: input must be (B, H, T, D) with an even D, got {input.shape}")
    need_float("rotary", input)
    T, D = input.shape[-2:]
    return Rotary.apply(input, *_angles(start, T, D, float(base), input.dtype, input.device))


def swiglu(input):
    """SiLU(gate) · up, the two halves of the last axis (not in PyTorch).  Shazeer 2020 (arXiv:2002.05202), eq. 6.

    input: (..., 2F), gates first -> (..., F).
    """
    if not input.ndim or input.shape[-1] % 2:
        raise RuntimeError(f"swiglu: the last axis must hold gates and ups side by side, got shape {input.shape}")
    need_float("swiglu", input)
    return SwiGLU.apply(input)
