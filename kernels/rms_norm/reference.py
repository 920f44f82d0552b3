"""Root mean square normalisation over the last axis: the specification, in NumPy, for any float dtype.

It is layer normalisation without the mean: a row is scaled, not shifted.
Source: Zhang, Sennrich 2019, Root Mean Square Layer Normalization (arXiv:1910.07467), eq. 4; eps inside the root as in PyTorch.
"""

import numpy as np

from kernels.arrays import Array, Gradients
from kernels.buffers import write
from kernels.contract import contract


@contract("x, out?: (..., C); weight?: (C,)", in_place="x")
def rms_norm_forward(
    x: Array, weight: Array | None = None, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array]:
    """y = x · rstd · weight, each row with its own root mean square.

    Args:
        x: (..., C).
        weight: (C,) or None.
        eps: added to the mean square.

    Returns:
        y: (..., C), and rstd: (...,), 1 / √(mean of x² + eps).
    """
    rstd = 1 / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + x.dtype.type(eps))  # (..., 1)
    y = np.multiply(x, rstd, out=out)  # (..., C)
    if weight is not None:
        y *= weight
    return y, rstd[..., 0]


# The forward pass was, for one row of C numbers, with r computed from the same row:
#   n = x r        y = n · w
# The weights, over all rows:   dw = Σ_rows dy · n,   and   dn = dy · w.
# n depends on x twice, directly and through r = (mean(x²) + eps)^(−1/2), where ∂r/∂x_j = −r³ x_j / C:
#   ∂n_i/∂x_j = r (δ_ij − n_i n_j / C)
# Sum over i:   dx = r (dn − n · mean(dn · n))
# In words: remove from dn the part that stretches the row, because it does not change n, then undo the scale.
# Saved: x and r. The backward pass recomputes n with one product, so no second (..., C) array is kept.
@contract("dy, x: (..., C); weight?: (C,); rstd: (...); out: [(..., C), (C,)]")
def rms_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    rstd: Array,
    *,
    needs: tuple[bool, bool] = (True, True),
    out: Gradients = (None, None),
    accumulate: bool = False,
) -> Gradients:
    """Gradient of root mean square normalisation.

    Args:
        dy: gradient of y, (..., C).
        x, weight: the forward inputs, (..., C) and (C,) or None.
        rstd: the forward result, (...,).
        needs: which of the two gradients to compute.
        out: a buffer or None for each gradient.
        accumulate: add to the buffer of dweight; dx is always overwritten.

    Returns:
        (dx, dweight): (..., C) and (C,); None where `needs` is False.
    """
    rstd = rstd[..., None]  # (..., 1)
    n = x * rstd  # (..., C)
    dx = dweight = None
    if needs[1]:
        dweight = write((dy * n).sum(axis=tuple(range(x.ndim - 1))), out[1], accumulate)  # (C,)
    if needs[0]:
        dn = dy if weight is None else dy * weight  # (..., C)
        stretch = (dn * n).mean(axis=-1, keepdims=True)  # (..., 1)
        dx = np.multiply(rstd, dn - n * stretch, out=out[0])
    return dx, dweight
