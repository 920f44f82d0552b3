"""Gradient clipping under PyTorch's module name; it lives in minigrad.optim."""

from minigrad.optim import clip_grad_norm_

__all__ = ["clip_grad_norm_"]
