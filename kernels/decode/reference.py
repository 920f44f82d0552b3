"""One token of each text through a whole GPT: the specification, in NumPy.

Decoding multiplies one row of each text by every matrix of the model. Reading the weights takes nearly all the time, and all
texts share one reading. The rest (norms, attention of one query) is little work, but a call for each operation would cost time.
So this kernel computes a whole token. The result equals the model's forward pass on one token with a cache.

Eight bits: a matrix may be stored as int8 with one scale for each row, w ≈ scale · q with scale = max|w| / 127. That takes a
quarter of the bytes. The activations stay in float32.
Source: Dettmers et al. 2022, LLM.int8() (arXiv:2208.07339), §2, row-wise quantization, here of the weights only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kernels.attention.reference import attention_forward
from kernels.gelu.reference import gelu_forward
from kernels.layernorm.reference import layernorm_forward
from kernels.rms_norm.reference import rms_norm_forward
from kernels.rotary.reference import rotary
from kernels.swiglu.reference import swiglu_forward


class Matrix(NamedTuple):
    """A linear layer, y = x Wᵀ + bias.  weight: (O, I) floats, or int8 with scale: (O,); bias: (O,) or None."""

    weight: np.ndarray
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None

    def times(self, x: np.ndarray) -> np.ndarray:
        y = x @ self.weight.astype(x.dtype).T  # (B, O)
        y = y if self.scale is None else y * self.scale
        return y if self.bias is None else y + self.bias


class Norm(NamedTuple):
    """The parameters of a norm: weight (C,), bias (C,) or None."""

    weight: np.ndarray
    bias: np.ndarray | None = None


class Layer(NamedTuple):
    """A block: norm_1, qkv (C -> C + 2GD), merge (C -> C), norm_2, widen (C -> 4C, or 2F if gated), narrow (4C or F -> C)."""

    norm_1: Norm
    qkv: Matrix
    merge: Matrix
    norm_2: Norm
    widen: Matrix
    narrow: Matrix


Cache = Sequence[tuple[np.ndarray, np.ndarray]]  # one text's keys and values for each layer, (1, G, context, D) each


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize each row to int8.

    Args:
        weight: (O, I) floats.

    Returns:
        q: int8 (O, I), and scale: float32 (O,); scale · q differs from the weight by at most scale / 2.
    """
    scale = np.maximum(np.abs(weight).max(axis=1, initial=0), np.float32(1e-30)).astype(np.float32) / np.float32(127)
    quantized = np.empty(weight.shape, np.int8)
    for start in range(0, len(weight), 4096):  # a few rows at a time, to keep the rounded floats small
        rows = slice(start, start + 4096)
        quantized[rows] = np.rint(weight[rows] / scale[rows, None])
    return quantized, scale


class Decoder:
    """The weights of a GPT, ready to take the next token of one or several texts."""

    def __init__(
        self,
        layers: Sequence[Layer],
        norm: Norm,
        head: Matrix,
        *,
        n_head: int,
        n_kv_head: int,
        eps: float,
        rms: bool = False,
        gated: bool = False,
    ) -> None:
        """Store the weights.

        Args:
            norm, head: the last norm and the output layer (V, C).
            n_head, n_kv_head: H and G, heads of queries and of keys; H is a multiple of G, and D = C / H.
            eps: added to the variance in the norms.
            rms: the norms are RMSNorm, else LayerNorm.
            gated: the MLP is SwiGLU, else GELU in its tanh form.
        """
        self.layers, self.norm, self.head = layers, norm, head
        self.n_head, self.n_kv_head, self.eps, self.rms, self.gated = n_head, n_kv_head, eps, rms, gated

    def _normalize(self, x: np.ndarray, norm: Norm) -> np.ndarray:
        if self.rms:
            return rms_norm_forward(x, norm.weight, eps=self.eps)[0]
        return layernorm_forward(x, norm.weight, norm.bias, eps=self.eps)[0]

    def step(
        self,
        x: np.ndarray,
        caches: Sequence[Cache],
        lengths: Sequence[int] | np.ndarray,
        turn: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Take the next token of each of B texts; write its keys and values to the caches.

        Args:
            x: the tokens' embeddings, (B, C).
            caches: for each text and layer the keys and values, (1, G, context, D) each, filled up to the text's length.
            lengths: tokens in each text so far, (B,).
            turn: cosines and sines of the rotary angles at the B positions, (B, D/2) each, or None.

        Returns:
            The logits, (B, V).
        """
        H, G, D = self.n_head, self.n_kv_head, x.shape[1] // self.n_head
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv.times(self._normalize(x, layer.norm_1))  # (B, C + 2GD)
            q, k, v = (part.reshape(len(x), -1, 1, D) for part in np.split(qkv, [H * D, (H + G) * D], axis=1))
            if turn is not None:
                q, k = (rotary(a, turn[0][:, None, None], turn[1][:, None, None]) for a in (q, k))  # (B, H or G, 1, D)
            y = [self._attend(q[b], k[b], v[b], text[i], lengths[b]) for b, text in enumerate(caches)]
            x = x + layer.merge.times(np.stack(y))  # (B, C)
            h = layer.widen.times(self._normalize(x, layer.norm_2))  # (B, 4C) or (B, 2F)
            h = swiglu_forward(h) if self.gated else gelu_forward(h, approximate="tanh")  # (B, 4C) or (B, F)
            x = x + layer.narrow.times(h)  # (B, C)
        return self.head.times(self._normalize(x, self.norm))  # (B, V)

    def _attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, cache: tuple[np.ndarray, np.ndarray], length: int
    ) -> np.ndarray:
        """One text's attention over its past and the new token.  q: (H, 1, D), k, v: (G, 1, D) -> (C,)."""
        for array, newest in zip(cache, (k, v), strict=True):
            array[0, :, length] = newest[:, 0]
        past = (a[:, :, : length + 1].repeat(self.n_head // self.n_kv_head, axis=1) for a in cache)  # (1, H, S, D) each
        y, _ = attention_forward(q[None], *past)  # (1, H, 1, D)
        return y.reshape(-1)
