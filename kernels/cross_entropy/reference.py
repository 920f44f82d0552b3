"""Cross-entropy of logits against class indices: the specification, in NumPy, for any float dtype.

It is the negative log-likelihood of softmax(logits).
Source: Szegedy et al. 2015, Rethinking the Inception Architecture (arXiv:1512.00567), §7, for label smoothing.
"""

import numpy as np

from kernels.arrays import Array
from kernels.contract import contract


@contract("logits: (R, V); targets: (R,) below V or ignore_index")
def cross_entropy_forward(
    logits: Array, targets: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """loss_r = log Σ_c exp(logits_rc) − logits_r,target for each row r.

    Args:
        logits: (R, V).
        targets: (R,) ints in 0…V−1. A row with `ignore_index` has loss 0, and its logits are never read.
        label_smoothing: ε; the target distribution is 1 − ε on the target plus ε/V on every class.

    Returns:
        losses and logsumexp, (R,) each, in the dtype of the logits; 0 in ignored rows.
    """
    losses, logsumexp = np.zeros(len(logits), logits.dtype), np.zeros(len(logits), logits.dtype)
    rows = np.flatnonzero(targets != ignore_index)  # (G,)  the rows that are not ignored
    x = logits[rows]  # (G, V)
    top = x.max(axis=-1, initial=-np.inf)  # (G,)
    lse = np.log(np.exp(x - top[:, None]).sum(axis=-1)) + top  # (G,)
    at_target = x[np.arange(len(rows)), targets[rows]]  # (G,)
    if label_smoothing:
        at_target = (1 - label_smoothing) * at_target + label_smoothing * x.mean(axis=-1)
    losses[rows], logsumexp[rows] = lse - at_target, lse
    return losses, logsumexp


# The forward pass was, for a row that is not ignored:   loss = L − Σ_c q_c x_c,   L = log Σ exp(x_c),
# with the target distribution q: 1 at the target, or with label smoothing 1 − ε there plus ε/V everywhere.
#   ∂L/∂x_c = exp(x_c − L) = p_c,   so   dx_c = dloss (p_c − q_c).
# An ignored row has loss 0 whatever its logits are, so its gradient is zero.
# Saved: the logits, and L, one number for each row. No (R, V) array of probabilities is kept.
@contract("logits, out?: (R, V); dlosses, logsumexp: (R,); targets: (R,) below V or ignore_index", in_place="logits")
def cross_entropy_backward(
    dlosses: Array,
    logits: Array,
    targets: Array,
    logsumexp: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> Array:
    """Gradient of cross-entropy.

    Args:
        dlosses: gradient of the losses, (R,).
        logits, targets, logsumexp: the forward inputs and result, (R, V), (R,) and (R,).
        out: may be `logits`, which the gradient then overwrites in place.

    Returns:
        dlogits: (R, V).
    """
    dlogits = np.empty_like(logits) if out is None else out
    for r in range(len(logits)):  # one row at a time, so that no second (R, V) array is made
        if targets[r] == ignore_index:
            dlogits[r] = 0
            continue
        np.exp(logits[r] - logsumexp[r], out=dlogits[r])  # (V,)
        if label_smoothing:
            dlogits[r] -= label_smoothing / logits.shape[1]
        dlogits[r, targets[r]] -= 1 - label_smoothing
        dlogits[r] *= dlosses[r]
    return dlogits
