"""Layer normalisation over the last axis: the specification, in NumPy, for any float dtype.

Source: Ba, Kiros, Hinton 2016, Layer Normalization (arXiv:1607.06450), eq. 3 and 4; eps inside the root as in PyTorch.
"""

import numpy as np

from kernels.arrays import Array, Gradients
from kernels.buffers import write
from kernels.contract import contract


@contract("x, out?: (..., C); weight?, bias?: (C,)", in_place="x")
def layernorm_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """y = (x − mean) · rstd · weight + bias, each row with its own mean and variance.

    Args:
        x: (..., C).
        weight, bias: (C,) or None.
        eps: added to the variance.

    Returns:
        y: (..., C); mean: (...,); rstd: (...,), 1 / √(variance + eps) with the biased variance (divided by C).
    """
    mean = x.mean(axis=-1, keepdims=True)  # (..., 1)
    centred = x - mean  # (..., C)
    rstd = 1 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + x.dtype.type(eps))  # (..., 1)
    y = np.multiply(centred, rstd, out=out)  # (..., C)
    if weight is not None:
        y *= weight
    if bias is not None:
        y += bias
    return y, mean[..., 0], rstd[..., 0]


# The forward pass was, for one row of C numbers, with μ and r = 1/σ computed from the same row:
#   n = (x − μ) r        y = n · w + b
# The affine part, over all rows:   dw = Σ_rows dy · n,     db = Σ_rows dy,     dn = dy · w.
# n depends on x three times, directly, through μ and through r:
#   ∂n_i/∂x_j = r (δ_ij − 1/C − n_i n_j / C)
# Sum over i:   dx = r (dn − mean(dn) − n · mean(dn · n))
# In words: remove from dn the part that shifts the row and the part that stretches it, because neither changes n, then undo
# the scale.
# Saved: x, μ and r. The backward pass recomputes n with a subtraction and a product, so no second (..., C) array is kept.
@contract("dy, x, plus?: (..., C); weight?: (C,); mean, rstd: (...); out: [(..., C), (C,), (C,)]")
def layernorm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    *,
    plus: Array | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: Gradients = (None, None, None),
    accumulate: bool = False,
) -> Gradients:
    """Gradient of layer normalisation.

    Args:
        dy: gradient of y, (..., C).
        x, weight: the forward inputs, (..., C) and (C,) or None.
        mean, rstd: the forward results, (...,).
        plus: (..., C) or None, added to dx: the gradient that reaches x along the residual path.
        needs: which of the three gradients to compute.
        out: a buffer or None for each gradient.
        accumulate: add to the buffers of dweight and dbias; dx is always overwritten.

    Returns:
        (dx, dweight, dbias): (..., C), (C,), (C,); None where `needs` is False.
    """
    rstd = rstd[..., None]  # (..., 1)
    n = (x - mean[..., None]) * rstd  # (..., C)
    dx = dweight = dbias = None
    rows = tuple(range(x.ndim - 1))
    if needs[1]:
        dweight = write((dy * n).sum(axis=rows), out[1], accumulate)  # (C,)
    if needs[2]:
        dbias = write(dy.sum(axis=rows), out[2], accumulate)  # (C,)
    if needs[0]:
        dn = dy if weight is None else dy * weight  # (..., C)
        shift = dn.mean(axis=-1, keepdims=True)  # (..., 1)
        stretch = (dn * n).mean(axis=-1, keepdims=True)  # (..., 1)
        dx = np.multiply(rstd, dn - shift - n * stretch, out=out[0])
        if plus is not None:
            dx += plus
    return dx, dweight, dbias
