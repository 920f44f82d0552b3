"""Multi-head attention as one module, with PyTorch's names and masks. Chapter 4 builds attention up step by step."""

import math
from typing import Any

from minigrad.devices import zeros
from minigrad.dtypes import bool_, float32
from minigrad.nn import functional as F
from minigrad.nn import init
from minigrad.nn.layers import Linear
from minigrad.nn.module import Module, Parameter
from minigrad.ops.operands import as_int
from minigrad.ops.products import attention_weights
from minigrad.random import Generator
from minigrad.tensor import Tensor


class MultiheadAttention(Module):
    """softmax(q kᵀ / √D) v in several heads, between two linear layers.

    Args:
        embed_dim: E, the width of queries, keys, values and results.
        num_heads: H; each head is D = E / H wide.
        dropout: probability of dropping an attention weight while training.
        bias: give the linear layers biases.
        add_bias_kv, add_zero_attn, kdim, vdim: not implemented.
        batch_first: the batch comes before the sequence, (N, L, E); otherwise (L, N, E).

    in_proj_weight (3E, E) makes q, k and v, and out_proj the result. They start with PyTorch's initial values.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), §3.2.2.
    """

    in_proj_weight: Parameter
    in_proj_bias: Any  # a Parameter, or None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: str | None = None,
        dtype: Any = None,
        *,
        generator: Generator | None = None,
    ):
        super().__init__()
        if add_bias_kv or add_zero_attn or kdim not in (None, embed_dim) or vdim not in (None, embed_dim):
            raise NotImplementedError("MultiheadAttention: add_bias_kv, add_zero_attn, kdim and vdim are not implemented")
        embed_dim, num_heads = (
            as_int(number, "MultiheadAttention", name) for number, name in ((embed_dim, "embed_dim"), (num_heads, "num_heads"))
        )
        if num_heads <= 0 or embed_dim <= 0 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: expected embed_dim as a multiple of num_heads, got {embed_dim}, {num_heads}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout, self.batch_first = dropout, batch_first
        dtype = dtype or float32
        self.in_proj_weight = Parameter(zeros((3 * embed_dim, embed_dim), dtype, device))
        self.in_proj_bias = Parameter(zeros((3 * embed_dim,), dtype, device)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype, generator=generator)
        init.xavier_uniform_(self.in_proj_weight, generator=generator)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from each query to the keys.

        Args:
            query: (N, L, E), or (L, N, E) unless batch_first, or (L, E) without a batch.
            key, value: the same with S in place of L.
            key_padding_mask: (N, S), or (S,) without a batch. Boolean: True hides a key. Float: added to the scores.
            need_weights: return the weights too. If False and without masks, the (L, S) matrices never exist in memory.
            attn_mask: (L, S) or (N · H, L, S). Boolean: True hides a key, the opposite of F.scaled_dot_product_attention.
                Float: added to the scores.
            average_attn_weights: return the mean of the heads' weights.
            is_causal: hint that attn_mask is causal; the mask is still required and alone decides.

        Returns:
            The result, shaped like query, and the weights or None: (N, L, S), or (N, H, L, S) for each head. A query that sees
            no key gets zeros, where PyTorch gives NaN.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("MultiheadAttention: is_causal=True needs attn_mask too")
        batched, same = query.ndim == 3, query is key and key is value
        query, key, value = (self._to_batch_first(x, batched) for x in (query, key, value))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        if (
            query.ndim != 3
            or key.shape != value.shape
            or key.shape[::2] != query.shape[::2]
            or query.shape[2] != self.embed_dim
        ):
            raise RuntimeError(
                f"MultiheadAttention: expected query (N, L, {self.embed_dim}), key and value (N, S, {self.embed_dim}), "
                f"got {query.shape}, {key.shape} and {value.shape}"
            )
        q, k, v = map(self._split_heads, self._project(query, key, value, same))  # (N, H, L, D), (N, H, S, D) twice
        mask = self._mask(query.shape[0], query.shape[1], key.shape[1], attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-1, -2)  # (N, H, L, S)
            weights = F.dropout(attention_weights(scores, None, mask), dropout) if key.shape[1] else scores
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = self.out_proj(y.transpose(1, 2).reshape(query.shape))  # (N, L, E)
        if weights is not None and not batched:
            weights = weights.squeeze(0)
        return self._from_batch_first(y, batched), weights

    def _to_batch_first(self, x, batched):
        return x.unsqueeze(0) if not batched else x if self.batch_first else x.transpose(0, 1)

    def _from_batch_first(self, y, batched):
        return y.squeeze(0) if not batched else y if self.batch_first else y.transpose(0, 1)

    def _project(self, query, key, value, same):
        if same:  # self-attention: one product in place of three
            return F.linear(query, self.in_proj_weight, self.in_proj_bias).split(self.embed_dim, -1)
        weights = self.in_proj_weight.split(self.embed_dim)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.split(self.embed_dim)
        return [F.linear(x, weight, bias) for x, weight, bias in zip((query, key, value), weights, biases)]

    def _split_heads(self, x):
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)  # (N, H, L, D)

    def _mask(self, N, L, S, attn_mask, key_padding_mask):
        """Both masks as one: boolean with True where a key is visible, or float to be added to the scores."""
        masks = []
        if attn_mask is not None:
            if attn_mask.shape not in ((L, S), (N * self.num_heads, L, S)):
                raise RuntimeError(
                    f"MultiheadAttention: expected attn_mask of shape {(L, S)} or {(N * self.num_heads, L, S)}, "
                    f"got {attn_mask.shape}"
                )
            masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.view(N, self.num_heads, L, S))
        if key_padding_mask is not None:
            if key_padding_mask.shape != (N, S):
                raise RuntimeError(
                    f"MultiheadAttention: expected key_padding_mask of shape {(N, S)}, got {key_padding_mask.shape}"
                )
            masks.append(key_padding_mask.view(N, 1, 1, S))
        for mask in masks:
            if mask.dtype.kind not in "bf":
                raise TypeError(f"MultiheadAttention: expected a boolean or float mask, got {mask.dtype}")
        if not masks or not S:
            return None
        if all(mask.dtype == bool_ for mask in masks):
            hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
            return ~hidden
        floats = [m.float().masked_fill(m, -math.inf) if m.dtype == bool_ else m for m in masks]
        return floats[0] if len(floats) == 1 else floats[0] + floats[1]
