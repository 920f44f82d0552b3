"""Chapter 4: attention. How a position gathers what it needs from the positions before it.

    python -m chapters.ch04_attention          # builds one head by hand, checks it, draws runs/ch04/figures/attention.png

Every position asks a question (its query), offers a label (its key) and a content (its value). A score says how well a question
fits a label; softmax turns one position's scores into weights that sum to one; the output is the weighted mean of the contents.
Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 3.2; the causal mask is that of GPT-2.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import minigrad.nn.functional as F
import numpy as np

import minigrad as mg
import minigrad.nn as nn


def attention_by_hand(q, k, v):
    """One causal head from nothing but matmul and softmax.

    q, k, v: (T, D).  Returns the output (T, D) and the weights (T, T), row t being how position t shares its attention.
    """
    T, D = q.shape
    scores = (
        q @ k.transpose(0, 1) / math.sqrt(D)
    )  # (T, T)  without 1/√D wide heads would start with a saturated softmax
    future = mg.from_numpy(
        np.triu(np.ones((T, T), dtype=bool), k=1)
    )  # (T, T)  True above the diagonal: key later than query
    weights = F.softmax(
        scores.masked_fill(future, float("-inf")), dim=-1
    )  # (T, T)  e^-inf = 0: the future weighs nothing
    return weights @ v, weights  # (T, D), (T, T)


class CausalSelfAttention(nn.Module):
    """All heads at once, as GPT-2 has them: one projection makes q, k and v, every head attends on its own, one projection mixes.

    x: (B, T, C) float -> (B, T, C).  C must be divisible by n_head; a head is D = C / n_head wide.
    """

    def __init__(self, d_model, n_head, dropout=0.0, bias=True):
        super().__init__()
        if n_head < 1 or d_model % n_head:
            raise ValueError(f"d_model must be divisible by n_head, got d_model={d_model} and n_head={n_head}")
        self.n_head = n_head
        self.dropout = dropout
        self.c_attn = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.c_proj = nn.Linear(d_model, d_model, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def heads(self, x):
        """x: (B, T, C) -> q, k, v: (B, H, T, D) each, all three views of one projection, nothing copied."""
        B, T, C = x.shape
        qkv = self.c_attn(x)  # (B, T, 3C)
        q, k, v = qkv.split(C, dim=2)  # (B, T, C) each
        return tuple(
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for part in (q, k, v)
        )  # (B, H, T, D)

    def forward(self, x, past=None, key_start=None):
        """past: None, or what remembers this layer's earlier keys and values (a layer of chapter 6's KVCache).

        key_start: None, or (B,) ints: the keys before key_start[b] are padding, which nobody in row b may look at.
        """
        B, T, C = x.shape
        q, k, v = self.heads(x)  # (B, H, T, D) each
        seen = 0
        if past is not None:
            seen = past.length
            k, v = past.append(k, v)  # (B, H, seen + T, D)  everything so far
        drop = self.dropout if self.training else 0.0
        if past is None and key_start is None:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=True)  # (B, H, T, D)
        else:  # the newest queries stand at the end: query i may look at the keys up to seen + i
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, causal_offset=seen, key_start=key_start)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C)  heads side by side again
        return self.resid_dropout(self.c_proj(y))

    def weights(self, x):
        """The attention maps of every head, for looking at: x: (1, T, C) -> (H, T, T).  Built by hand, so only for short T."""
        q, k, v = self.heads(x)  # (1, H, T, D)
        return np.stack(
            [attention_by_hand(q[0, h], k[0, h], v[0, h])[1].numpy() for h in range(self.n_head)]
        )  # (H, T, T)
