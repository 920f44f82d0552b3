"""Root mean square normalisation over the last axis: the specification, in NumPy, for any float dtype.

Source: Zhang, Sennrich 2019, "Root Mean Square Layer Normalization" (arXiv:1910.07467), eq. 4; eps inside the root as in
PyTorch. Layer normalisation without the mean: the row is only made as long as every other, not moved.
"""

import numpy as np

from kernels.layernorm.reference import _store


def rms_norm_forward(x, weight=None, *, eps=1e-5, out=None):
    """y = x · rstd · weight, each row by its own root mean square.

    x: (..., C); weight: (C,) or None.  Returns y: (..., C) and rstd: (...,) = 1 / sqrt(mean of x² + eps).
    """
    rstd = 1 / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + x.dtype.type(eps))  # (..., 1)
    y = np.multiply(x, rstd, out=out)  # (..., C)
    if weight is not None:
        y *= weight
    return y, rstd[..., 0]


# In the forward pass, for one row of C numbers, with r computed from the same row:
#   n = x r        y = n · w
# First the weights, over all rows:   dw = Σ_rows dy · n,   and   dn = dy · w.
# Then n, which depends on x twice, directly and through r = (mean(x²) + eps)^−1/2, with ∂r/∂x_j = −r³ x_j / C:
#   ∂n_i/∂x_j = r (δ_ij − n_i n_j / C)
# Sum over i:   dx = r (dn − n · mean(dn · n))
# that is: of dn, drop the part that only stretches the row (it does not change n), and undo the scale.
# Saved: x and r. n is recomputed from them, one product, in place of keeping another (..., C) array.
def rms_norm_backward(dy, x, weight, rstd, *, needs=(True, True), out=(None, None), accumulate=False):
    """dy, x: (..., C), weight: (C,) or None, rstd: (...,) from the forward pass.

    Returns (dx: (..., C), dweight: (C,)), None where `needs` says no. `out` holds a buffer or None for each; with
    accumulate=True the buffer of dweight is added to (dx is always overwritten).
    """
    rstd = rstd[..., None]  # (..., 1)
    n = x * rstd  # (..., C)
    dx = dweight = None
    if needs[1]:
        dweight = _store((dy * n).sum(axis=tuple(range(x.ndim - 1))), out[1], accumulate)  # (C,)
    if needs[0]:
        dn = dy if weight is None else dy * weight  # (..., C)
        stretch = (dn * n).mean(axis=-1, keepdims=True)  # (..., 1)
        dx = np.multiply(rstd, dn - n * stretch, out=out[0])
    return dx, dweight
