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
from minigrad import autograd, backends, cuda, devices, nn, optim, serialization, utils
from minigrad.compilation import compile
from minigrad.creation import allclose, arange, as_tensor, empty, equal, eye, from_numpy, full, full_like, is_tensor, linspace
from minigrad.creation import (
    multinomial,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from minigrad.devices import device, get_default_device, on_device, set_default_device
from minigrad.devices import get_float32_matmul_precision, set_float32_matmul_precision
from minigrad.drawing.graph import draw
from minigrad.dtypes import bfloat16, bool_, float16, float32, float64, int32, int64
from minigrad.modes import enable_grad, inference_mode, is_grad_enabled, no_grad
from minigrad.function import Context, Function
from minigrad.graphed import graphed
from minigrad.ops.activations import log_softmax, relu, sigmoid, softmax, tanh
from minigrad.ops.arithmetic import abs, add, clamp, cos, div, exp, floor_divide, log, maximum, minimum, mul, neg, pow
from minigrad.ops.arithmetic import remainder, rsqrt, sin, sqrt, square, sub
from minigrad.ops.comparisons import eq, isfinite, isnan, logical_and, logical_not, logical_or
from minigrad.ops.einsum import einsum
from minigrad.ops.indexing import gather, index_add, index_select, masked_fill, scatter, where
from minigrad.ops.products import bmm, dot, matmul, mm, outer
from minigrad.ops.reductions import all, amax, amin, any, argmax, argmin, cumsum, logsumexp, max, mean, min, norm, std, sum, var
from minigrad.ops.shape import cat, chunk, clone, flatten, flip, permute, reshape, roll, split, squeeze, stack, t, transpose
from minigrad.ops.shape import tril, triu, unsqueeze
from minigrad.ops.sorting import argsort, nonzero, repeat_interleave, sort, topk, unique
from minigrad.random import Generator, default_generator, manual_seed
from minigrad.saving import load, save
from minigrad.tensor import Tensor

__version__ = "0.1.0"  # as in setup.cfg

float, double, half, int, long, bool = float32, float64, float16, int32, int64, bool_
Size = tuple  # the type of x.shape
inf, pi, e, nan = _np.inf, _np.pi, _np.e, _np.nan

if not _typing.TYPE_CHECKING:  # a type checker would take this to mean that every name exists

    def __getattr__(name):  # only called for names that nothing defines
        if name == "gradcheck":  # imported on first use, since it is also a command: python -m minigrad.gradcheck
            return _import_module("minigrad.gradcheck")
        raise AttributeError(f"minigrad has no {name!r}: it implements the part of PyTorch's interface that a GPT needs")
