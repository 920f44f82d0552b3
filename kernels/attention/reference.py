"""Scaled dot-product attention: the specification, in NumPy, for any float dtype.

Source: Vaswani et al. 2017, Attention Is All You Need (arXiv:1706.03762), eq. 1. As in Dao et al. 2022, FlashAttention
(arXiv:2205.14135), Appendix B.2, the forward pass saves its output and one number for each row, never the weights.
"""

import math
from collections.abc import Sequence

import numpy as np

from kernels.buffers import write
from kernels.contract import contract


def visible_keys(T: int, S: int, causal_offset: int | None, key_start: Sequence[int] | np.ndarray | None) -> np.ndarray | None:
    """Which query sees which key: booleans that broadcast to (B, 1, T, S), or None if every query sees every key."""
    visible = None
    if causal_offset is not None:
        visible = np.arange(S) <= np.arange(T)[:, None] + causal_offset  # (T, S)
    if key_start is not None:
        not_padding = np.arange(S) >= np.asarray(key_start)[:, None, None, None]  # (B, 1, 1, S)
        visible = not_padding if visible is None else visible & not_padding
    return visible


def _scores(q, k, scale, causal_offset, key_start):
    """scale · q kᵀ, (B, H, T, S), with −∞ wherever a query does not see a key."""
    scores = q @ k.swapaxes(-1, -2) * scale  # (B, H, T, S)
    visible = visible_keys(q.shape[-2], k.shape[-2], causal_offset, key_start)
    return scores if visible is None else np.where(visible, scores, q.dtype.type(-np.inf))


def _default_scale(q, scale):
    """The factor on q·k: 1/√D if scale is None."""
    return q.dtype.type(1 / math.sqrt(q.shape[-1]) if scale is None else scale)


@contract("q, out?: (B, H, T, D); k, v: (B, H, S, D); key_start?: (B,) integers")
def attention_forward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    scale: float | None = None,
    causal_offset: int | None = None,
    key_start: Sequence[int] | np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """y = softmax(scale · q kᵀ) v, where each query weighs the keys that it sees.

    A query that sees no key gives zeros.

    Args:
        q: (B, H, T, D).
        k, v: (B, H, S, D).
        scale: factor on q·k; 1/√D if None.
        causal_offset: query i sees the keys j ≤ i + causal_offset; None means every key. Training passes 0; decoding after P
            tokens passes P.
        key_start: (B,) ints or None; the keys before key_start[b] are padding, invisible in row b of the batch.

    Returns:
        y: (B, H, T, D), and logsumexp: (B, H, T), log Σ_j exp(score_ij), -inf for a query that sees no key.
    """
    scores = _scores(q, k, _default_scale(q, scale), causal_offset, key_start)  # (B, H, T, S)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)  # (B, H, T, 1)
    top = np.where(np.isneginf(top), 0, top).astype(q.dtype)  # no visible key: exp(-inf − 0) = 0, not NaN
    weights = np.exp(scores - top)  # (B, H, T, S)
    total = weights.sum(axis=-1, keepdims=True)  # (B, H, T, 1)
    with np.errstate(divide="ignore"):
        logsumexp = (np.log(total) + top)[..., 0]  # (B, H, T)
    y = (weights / np.where(total == 0, 1, total)) @ v  # (B, H, T, D)
    return write(y, out), logsumexp


# The forward pass was, for one head:   S = scale · q kᵀ,   P = softmax(S) over the visible keys,   O = P v.
#   O = P v is a product:               dv = Pᵀ dO,   dP = dO vᵀ
#   P = softmax(S), row by row:         dS_ij = P_ij (dP_ij − Σ_l dP_il P_il)
#   That sum needs no P:                Σ_l dP_il P_il = Σ_l P_il (dO_i · v_l) = dO_i · O_i   (D terms in place of S)
#   S = scale · q kᵀ is a product:      dq = scale · dS k,   dk = scale · dSᵀ q
# Saved: q, k, v, O and the rows' logsumexp L. The backward pass recomputes P = exp(S − L), so no (T, S) matrix is kept.
@contract(
    "dout, q, y: (B, H, T, D); k, v: (B, H, S, D); logsumexp: (B, H, T); key_start?: (B,) integers; "
    "out: [(B, H, T, D), (B, H, S, D), (B, H, S, D)]"
)
def attention_backward(
    dout: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    y: np.ndarray,
    logsumexp: np.ndarray,
    *,
    scale: float | None = None,
    causal_offset: int | None = None,
    key_start: Sequence[int] | np.ndarray | None = None,
    out: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None] = (None, None, None),
) -> tuple[np.ndarray, ...]:
    """Gradient of scaled dot-product attention.

    Args:
        dout: gradient of y, (B, H, T, D).
        q, k, v: the forward inputs, (B, H, T, D) and twice (B, H, S, D).
        y, logsumexp: the forward results, (B, H, T, D) and (B, H, T).
        scale, causal_offset, key_start: as in the forward pass.
        out: a buffer or None for each gradient; buffers may be strided views.

    Returns:
        (dq, dk, dv), shaped like q, k, v.

    Source: Dao et al. 2022, FlashAttention (arXiv:2205.14135), Appendix B.2.
    """
    factor = _default_scale(q, scale)
    lse = np.where(np.isneginf(logsumexp), 0, logsumexp).astype(q.dtype)[..., None]  # (B, H, T, 1)
    P = np.exp(_scores(q, k, factor, causal_offset, key_start) - lse)  # (B, H, T, S)
    row = (dout * y).sum(axis=-1, keepdims=True)  # (B, H, T, 1)
    dS = P * (dout @ v.swapaxes(-1, -2) - row)  # (B, H, T, S)
    grads = dS @ k * factor, dS.swapaxes(-1, -2) @ q * factor, P.swapaxes(-1, -2) @ dout
    return tuple(write(gradient, buffer) for gradient, buffer in zip(grads, out))
