"""Chapter 4: attention. Each position gathers information from the positions before it.

Each position has three vectors: a query (what it looks for), a key (what it offers) and a value (what it passes on). The
score of a query and a key is their scalar product. Softmax turns the scores of a position into weights that sum to one,
and the output of the position is the weighted mean of the values.

    weights = softmax(q @ k.T / √D, with -∞ for keys in the future)     # (T, T)
    output = weights @ v                                                # (T, D)

    python -m chapters.ch04_attention          # checks this against the engine, draws runs/ch04/figures/attention.svg

Look at the figure: a head built by hand, in which each letter attends to itself and its earlier occurrences.

Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 3.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch03_embeddings import KeyStart
from chapters.support.command import command
from chapters.support.figures import heat_map, new_figure, save_figure

# ── the idea: one head ───────────────────────────────────────────────────────────────────────────────────────────────


def attention_by_hand(q: mg.Tensor, k: mg.Tensor, v: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
    """One causal head, made of nothing but matmul and softmax.

    Args:
        q, k, v: queries, keys and values, (T, D) each.

    Returns:
        The output (T, D) and the weights (T, T); row t says how position t divides its attention.
    """
    T, D = q.shape
    scores = q @ k.transpose(0, 1) / math.sqrt(D)  # (T, T)  without 1/√D, softmax would saturate in a wide head
    future = mg.as_tensor(np.triu(np.ones((T, T), bool), k=1), device=q.device)  # (T, T)  True where key is after query
    scores = scores.masked_fill(future, float("-inf"))  # (T, T)
    weights = F.softmax(scores, dim=-1)  # (T, T)  e^-∞ = 0: the future has no weight
    return weights @ v, weights  # (T, D), (T, T)


def same_letter_head(text: str) -> np.ndarray:
    """The weights (T, T) of a head built by hand: each letter attends to itself and its earlier occurrences.

    Query and key of a letter are the same one-hot vector, so a score is high exactly where the letters agree.
    """
    alphabet = sorted(set(text))
    one_hot = np.eye(len(alphabet), dtype=np.float32)[[alphabet.index(c) for c in text]]  # (T, D)
    sharp = mg.from_numpy(one_hot * math.sqrt(8 * math.sqrt(len(alphabet))))  # (T, D)  equal letters score 8, after 1/√D
    return attention_by_hand(sharp, sharp, sharp)[1].numpy()  # (T, T)


# ── the module: all heads at once ────────────────────────────────────────────────────────────────────────────────────


class PastKeysValues(Protocol):
    """The earlier keys and values of a layer, such as a layer of chapter 6's KVCache."""

    @property
    def length(self) -> int:
        """Number of earlier tokens."""
        ...

    def append(self, k: mg.Tensor, v: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        """Add the newest keys and values, (B, H, T, D) each.  Returns the keys and values so far, (B, H, length + T, D)."""
        ...


class CausalSelfAttention(nn.Module):
    """GPT-2's attention: one projection makes q, k and v, every head attends, one projection mixes the heads.

    Args:
        d_model: C, width of the residual stream, divisible by n_head; a head has the width D = C / n_head.
        n_head: H, heads.
        dropout: share of weights and outputs zeroed in training.
        bias: add biases in the projections.
        n_kv_head: heads of keys and values; with n_kv_head < n_head several queries share a head, which makes the
            cache smaller (grouped-query attention: Ainslie et al. 2023, arXiv:2305.13245). Chapter 9 uses it.
        rotary: base of rotary position embeddings (F.rotary), which replace the table of positions; None: no rotation.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        dropout: float = 0.0,
        bias: bool = True,
        n_kv_head: int | None = None,
        rotary: float | None = None,
    ):
        super().__init__()
        self.n_head, self.n_kv_head = n_head, n_kv_head or n_head
        check_heads(d_model, n_head, self.n_kv_head)
        self.dropout, self.rotary = dropout, rotary
        self.parts = [n_head, self.n_kv_head, self.n_kv_head]  # heads of q, k and v
        self.c_attn = nn.Linear(d_model, sum(self.parts) * (d_model // n_head), bias=bias)
        self.c_proj = nn.Linear(d_model, d_model, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def heads(self, x: mg.Tensor, seen: int = 0) -> tuple[mg.Tensor, mg.Tensor, mg.Tensor]:
        """Project x, (B, T, C), which follows `seen` other tokens, to q, k and v, (B, H, T, D) each."""
        B, T, C = x.shape
        qkv = self.c_attn(x)  # (B, T, 3C)
        heads = qkv.view(B, T, sum(self.parts), C // self.n_head).transpose(1, 2)  # (B, 3H, T, D)
        q, k, v = heads.split(self.parts, dim=1)  # (B, H, T, D) each
        if self.rotary:  # rotations make scores depend on distances alone, so padding on the left does not matter
            q, k = F.rotary(q, seen, self.rotary), F.rotary(k, seen, self.rotary)  # (B, H, T, D) each
        return q, k, v

    def forward(self, x: mg.Tensor, past: PastKeysValues | None = None, key_start: KeyStart = None) -> mg.Tensor:
        """Attend.

        Args:
            x: (B, T, C).
            past: keys and values of the tokens before x, to which this call adds its own.
            key_start: each row's first column after the padding; no query sees the padding's keys.

        Returns:
            (B, T, C).
        """
        B, T, C = x.shape
        seen = 0 if past is None else past.length
        q, k, v = self.heads(x, seen)  # (B, H, T, D) each
        if past is not None:
            k, v = past.append(k, v)  # (B, H, seen + T, D) each
        drop = self.dropout if self.training else 0.0
        shared = self.n_kv_head < self.n_head
        # causal_offset: query i of x is token seen + i of the text, so it sees the keys up to seen + i.  y: (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, enable_gqa=shared, causal_offset=seen, key_start=key_start)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C)  heads side by side again
        return self.resid_dropout(self.c_proj(y))  # (B, T, C)

    def weights(self, x: mg.Tensor) -> np.ndarray:
        """The attention weights of every head, (H, T, T), for a short x, (1, T, C), by attention_by_hand."""
        q, k, v = self.heads(x)  # (1, H, T, D)
        shared = self.n_head // self.n_kv_head  # query heads per key-value head
        maps = [attention_by_hand(q[0, h], k[0, h // shared], v[0, h // shared])[1] for h in range(self.n_head)]
        return np.stack([weights.numpy(force=True) for weights in maps])  # (H, T, T)


def check_heads(d_model: int, n_head: int, n_kv_head: int) -> None:
    """Raise ValueError unless the width divides into heads, and the heads into groups with the same keys and values."""
    if n_head < 1 or d_model % n_head:
        raise ValueError(f"d_model must be divisible by n_head, got d_model={d_model} and n_head={n_head}")
    if n_kv_head < 1 or n_head % n_kv_head:
        raise ValueError(f"n_head must be divisible by n_kv_head, got n_head={n_head} and n_kv_head={n_kv_head}")


# ── pictures of attention ────────────────────────────────────────────────────────────────────────────────────────────


def attention_maps(model: Any, ids: Sequence[int], layer: int) -> np.ndarray:
    """The attention weights (H, T, T) of a layer of a GPT (chapter 6) for a text of T token ids."""
    if not 0 <= layer < len(model.h):
        raise ValueError(f"attention maps: expected a layer from 0 to {len(model.h) - 1}, got {layer}")
    with mg.no_grad():
        x = model.embed(mg.tensor([ids]))  # (1, T, C)
        for block in list(model.h)[:layer]:
            x = block(x)  # (1, T, C)
        block = model.h[layer]
        return block.attn.weights(block.ln_1(x))  # (H, T, T)


def draw_heads(maps: Sequence[np.ndarray], tokens: Sequence[str], titles: Sequence[str], path: Path) -> Path:
    """Draw the attention weights of several heads, (T, T) each, for the same T tokens, up to three in a row."""
    across = min(len(maps), 3)
    down = -(-len(maps) // across)
    figure, axes = new_figure(4.5 * across + 0.6, 4.5 * down, nrows=down, ncols=across, squeeze=False)
    for panel in axes.flat[len(maps) :]:
        panel.axis("off")
    labels = [token.replace(" ", "␣") for token in tokens]
    for panel, weights, title in zip(axes.flat, maps, titles):
        image = heat_map(panel, weights, rows=labels, columns=labels, title=title)
        panel.set(xlabel="key: the token attended to", ylabel="query: the token that attends")
    figure.colorbar(image, ax=axes, shrink=0.5, label="attention weight")
    return save_figure(figure, path)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Check one head of attention against the engine, and draw the weights of a head built by hand."""

    text: str = "a rose is a rose is a rose"  # text for the head in the figure
    run: Path = Path("runs/ch04")  # folder of the figure
    seed: int = 0  # random seed of the check


def main(settings: Settings) -> None:
    if not settings.text:
        raise ValueError("--text: expected a text to attend to, got an empty one")
    q, k, v = (mg.randn(12, 8, generator=mg.Generator(settings.seed + i)) for i in range(3))  # (T, D) = (12, 8) each
    by_hand, weights = attention_by_hand(q, k, v)  # (12, 8), (12, 12)
    batch = [x.view(1, 1, 12, 8) for x in (q, k, v)]  # (B, H, T, D) each
    engine = F.scaled_dot_product_attention(batch[0], batch[1], batch[2], is_causal=True)  # (1, 1, 12, 8)
    print(f"by hand against the engine: largest difference {np.abs(by_hand.numpy() - engine.numpy()[0, 0]).max():.1e}")
    rows, future = weights.numpy().sum(axis=1), np.triu(weights.numpy(), k=1)
    print(f"each row of weights sums to {rows.min():.6f}..{rows.max():.6f}; the largest weight in the future is {future.max()}")

    title, path = "built by hand: attend to the same letter", settings.run / "figures" / "attention.svg"
    print(f"figure: {draw_heads([same_letter_head(settings.text)], list(settings.text), [title], path)}")


if __name__ == "__main__":
    command(main, Settings)
