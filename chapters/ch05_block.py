"""Chapter 5: the block. Attention moves information between positions; the MLP works on each position by itself.

Both add their result to the residual stream x, the vectors that run through the whole model:

    x = x + attn(ln_1(x))
    x = x + mlp(ln_2(x))

So a gradient reaches the first block along additions alone. The norms stand in front of the two halves (pre-norm), not
on the stream, where they would rescale it.

    python -m chapters.ch05_block              # measures this, and draws runs/ch05/figures/depth.svg

Look at the figure: without the additions the gradient shrinks by orders of magnitude on its way to the first block.

Source: the pre-norm block of GPT-2 (Radford et al. 2019, section 2.3); residuals from He et al. 2015
(arXiv:1512.03385); GELU in its tanh form from Hendrycks and Gimpel 2016 (arXiv:1606.08415).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch03_embeddings import KeyStart
from chapters.ch04_attention import CausalSelfAttention, PastKeysValues
from chapters.support.command import at_least_one, command
from chapters.support.figures import new_figure, save_figure
from chapters.support.one_operation import as_one_operation, is_one_operation


class MLP(nn.Module):
    """Widen fourfold, apply GELU, narrow again: (B, T, C) -> (B, T, C), each position by itself."""

    def __init__(self, d_model: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        self.c_fc = nn.Linear(d_model, 4 * d_model, bias=bias)
        self.c_proj = nn.Linear(4 * d_model, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        # The matmul applies GELU itself, while each number is still in a register.
        h = self.c_fc(x, activation="gelu_tanh")  # (B, T, 4C)
        return self.dropout(self.c_proj(h))  # (B, T, C)


class GatedMLP(nn.Module):
    """SwiGLU, the MLP of SmolLM2: one half of the wide layer decides how much of the other half passes.

    Source: Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202), equation 6.
    """

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0):
        super().__init__()
        self.c_fc = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.c_proj = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.dropout(self.c_proj(F.swiglu(self.c_fc(x))))  # (B, T, C)


class Block(nn.Module):
    """One transformer block: (B, T, C) -> (B, T, C).

    Args:
        d_model, n_head, dropout, bias, n_kv_head, rotary: see CausalSelfAttention.
        rms_eps: eps of RMSNorm, which replaces LayerNorm; None: LayerNorm.
        d_gated: width of a GatedMLP, which replaces the MLP; None: MLP.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        dropout: float = 0.0,
        bias: bool = True,
        n_kv_head: int | None = None,
        rotary: float | None = None,
        rms_eps: float | None = None,
        d_gated: int | None = None,
    ):
        super().__init__()
        self.ln_1 = make_norm(d_model, bias, rms_eps)
        self.attn = CausalSelfAttention(d_model, n_head, dropout, bias, n_kv_head, rotary)
        self.ln_2 = make_norm(d_model, bias, rms_eps)
        self.mlp = GatedMLP(d_model, d_gated, dropout) if d_gated else MLP(d_model, dropout, bias)

    def forward(self, x: mg.Tensor, past: PastKeysValues | None = None, key_start: KeyStart = None) -> mg.Tensor:
        unchanged = type(self.attn) is CausalSelfAttention and type(self.mlp) is MLP
        if unchanged and is_one_operation(self, x, past, key_start):
            # The two lines below, faster. Delete this `if` when you change a part: it does not see the change.
            return as_one_operation(self, x, past, key_start)
        x = x + self.attn(self.ln_1(x), past, key_start)  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


def make_norm(d_model: int, bias: bool = True, rms_eps: float | None = None) -> nn.Module:
    """GPT-2's LayerNorm, or RMSNorm if rms_eps is set."""
    return nn.RMSNorm(d_model, rms_eps) if rms_eps else nn.LayerNorm(d_model, bias=bias)


# ── the experiment: blocks with and without the residual stream ──────────────────────────────────────────────────────


def stack_of(depth: int, d_model: int, generator: mg.Generator, scale: float = 1.0) -> list[Block]:
    """`depth` blocks with weights N(0, 0.02²); the matrices that write into the stream are `scale` times as large."""
    blocks = [Block(d_model, 4) for _ in range(depth)]
    for block in blocks:
        for name, parameter in block.named_parameters():
            if len(parameter.shape) == 2:
                std = 0.02 * (scale if name.endswith("c_proj.weight") else 1.0)
                nn.init.normal_(parameter, 0.0, std, generator=generator)
    return blocks


def run_stack(blocks: Sequence[Block], x: mg.Tensor, residual: bool = True) -> mg.Tensor:
    """Run x (B, T, C) through all blocks; without `residual`, attention and MLP replace x instead of adding to it."""
    for block in blocks:
        x = block(x) if residual else block.mlp(block.ln_2(block.attn(block.ln_1(x))))  # (B, T, C)
    return x


def gradient_lengths(blocks: Sequence[Block], x: mg.Tensor, target: mg.Tensor, residual: bool) -> list[float]:
    """The length of the gradient of each block's first MLP matrix, for a squared loss; x, target: (B, T, C)."""
    loss = ((run_stack(blocks, x, residual) - target) ** 2).mean()
    loss.backward()
    return [float((block.mlp.c_fc.weight.grad**2).sum().item()) ** 0.5 for block in blocks]


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Measure the effect of the residual stream and of small initial weights."""

    depth: int = 12  # blocks
    d_model: int = 64  # width of the residual stream
    run: Path = Path("runs/ch05")  # folder of the figure
    seed: int = 0  # random seed
    quick: bool = False  # 6 blocks


def draw(with_residual: Sequence[float], without: Sequence[float], path: Path) -> Path:
    """Draw the length of the gradient over the depth, with and without the residual stream."""
    figure, axes = new_figure(6, 4)
    depth = range(1, len(with_residual) + 1)
    axes.semilogy(depth, with_residual, "o-", label="with the residual stream")
    axes.semilogy(depth, without, "s--", label="without")
    axes.set(
        xlabel="block (1 is nearest the tokens)", ylabel="length of the gradient", title="how much gradient reaches each block"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    at_least_one(settings, "depth", "d_model")
    depth = 6 if settings.quick else settings.depth
    generator = mg.Generator(settings.seed)
    x, target = (mg.randn(4, 16, settings.d_model, generator=generator) for _ in range(2))  # (B, T, C) each
    count = sum(parameter.numel() for parameter in Block(settings.d_model, 4).parameters())
    print(f"{count:,} parameters in a block of width {settings.d_model} (12 C² + 13 C)")

    lengths = {}
    for residual in (True, False):
        blocks = stack_of(depth, settings.d_model, mg.Generator(settings.seed))
        lengths[residual] = gradient_lengths(blocks, x, target, residual)
        ratio = lengths[residual][0] / lengths[residual][-1]
        name = "with   " if residual else "without"
        print(f"{name} the residual stream, the first block's gradient is {ratio:.1e} of the last block's")

    # Weights with a std of 0.24 instead of 0.02 make the stream's growth visible after few blocks.
    for name, scale in (("as large as the others", 12.0), ("1/√(2·depth) as large", 12.0 / math.sqrt(2 * depth))):
        with mg.no_grad():
            y = run_stack(stack_of(depth, settings.d_model, mg.Generator(settings.seed), scale), x)  # (B, T, C)
        print(f"weights into the stream {name}: the stream's std grows from {x.numpy().std():.2f} to {y.numpy().std():.2f}")
    print(f"figure: {draw(lengths[True], lengths[False], settings.run / 'figures' / 'depth.svg')}")


if __name__ == "__main__":
    command(main, Settings)
