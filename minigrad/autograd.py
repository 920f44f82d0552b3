"""Function, and the switches for recording and checking the graph, under PyTorch's module name."""

from minigrad.function import Function
from minigrad.modes import detect_anomaly, enable_grad, is_grad_enabled, no_grad

__all__ = ["Function", "detect_anomaly", "enable_grad", "is_grad_enabled", "no_grad"]
