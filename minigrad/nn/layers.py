"""The layers a GPT is made of. Initial values are PyTorch's; each draws from `generator`, or from the default one."""

import math

from minigrad.devices import zeros
from minigrad.dtypes import float32
from minigrad.nn import functional as F
from minigrad.nn import init
from minigrad.nn.module import Module, Parameter


def _empty(*shape, dtype=None):
    return Parameter(zeros(shape, dtype or float32))


class Linear(Module):
    """y = x Wᵀ + b.  x: (..., in_features) -> (..., out_features);  weight: (out_features, in_features)."""

    def __init__(self, in_features, out_features, bias=True, *, dtype=None, generator=None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _empty(out_features, in_features, dtype=dtype)
        self.bias = _empty(out_features, dtype=dtype) if bias else None
        init.kaiming_uniform_(self.weight, a=math.sqrt(5), generator=generator)
        if bias:
            bound = 1 / math.sqrt(in_features) if in_features else 0
            init.uniform_(self.bias, -bound, bound, generator=generator)

    def forward(self, input, activation=None):
        """activation: see F.linear; PyTorch's layer has none."""
        return F.linear(input, self.weight, self.bias, activation)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Rows of a table.  ids: (...,) -> (..., embedding_dim);  weight: (num_embeddings, embedding_dim)."""

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, *, dtype=None, generator=None):
        super().__init__()
        if padding_idx is not None:
            raise NotImplementedError("Embedding: padding_idx is not implemented; mask the targets of padding instead")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = _empty(num_embeddings, embedding_dim, dtype=dtype)
        init.normal_(self.weight, generator=generator)

    def forward(self, input):
        return F.embedding(input, self.weight)

    def extra_repr(self):
        return f"{self.num_embeddings}, {self.embedding_dim}"


class LayerNorm(Module):
    """Normalise the last axis to mean 0 and variance 1, then scale and shift it by learned weight and bias."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, *, dtype=None):
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = init.ones_(_empty(*self.normalized_shape, dtype=dtype)) if elementwise_affine else None
        self.bias = _empty(*self.normalized_shape, dtype=dtype) if elementwise_affine and bias else None

    def forward(self, input):
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self):
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """Give the last axis a root mean square of 1, then scale it by a learned weight."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True, *, dtype=None):
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = init.ones_(_empty(*self.normalized_shape, dtype=dtype)) if elementwise_affine else None

    def forward(self, input):
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self):
        return f"{self.normalized_shape}, eps={self.eps}"


class Dropout(Module):
    """While training, zero each element with probability p and scale the rest by 1/(1 − p)."""

    def __init__(self, p=0.5, *, generator=None):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be between 0 and 1, got {p}")
        self.p, self.generator = p, generator

    def forward(self, input):
        return F.dropout(input, self.p, self.training, generator=self.generator)

    def extra_repr(self):
        return f"p={self.p}"


class GELU(Module):
    """x Φ(x), exactly ("none") or in GPT-2's form ("tanh")."""

    def __init__(self, approximate="none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input):
        return F.gelu(input, self.approximate)


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, input):
        return F.relu(input)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, input):
        return F.tanh(input)


class Identity(Module):
    """Returns its input: a place to unplug a layer from. Takes and ignores any arguments."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, input):
        return input
