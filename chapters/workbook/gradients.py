"""A forward pass of ours and a backward pass of the reader's, joined into an operation on tensors that gradcheck can check."""

from collections.abc import Callable
from typing import Any

from minigrad import Function, Tensor

Saved = Callable[[tuple, tuple], tuple]


def operation(forward: Callable[..., Any], backward: Callable[..., Any], saved: Saved) -> Callable[..., Tensor]:
    """A function of tensors.

    Args:
        forward: from arrays to the result y, or to a tuple that begins with y.
        backward: from the gradient of y and the saved arrays to the gradients of the inputs.
        saved: from (the inputs, the results) of the forward pass to the saved arrays.
    """

    class Joined(Function):
        @staticmethod
        def forward(ctx, *inputs):
            results = forward(*inputs)
            results = results if isinstance(results, tuple) else (results,)
            ctx.save(*saved(inputs, results))
            return results[0]

        @staticmethod
        def backward(ctx, dy):
            gradients = backward(dy, *ctx.saved)
            return tuple(gradients) if isinstance(gradients, (tuple, list)) else gradients

    return Joined.apply
