"""Layer normalisation over the last axis: the specification, in NumPy, for any float dtype.

Source: Ba, Kiros, Hinton 2016, "Layer Normalization" (arXiv:1607.06450), eq. 3 and 4; eps inside the root as in PyTorch.
"""

import numpy as np


def layernorm_forward(x, weight=None, bias=None, *, eps=1e-5, out=None):
    """y = (x − mean) · rstd · weight + bias, each row by its own mean and variance.

    x: (..., C); weight, bias: (C,) or None.
    Returns y: (..., C), mean: (...,) and rstd: (...,) = 1 / sqrt(variance + eps), the variance being the biased one (over C).
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


# In the forward pass, for one row of C numbers, with μ and r = 1/σ computed from the same row:
#   n = (x − μ) r        y = n · w + b
# First the affine part, over all rows:      dw = Σ_rows dy · n,     db = Σ_rows dy,     dn = dy · w.
# Then n, which depends on x three times, directly, through μ, and through r:
#   ∂n_i/∂x_j = r (δ_ij − 1/C − n_i n_j / C)
# Sum over i:   dx = r (dn − mean(dn) − n · mean(dn · n))
# that is: of dn, drop the part that only shifts the row and the part that only stretches it (neither changes n), and undo
# the scale.
# Saved: x, μ and r. n is recomputed from them, one subtraction and one product, in place of keeping another (..., C) array.
def layernorm_backward(
    dy, x, weight, mean, rstd, *, plus=None, needs=(True, True, True), out=(None, None, None), accumulate=False
):
    """dy, x: (..., C), weight: (C,) or None, mean, rstd: (...,) from the forward pass.

    plus: (..., C) or None, added to dx: what came back along the residual path, which leaves x beside the layernorm.
    Returns (dx: (..., C), dweight: (C,), dbias: (C,)), None where `needs` says no. `out` holds a buffer or None for each;
    with accumulate=True the buffers of dweight and dbias are added to (dx is always overwritten).
    """
    rstd = rstd[..., None]  # (..., 1)
    n = (x - mean[..., None]) * rstd  # (..., C)
    dx = dweight = dbias = None
    rows = tuple(range(x.ndim - 1))
    if needs[1]:
        dweight = _store((dy * n).sum(axis=rows), out[1], accumulate)  # (C,)
    if needs[2]:
        dbias = _store(dy.sum(axis=rows), out[2], accumulate)  # (C,)
    if needs[0]:
        dn = dy if weight is None else dy * weight  # (..., C)
        shift = dn.mean(axis=-1, keepdims=True)  # (..., 1)
        stretch = (dn * n).mean(axis=-1, keepdims=True)  # (..., 1)
        dx = np.multiply(rstd, dn - shift - n * stretch, out=out[0])
        if plus is not None:
            dx += plus
    return dx, dweight, dbias


def _store(value, out, accumulate):
    if out is None:
        return value
    out[...] = out + value if accumulate else value
    return out
