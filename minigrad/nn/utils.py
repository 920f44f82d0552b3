"""Gradient clipping under PyTorch's module name; it lives in minigrad.optim."""

import typing as _typing

from minigrad.optim import clip_grad_norm_

__all__ = ["clip_grad_norm_"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.nn.utils has no {name!r}; it has clip_grad_norm_")
