"""Scaled dot-product attention: the specification, in NumPy, for any float dtype.

Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), eq. 1. What is saved for the backward pass (the
output and one number a row, never the weights) follows Dao et al. 2022, "FlashAttention" (arXiv:2205.14135), Appendix B.2.
"""

import math

import numpy as np


def visible_keys(T, S, causal_offset, key_start):
    """Which query sees which key: a boolean array that broadcasts to (B, 1, T, S), or None where all see all."""
    visible = None
    if causal_offset is not None:
        visible = np.arange(S) <= np.arange(T)[:, None] + causal_offset  # (T, S)
    if key_start is not None:
        started = np.arange(S) >= np.asarray(key_start)[:, None, None, None]  # (B, 1, 1, S)
        visible = started if visible is None else visible & started
    return visible


def _scores(q, k, scale, causal_offset, key_start):
    scores = q @ k.swapaxes(-1, -2) * scale  # (B, H, T, S)
    visible = visible_keys(q.shape[-2], k.shape[-2], causal_offset, key_start)
    return scores if visible is None else np.where(visible, scores, q.dtype.type(-np.inf))


def _default_scale(q, scale):
    return q.dtype.type(1 / math.sqrt(q.shape[-1]) if scale is None else scale)


def attention_forward(q, k, v, *, scale=None, causal_offset=None, key_start=None, out=None):
    """out = softmax(scale · q kᵀ) v, each query over the keys that it may see.

    q: (B, H, T, D); k, v: (B, H, S, D).  scale: 1/√D unless given.
    causal_offset: None (every query sees every key), or an int: query i sees the keys j ≤ i + causal_offset. Training passes 0;
    decoding with P past keys passes P, so that the T newest queries see the past and one another's past.
    key_start: (B,) ints or None: the keys before key_start[b] are padding and are not seen by row b.
    A query that sees no key gives zeros.

    Returns out: (B, H, T, D) and logsumexp: (B, H, T), log Σ_j exp(score_ij), -inf where no key is seen.
    """
    scores = _scores(q, k, _default_scale(q, scale), causal_offset, key_start)  # (B, H, T, S)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)  # (B, H, T, 1)
    top = np.where(np.isneginf(top), 0, top).astype(q.dtype)  # a row that sees nothing: exp(-inf - 0) = 0, not NaN
    weights = np.exp(scores - top)  # (B, H, T, S)
    total = weights.sum(axis=-1, keepdims=True)  # (B, H, T, 1)
    with np.errstate(divide="ignore"):
        logsumexp = (np.log(total) + top)[..., 0]  # (B, H, T)
    y = (weights / np.where(total == 0, 1, total)) @ v  # (B, H, T, D)
    if out is None:
        return y, logsumexp
    out[...] = y
    return out, logsumexp


# The forward pass was, for one head:   S = scale · q kᵀ,   P = softmax(S) over visible keys,   O = P v.
#   O = P v is a product:               dv = Pᵀ dO,   dP = dO vᵀ.
#   P = softmax(S), row by row:         dS_ij = P_ij (dP_ij − Σ_l dP_il P_il)
#   and that last sum needs no P:       Σ_l dP_il P_il = Σ_l P_il (dO_i · v_l) = dO_i · O_i   (D numbers a row in place of S)
#   S = scale · q kᵀ is a product:      dq = scale · dS k,   dk = scale · dSᵀ q.
# Saved: q, k, v, O and the rows' logsumexp L. P = exp(S − L) is recomputed, so no (T, S) matrix outlives the forward pass.
def attention_backward(dout, q, k, v, y, logsumexp, *, scale=None, causal_offset=None, key_start=None, out=(None, None, None)):
    """dout, q, y: (B, H, T, D); k, v: (B, H, S, D); logsumexp: (B, H, T); y and logsumexp from the forward pass.

    Returns (dq, dk, dv), shaped like q, k and v, in the buffers of `out` where given (they may be strided views).
    """
    scale = _default_scale(q, scale)
    lse = np.where(np.isneginf(logsumexp), 0, logsumexp).astype(q.dtype)[..., None]  # (B, H, T, 1)
    P = np.exp(_scores(q, k, scale, causal_offset, key_start) - lse)  # (B, H, T, S)
    row = (dout * y).sum(axis=-1, keepdims=True)  # (B, H, T, 1)
    dS = P * (dout @ v.swapaxes(-1, -2) - row)  # (B, H, T, S)
    grads = dS @ k * scale, dS.swapaxes(-1, -2) @ q * scale, P.swapaxes(-1, -2) @ dout
    return tuple(g if o is None else _filled(o, g) for g, o in zip(grads, out))


def _filled(out, value):
    out[...] = value
    return out
