"""The layers of a GPT. They start with PyTorch's initial values, drawn from `generator` (the default generator if None)."""

import math
from typing import Any, Sequence

import numpy as np

from minigrad.devices import zeros
from minigrad.dtypes import float32
from minigrad.nn import functional as F
from minigrad.nn import init
from minigrad.nn.module import Module, Parameter
from minigrad.ops.operands import as_float
from minigrad.random import Generator
from minigrad.tensor import Tensor


def _zeros(name: str, *shape: int, dtype: Any = None, device: Any = None) -> Parameter:
    if not all(isinstance(size, int | np.integer) and size >= 0 for size in shape):
        raise ValueError(f"{name}: expected whole sizes of at least 0, got {shape}")
    return Parameter(zeros(shape, dtype or float32, device))


class Linear(Module):
    """y = x Wᵀ + b.  x: (..., in_features) -> (..., out_features);  weight: (out_features, in_features)."""

    weight: Parameter
    bias: Any  # a Parameter, or None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        generator: Generator | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _zeros("Linear", out_features, in_features, dtype=dtype, device=device)
        self.bias = _zeros("Linear", out_features, dtype=dtype, device=device) if bias else None
        init.kaiming_uniform_(self.weight, a=math.sqrt(5), generator=generator)
        if self.bias is not None:
            bound = 1 / math.sqrt(in_features) if in_features else 0
            init.uniform_(self.bias, -bound, bound, generator=generator)

    def forward(self, input: Tensor, activation: str | None = None) -> Tensor:
        """F.linear; PyTorch's layer has no `activation`."""
        return F.linear(input, self.weight, self.bias, activation)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Rows of a table.  ids: (...,) -> (..., embedding_dim);  weight: (num_embeddings, embedding_dim)."""

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: None = None,
        *,
        device: str | None = None,
        dtype: Any = None,
        generator: Generator | None = None,
    ):
        super().__init__()
        if padding_idx is not None:
            raise NotImplementedError("Embedding: padding_idx is not implemented; mask the targets of padding instead")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = _zeros("Embedding", num_embeddings, embedding_dim, dtype=dtype, device=device)
        init.normal_(self.weight, generator=generator)

    def forward(self, input: Any) -> Tensor:
        return F.embedding(input, self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class LayerNorm(Module):
    """Normalise the last axis to mean 0 and variance 1, then scale and shift it by a learned weight and bias."""

    weight: Parameter | None
    bias: Any  # a Parameter, or None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.normalized_shape = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        self.eps = eps
        self.weight = _zeros("LayerNorm", *self.normalized_shape, dtype=dtype, device=device) if elementwise_affine else None
        if self.weight is not None:
            init.ones_(self.weight)
        bias = bias and elementwise_affine
        self.bias = _zeros("LayerNorm", *self.normalized_shape, dtype=dtype, device=device) if bias else None

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """Scale the last axis to a root mean square of 1, then by a learned weight."""

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.normalized_shape = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        self.eps = eps
        self.weight = _zeros("RMSNorm", *self.normalized_shape, dtype=dtype, device=device) if elementwise_affine else None
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class Dropout(Module):
    """While training, zero each element with probability p and scale the others by 1/(1 − p)."""

    def __init__(self, p: float = 0.5, inplace: bool = False, *, generator: Generator | None = None):
        super().__init__()
        _refuse_inplace("Dropout", inplace)
        if not 0 <= as_float(p, "Dropout", "p") <= 1:
            raise ValueError(f"Dropout: expected p between 0 and 1, got {p}")
        self.p, self.generator = p, generator

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, generator=self.generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GELU(Module):
    """x Φ(x), exactly ("none") or in GPT-2's form ("tanh")."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        _refuse_inplace("ReLU", inplace)

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input)


class SiLU(Module):
    """x sigmoid(x), also called swish.  Source: Elfwing et al. 2017 (arXiv:1702.03118)."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        _refuse_inplace("SiLU", inplace)

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input)


class Sigmoid(Module):
    """1 / (1 + exp(−x))."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Softmax(Module):
    """exp(x) / Σ exp(x) along `dim`."""

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """x − log Σ exp(x) along `dim`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim)


class Flatten(Module):
    """Join the axes from start_dim to end_dim into one; by default all axes but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """Returns its input, in place of a layer that is left out. Accepts and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


def _refuse_inplace(name: str, inplace: bool) -> None:
    if inplace:
        raise NotImplementedError(f"{name}: inplace=True is not implemented; the result is a new tensor")
