"""Fast decoding: one token through all layers of a model in one compiled call (kernels/decode), without a graph.

    from minigrad import decoding
    layers = [decoding.Layer(decoding.norm(b.ln_1), decoding.matrix(b.attn.c_attn), …) for b in gpt.h]
    decoder = decoding.decoder(layers, decoding.norm(gpt.ln_f), decoding.matrix(gpt.lm_head), n_head=12, …)

The decoder shares the model's weights, except where int8=True makes a copy in eight bits.
"""

from typing import Any, Sequence

import kernels
from kernels.decode.reference import Layer, Matrix, Norm

__all__ = ["Layer", "decoder", "matrix", "norm"]


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
