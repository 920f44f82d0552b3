"""One token of each of some texts through a whole GPT: the specification, in NumPy.

Decoding multiplies one row (of several texts, one each) with every matrix of the model, so its time is the time to read the
weights, and they are read once for all texts together. What is needed beside them (a norm, a few heads' attention) is little
work, if it does not cost a call each: so the unit here is the token. The result is that of the model's own forward pass on
one token with a cache; this adds no formula of its own but one.

Eight bits: a matrix may be kept as int8 with one scale a row, w ≈ scale · q, scale = max|w| / 127, a quarter of the bytes.
(Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, §2, "row-wise"; of weights alone here, the row x stays in float32.)
"""

from typing import NamedTuple

import numpy as np

from kernels.attention.reference import attention_forward
from kernels.gelu.reference import gelu_forward
from kernels.layernorm.reference import layernorm_forward
from kernels.rms_norm.reference import rms_norm_forward
from kernels.rotary.reference import rotary
from kernels.swiglu.reference import swiglu_forward


class Matrix(NamedTuple):
    """y = x Wᵀ + bias.  weight: (O, I), floats, or int8 with scale: (O,); bias: (O,) or None."""

    weight: np.ndarray
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None

    def times(self, x):
        y = x @ self.weight.astype(x.dtype).T  # (B, O)
        y = y if self.scale is None else y * self.scale
        return y if self.bias is None else y + self.bias


class Norm(NamedTuple):
    """weight, bias: (C,); without bias it is RMSNorm where the decoder says so."""

    weight: np.ndarray
    bias: np.ndarray | None = None


class Layer(NamedTuple):
    """A block: norm_1, qkv (C -> C + 2GD), merge (C -> C), norm_2, widen (C -> 4C, or 2F with a gate), narrow (-> C)."""

    norm_1: Norm
    qkv: Matrix
    merge: Matrix
    norm_2: Norm
    widen: Matrix
    narrow: Matrix


def quantize_rows(weight):
    """weight: (O, I) floats -> int8 (O, I) and float32 scale (O,), so that scale · q is within scale / 2 of the weight."""
    scale = np.maximum(np.abs(weight).max(axis=1, initial=0), np.float32(1e-30)).astype(np.float32) / np.float32(127)
    quantized = np.empty(weight.shape, np.int8)
    for start in range(0, len(weight), 4096):  # the rounded floats of a few rows at a time
        rows = slice(start, start + 4096)
        quantized[rows] = np.rint(weight[rows] / scale[rows, None])
    return quantized, scale


class Decoder:
    """A GPT's weights, ready to take one token after the other, of one text or of several."""

    def __init__(self, layers, norm, head, *, n_head, n_kv_head, eps, rms=False, gated=False):
        """layers: [Layer]; norm: the last Norm; head: Matrix (V, C).  D = C / n_head; n_head is a multiple of n_kv_head = G.

        rms: norms are RMSNorm, else LayerNorm.  gated: the MLP is SwiGLU, else GELU in its tanh form.
        """
        self.layers, self.norm, self.head = layers, norm, head
        self.n_head, self.n_kv_head, self.eps, self.rms, self.gated = n_head, n_kv_head, eps, rms, gated

    def _normed(self, x, norm):
        if self.rms:
            return rms_norm_forward(x, norm.weight, eps=self.eps)[0]
        return layernorm_forward(x, norm.weight, norm.bias, eps=self.eps)[0]

    def step(self, x, caches, lengths, turn=None):
        """x: (B, C), the embedding of the next token of each of B texts.  lengths: (B,) ints, how long the texts are so far.

        caches: [[(k, v)] a layer] a text, (1, G, context, D) each, filled up to its text's length.
        turn: None, or the cosines and sines of the B positions, (B, D/2) each, by which queries and keys are turned.
        Writes these tokens' keys and values where their texts end.  Returns the logits, (B, V).
        """
        H, G, D = self.n_head, self.n_kv_head, x.shape[1] // self.n_head
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv.times(self._normed(x, layer.norm_1))  # (B, C + 2GD)
            q, k, v = (part.reshape(len(x), -1, 1, D) for part in np.split(qkv, [H * D, (H + G) * D], axis=1))
            if turn is not None:
                q, k = (rotary(a, turn[0][:, None, None], turn[1][:, None, None]) for a in (q, k))  # (B, H or G, 1, D)
            y = [self._attend(q[b], k[b], v[b], text[i], lengths[b]) for b, text in enumerate(caches)]
            x = x + layer.merge.times(np.stack(y))  # (B, C)
            h = layer.widen.times(self._normed(x, layer.norm_2))  # (B, 4C) or (B, 2F)
            h = swiglu_forward(h) if self.gated else gelu_forward(h, approximate="tanh")  # (B, 4C) or (B, F)
            x = x + layer.narrow.times(h)  # (B, C)
        return self.head.times(self._normed(x, self.norm))  # (B, V)

    def _attend(self, q, k, v, cache, length):
        """One text's attention to what it has said, and now says: q: (H, 1, D), k, v: (G, 1, D) -> (C,)."""
        for array, newest in zip(cache, (k, v), strict=True):
            array[0, :, length] = newest[:, 0]
        seen = (a[:, :, : length + 1].repeat(self.n_head // self.n_kv_head, axis=1) for a in cache)  # (1, H, S, D) each
        y, _ = attention_forward(q[None], *seen)  # (1, H, 1, D)
        return y.reshape(-1)
