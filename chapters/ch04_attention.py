"""Chapter 4: attention. How a position gathers what it needs from the positions before it.

    python -m chapters.ch04_attention          # builds a head by hand, draws runs/ch04/figures/attention.png

Every position asks a question (its query), offers a label (its key) and a content (its value). A score says how well a
question fits a label; softmax turns one position's scores into weights that sum to one; the output is the weighted mean
of the contents. Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 3.2.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.support.command import command


def attention_by_hand(q, k, v):
    """One causal head from nothing but matmul and softmax.

    q, k, v: (T, D).  Returns the output (T, D) and the weights (T, T), row t being how position t shares its attention.
    """
    T, D = q.shape
    scores = q @ k.transpose(0, 1) / math.sqrt(D)  # (T, T)  without 1/√D a wide head's softmax would start saturated
    future = mg.as_tensor(np.triu(np.ones((T, T), bool), k=1), device=q.device)  # (T, T)  True where key is after query
    scores = scores.masked_fill(future, float("-inf"))  # (T, T)
    weights = F.softmax(scores, dim=-1)  # (T, T)  e^-inf = 0: the future weighs nothing
    return weights @ v, weights  # (T, D), (T, T)


class CausalSelfAttention(nn.Module):
    """All heads at once, as GPT-2 has them: one projection makes q, k and v, every head attends, one projection mixes.

    x: (B, T, C) float -> (B, T, C).  C must be divisible by n_head; a head is D = C / n_head wide.

    Two options that later models took up (chapter 9): with n_kv_head < n_head several queries share one head of keys and
    values, which makes the cache smaller (Ainslie et al. 2023, arXiv:2305.13245); with rotary, the base of the angles,
    queries and keys are turned by their position, and no table of positions is needed (F.rotary).
    """

    def __init__(self, d_model, n_head, dropout=0.0, bias=True, n_kv_head=None, rotary=None):
        super().__init__()
        if n_head < 1 or d_model % n_head:
            raise ValueError(f"d_model must be divisible by n_head, got d_model={d_model} and n_head={n_head}")
        self.n_head, self.n_kv_head = n_head, n_kv_head or n_head
        if n_head % self.n_kv_head:
            raise ValueError(f"n_head must be divisible by n_kv_head, got n_head={n_head} and n_kv_head={n_kv_head}")
        self.dropout, self.rotary = dropout, rotary
        self.parts = [n_head, self.n_kv_head, self.n_kv_head]  # heads of q, k and v
        self.c_attn = nn.Linear(d_model, sum(self.parts) * (d_model // n_head), bias=bias)
        self.c_proj = nn.Linear(d_model, d_model, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def heads(self, x, seen=0):
        """x: (B, T, C), after `seen` others -> q, k, v: (B, H, T, D) each, views of one projection, nothing copied."""
        B, T, C = x.shape
        qkv = self.c_attn(x)  # (B, T, 3C)
        heads = qkv.view(B, T, sum(self.parts), C // self.n_head).transpose(1, 2)  # (B, 3H, T, D)
        q, k, v = heads.split(self.parts, dim=1)  # (B, H, T, D) each
        if self.rotary:  # only distances count afterwards, so padding on the left need not be told of
            q, k = F.rotary(q, seen, self.rotary), F.rotary(k, seen, self.rotary)  # (B, H, T, D) each
        return q, k, v

    def forward(self, x, past=None, key_start=None):
        """past: None, or what remembers this layer's earlier keys and values (a layer of chapter 6's KVCache).

        key_start: None, or (B,) ints: the keys before key_start[b] are padding, which nobody in row b may look at.
        """
        B, T, C = x.shape
        seen = 0 if past is None else past.length
        q, k, v = self.heads(x, seen)  # (B, H, T, D) each
        if past is not None:
            k, v = past.append(k, v)  # (B, H, seen + T, D)  everything so far
        drop = self.dropout if self.training else 0.0
        shared = self.n_kv_head < self.n_head
        # The newest queries stand at the end: query i may look at the keys up to seen + i.  y: (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, enable_gqa=shared, causal_offset=seen, key_start=key_start)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C)  heads side by side again
        return self.resid_dropout(self.c_proj(y))

    def weights(self, x):
        """Every head's attention map, for looking at: x: (1, T, C) -> (H, T, T).  Built by hand, so for short texts."""
        q, k, v = self.heads(x)  # (1, H, T, D)
        shared = self.n_head // self.n_kv_head  # heads of q to a head of k and v
        maps = [attention_by_hand(q[0, h], k[0, h // shared], v[0, h // shared])[1] for h in range(self.n_head)]
        return np.stack([weights.numpy(force=True) for weights in maps])  # (H, T, T)


# ── the lesson ───────────────────────────────────────────────────────────────────────────────────────────────────────


def head_that_looks_for_itself(text):
    """A head made by hand, not learned: every letter attends to the earlier places of the same letter.

    Query and key of a letter are the same one-hot vector, so that a score is high exactly where the letters agree.
    Returns the weights (T, T).
    """
    alphabet = sorted(set(text))
    one_hot = np.eye(len(alphabet), dtype=np.float32)[[alphabet.index(c) for c in text]]  # (T, D)
    sharp = mg.from_numpy(one_hot * math.sqrt(8 * math.sqrt(len(alphabet))))  # (T, D)  agreement scores 8, after the 1/√D
    return attention_by_hand(sharp, sharp, sharp)[1].numpy()  # (T, T)


def attention_maps(model, ids, layer):
    """The attention weights of one layer's heads over a text: T ids -> (H, T, T)."""
    if not 0 <= layer < len(model.h):
        raise ValueError(f"the model has the layers 0..{len(model.h) - 1}, got layer {layer}")
    with mg.no_grad():
        x = model.embed(mg.tensor([ids]))  # (1, T, C)
        for block in list(model.h)[:layer]:
            x = block(x)  # (1, T, C)
        block = model.h[layer]
        return block.attn.weights(block.ln_1(x))  # (H, T, T)


def draw_heads(maps, tokens, titles, path):
    """Draw attention weights, a list of (T, T), beside each other; tokens, titles: a list each.  Returns the path."""
    from chapters.support.figures import heat_map, new_figure, save_figure

    across = min(len(maps), 3)
    down = -(-len(maps) // across)
    figure, axes = new_figure(4.5 * across + 0.6, 4.5 * down, nrows=down, ncols=across, squeeze=False)
    for place in axes.flat[len(maps) :]:
        place.axis("off")
    for place, weights, names, title in zip(axes.flat, maps, tokens, titles):
        labels = [token.replace(" ", "␣") for token in names]
        image = heat_map(place, weights, rows=labels, columns=labels, title=title)
        place.set(ylabel="this position …", xlabel="… looks at")
    figure.colorbar(image, ax=axes, shrink=0.5, label="weight")
    return save_figure(figure, path)


@dataclass
class Settings:
    """Build one head of attention by hand, check it against the engine's, and draw who looks at whom."""

    text: str = "a rose is a rose is a rose"  # what the heads read
    run: Path = Path("runs/ch04")  # where the figure goes
    seed: int = 0  # of the numbers in the check
    quick: bool = False  # accepted as in every chapter; this one is quick already


def main(settings):
    if not settings.text:
        raise ValueError("the text is empty: give the heads something to read")
    q, k, v = (mg.randn(12, 8, generator=mg.Generator(settings.seed + i)) for i in range(3))  # (T, D) = (12, 8) each
    by_hand, weights = attention_by_hand(q, k, v)  # (12, 8), (12, 12)
    engine = F.scaled_dot_product_attention(*(x.view(1, 1, 12, 8) for x in (q, k, v)), is_causal=True)  # (1, 1, 12, 8)
    print(f"by hand against the engine: largest difference {np.abs(by_hand.numpy() - engine.numpy()[0, 0]).max():.1e}")
    rows, future = weights.numpy().sum(axis=1), np.triu(weights.numpy(), k=1)
    print(f"every row of weights sums to {rows.min():.6f}..{rows.max():.6f}; the future weighs {future.max()}")

    hand_made = head_that_looks_for_itself(settings.text)  # (T, T)
    path = settings.run / "figures" / "attention.png"
    print(f"drawn in {draw_heads([hand_made], [list(settings.text)], ['made by hand: the same letter'], path)}")


if __name__ == "__main__":
    command(main, Settings)
