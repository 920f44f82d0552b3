"""Chapter 5: the block. Attention moves information between positions, the MLP works on each position, a residual stream carries both.

    python -m chapters.ch05_block              # shows why the residual path is there; draws runs/ch05/figures/depth.png

Source: the pre-norm block of GPT-2 (Radford et al. 2019, section 2.3); residuals from He et al. 2015 (arXiv:1512.03385);
GELU in its tanh form from Hendrycks and Gimpel 2016 (arXiv:1606.08415).
"""

import minigrad.nn.functional as F

import minigrad.nn as nn
from chapters.ch04_attention import CausalSelfAttention


class MLP(nn.Module):
    """Widen fourfold, bend, narrow again: x: (B, T, C) -> (B, T, C), each position on its own."""

    def __init__(self, d_model, dropout=0.0, bias=True):
        super().__init__()
        self.c_fc = nn.Linear(d_model, 4 * d_model, bias=bias)
        self.c_proj = nn.Linear(4 * d_model, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        # GELU is asked for inside the matmul, which then bends each number while it is still in a register.
        h = F.linear(x, self.c_fc.weight, self.c_fc.bias, activation="gelu_tanh")  # (B, T, 4C)
        return self.dropout(self.c_proj(h))  # (B, T, C)


class Block(nn.Module):
    """One transformer block: x: (B, T, C) -> (B, T, C).

    Both halves add to x and never replace it, so a gradient can travel from the loss to the first block along additions alone.
    Normalising before each half (pre-norm) leaves that path free of anything that could shrink it.
    """

    def __init__(self, d_model, n_head, dropout=0.0, bias=True):
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model, bias=bias)
        self.attn = CausalSelfAttention(d_model, n_head, dropout, bias)
        self.ln_2 = nn.LayerNorm(d_model, bias=bias)
        self.mlp = MLP(d_model, dropout, bias)

    def forward(self, x, past=None, key_start=None):
        x = x + self.attn(self.ln_1(x), past, key_start)  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)
