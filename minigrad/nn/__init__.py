"""Modules: layers that hold parameters, and the tree they form."""

# A table of names, several a line:
# isort: off
import typing as _typing

from minigrad.nn import functional, init, utils
from minigrad.nn.attention import MultiheadAttention
from minigrad.nn.containers import ModuleDict, ModuleList, Sequential
from minigrad.nn.layers import Dropout, Embedding, Flatten, Identity, LayerNorm, Linear, RMSNorm
from minigrad.nn.layers import GELU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from minigrad.nn.losses import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, KLDivLoss, L1Loss, MSELoss, NLLLoss
from minigrad.nn.module import Module, Parameter

__all__ = ["GELU", "Dropout", "Embedding", "Identity", "LayerNorm", "Linear", "Module", "ModuleList", "Parameter"]
__all__ += ["RMSNorm", "ReLU", "Sequential", "Tanh", "functional", "init", "utils"]
__all__ += ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "Flatten", "KLDivLoss", "L1Loss", "LogSoftmax", "MSELoss"]
__all__ += ["ModuleDict", "MultiheadAttention", "NLLLoss", "SiLU", "Sigmoid", "Softmax"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.nn has no {name!r}; it has {', '.join(__all__)}")
