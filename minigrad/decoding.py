"""Fast decoding, without a graph: one token through all layers of a model in one compiled call (kernels/decode).

    from minigrad import decoding
    layers = [decoding.Layer(decoding.norm(b.ln_1), decoding.matrix(b.attn.c_attn), …) for b in gpt.h]
    decoder = decoding.decoder(layers, decoding.norm(gpt.ln_f), decoding.matrix(gpt.lm_head), n_head=12, …)

The decoder shares the model's weights, except where int8=True makes a copy in eight bits. For many texts at a time there is
`block`: the newest tokens of each through one transformer block.
"""

from typing import Any, Sequence

import kernels
from kernels.decode.reference import Layer, Matrix, Norm
from minigrad.modes import mode
from minigrad.tensor import Tensor

__all__ = ["Layer", "block", "decoder", "matrix", "norm"]


def matrix(linear: Any, int8: bool = False) -> Matrix:
    """The weight and bias of an nn.Linear; with int8, rounded to eight bits with a scale for each row."""
    weight, bias = linear.weight.array, None if linear.bias is None else linear.bias.array
    if not int8:
        return Matrix(weight, None, bias)
    quantized, scale = _kernels_for(weight).quantize_rows(weight)
    return Matrix(quantized, scale, bias)


def norm(module: Any) -> Norm:
    """The weight and bias of an nn.LayerNorm or nn.RMSNorm."""
    bias = getattr(module, "bias", None)
    return Norm(module.weight.array, None if bias is None else bias.array)


def decoder(layers: Sequence[Layer], norm: Norm, head: Matrix, **shape: Any) -> Any:
    """The decoder for these weights; kernels/decode/reference.py describes its step(x, caches, lengths, turn).

    Raises:
        DeviceError: for weights on a GPU or in the emulator; there, use the model's forward pass with a cache.
    """
    return _kernels_for(norm.weight).Decoder(layers, norm, head, **shape)


def _kernels_for(array: Any) -> Any:
    if kernels.device_of(array) != "cpu" or kernels.serving(array).module == "cuda":
        raise kernels.DeviceError(
            "decoding: the compiled decoder is made for the CPU, not for a GPU or the emulator; move the model with .cpu()"
        )
    return kernels.serving(array)


def block(
    x: Tensor,
    parameters: Sequence[Tensor],
    keys: Tensor,
    values: Tensor,
    n_head: int,
    seen: int,
    key_start: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """F.transformer_block for the newest tokens of each text, beside a cache of earlier keys and values.

    Args:
        x, parameters, n_head, eps: see F.transformer_block; x holds the new tokens, (B, T, C).
        keys, values: the cache, (B, H, S, D) each; the new tokens' keys and values are written to it.
        seen: tokens in the cache so far.
        key_start: (B,) each text's first token after padding on the left.

    Returns:
        (B, T, C).

    Raises:
        RuntimeError: if gradients are recorded; the cache holds no graph.
    """
    if mode.grad_enabled:
        raise RuntimeError("decoding.block: expected a call under no_grad, got one that records gradients; leave out the cache")
    arrays = tuple(parameter.array for parameter in parameters)
    starts = None if key_start is None else key_start.array
    step = kernels.serving(x.array).block_with_cache
    y = step(x.array, arrays, keys.array, values.array, n_head=n_head, seen=seen, key_start=starts, eps=eps)
    keys.changed()
    values.changed()
    return Tensor(y)
