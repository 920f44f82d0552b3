"""Modules: layers that hold parameters, and the tree they form."""

import typing as _typing

from minigrad.nn import functional, init, utils
from minigrad.nn.layers import GELU, Dropout, Embedding, Identity, LayerNorm, Linear, ReLU, RMSNorm, Tanh
from minigrad.nn.module import Module, ModuleList, Parameter, Sequential

__all__ = ["GELU", "Dropout", "Embedding", "Identity", "LayerNorm", "Linear", "Module", "ModuleList", "Parameter"]
__all__ += ["RMSNorm", "ReLU", "Sequential", "Tanh", "functional", "init", "utils"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.nn has no {name!r}; it has {', '.join(__all__)}")
