"""AdamW and the gradient norm over a list of arrays: the specification, in NumPy, for any float dtype.

Source: Loshchilov, Hutter 2017, "Decoupled Weight Decay Regularization" (arXiv:1711.05101), Algorithm 2, with PyTorch's
convention that the decay is multiplied by the learning rate.
"""

import math

import numpy as np


def adamw_step(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay, grad_scale=1.0):
    """One update of every array in the list, in place.

    params, grads, exp_avgs, exp_avg_sqs: lists of arrays of equal shapes; step counts from 1.
        θ ← θ (1 − lr · weight_decay)                  the decay acts on the weights, not through the moments
        m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
        θ ← θ − lr · m̂ / (√v̂ + eps)                    m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ): both start at zero
    g is the gradient times grad_scale (what clipping multiplies by), which leaves the gradients themselves untouched.
    """
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    for param, grad, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        kind = param.dtype.type
        g = grad * kind(grad_scale)
        param *= kind(1 - lr * weight_decay)
        m *= kind(beta1)
        m += kind(1 - beta1) * g
        v *= kind(beta2)
        v += kind(1 - beta2) * g * g
        param -= kind(lr / correction1) * m / (np.sqrt(v) / kind(correction2) + kind(eps))


def global_norm(arrays):
    """√(Σ of all squares) over a list of arrays, summed in float64.  Returns a float64 array of no dimensions."""
    return np.sqrt(np.sum([np.square(a, dtype=np.float64).sum() for a in arrays], dtype=np.float64))


def scale_arrays(arrays, factor):
    """Multiply every array of the list by the number `factor`, in place, keeping its dtype."""
    for a in arrays:
        np.multiply(a, a.dtype.type(factor), out=a)
