"""PyTorch's name for what surrounds training; here it holds data sets and loaders."""

import typing as _typing

from minigrad.utils import data

__all__ = ["data"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.utils has no {name!r}; it has data")
