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
from kernels.contract import check_apart, check_shape, check_writable, contract
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


@contract("weight: (O, I)")
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


def check_weights(layers: Sequence[Layer], norm: Norm, head: Matrix, heads: tuple[int, int], rms: bool, gated: bool) -> None:
    """Raise ValueError or TypeError unless the weights of a Decoder fit one another.  heads: n_head and n_kv_head."""
    if not layers or any(getattr(matrix.weight, "ndim", None) != 2 for matrix in (head, layers[0].widen)):
        raise ValueError("Decoder: expected at least one layer, and matrices of two axes, got others; pass the layers of a GPT")
    (H, G), (V, C), W = heads, head.weight.shape, len(layers[0].widen.weight)
    if H < 1 or G < 1 or C % H or H % G:
        raise ValueError(
            f"Decoder: expected n_head to divide {C} and n_kv_head to divide n_head, got {H} and {G}; see the model"
        )
    if gated and W % 2:
        raise ValueError(
            f"Decoder: expected a gated MLP with an even number of rows to widen, got {W}; pass gated=False for GELU"
        )
    shapes = (C + 2 * G * (C // H), C), (C, C), (W, C), (C, W // 2 if gated else W)
    for i, layer in enumerate(layers):
        _check_norm(f"layers[{i}].norm_1", layer.norm_1, C, rms)
        _check_norm(f"layers[{i}].norm_2", layer.norm_2, C, rms)
        for name, shape in zip(("qkv", "merge", "widen", "narrow"), shapes):
            _check_matrix(f"layers[{i}].{name}", getattr(layer, name), shape)
    _check_norm("norm", norm, C, rms)
    _check_matrix("head", head, (V, C))
    if head.bias is not None:
        raise ValueError("Decoder: expected a head without bias, got one with bias; use the model's forward pass")


def _check_norm(name: str, norm: Norm, C: int, rms: bool) -> None:
    check_shape("Decoder", f"{name}.weight", norm.weight, (C,))
    if norm.bias is not None:
        check_shape("Decoder", f"{name}.bias", norm.bias, (C,))
        if rms:
            raise ValueError(f"Decoder: expected no {name}.bias in an RMSNorm, got one; pass rms=False for LayerNorm")


def _check_matrix(name: str, matrix: Matrix, shape: tuple[int, int]) -> None:
    check_shape("Decoder", f"{name}.weight", matrix.weight, shape)
    for part, vector in (("scale", matrix.scale), ("bias", matrix.bias)):
        if vector is not None:
            check_shape("Decoder", f"{name}.{part}", vector, shape[:1])
    if (matrix.weight.dtype == np.int8) != (matrix.scale is not None):
        raise TypeError(
            f"Decoder: expected a scale exactly with int8 weights, got {name}.weight in {matrix.weight.dtype} and scale "
            f"{'None' if matrix.scale is None else 'not None'}; use quantize_rows"
        )


def check_caches(caches: Sequence[Cache], layers: int, G: int, D: int) -> None:
    """Raise an error unless `step` may write to these caches: contiguous, of one shape and dtype for every text and layer."""
    if not caches or any(len(text) != layers or any(len(pair) != 2 for pair in text) for text in caches):
        raise ValueError(
            f"Decoder.step: expected one text or more with keys and values of {layers} layers each, got other caches"
        )
    arrays = [a for text in caches for pair in text for a in pair]
    first = arrays[0]
    context = first.shape[2] if getattr(first, "ndim", None) == 4 else 0
    for a in arrays:
        check_shape("Decoder.step", "a cache", a, (1, G, context, D))
        if a.dtype != first.dtype or not a.flags.c_contiguous:
            got = f"{a.dtype} and strides {a.strides}"
            raise ValueError(f"Decoder.step: expected contiguous caches of one dtype, {first.dtype}, got {got}; make them anew")
        check_writable("Decoder.step", "a cache", a)
    check_apart("Decoder.step", arrays)


def check_inputs(
    x: np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    turn: tuple[np.ndarray, np.ndarray] | None,
    caches: Sequence[Cache],
    C: int,
) -> np.ndarray:
    """Raise an error unless `step` may take these arguments with these caches; return the lengths as int64."""
    B, keys = len(caches), caches[0][0][0]
    context, D = keys.shape[2:]
    check_shape("Decoder.step", "x", x, (B, C))
    if x.dtype != keys.dtype:
        raise TypeError(f"Decoder.step: expected x in {keys.dtype} like the caches, got {x.dtype}; convert it")
    tokens = np.array(lengths)
    if tokens.shape != (B,) or tokens.dtype.kind not in "iu":
        raise ValueError(f"Decoder.step: expected {B} integers as lengths, got {lengths}; pass one for each text")
    if not (0 <= tokens.min() and tokens.max() < context):
        raise ValueError(
            f"Decoder.step: expected lengths from 0 to {context - 1}, got {tokens.tolist()}; "
            f"each cache has room for {context} tokens"
        )
    if turn is not None:
        if D % 2 or len(turn) != 2:
            raise ValueError(
                f"Decoder.step: expected cos and sin for heads of even width, got {len(turn)} arrays for width {D}"
            )
        check_shape("Decoder.step", "cos", turn[0], (B, D // 2))
        check_shape("Decoder.step", "sin", turn[1], (B, D // 2))
    return tokens.astype(np.int64)


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
        check_weights(layers, norm, head, (n_head, n_kv_head), rms, gated)
        self.layers, self.norm, self.head = layers, norm, head
        self.n_head, self.n_kv_head, self.eps, self.rms, self.gated = n_head, n_kv_head, eps, rms, gated

    def _normalize(self, x: np.ndarray, norm: Norm) -> np.ndarray:
        weight, bias = (None if a is None else a.astype(x.dtype) for a in norm)
        if self.rms:
            return rms_norm_forward(x, weight, eps=self.eps)[0]
        return layernorm_forward(x, weight, bias, eps=self.eps)[0]

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
        C = self.head.weight.shape[1]
        H, G, D = self.n_head, self.n_kv_head, C // self.n_head
        check_caches(caches, len(self.layers), G, D)
        lengths = check_inputs(x, lengths, turn, caches, C)
        x = x.copy()  # the caches, which this step writes, may lie in the same memory
        turn = None if turn is None else (turn[0].astype(x.dtype), turn[1].astype(x.dtype))
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv.times(self._normalize(x, layer.norm_1))  # (B, C + 2GD)
            q, k, v = (part.reshape(len(x), -1, 1, D) for part in np.split(qkv, [H * D, (H + G) * D], axis=1))
            if turn is not None:  # the texts' positions take the place of one text's: (1, H or G, B, D)
                q, k = (rotary(a.transpose(2, 1, 0, 3), *turn).transpose(2, 1, 0, 3) for a in (q, k))  # (B, H or G, 1, D)
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
