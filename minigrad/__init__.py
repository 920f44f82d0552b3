"""minigrad: a small automatic-differentiation engine on NumPy, with PyTorch's names.

    import minigrad as torch
    import minigrad.nn as nn
    import minigrad.nn.functional as F

Names and behaviour are PyTorch's, except where a docstring says otherwise. A missing name raises an error that says so.
"""

# A table of names, several a line:
# isort: off
from importlib import import_module as _import_module
import typing as _typing

import numpy as _np

from minigrad import neighbours  # refuses a foreign package named kernels, so it comes first
import kernels as _kernels
from kernels import DeviceError, use as use_kernels
from kernels.gpu import DeviceMemoryError
from kernels.graph import GraphError
from minigrad import autograd, devices, nn, optim, serialization
from minigrad.creation import allclose, arange, as_tensor, empty, equal, eye, from_numpy, full, full_like, is_tensor, linspace
from minigrad.creation import ones, ones_like, rand, randint, randn, randperm, tensor, zeros, zeros_like
from minigrad.devices import device, get_default_device, placed, set_default_device
from minigrad.devices import get_float32_matmul_precision, set_float32_matmul_precision
from minigrad.dtypes import bool_, float16, float32, float64, int32, int64
from minigrad.modes import enable_grad, is_grad_enabled, no_grad
from minigrad.function import Context, Function
from minigrad.graphed import graphed
from minigrad.ops.activations import log_softmax, relu, sigmoid, softmax, tanh
from minigrad.ops.arithmetic import abs, add, clamp, div, eq, exp, isfinite, isnan, log, logical_and, logical_not, logical_or
from minigrad.ops.arithmetic import maximum, minimum, mul, neg, pow, rsqrt, sqrt, square, sub
from minigrad.ops.indexing import gather, masked_fill, where
from minigrad.ops.products import matmul
from minigrad.ops.reductions import all, amax, amin, any, argmax, argmin, cumsum, logsumexp, max, mean, min, norm, std, sum, var
from minigrad.ops.shape import cat, chunk, clone, flatten, permute, reshape, split, squeeze, stack, t, transpose, tril, triu
from minigrad.ops.shape import unsqueeze
from minigrad.random import Generator, default_generator, manual_seed
from minigrad.tensor import Tensor

float, double, half, int, long, bool = float32, float64, float16, int32, int64, bool_
inf, pi, e, nan = _np.inf, _np.pi, _np.e, _np.nan

if not _typing.TYPE_CHECKING:  # a type checker would take this to mean that every name exists

    def __getattr__(name):  # only called for names that nothing defines
        if name == "gradcheck":  # imported on first use, since it is also a command: python -m minigrad.gradcheck
            return _import_module("minigrad.gradcheck")
        raise AttributeError(f"minigrad has no {name!r}: it implements the part of PyTorch's interface that a GPT needs")
