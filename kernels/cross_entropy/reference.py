"""Cross-entropy of logits against class indices: the specification, in NumPy, for any float dtype.

Source: the negative log-likelihood of softmax(logits); label smoothing as in Szegedy et al. 2015 (arXiv:1512.00567), §7.
"""

import numpy as np


def cross_entropy_forward(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    """loss_r = log Σ_c exp(logits_rc) − logits_r,target, one number a row.

    logits: (R, V); targets: (R,) ints in 0…V−1, or ignore_index for a row that is not graded: its loss is 0 and its logits
    are never read. With label smoothing ε the target distribution is (1 − ε) on the target plus ε/V on every class.
    Returns losses: (R,) and logsumexp: (R,) (0 where ignored), both of the logits' dtype.
    """
    losses, logsumexp = np.zeros(len(logits), logits.dtype), np.zeros(len(logits), logits.dtype)
    graded = np.flatnonzero(targets != ignore_index)  # (G,)
    x = logits[graded]  # (G, V)
    top = x.max(axis=-1, initial=-np.inf)  # (G,)
    lse = np.log(np.exp(x - top[:, None]).sum(axis=-1)) + top  # (G,)
    at_target = x[np.arange(len(graded)), targets[graded]]  # (G,)
    if label_smoothing:
        at_target = (1 - label_smoothing) * at_target + label_smoothing * x.mean(axis=-1)
    losses[graded], logsumexp[graded] = lse - at_target, lse
    return losses, logsumexp


# In the forward pass, for one graded row:   loss = L − Σ_c q_c x_c,   L = log Σ exp(x_c),
# with q the target distribution: one at the target, or (1 − ε) there and ε/V everywhere under label smoothing.
#   dL/dx_c = exp(x_c − L) = p_c,   so   dx_c = dloss (p_c − q_c).
# An ignored row has loss 0 whatever its logits: its gradient is written once, as zeros, and nothing of it is computed.
# Saved: the logits, which the forward pass was given anyway, and L, one number a row. No (R, V) array of probabilities is kept.
def cross_entropy_backward(dlosses, logits, targets, logsumexp, *, ignore_index=-100, label_smoothing=0.0, out=None):
    """dlosses, targets, logsumexp: (R,); logits: (R, V).  Returns dlogits: (R, V).

    `out` may be the logits' own buffer, when nobody needs them again: the gradient then overwrites them in place.
    """
    dlogits = np.empty_like(logits) if out is None else out
    for r in range(len(logits)):  # a row at a time, so that nothing larger than a row is made besides the result
        if targets[r] == ignore_index:
            dlogits[r] = 0
            continue
        np.exp(logits[r] - logsumexp[r], out=dlogits[r])  # (V,)
        if label_smoothing:
            dlogits[r] -= label_smoothing / logits.shape[1]
        dlogits[r, targets[r]] -= 1 - label_smoothing
        dlogits[r] *= dlosses[r]
    return dlogits
