"""Matrix products: the specification, in NumPy, for any float dtype."""

import numpy as np

from kernels.arrays import unbroadcast
from kernels.gelu.reference import gelu_backward, gelu_forward

ACTIVATIONS = {None: None, "gelu": "none", "gelu_tanh": "tanh"}  # by the name that gelu knows the form by


def check_epilogue(activation, accumulate, out):
    """Raise ValueError unless a product can do this with its result, on any device."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"matmul: activation must be None, 'gelu' or 'gelu_tanh', got {activation!r}")
    if accumulate and (out is None or activation is not None):
        raise ValueError("matmul: accumulate=True needs an `out` to add to, and no activation")


def matmul(
    a, b, *, transpose_a=False, transpose_b=False, bias=None, activation=None, preactivation=None, accumulate=False, out=None
):
    """op(a) @ op(b), then what often follows it.

    a: (..., M, K), or (..., K, M) with transpose_a.  b: (..., K, N), or (..., N, K) with transpose_b.  Leading axes broadcast.
    bias: (N,), added to every row.  activation: None, "gelu" or "gelu_tanh", applied last; `preactivation`, if given, is a
    buffer like the result that receives what went into it (training needs it for the backward pass, inference does not).
    accumulate: add to `out`, which must be given (not together with an activation).
    Returns (..., M, N), in `out` if given.

    The operands are never copied to transpose them: a linear layer needs x Wᵀ forward, and dy W and dyᵀ x backward.
    """
    check_epilogue(activation, accumulate, out)
    a = a.swapaxes(-1, -2) if transpose_a else a  # (..., M, K)
    b = b.swapaxes(-1, -2) if transpose_b else b  # (..., K, N)
    z = a @ b  # (..., M, N)
    if bias is not None:
        z += bias
    if preactivation is not None:
        preactivation[...] = z
    if activation is not None:
        z = gelu_forward(z, approximate=ACTIVATIONS[activation])
    if out is None:
        return z
    if accumulate:
        out += z
    else:
        out[...] = z
    return out


# Y = A B, so Y_ij = Σ_k A_ik B_kj. The element A_ik reaches every Y_ij of its row through B_kj, hence
#   dA_ik = Σ_j dY_ij B_kj   that is   dA = dY Bᵀ      and likewise      dB = Aᵀ dY.
# If A entered transposed (Y = Aᵀ B), transpose its gradient:  dA = (dY Bᵀ)ᵀ = B dYᵀ;  likewise dB = dYᵀ A.
# Leading axes that were broadcast are summed over. Saved: the operands themselves; nothing else is needed.
def matmul_backward(dy, a, b, *, transpose_a=False, transpose_b=False, needs=(True, True), matmul=matmul):
    """dy: (..., M, N); a and b as given to matmul.  Returns (da, db), None where `needs` says no.

    matmul: the product to compute them with; the CPU's backward is this one with the CPU's product.
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


def linear_forward(x, weight, bias=None, *, activation=None, out=None):
    """y = activation(x Wᵀ + bias).

    x: (..., I), weight: (O, I), bias: (O,) or None.  activation: None, "gelu" or "gelu_tanh".
    Returns y: (..., O) and z: (..., O), what the activation was given, or None without an activation.
    """
    rows = x.reshape(-1, x.shape[-1])  # (R, I)
    shape = (*x.shape[:-1], len(weight))
    z = None if activation is None else np.empty((len(rows), len(weight)), x.dtype)
    y = matmul(rows, weight, transpose_b=True, bias=bias, activation=activation, preactivation=z).reshape(shape)
    if out is not None:
        out[...] = y
    return y if out is None else out, None if z is None else z.reshape(shape)


# The forward pass was   z = x Wᵀ + bias,   y = g(z).
# With dz = dy · g'(z) (dz = dy without an activation), the product's rule above gives   dx = dz W   and   dW = dzᵀ x;
# the bias was copied to every row, so its gradient is the sum over rows:                dbias = Σ_rows dz.
# Saved: x and W, which live anyway, and z where there is an activation (recomputing it would cost the whole product again).
def linear_backward(
    dy, x, weight, z=None, *, activation=None, needs=(True, True, True), out=(None, None, None), accumulate=False
):
    """dy: (..., O), x: (..., I), weight: (O, I), z: (..., O) from linear_forward.

    Returns (dx: (..., I), dweight: (O, I), dbias: (O,)), None where `needs` says no. `out` holds a buffer or None for each;
    with accumulate=True the buffers of dweight and dbias are added to (dx is always overwritten).
    """
    if activation is not None:
        dy = gelu_backward(dy, z, approximate=ACTIVATIONS[activation])
    dz = dy.reshape(-1, dy.shape[-1])  # (R, O)
    rows = x.reshape(-1, x.shape[-1])  # (R, I)
    dx = dweight = dbias = None
    if needs[0]:
        dx = matmul(dz, weight).reshape(x.shape)
        if out[0] is not None:
            out[0][...] = dx
            dx = out[0]
    if needs[1]:
        dweight = matmul(dz, rows, transpose_a=True, out=out[1], accumulate=accumulate and out[1] is not None)
    if needs[2]:
        dbias = dz.sum(axis=0)  # (O,)
        if out[2] is not None:
            out[2][...] = out[2] + dbias if accumulate else dbias
            dbias = out[2]
    return dx, dweight, dbias
