"""A training step's loss and gradients as one launch, for models so small that the GPU waits for the CPU's launches."""

from typing import Any, Callable, Iterable

import kernels
from kernels import gpu
from kernels.graph import Graph
from minigrad.tensor import Tensor

MOST_SHAPES = 4  # each recording holds the memory of a whole step; a shape in another precision counts again


def graphed(loss_fn: Callable[..., Tensor], parameters: Iterable[Tensor]) -> Callable[..., Tensor]:
    """A function that computes loss_fn(*inputs), calls backward() and returns the loss, on a GPU in one launch.

        step = mg.graphed(lambda ids, targets: F.cross_entropy(model(ids).view(-1, V), targets.view(-1)), model.parameters())
        for ids, targets in batches:
            loss = step(ids, targets)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())     # the number: every call returns the same tensor

    On a GPU (or the emulated one) the first call with inputs of a shape computes as usual. The second records the work as a
    CUDA graph (kernels/graph.py), and later calls launch that graph. A call computes as usual if an input is on the
    CPU, requires a gradient or brings a fifth shape, or if a parameter still has a gradient to be added to. Exchanging a
    parameter's array for another drops all recordings.

    Args:
        loss_fn: does the same work for the same shapes every time.
        parameters: the leaves that loss_fn's backward() gives gradients.

    Returns:
        step(*inputs) -> loss. The loss and the gradients are in the graph's memory, and the next call overwrites them.

    Raises:
        GraphError: from step, if loss_fn waits for the GPU (item(), `if tensor:`) or draws a dropout mask.
        TypeError: from step, without inputs.
    """
    parameters = list(parameters)
    recordings: dict[tuple, _RecordedStep | None] = {}  # precision and inputs' shapes -> the recording; None: seen once
    recorded_addresses = None  # the parameters' arrays that the recordings read

    def compute(*inputs):
        loss = loss_fn(*inputs)
        loss.backward()
        return loss.detach()

    def step(*inputs):
        nonlocal recorded_addresses
        if not inputs:
            raise TypeError("graphed: the step was called without inputs; pass the tensors that loss_fn takes")
        if kernels.device_of(inputs[0].array) == "cpu" or any(x.requires_grad for x in inputs):
            return compute(*inputs)
        if any(p.grad is not None for p in parameters):
            return compute(*inputs)
        addresses = tuple(gpu.address(p.array) for p in parameters)
        if addresses != recorded_addresses:
            recordings.clear()
            recorded_addresses = addresses
        key = gpu.matmul_precision(), *((x.shape, x.dtype) for x in inputs)
        if key not in recordings:
            if len(recordings) < MOST_SHAPES:
                recordings[key] = None
            return compute(*inputs)
        replay = recordings[key] = recordings[key] or _RecordedStep(compute, parameters, inputs)
        return replay(*inputs)

    return step


class _RecordedStep:
    """A recorded step, for inputs of one shape."""

    def __init__(self, compute, parameters, inputs):
        xp = kernels.array_module(inputs[0].array)
        self.parameters, self.inputs = parameters, [xp.empty_like(x.array) for x in inputs]
        self.graph = Graph(xp)
        try:
            with self.graph.capture():
                self.loss = compute(*map(Tensor, self.inputs))
            self.grads = [None if p.grad is None else p.grad.array for p in parameters]
        except BaseException:
            for p in parameters:  # some may hold gradients that were recorded but never computed
                p.grad = None
            raise

    def __call__(self, *inputs: Any) -> Tensor:
        for buffer, x in zip(self.inputs, inputs, strict=True):
            buffer[...] = x.array
        self.graph.replay()
        for p, grad in zip(self.parameters, self.grads):
            p.grad = None if grad is None else Tensor(grad)
        return self.loss
