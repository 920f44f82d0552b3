"""The operations as functions, under PyTorch's names: `import minigrad.nn.functional as F`."""

import typing as _typing

from minigrad.engine import TensorT
from minigrad.ops import activations
from minigrad.ops.activations import dropout, gelu, log_softmax, logsigmoid, sigmoid, silu, softmax, tanh
from minigrad.ops.indexing import embedding, one_hot
from minigrad.ops.llama import rms_norm, rotary, swiglu
from minigrad.ops.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
)
from minigrad.ops.products import layer_norm, linear, scaled_dot_product_attention, transformer_block
from minigrad.ops.reductions import normalize
from minigrad.ops.shape import pad

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "dropout", "embedding", "gelu"]
__all__ += ["kl_div", "l1_loss", "layer_norm", "linear", "log_softmax", "logsigmoid", "mse_loss", "nll_loss", "normalize"]
__all__ += ["one_hot", "pad", "relu", "rms_norm", "rotary", "scaled_dot_product_attention", "sigmoid", "silu", "softmax"]
__all__ += ["swiglu", "tanh", "transformer_block"]


def relu(input: TensorT, inplace: bool = False) -> TensorT:
    """max(x, 0), elementwise. inplace=True is not implemented."""
    if inplace:
        raise NotImplementedError("relu: inplace=True is not implemented; use the result")
    return activations.relu(input)


if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.nn.functional has no {name!r}; it has {', '.join(__all__)}")
