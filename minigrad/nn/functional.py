"""The operations as functions, under PyTorch's names: `import minigrad.nn.functional as F`."""

# isort: off
import typing as _typing

from minigrad.ops.activations import dropout, gelu, log_softmax, logsigmoid, relu, sigmoid, softmax, tanh
from minigrad.ops.indexing import embedding
from minigrad.ops.llama import rms_norm, rotary, swiglu
from minigrad.ops.losses import cross_entropy, mse_loss, nll_loss
from minigrad.ops.losses import binary_cross_entropy, binary_cross_entropy_with_logits, kl_div, l1_loss
from minigrad.ops.products import layer_norm, linear, scaled_dot_product_attention

__all__ = ["cross_entropy", "dropout", "embedding", "gelu", "layer_norm", "linear", "log_softmax", "logsigmoid", "mse_loss"]
__all__ += ["nll_loss", "relu", "rms_norm", "rotary", "scaled_dot_product_attention", "sigmoid", "softmax", "swiglu", "tanh"]
__all__ += ["binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div", "l1_loss"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.nn.functional has no {name!r}; it has {', '.join(__all__)}")
