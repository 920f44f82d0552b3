"""GPT-2's transformer block: the specification, in NumPy, for any float dtype.

    middle = x      + merge(attention(qkv(norm_1(x))))
    y      = middle + narrow(gelu(widen(norm_2(middle))))

It equals the operations one after another, as chapter 5 writes them. Being one operation lets the fast kernel keep a few texts
in a core's caches from the first norm to the last sum. In text generation, block_with_cache takes the newest tokens alone.

Source: the pre-norm block of GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", §2.3).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from kernels.arrays import array_module
from kernels.attention.reference import attention_backward, attention_forward
from kernels.contract import Arguments, contract
from kernels.layernorm.reference import layernorm_backward, layernorm_forward
from kernels.matmul.reference import linear_backward, linear_forward


class Parameters(NamedTuple):
    """A block's parameters, in the order in which it uses them. Linear layers compute x Wᵀ + bias."""

    norm_1_weight: np.ndarray  # (C,)
    norm_1_bias: np.ndarray  # (C,)
    qkv_weight: np.ndarray  # (3C, C)
    qkv_bias: np.ndarray  # (3C,)
    merge_weight: np.ndarray  # (C, C)
    merge_bias: np.ndarray  # (C,)
    norm_2_weight: np.ndarray  # (C,)
    norm_2_bias: np.ndarray  # (C,)
    widen_weight: np.ndarray  # (4C, C)
    widen_bias: np.ndarray  # (4C,)
    narrow_weight: np.ndarray  # (C, 4C)
    narrow_bias: np.ndarray  # (C,)


def parameter_shapes(C: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of Parameters for the width C."""
    return (C,), (C,), (3 * C, C), (3 * C,), (C, C), (C,), (C,), (C,), (4 * C, C), (4 * C,), (C, 4 * C), (C,)


class Saved(NamedTuple):
    """The arrays that the forward pass saves for the backward pass."""

    normal_1: np.ndarray  # (B, T, C), the output of norm_1
    mean_1: np.ndarray  # (B, T)
    rstd_1: np.ndarray  # (B, T)
    qkv: np.ndarray  # (B, T, 3C): q, k and v side by side, each with its heads side by side
    attended: np.ndarray  # (B, T, C), the output of attention
    logsumexp: np.ndarray  # (B, H, T)
    middle: np.ndarray  # (B, T, C), the residual stream between the two halves
    normal_2: np.ndarray  # (B, T, C), the output of norm_2
    mean_2: np.ndarray  # (B, T)
    rstd_2: np.ndarray  # (B, T)
    z: np.ndarray  # (B, T, 4C), the input of gelu
    wide: np.ndarray  # (B, T, 4C), the output of gelu


class Operations(NamedTuple):
    """The operations that a block consists of; cpu.py and cuda.py pass their own."""

    layernorm_forward: Callable[..., Any] = layernorm_forward
    layernorm_backward: Callable[..., Any] = layernorm_backward
    linear_forward: Callable[..., Any] = linear_forward
    linear_backward: Callable[..., Any] = linear_backward
    attention_forward: Callable[..., Any] = attention_forward
    attention_backward: Callable[..., Any] = attention_backward


_PARAMETERS = "[(C,), (C,), (3C, C), (3C,), (C, C), (C,), (C,), (C,), (4C, C), (4C,), (C, 4C), (C,)]"
_NORM = "(B, T, C), (B, T), (B, T)"
_SAVED = f"[{_NORM}, (B, T, 3C), (B, T, C), (B, H, T), (B, T, C), {_NORM}, (B, T, 4C), (B, T, 4C)]"


def _check_heads(arguments: Arguments) -> None:
    for name in ("parameters", "saved"):
        if any(array is None for array in arguments.get(name, ())):
            raise TypeError(f"block: expected an array for each of the {name}, got None; pass all twelve")
    C, H = arguments["x"].shape[-1], arguments.get("n_head", 0)
    if H < 1 or C % H:
        raise ValueError(f"block: expected n_head to divide the width {C}, got {H}; pass the n_head of the model")
    if "saved" in arguments and Saved(*arguments["saved"]).logsumexp.shape[1] != H:
        raise ValueError(f"block_backward: expected the n_head of the forward pass, got {H}; pass the same")


def split_heads(qkv: np.ndarray, n_head: int) -> tuple[np.ndarray, ...]:
    """Views of q, k and v, (B, H, T, D) each, in qkv (B, T, 3C)."""
    B, T, C3 = qkv.shape
    parts = qkv.reshape(B, T, 3, n_head, C3 // (3 * n_head))  # (B, T, 3, H, D)
    return tuple(parts[:, :, i].swapaxes(1, 2) for i in range(3))


def _check_cache(arguments: Arguments) -> None:
    _check_heads(arguments)
    (_, T, C), (_, H, S, D), seen = arguments["x"].shape, arguments["keys"].shape, arguments["seen"]
    if arguments["n_head"] != H or H * D != C:
        raise ValueError(
            f"block_with_cache: expected a cache of {arguments['n_head']} heads of width {C} / {arguments['n_head']}, "
            f"got {H} of width {D}; make it for this model"
        )
    if isinstance(seen, bool) or not isinstance(seen, (int, np.integer)) or not 0 <= seen <= S - T:
        raise ValueError(
            f"block_with_cache: expected seen from 0 to {S - T}, the cache's {S} tokens less the {T} new ones, got {seen!r}; "
            "make a longer cache"
        )


@contract(f"x: (B, T, C); parameters: {_PARAMETERS}", writes=(), also=_check_heads)
def block_forward(
    x: np.ndarray, parameters: tuple, *, n_head: int, eps: float = 1e-5, operations: Operations = Operations()
) -> tuple[np.ndarray, Saved]:
    """One causal transformer block.

    Args:
        x: the residual stream, (B, T, C).
        parameters: see Parameters.
        n_head: H, which divides C; a head has the width D = C / H.
        eps: added to the variance in both norms.
        operations: the kernels to call.

    Returns:
        y: (B, T, C), and the arrays that the backward pass needs.
    """
    attend = partial(operations.attention_forward, causal_offset=0)
    return _block(x, Parameters(*parameters), n_head, eps, attend, operations)


@contract(
    f"x: (B, T, C); parameters: {_PARAMETERS}; keys, values: (B, H, S, D); key_start?: (B,) integers",
    writes=("keys", "values"),
    also=_check_cache,
)
def block_with_cache(
    x: np.ndarray,
    parameters: tuple,
    keys: np.ndarray,
    values: np.ndarray,
    *,
    n_head: int,
    seen: int,
    key_start: np.ndarray | None = None,
    eps: float = 1e-5,
    operations: Operations = Operations(),
) -> np.ndarray:
    """The block for the newest T tokens of each text, beside a cache of the keys and values of the tokens before them.

    Args:
        x: the residual stream of the new tokens, (B, T, C).
        keys, values: the cache, (B, H, S, D) each, with room for S tokens; those of the new tokens are written to it.
        seen: tokens in the cache so far; the new ones are seen … seen + T − 1.
        key_start: each text's first token after padding on the left; no query sees the padding.
        parameters, n_head, eps, operations: as in block_forward.

    Returns:
        y: (B, T, C).
    """
    end = seen + x.shape[1]

    def attend(q, k, v):
        keys[:, :, seen:end], values[:, :, seen:end] = k, v
        return operations.attention_forward(q, keys[:, :, :end], values[:, :, :end], causal_offset=seen, key_start=key_start)

    return _block(x, Parameters(*parameters), n_head, eps, attend, operations)[0]


def _block(
    x: np.ndarray, p: Parameters, n_head: int, eps: float, attend: Callable[..., Any], operations: Operations
) -> tuple[np.ndarray, Saved]:
    """The block with any attention.  attend: q, k, v of (B, H, T, D) each -> (B, H, T, D) and logsumexp (B, H, T)."""
    B, T, C = x.shape
    normal_1, mean_1, rstd_1 = operations.layernorm_forward(x, p.norm_1_weight, p.norm_1_bias, eps=eps)
    qkv, _ = operations.linear_forward(normal_1, p.qkv_weight, p.qkv_bias)  # (B, T, 3C)
    y, logsumexp = attend(*split_heads(qkv, n_head))  # (B, H, T, D), (B, H, T)
    attended = y.swapaxes(1, 2).reshape(B, T, C)
    middle = x + operations.linear_forward(attended, p.merge_weight, p.merge_bias)[0]  # (B, T, C)
    normal_2, mean_2, rstd_2 = operations.layernorm_forward(middle, p.norm_2_weight, p.norm_2_bias, eps=eps)
    wide, z = operations.linear_forward(normal_2, p.widen_weight, p.widen_bias, activation="gelu_tanh")  # (B, T, 4C) each
    y = middle + operations.linear_forward(wide, p.narrow_weight, p.narrow_bias)[0]  # (B, T, C)
    assert z is not None
    return y, Saved(normal_1, mean_1, rstd_1, qkv, attended, logsumexp, middle, normal_2, mean_2, rstd_2, z, wide)


# Each step is undone by its own backward pass, from the last to the first. Two gradients reach `middle`, and two reach x: one
# through the residual stream and one through the norm; they add up.
@contract(f"dy, x: (B, T, C); parameters, out: {_PARAMETERS}; saved: {_SAVED}", also=_check_heads)
def block_backward(
    dy: np.ndarray,
    x: np.ndarray,
    parameters: tuple,
    saved: tuple,
    *,
    n_head: int,
    out: tuple = (None,) * 12,
    accumulate: bool = False,
    operations: Operations = Operations(),
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Gradient of the block.

    Args:
        dy: gradient of y, (B, T, C).
        x, parameters, n_head: the forward inputs.
        saved: the Saved of the forward pass.
        out: a buffer or None for each parameter's gradient.
        accumulate: add to the buffers instead of overwriting them.
        operations: the kernels to call.

    Returns:
        dx: (B, T, C), and the gradients of the parameters, shaped like them.
    """
    p, s, into = Parameters(*parameters), Saved(*saved), dict(accumulate=accumulate)
    B, T, C = x.shape
    dwide, *dnarrow = operations.linear_backward(dy, s.wide, p.narrow_weight, out=(None, *out[10:]), **into)
    dnormal_2, *dwiden = operations.linear_backward(
        dwide, s.normal_2, p.widen_weight, s.z, activation="gelu_tanh", out=(None, *out[8:10]), **into
    )
    dmiddle, *dnorm_2 = operations.layernorm_backward(
        dnormal_2, s.middle, p.norm_2_weight, s.mean_2, s.rstd_2, plus=dy, out=(None, *out[6:8]), **into
    )
    dattended, *dmerge = operations.linear_backward(dmiddle, s.attended, p.merge_weight, out=(None, *out[4:6]), **into)
    heads = [a.reshape(B, T, n_head, C // n_head).swapaxes(1, 2) for a in (dattended, s.attended)]  # (B, H, T, D) each
    dqkv = array_module(x).empty_like(s.qkv)  # (B, T, 3C)
    q, k, v = split_heads(s.qkv, n_head)
    operations.attention_backward(heads[0], q, k, v, heads[1], s.logsumexp, causal_offset=0, out=split_heads(dqkv, n_head))
    dnormal_1, *dqkv_layer = operations.linear_backward(dqkv, s.normal_1, p.qkv_weight, out=(None, *out[2:4]), **into)
    dx, *dnorm_1 = operations.layernorm_backward(
        dnormal_1, x, p.norm_1_weight, s.mean_1, s.rstd_1, plus=dmiddle, out=(None, *out[:2]), **into
    )
    return dx, (*dnorm_1, *dqkv_layer, *dmerge, *dnorm_2, *dwiden, *dnarrow)
