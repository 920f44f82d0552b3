"""Activation checkpointing: drop a block's activations, and recompute them during the backward pass.

A block's backward pass needs about thirty arrays from the forward pass, each as large as the block's input. Over all blocks
they take most of a training step's memory. A checkpoint keeps only the block's input, and pays with a second forward pass.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174). PyTorch: torch.utils.checkpoint.
"""

from typing import Callable

from minigrad.function import Function
from minigrad.modes import enable_grad, is_grad_enabled, no_grad
from minigrad.random import default_generator
from minigrad.tensor import Tensor


class Checkpoint(Function):
    @staticmethod
    def forward(ctx, x, function, generator_state):
        ctx.save(x, function, generator_state)
        with no_grad():
            return function(Tensor(x)).array

    # y = f(x). The backward pass runs f again, recorded this time, on the same input and with the generator in the same state
    # (for dropout). y.backward() adds to the gradients of the parameters inside f, and this function returns dx.
    @staticmethod
    def backward(ctx, dy):
        x, function, generator_state = ctx.saved
        x, state_now = Tensor(x, True), default_generator.get_state()
        default_generator.set_state(generator_state)
        try:
            with enable_grad():
                y = function(x)
        finally:
            default_generator.set_state(state_now)
        y.backward(Tensor(dy))
        return x.grad.array, None, None


def checkpoint(function: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """function(input), keeping only the input until the backward pass.

    Dropout inside must draw from the default generator, as nn.Dropout does by default.
    """
    if not is_grad_enabled():
        return function(input)
    if not input.requires_grad:  # layers before this point may be frozen while parameters inside are trained
        input = input.detach().requires_grad_()
    return Checkpoint.apply(input, function, default_generator.get_state())
