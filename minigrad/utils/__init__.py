"""PyTorch's name for what surrounds training; here it holds data sets and loaders."""

from minigrad.utils import data

__all__ = ["data"]
