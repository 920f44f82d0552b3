"""Operations of the models after GPT-2: RMSNorm, rotary positions, gated MLPs."""

from functools import lru_cache
from typing import Any, Sequence

import numpy as np

import kernels
from minigrad.engine import TensorT
from minigrad.function import Function
from minigrad.ops.operands import check_normalized, in_float32, need_float


class RMSNorm(Function):
    """Derivation: kernels/rms_norm/reference.py, rms_norm_backward."""

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
    """Derivation: kernels/rotary/reference.py."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save(cos, sin)
        return ctx.kernels.rotary(x, cos, sin)

    # y = R x with R a rotation:  dx = Rᵀ dy, the rotation back.
    @staticmethod
    def backward(ctx, dy):
        return ctx.kernels.rotary(dy, *ctx.saved, inverse=True), None, None


class SwiGLU(Function):
    """Derivation: kernels/swiglu/reference.py, swiglu_backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return ctx.kernels.swiglu_forward(x)

    @staticmethod
    def backward(ctx, dy):
        return ctx.kernels.swiglu_backward(dy, *ctx.saved)


_rms_norm = in_float32(RMSNorm.apply)


def rms_norm(
    input: TensorT, normalized_shape: int | Sequence[int], weight: TensorT | None = None, eps: float | None = None
) -> TensorT:
    """x / √(mean of x² + eps) over the last axis, then scaled by weight.  Source: Zhang, Sennrich 2019 (arXiv:1910.07467).

    input: (..., C), normalized_shape: C or (C,), weight: (C,).  eps: the machine epsilon of the dtype it computes in if None.
    """
    check_normalized("rms_norm", input, normalized_shape, weight=weight)
    return _rms_norm(input, weight, float(np.finfo(np.promote_types(input.dtype, np.float32)).eps) if eps is None else eps)


@lru_cache(maxsize=64)  # all layers and training steps share a few tables
def _angles(start: int, T: int, D: int, base: float, dtype: np.dtype, device: str) -> tuple[Any, ...]:
    turns = np.arange(start, start + T)[:, None] * base ** -(np.arange(0, D, 2) / D)  # (T, D/2), in radians
    return tuple(kernels.to_device(f(turns).astype(dtype), device) for f in (np.cos, np.sin))


def rotary(input: TensorT, start: int = 0, base: float = 10000.0) -> TensorT:
    """Rotate queries or keys by their positions start, start + 1, … (not in PyTorch).  input: (B, H, T, D), D even.

    Elements j and j + D/2 of a row are a point in a plane, which is rotated by the angle position · base^(−2j/D).
    Source: Su et al. 2021 (arXiv:2104.09864).
    """
    if input.ndim != 4 or input.shape[-1] % 2:
        raise RuntimeError(f"rotary: expected (B, H, T, D) with an even D, got {input.shape}")
    need_float("rotary", input)
    T, D = input.shape[-2:]
    return Rotary.apply(input, *_angles(start, T, D, float(base), input.dtype, input.device))


def swiglu(input: TensorT) -> TensorT:
    """SiLU(gate) · up (not in PyTorch).  input: (..., 2F), the gates first -> (..., F).

    Source: Shazeer 2020 (arXiv:2002.05202), eq. 6.
    """
    if not input.ndim or input.shape[-1] % 2:
        raise RuntimeError(f"swiglu: expected a last axis of even length (gates, then ups), got shape {input.shape}")
    need_float("swiglu", input)
    return SwiGLU.apply(input)
