"""The operations as functions, under PyTorch's names: `import minigrad.nn.functional as F`."""

import typing as _typing

from minigrad.ops.activations import dropout, gelu, log_softmax, logsigmoid, relu, sigmoid, silu, softmax, tanh
from minigrad.ops.indexing import embedding, one_hot
from minigrad.ops.llama import rms_norm, rotary, swiglu
from minigrad.ops.losses import cross_entropy, mse_loss, nll_loss
from minigrad.ops.products import layer_norm, linear, scaled_dot_product_attention
from minigrad.ops.reductions import normalize
from minigrad.ops.shape import pad

__all__ = ["cross_entropy", "dropout", "embedding", "gelu", "layer_norm", "linear", "log_softmax", "logsigmoid", "mse_loss"]
__all__ += ["nll_loss", "normalize", "one_hot", "pad", "relu", "rms_norm", "rotary", "scaled_dot_product_attention"]
__all__ += ["sigmoid", "silu", "softmax", "swiglu", "tanh"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.nn.functional has no {name!r}; it has {', '.join(__all__)}")
