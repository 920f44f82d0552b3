"""Activation checkpointing: forget what a part of the model computed, and compute it again when its backward pass comes.

A block's backward pass needs what its forward pass made along the way, some thirty arrays of the size of its input. Kept for
all blocks that is most of a training step's memory. Here only each block's input is kept; the price is a second forward pass.
Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174). PyTorch: torch.utils.checkpoint.
"""

from minigrad.function import Function
from minigrad.random import default_generator
from minigrad.tensor import Tensor, enable_grad, is_grad_enabled, no_grad


class Checkpoint(Function):
    @staticmethod
    def forward(ctx, x, function, dice):
        ctx.save(x, function, dice)
        with no_grad():
            return function(Tensor(x)).array

    # y = f(x), with f's own operations: they are recorded now, on the same input and with the same dice (dropout), and their
    # backward pass adds to the gradients of the parameters that f uses. What is left to return is dx.
    @staticmethod
    def backward(ctx, dy):
        x, function, dice = ctx.saved
        x, now = Tensor(x, True), default_generator.get_state()
        default_generator.set_state(dice)
        try:
            with enable_grad():
                y = function(x)
        finally:
            default_generator.set_state(now)
        y.backward(Tensor(dy))
        return x.grad.array, None, None


def checkpoint(function, input):
    """function(input), a tensor from a tensor, remembering only the input until the backward pass.

    Dropout inside must draw from the default generator, as nn.Dropout does unless told otherwise.
    """
    if not is_grad_enabled():
        return function(input)
    if not input.requires_grad:  # frozen before this point: parameters inside may still be trained
        input = input.detach().requires_grad_()
    return Checkpoint.apply(input, function, default_generator.get_state())
