"""AdamW and the gradient norm over a list of arrays: the specification, in NumPy, for any float dtype.

Source: Loshchilov, Hutter 2017, Decoupled Weight Decay Regularization (arXiv:1711.05101), Algorithm 2; as in PyTorch, the decay
is multiplied by the learning rate.
"""

import math

import numpy as np

from kernels.arrays import Array, Arrays
from kernels.contract import list_contract

SPAN = 1 << 16  # numbers in a span: 256 kB of each float32 array


@list_contract("params", "grads", "exp_avgs", "exp_avg_sqs", writes=("params", "exp_avgs", "exp_avg_sqs"))
def adamw_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    grad_scale: float = 1.0,
) -> None:
    """Update every array θ in `params` and its moments m and v, in place.

        θ ← θ (1 − lr · weight_decay)                  the decay acts on the weights directly, not through the moments
        m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
        θ ← θ − lr · m̂ / (√v̂ + eps)                    m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ): both moments start at zero

    Args:
        params, grads, exp_avgs, exp_avg_sqs: lists of θ, g, m and v with the same shapes.
        step: t, counted from 1.
        grad_scale: factor on g, for example to clip it; the gradient arrays stay unchanged.
    """
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    for param, grad, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        number = param.dtype.type
        g = grad * number(grad_scale)
        param *= number(1 - lr * weight_decay)
        m *= number(beta1)
        m += number(1 - beta1) * g
        v *= number(beta2)
        v += number(1 - beta2) * g * g
        param -= number(lr / correction1) * m / (np.sqrt(v) / number(correction2) + number(eps))


@list_contract("arrays")
def square_sums(arrays: Arrays) -> Array:
    """The sum of squares of each span of at most SPAN numbers, the last one of an array being shorter, in float64.

    Returns (spans,), in the order of the arrays. Processes that share the arrays of a model sum their spans in one order.
    """
    spans = [a.reshape(-1)[i : i + SPAN] for a in arrays for i in range(0, a.size, SPAN)]
    return np.array([np.square(span, dtype=np.float64).sum() for span in spans])


@list_contract("arrays")
def global_norm(arrays: Arrays) -> Array:
    """√(Σ of all squares) over a list of arrays, summed in float64.  Returns a float64 array of no dimensions."""
    return np.sqrt(np.sum(square_sums(arrays), dtype=np.float64))


@list_contract("arrays", writes=("arrays",))
def scale_arrays(arrays: Arrays, factor: float) -> None:
    """Multiply every array of the list by a factor, in place, in its dtype."""
    for a in arrays:
        np.multiply(a, a.dtype.type(factor), out=a)
