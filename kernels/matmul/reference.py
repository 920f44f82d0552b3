"""Matrix products and the linear layer: the specification, in NumPy, for any float dtype."""

import math
from collections.abc import Callable

import numpy as np

from kernels.arrays import unbroadcast
from kernels.buffers import write
from kernels.contract import Arguments, contract
from kernels.gelu.reference import gelu_backward, gelu_forward

ACTIVATIONS = {None: None, "gelu": "none", "gelu_tanh": "tanh"}  # the activation's name -> GELU's `approximate`

Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]  # dx, dweight, dbias, or a buffer for each


def check_epilogue(arguments: Arguments) -> None:
    """Raise ValueError if `matmul` does not support its activation, or cannot accumulate."""
    check_activation(arguments)
    if arguments.get("accumulate") and (arguments.get("out") is None or arguments.get("activation") is not None):
        raise ValueError("matmul: accumulate=True needs an `out` to add to, and no activation")


def check_activation(arguments: Arguments) -> None:
    """Raise ValueError for an unknown activation, or one whose gradient lacks its input z."""
    activation = arguments.get("activation")
    if activation not in ACTIVATIONS:
        raise ValueError(f"matmul: activation must be None, 'gelu' or 'gelu_tanh', got {activation!r}")
    if activation is not None and "dy" in arguments and arguments.get("z") is None:
        raise ValueError("linear_backward: expected the z that linear_forward returned with its activation, got None; pass it")


@contract(
    "a: (A..., M, K) or (A..., K, M) if transpose_a; b: (B..., K, N) or (B..., N, K) if transpose_b; "
    "bias?: (N,); preactivation?, out?: (A×B..., M, N)",
    writes=("preactivation", "out"),
    floats=False,
    also=check_epilogue,
)
def matmul(
    a: np.ndarray,
    b: np.ndarray,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    preactivation: np.ndarray | None = None,
    accumulate: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Compute activation(op(a) @ op(b) + bias), where op transposes the last two axes with transpose_a or transpose_b.

    No operand is copied to transpose it. A linear layer needs three forms: x Wᵀ forward, dy W and dyᵀ x backward.

    Args:
        a: (..., M, K), or (..., K, M) with transpose_a. Leading axes broadcast.
        b: (..., K, N), or (..., N, K) with transpose_b.
        bias: (N,), added to every row.
        activation: None, "gelu" or "gelu_tanh".
        preactivation: buffer (..., M, N) that receives the activation's input, which the backward pass needs.
        accumulate: add to `out` instead of overwriting it; needs `out` and no activation.

    Returns:
        (..., M, N), in `out` if given.
    """
    a = a.swapaxes(-1, -2) if transpose_a else a  # (..., M, K)
    b = b.swapaxes(-1, -2) if transpose_b else b  # (..., K, N)
    z = a @ b  # (..., M, N)
    if bias is not None:
        z += bias
    if preactivation is not None:
        preactivation[...] = z
    if activation is not None:
        z = gelu_forward(z, approximate=ACTIVATIONS[activation])
    if out is not None and accumulate:
        out += z
        return out
    return write(z, out)


# The forward pass was   Y = A B,   that is   Y_ij = Σ_k A_ik B_kj.
# The element A_ik contributes to every Y_ij of its row, through B_kj:
#   dA_ik = Σ_j dY_ij B_kj,   so   dA = dY Bᵀ   and likewise   dB = Aᵀ dY.
# If A was transposed (Y = Aᵀ B), so is its gradient:   dA = (dY Bᵀ)ᵀ = B dYᵀ;   likewise for B   dB = dYᵀ A.
# Broadcasting copied a matrix, so its gradient is the sum over the broadcast axes.
# Saved: A and B.
@contract(
    "dy: (A×B..., M, N); a: (A..., M, K) or (A..., K, M) if transpose_a; b: (B..., K, N) or (B..., N, K) if transpose_b",
    floats=False,
)
def matmul_backward(
    dy: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    needs: tuple[bool, bool] = (True, True),
    matmul: Callable[..., np.ndarray] = matmul,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Gradients of `matmul` without an epilogue.

    Args:
        dy: gradient of the product, (..., M, N).
        a, b: the operands, as passed to matmul.
        needs: which of the two gradients to compute.
        matmul: the product to compute them with; cpu.py and cuda.py pass their own.

    Returns:
        (da, db), shaped like a and b; None where `needs` is False.
    """
    da = db = None
    if needs[0]:
        if transpose_a:
            da = matmul(b, dy, transpose_a=transpose_b, transpose_b=True)  # (..., K, M)
        else:
            da = matmul(dy, b, transpose_b=not transpose_b)  # (..., M, K)
        da = unbroadcast(da, a.shape)
    if needs[1]:
        if transpose_b:
            db = matmul(dy, a, transpose_a=True, transpose_b=transpose_a)  # (..., N, K)
        else:
            db = matmul(a, dy, transpose_a=not transpose_a)  # (..., K, N)
        db = unbroadcast(db, b.shape)
    return da, db


@contract("x: (..., I); weight: (O, I); bias?: (O,); out?: (..., O)", also=check_activation)
def linear_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    activation: str | None = None,
    out: np.ndarray | None = None,
    matmul: Callable[..., np.ndarray] = matmul,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The linear layer: y = activation(x Wᵀ + bias).

    Args:
        x: (..., I).
        weight, bias: (O, I) and (O,) or None.
        activation: None, "gelu" or "gelu_tanh".

    Returns:
        y: (..., O), and z: (..., O), the activation's input, or None without an activation.
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # (R, I)
    shape = (*x.shape[:-1], len(weight))
    z = None if activation is None else np.empty((len(rows), len(weight)), x.dtype)
    y = matmul(rows, weight, transpose_b=True, bias=bias, activation=activation, preactivation=z)  # (R, O)
    return write(y.reshape(shape), out), None if z is None else z.reshape(shape)


# The forward pass was   z = x Wᵀ + bias,   y = g(z).
# The activation:     dz = dy · g'(z)     (dz = dy without one)
# The product's rule: dx = dz W,   dW = dzᵀ x
# The bias is added to every row, so its gradient is the sum over rows:   dbias = Σ_rows dz.
# Saved: x and W, which exist anyway, and z if there is an activation (recomputing z would repeat the whole product).
@contract("dy, z?: (..., O); x: (..., I); weight: (O, I); out: [(..., I), (O, I), (O,)]", also=check_activation)
def linear_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    z: np.ndarray | None = None,
    *,
    activation: str | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
    accumulate: bool = False,
    matmul: Callable[..., np.ndarray] = matmul,
) -> Gradients:
    """Gradients of the linear layer.

    Args:
        dy: gradient of y, (..., O).
        x, weight, z: the forward inputs and the saved z: (..., I), (O, I), (..., O).
        needs: which of the three gradients to compute.
        out: a buffer or None for each gradient.
        accumulate: add to the buffers of dweight and dbias; dx is always overwritten.

    Returns:
        (dx, dweight, dbias): (..., I), (O, I), (O,); None where `needs` is False.
    """
    if activation is not None and z is not None:
        dy = gelu_backward(dy, z, approximate=ACTIVATIONS[activation])
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # (R, I)
    dz = dy.reshape(len(rows), dy.shape[-1])  # (R, O)
    dx = dweight = dbias = None
    if needs[0]:
        dx = write(matmul(dz, weight).reshape(x.shape), out[0])
    if needs[1]:
        dweight = matmul(dz, rows, transpose_a=True, out=out[1], accumulate=accumulate and out[1] is not None)
    if needs[2]:
        dbias = write(dz.sum(axis=0), out[2], accumulate)  # (O,)
    return dx, dweight, dbias
