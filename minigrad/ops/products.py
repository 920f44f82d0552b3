"""Matrix products, the linear layer, layer normalisation and attention: the operations that cost a transformer its time."""

import math

import kernels
from minigrad.function import Function
from minigrad.ops.activations import dropout, softmax
from minigrad.ops.axes import broadcast, need_float
from minigrad.ops.shape import expand, reshape, squeeze, unsqueeze
from minigrad.tensor import Tensor


class MatMul(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        return ctx.kernels.matmul(a, b)

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        return ctx.kernels.matmul_backward(dy, a, b, needs=ctx.needs)


class Linear(Function):
    adds_up = True

    @staticmethod
    def forward(ctx, x, weight, bias, activation):
        y, z = ctx.kernels.linear_forward(x, weight, bias, activation=activation)
        ctx.save(x, weight, z, activation)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, z, activation = ctx.saved
        # A parameter's gradient from an earlier batch, or from the other use of a tied matrix, is added to where it lies.
        out = None, ctx.take(1, to_write=True), None
        grads = ctx.kernels.linear_backward(
            dy, x, weight, z, activation=activation, needs=ctx.needs[:3], out=out, accumulate=True
        )
        return *grads, None


class LayerNorm(Function):
    adds_up = True

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        y, mean, rstd = ctx.kernels.layernorm_forward(x, weight, bias, eps=eps)
        ctx.save(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, mean, rstd = ctx.saved
        # In x + f(layer_norm(x)) the gradient along the residual path has come first: adding it here costs one reading.
        plus = ctx.take(0)
        return *ctx.kernels.layernorm_backward(dy, x, weight, mean, rstd, plus=plus, needs=ctx.needs[:3]), None


class Attention(Function):
    # y is made as (B, T, H, D) and returned as its (B, H, T, D) view: merging the heads afterwards then copies nothing.
    @staticmethod
    def forward(ctx, q, k, v, settings):
        B, H, T, D = q.shape
        out = ctx.xp.empty((B, T, H, D), q.dtype).swapaxes(1, 2)  # (B, H, T, D)
        y, logsumexp = ctx.kernels.attention_forward(q, k, v, out=out, **settings)
        ctx.save(q, k, v, y, logsumexp, settings)
        return y

    # The three gradients are written side by side, (B, T, 3, H, D), as one projection made q, k and v: the gradient of that
    # projection's output then exists already, and nothing has to be joined (see _rejoined in shape.py).
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


def matmul(input, other):
    """a @ b.  a: (..., M, K), b: (..., K, N) -> (..., M, N); leading axes broadcast, vectors are treated as PyTorch does."""
    if not isinstance(input, Tensor) or not isinstance(other, Tensor):
        raise TypeError(f"matmul takes two tensors, not {type(input).__name__} and {type(other).__name__}")
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


def linear(input, weight, bias=None, activation=None):
    """x Wᵀ + bias.  input: (..., I), weight: (O, I), bias: (O,) or None -> (..., O).

    activation: None, "gelu" or "gelu_tanh" applies that to the result within the same kernel (not in PyTorch).
    """
    if weight.ndim != 2 or input.shape[-1:] != weight.shape[1:]:
        raise RuntimeError(f"linear: input {input.shape} needs a last axis as long as weight {weight.shape}'s second")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"linear: bias has shape {bias.shape} but weight {weight.shape} gives {weight.shape[0]} outputs")
    if activation not in (None, "gelu", "gelu_tanh"):
        raise ValueError(f"linear: activation must be None, 'gelu' or 'gelu_tanh', got {activation!r}")
    need_float("linear", input, weight, bias)
    return Linear.apply(input, weight, bias, activation)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Normalise over the last axis, then scale by weight and shift by bias.  Ba et al. 2016 (arXiv:1607.06450)."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if len(shape) != 1:
        raise NotImplementedError(f"layer_norm: only the last axis can be normalised, got normalized_shape={shape}")
    if input.shape[-1:] != shape:
        raise RuntimeError(f"layer_norm: input has shape {input.shape}, which does not end in {shape[0]}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != shape:
            raise RuntimeError(f"layer_norm: {name} has shape {t.shape}, expected {shape}")
    need_float("layer_norm", input, weight, bias)
    return LayerNorm.apply(input, weight, bias, eps)


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False, *, causal_offset=None,
    key_start=None,
):  # fmt: skip
    """softmax(scale · q kᵀ) v, without ever making the (T, S) matrix unless a mask or dropout asks for it.

    query: (B, H, T, D); key, value: (B, H, S, D) -> (B, H, T, D).  scale: 1/√D unless given.
    attn_mask: boolean (True: may be seen) or float (added to the scores), broadcast to (B, H, T, S).
    enable_gqa: key and value may have fewer heads, G, H being a multiple; H/G queries then share one (grouped queries).
    is_causal: query i sees the keys j ≤ i, counted from the first of each, as in PyTorch.
    causal_offset (ours): query i sees the keys j ≤ i + causal_offset; cached decoding passes the number of past keys.
    key_start (ours): (B,) ints; the keys before key_start[b] are left padding and are never seen.
    """
    if query.ndim != 4 or key.ndim != 4 or value.shape != key.shape or key.shape[::3] != (query.shape[0], query.shape[3]):
        raise RuntimeError(
            f"attention needs query (B, H, T, D), key and value (B, H, S, D), got {query.shape}, {key.shape}, {value.shape}"
        )
    if enable_gqa and key.shape[1] and query.shape[1] % key.shape[1] == 0:
        key, value = _for_every_query(key, query.shape[1]), _for_every_query(value, query.shape[1])
    if query.shape[1] != key.shape[1]:
        raise RuntimeError(f"attention: query has {query.shape[1]} heads and key {key.shape[1]}; they must agree")
    need_float("attention", query, key, value)
    if key_start is not None:
        key_start = key_start.array if isinstance(key_start, Tensor) else key_start
        if len(key_start) != query.shape[0]:
            raise RuntimeError(f"attention: key_start needs one number a row, {query.shape[0]}, got {len(key_start)}")
    if is_causal:
        if causal_offset is not None or attn_mask is not None:
            raise ValueError("attention: give is_causal, causal_offset or attn_mask, not two of them")
        causal_offset = 0
    if attn_mask is None and not dropout_p:
        settings = {"scale": scale, "causal_offset": causal_offset, "key_start": key_start}
        return Attention.apply(query, key, value, settings)
    return _attention_by_matrix(query, key, value, attn_mask, dropout_p, scale, causal_offset, key_start)


def _for_every_query(x, H):
    """x: (B, G, S, D) -> (B, H, S, D), each head H/G times in a row. Gradients of the repeats add up: expand's backward."""
    B, G, S, D = x.shape
    return x if G == H else reshape(expand(unsqueeze(x, 2), B, G, H // G, S, D), B, H, S, D)


def _attention_by_matrix(query, key, value, attn_mask, dropout_p, scale, causal_offset, key_start):
    from kernels.attention.reference import visible_keys

    B, H, T, S = *query.shape[:3], key.shape[-2]
    key_start = None if key_start is None else kernels.to_device(key_start, "cpu")
    scores = matmul(query, key.mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)  # (B, H, T, S)
    visible = visible_keys(T, S, causal_offset, key_start)
    if visible is not None:
        scores = scores.masked_fill(Tensor(~visible).to(scores.device), -math.inf)
    if attn_mask is not None:
        broadcast("attention mask", attn_mask.shape, (B, H, T, S))
        if attn_mask.dtype.kind not in "bf":
            raise TypeError(f"attention: attn_mask must be boolean or floating-point, got {attn_mask.dtype}")
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype.kind == "b" else scores + attn_mask
    # A query that sees no key: its scores are all -inf, and their softmax would be NaN. It gives zeros instead.
    blind = (scores.detach().amax(-1, keepdim=True) == -math.inf).expand(scores.shape)  # (B, H, T, S)
    weights = softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)  # (B, H, T, S)
    return matmul(dropout(weights, dropout_p), value)
