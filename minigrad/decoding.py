"""The short way for one token: a model's layers handed to kernels/decode, past the graph and its calls.

    from minigrad import decoding
    layers = [decoding.Layer(decoding.norm(b.ln_1), decoding.matrix(b.attn.c_attn), …) for b in gpt.h]
    decoder = decoding.decoder(layers, decoding.norm(gpt.ln_f), decoding.matrix(gpt.lm_head), n_head=12, …)

The weights are shared with the model, unless they are asked for in eight bits.
"""

import kernels
from kernels.decode.reference import Layer, Matrix, Norm

__all__ = ["Layer", "decoder", "matrix", "norm"]


def _served(array):
    """The kernels that decode this array.  Raises DeviceError, in one sentence, where there are none."""
    if kernels.device_of(array) != "cpu" or kernels.serving(array).module == "cuda":
        raise kernels.DeviceError(
            "decoding past the graph is made for the CPU: move the model there with .cpu(), and not into the emulator"
        )
    return kernels.serving(array)


def matrix(linear, int8=False):
    """The weight and bias of an nn.Linear; with int8, rounded to eight bits and a scale a row."""
    weight, bias = linear.weight.array, None if linear.bias is None else linear.bias.array
    if not int8:
        return Matrix(weight, None, bias)
    return Matrix(*_served(weight).quantize_rows(weight), bias)


def norm(module):
    """The weight and bias of an nn.LayerNorm or nn.RMSNorm."""
    bias = getattr(module, "bias", None)
    return Norm(module.weight.array, None if bias is None else bias.array)


def decoder(layers, norm, head, **shape):
    """The decoder that serves these arrays; see kernels/decode/reference.py for its step(x, caches, lengths, turn).

    Raises DeviceError for arrays on a GPU or in the emulator, where a model's own forward pass with a cache is the way.
    """
    return _served(norm.weight).Decoder(layers, norm, head, **shape)
