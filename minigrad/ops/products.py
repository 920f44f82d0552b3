"""Matrix products, the linear layer, layer normalisation and attention: where a transformer spends its time."""

import math
from typing import Any, Sequence

import numpy as np

import kernels
from kernels.attention.reference import visible_keys
from kernels.block.reference import Parameters
from minigrad.engine import TensorBase, TensorT, wrap
from minigrad.function import Function
from minigrad.ops.activations import dropout, softmax
from minigrad.ops.arithmetic import add, mul
from minigrad.ops.comparisons import bitwise_not, eq
from minigrad.ops.indexing import masked_fill
from minigrad.ops.operands import broadcast, check_normalized, in_float32, need_float, need_numbers, need_tensors
from minigrad.ops.reductions import amax
from minigrad.ops.shape import expand, reshape, squeeze, transpose, unsqueeze


class MatMul(Function):
    """Derivation: kernels/matmul/reference.py, matmul_backward."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        return ctx.kernels.matmul(a, b)

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        return ctx.kernels.matmul_backward(dy, a, b, needs=ctx.needs)


class Linear(Function):
    """Derivation: kernels/matmul/reference.py, linear_backward."""

    @staticmethod
    def forward(ctx, x, weight, bias, activation):
        y, z = ctx.kernels.linear_forward(x, weight, bias, activation=activation)
        ctx.save(x, weight, z, activation)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, z, activation = ctx.saved
        # If the weight has a gradient already (from an earlier batch, or the other use of a tied matrix), add to it in place.
        out = None, ctx.take(1, to_write=True), None
        grads = ctx.kernels.linear_backward(
            dy, x, weight, z, activation=activation, needs=ctx.needs[:3], out=out, accumulate=True
        )
        return *grads, None


class LayerNorm(Function):
    """Derivation: kernels/layernorm/reference.py, layernorm_backward."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        y, mean, rstd = ctx.kernels.layernorm_forward(x, weight, bias, eps=eps)
        ctx.save(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, mean, rstd = ctx.saved
        # In x + f(layer_norm(x)) the residual path's gradient arrives first; the kernel adds it at the cost of one more read.
        plus = ctx.take(0)
        return *ctx.kernels.layernorm_backward(dy, x, weight, mean, rstd, plus=plus, needs=ctx.needs[:3]), None


class Attention(Function):
    """Derivation: kernels/attention/reference.py, attention_backward."""

    # y lies in memory as (B, T, H, D) and is returned as a (B, H, T, D) view, so merging the heads later copies nothing.
    @staticmethod
    def forward(ctx, q, k, v, settings):
        B, H, T, D = q.shape
        out = ctx.xp.empty((B, T, H, D), q.dtype).swapaxes(1, 2)  # (B, H, T, D)
        y, logsumexp = ctx.kernels.attention_forward(q, k, v, out=out, **settings)
        ctx.save(q, k, v, y, logsumexp, settings)
        return y

    # The three gradients are written side by side, (B, T, 3, H, D). If one projection made q, k and v, that buffer is already
    # the gradient of its output, and nothing has to be joined (see _join in shape.py).
    @staticmethod
    def backward(ctx, dy):
        q, k, v, y, logsumexp, settings = ctx.saved
        B, H, T, D = q.shape
        if k.shape == q.shape:
            packed = ctx.xp.empty((B, T, 3, H, D), q.dtype)
            out = tuple(packed[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D) each
        else:
            out = tuple(ctx.xp.empty_like(a) for a in (q, k, v))
        return *ctx.kernels.attention_backward(dy, q, k, v, y, logsumexp, out=out, **settings), None


class TransformerBlock(Function):
    """Derivation: kernels/block/reference.py, block_backward."""

    @staticmethod
    def forward(ctx, x, n_head, eps, *parameters):
        y, saved = ctx.kernels.block_forward(x, parameters, n_head=n_head, eps=eps)
        ctx.save(x, n_head, *parameters, *saved)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, n_head, *arrays = ctx.saved
        n = len(Parameters._fields)
        out = tuple(ctx.take(3 + i, to_write=True) for i in range(n))  # gradients of an earlier batch, to be added to
        dx, grads = ctx.kernels.block_backward(
            dy, x, tuple(arrays[:n]), tuple(arrays[n:]), n_head=n_head, out=out, accumulate=True
        )
        return dx, None, None, *grads


def matmul(input: TensorT, other: TensorBase) -> TensorT:
    """input @ other.  (..., M, K) @ (..., K, N) -> (..., M, N); leading axes broadcast; either side may be a vector, (K,)."""
    if not isinstance(input, TensorBase) or not isinstance(other, TensorBase):
        raise TypeError(f"matmul: expected two tensors, got {type(input).__name__} and {type(other).__name__}")
    need_numbers("matmul", input, other, instead="convert a mask with .float()")
    if input.dtype != other.dtype:
        raise TypeError(f"matmul: both sides need one dtype, got {input.dtype} and {other.dtype}")
    if input.ndim == 0 or other.ndim == 0 or input.shape[-1] != other.shape[-2 if other.ndim > 1 else 0]:
        raise RuntimeError(f"matmul: cannot multiply shapes {input.shape} and {other.shape}: the inner sizes must agree")
    broadcast("matmul", input.shape[:-2], other.shape[:-2])
    a = unsqueeze(input, 0) if input.ndim == 1 else input
    b = unsqueeze(other, 1) if other.ndim == 1 else other
    y = MatMul.apply(a, b)
    y = squeeze(y, -1) if other.ndim == 1 else y
    if input.ndim == 1:
        y = squeeze(y, -1 if other.ndim == 1 else -2)
    return y


def mm(input: TensorT, mat2: TensorBase) -> TensorT:
    """The product of two matrices, without broadcasting: (M, K) @ (K, N) -> (M, N)."""
    return _strict("mm", 2, input, mat2)


def bmm(input: TensorT, mat2: TensorBase) -> TensorT:
    """The products of two batches of matrices, without broadcasting: (B, M, K) @ (B, K, N) -> (B, M, N)."""
    return _strict("bmm", 3, input, mat2)


def dot(input: TensorT, tensor: TensorBase) -> TensorT:
    """The sum of the products of two vectors: (N,), (N,) -> ()."""
    return _strict("dot", 1, input, tensor)


def _strict(name: str, rank: int, a: TensorT, b: TensorBase) -> TensorT:
    need_tensors(name, a, b)
    if a.ndim != rank or b.ndim != rank or a.shape[:-2] != b.shape[:-2]:
        raise RuntimeError(f"{name}: expected two tensors of {rank} dimensions that fit, got shapes {a.shape} and {b.shape}")
    return matmul(a, b)


def outer(input: TensorT, vec2: TensorBase) -> TensorT:
    """The products of all pairs of elements of two vectors: (M,), (N,) -> (M, N)."""
    need_tensors("outer", input, vec2)
    if input.ndim != 1 or vec2.ndim != 1:
        raise RuntimeError(f"outer: expected two vectors, got shapes {input.shape} and {vec2.shape}")
    return mul(unsqueeze(input, 1), vec2)


def linear(input: TensorT, weight: TensorBase, bias: TensorBase | None = None, activation: str | None = None) -> TensorT:
    """input Wᵀ + bias.  input: (..., I), weight: (O, I), bias: (O,) -> (..., O).

    activation: None, or "gelu" or "gelu_tanh", which the same kernel applies to the result (not in PyTorch).
    """
    if weight.ndim != 2 or input.shape[-1:] != weight.shape[1:]:
        raise RuntimeError(f"linear: input {input.shape} needs a last axis as long as the second of weight {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"linear: expected a bias of shape {weight.shape[:1]} for weight {weight.shape}, got {bias.shape}")
    if activation not in (None, "gelu", "gelu_tanh"):
        raise ValueError(f"linear: expected activation None, 'gelu' or 'gelu_tanh', got {activation!r}")
    need_float("linear", input, weight, bias)
    return Linear.apply(input, weight, bias, activation)


@in_float32
def layer_norm(
    input: TensorT,
    normalized_shape: int | Sequence[int],
    weight: TensorBase | None = None,
    bias: TensorBase | None = None,
    eps: float = 1e-5,
) -> TensorT:
    """(x − mean) / √(variance + eps) over the last axis, then scaled by weight and shifted by bias.

    input: (..., C), normalized_shape: C or (C,), weight and bias: (C,).  Source: Ba et al. 2016 (arXiv:1607.06450).
    """
    check_normalized("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    return LayerNorm.apply(input, weight, bias, eps)


@in_float32
def scaled_dot_product_attention(
    query: TensorT,
    key: TensorT,
    value: TensorT,
    attn_mask: TensorBase | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    causal_offset: int | None = None,
    key_start: Any = None,
) -> TensorT:
    """softmax(scale · q kᵀ) v. The (T, S) matrix of weights never exists in memory, unless a mask or dropout needs it.

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        attn_mask: boolean (True: visible) or float (added to the scores), broadcast to (B, H, T, S).
        dropout_p: the probability of dropping a weight.
        is_causal: query i sees the keys j ≤ i. As in PyTorch, i counts from the first query and j from the first key.
        scale: factor on q·k; 1/√D if None.
        enable_gqa: key and value may have G heads, where H is a multiple of G; H/G query heads share each.
        causal_offset: query i sees the keys j ≤ i + causal_offset (not in PyTorch). Cached decoding passes the number of past
            keys.
        key_start: (B,) integers; the keys before key_start[b] are left padding and never seen (not in PyTorch).

    Returns:
        (B, H, T, D); zeros for a query that sees no key.
    """
    if query.ndim != 4 or key.ndim != 4 or value.shape != key.shape or key.shape[::3] != query.shape[::3]:
        raise RuntimeError(
            "attention: expected query (B, H, T, D), key and value (B, H, S, D), "
            f"got {query.shape}, {key.shape} and {value.shape}"
        )
    if enable_gqa and key.shape[1] and query.shape[1] % key.shape[1] == 0:
        key, value = _for_every_query(key, query.shape[1]), _for_every_query(value, query.shape[1])
    if query.shape[1] != key.shape[1]:
        raise RuntimeError(f"attention: query has {query.shape[1]} heads and key {key.shape[1]}; they must agree")
    need_float("attention", query, key, value)
    if key_start is not None:
        key_start = key_start.array if isinstance(key_start, TensorBase) else key_start
        if len(key_start) != query.shape[0]:
            raise RuntimeError(f"attention: expected {query.shape[0]} numbers in key_start, one per row, got {len(key_start)}")
    if is_causal:
        if causal_offset is not None or attn_mask is not None:
            raise ValueError("attention: expected at most one of is_causal, causal_offset and attn_mask")
        causal_offset = 0
    if attn_mask is None and not dropout_p:
        settings = {"scale": scale, "causal_offset": causal_offset, "key_start": key_start}
        return Attention.apply(query, key, value, settings)

    key_start = None if key_start is None else kernels.to_device(key_start, "cpu")
    visible = visible_keys(query.shape[2], key.shape[2], causal_offset, key_start)
    scores = mul(matmul(query, transpose(key, -1, -2)), 1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    return matmul(dropout(attention_weights(scores, visible, attn_mask), dropout_p), value)


def transformer_block(input: TensorT, parameters: Sequence[TensorBase], n_head: int, eps: float = 1e-5) -> TensorT:
    """GPT-2's transformer block as one operation (not in PyTorch): causal attention, and an MLP with GELU's tanh form.

    It equals the layers one after another. On the CPU it is faster for narrow models, because a few texts stay in a core's
    caches from the first norm to the last sum.

    Args:
        input: the residual stream, (B, T, C).
        parameters: twelve tensors, in the order of kernels.block.reference.Parameters.
        n_head: heads, a divisor of C.
        eps: added to the variance in both norms.

    Returns:
        (B, T, C).
    """
    need_tensors("transformer_block", input, *parameters)
    need_float("transformer_block", input, *parameters)
    if input.dtype == np.float16:
        raise TypeError("transformer_block: expected float32 or float64, got float16; use the layers one after another")
    return TransformerBlock.apply(input, n_head, eps, *parameters)


def _for_every_query(x: TensorT, H: int) -> TensorT:
    """x: (B, G, S, D) -> (B, H, S, D), each head repeated H/G times. The backward pass of expand adds up their gradients."""
    B, G, S, D = x.shape
    return x if G == H else reshape(expand(unsqueeze(x, 2), B, G, H // G, S, D), B, H, S, D)


def attention_weights(scores: TensorT, visible: np.ndarray | None, attn_mask: TensorBase | None) -> TensorT:
    """softmax(scores), zero where a key is hidden.  scores: (B, H, T, S); visible and attn_mask broadcast to them."""
    if visible is not None:
        scores = masked_fill(scores, wrap(kernels.to_device(~visible, scores.device)), -math.inf)
    if attn_mask is not None:
        broadcast("attention mask", attn_mask.shape, scores.shape)
        if attn_mask.dtype.kind not in "bf":
            raise TypeError(f"attention: attn_mask must be boolean or floating-point, got {attn_mask.dtype}")
        is_bool = attn_mask.dtype.kind == "b"
        scores = masked_fill(scores, bitwise_not(attn_mask), -math.inf) if is_bool else add(scores, attn_mask)
    if not scores.shape[-1]:
        return scores  # no keys at all
    # The scores of a query that sees no key are all -inf, and their softmax would be NaN. It gets zeros instead.
    blind = expand(eq(amax(wrap(scores.array), -1, keepdim=True), -math.inf), scores.shape)  # (B, H, T, S)
    return masked_fill(softmax(masked_fill(scores, blind, 0.0), -1), blind, 0.0)


class ProductMethods(TensorBase):
    """The products as methods, and x @ y."""

    __slots__ = ()

    matmul, mm, bmm, dot, outer = matmul, mm, bmm, dot, outer
    __matmul__ = matmul
