"""Chapter 5: the block. Attention moves information between positions, the MLP works on each, a stream carries both.

    python -m chapters.ch05_block              # shows why the residual path is there; draws runs/ch05/figures/depth.png

Source: the pre-norm block of GPT-2 (Radford et al. 2019, section 2.3); residuals from He et al. 2015
(arXiv:1512.03385); GELU in its tanh form from Hendrycks and Gimpel 2016 (arXiv:1606.08415).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch04_attention import CausalSelfAttention
from chapters.support.command import at_least_one, command


class MLP(nn.Module):
    """Widen fourfold, bend, narrow again: x: (B, T, C) -> (B, T, C), each position on its own."""

    def __init__(self, d_model, dropout=0.0, bias=True):
        super().__init__()
        self.c_fc = nn.Linear(d_model, 4 * d_model, bias=bias)
        self.c_proj = nn.Linear(4 * d_model, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        # GELU is asked for inside the matmul, which then bends each number while it is still in a register.
        h = self.c_fc(x, activation="gelu_tanh")  # (B, T, 4C)
        return self.dropout(self.c_proj(h))  # (B, T, C)


class GatedMLP(nn.Module):
    """SwiGLU in the MLP's place, as SmolLM2 has it: one half of the wide layer says how much of the other passes.

    x: (B, T, C) -> (B, T, C).  Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202), eq. 6.
    """

    def __init__(self, d_model, d_ff, dropout=0.0):
        super().__init__()
        self.c_fc = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.c_proj = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.swiglu(self.c_fc(x))))  # (B, T, C)


class Block(nn.Module):
    """One transformer block: x: (B, T, C) -> (B, T, C).

    Both halves add to x and never replace it, so a gradient can travel from the loss to the first block along additions
    alone. Normalising before each half (pre-norm) leaves that path free of anything that could shrink it.
    n_kv_head, rotary: see CausalSelfAttention.  rms_eps: norms are RMSNorm with this eps.  d_gated: width of a GatedMLP.
    """

    def __init__(self, d_model, n_head, dropout=0.0, bias=True, n_kv_head=None, rotary=None, rms_eps=None, d_gated=None):
        super().__init__()
        self.ln_1 = make_norm(d_model, bias, rms_eps)
        self.attn = CausalSelfAttention(d_model, n_head, dropout, bias, n_kv_head, rotary)
        self.ln_2 = make_norm(d_model, bias, rms_eps)
        self.mlp = GatedMLP(d_model, d_gated, dropout) if d_gated else MLP(d_model, dropout, bias)

    def forward(self, x, past=None, key_start=None):
        x = x + self.attn(self.ln_1(x), past, key_start)  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


def make_norm(d_model, bias=True, rms_eps=None):
    """GPT-2's LayerNorm, or RMSNorm where an eps for it is given."""
    return nn.RMSNorm(d_model, rms_eps) if rms_eps else nn.LayerNorm(d_model, bias=bias)


# ── the lesson ───────────────────────────────────────────────────────────────────────────────────────────────────────


def stack_of(depth, d_model, generator, small=1.0):
    """`depth` blocks with weights N(0, 0.02²); what writes into the stream starts `small` times as large."""
    blocks = [Block(d_model, 4) for _ in range(depth)]
    for block in blocks:
        for name, parameter in block.named_parameters():
            if len(parameter.shape) == 2:
                std = 0.02 * (small if name.endswith("c_proj.weight") else 1.0)
                nn.init.normal_(parameter, 0.0, std, generator=generator)
    return blocks


def run_stack(blocks, x, residual=True):
    """x: (B, T, C) -> (B, T, C), through all blocks.  Without residual, a block returns what its halves made."""
    for block in blocks:
        x = block(x) if residual else block.mlp(block.ln_2(block.attn(block.ln_1(x))))  # (B, T, C)
    return x


def gradient_lengths(blocks, x, aim, residual):
    """How long the gradient is in each block, at the MLP's first matrix; x, aim: (B, T, C).  Returns (depth,)."""
    loss = ((run_stack(blocks, x, residual) - aim) ** 2).mean()
    loss.backward()
    return [float((block.mlp.c_fc.weight.grad**2).sum().item()) ** 0.5 for block in blocks]


def draw(with_path, without_path, path):
    from chapters.support.figures import new_figure, save_figure

    figure, axes = new_figure(6, 4)
    depth = range(1, len(with_path) + 1)
    axes.semilogy(depth, with_path, "o-", label="with the residual path")
    axes.semilogy(depth, without_path, "o-", label="without")
    axes.set(xlabel="block (1 is nearest the tokens)", ylabel="length of the gradient", title="who hears from the loss")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


@dataclass
class Settings:
    """Measure what the residual path and the small first weights are good for."""

    depth: int = 12  # blocks
    d_model: int = 64  # width
    run: Path = Path("runs/ch05")  # where the figure goes
    seed: int = 0  # of all weights and inputs
    quick: bool = False  # 6 blocks


def main(settings):
    at_least_one(settings, "depth", "d_model")
    depth = 6 if settings.quick else settings.depth
    generator = mg.Generator(settings.seed)
    x, aim = (mg.randn(4, 16, settings.d_model, generator=generator) for _ in range(2))  # (B, T, C) each
    one = Block(settings.d_model, 4)
    count = sum(parameter.numel() for parameter in one.parameters())
    print(f"{count:,} parameters in a block of width {settings.d_model}: 12 C² and some")

    lengths = {}
    for residual in (True, False):
        blocks = stack_of(depth, settings.d_model, mg.Generator(settings.seed))
        lengths[residual] = gradient_lengths(blocks, x, aim, residual)
        ratio = lengths[residual][0] / lengths[residual][-1]
        words = "with   " if residual else "without"
        print(f"{words} the residual path the first block's gradient is {ratio:.1e} of the last one's")

    # Wide weights make the effect visible in a few blocks; it is the number of additions that matters, not their size.
    for name, small in (("equal", 12.0), ("1/√(2·depth) as large", 12.0 / math.sqrt(2 * depth))):
        with mg.no_grad():
            y = run_stack(stack_of(depth, settings.d_model, mg.Generator(settings.seed), small), x)  # (B, T, C)
        print(f"first weights on the stream {name}: it grows from {x.numpy().std():.2f} to {y.numpy().std():.2f}")
    print(f"drawn in {draw(lengths[True], lengths[False], settings.run / 'figures' / 'depth.png')}")


if __name__ == "__main__":
    command(main, Settings)
