"""A training step's loss and gradients as one launch: for models so small that the GPU waits for the CPU to launch them."""

import kernels
from kernels import gpu
from kernels.graph import Graph
from minigrad.tensor import Tensor

MOST_SHAPES = 4  # each holds the memory of a whole step; in another precision a shape counts again


def graphed(loss_fn, parameters):
    """A function of the same inputs as loss_fn that computes loss_fn(*inputs), calls backward() and returns the loss.

        step = mg.graphed(lambda ids, targets: F.cross_entropy(model(ids).view(-1, V), targets.view(-1)), model.parameters())
        for ids, targets in batches:
            loss = step(ids, targets)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())     # the number: the tensor is the same one each time

    On a GPU (or the emulated one) the first inputs of a shape are computed as usual; with the second the work is recorded as
    a CUDA graph (see kernels/graph.py), and from then on one launch does it all. On the CPU, for a fifth shape, where an input
    requires a gradient, and where a parameter still has one to be added to, every call computes as usual. When a parameter's
    array is exchanged for another, all that was recorded is forgotten.

    inputs: tensors. parameters: those whose gradients loss_fn's backward() makes. The loss and the gradients lie in the
    graph's memory: the next call overwrites them. loss_fn must do the same work for the same shapes every time.
    Raises GraphError where it waits for the GPU (item(), `if tensor:`), or draws a dropout mask; TypeError without inputs.
    """
    parameters = list(parameters)
    recorded = {}  # precision and inputs' shapes -> a _Step; None: seen once
    places = None  # of the parameters, in what was recorded

    def plain(*inputs):
        loss = loss_fn(*inputs)
        loss.backward()
        return loss.detach()

    def step(*inputs):
        nonlocal places
        if not inputs:
            raise TypeError("a graphed step was called without inputs: hand it the tensors that loss_fn computes the loss of")
        if kernels.device_of(inputs[0].array) == "cpu" or any(x.requires_grad for x in inputs):
            return plain(*inputs)
        if any(p.grad is not None for p in parameters):
            return plain(*inputs)
        now = tuple(gpu.address(p.array) for p in parameters)
        if now != places:
            recorded.clear()  # it reads where the parameters were
            places = now
        key = gpu.matmul_precision(), *((x.shape, x.dtype) for x in inputs)
        if key not in recorded:
            if len(recorded) < MOST_SHAPES:
                recorded[key] = None
            return plain(*inputs)
        if recorded[key] is None:
            recorded[key] = _Step(plain, parameters, inputs)
        return recorded[key](*inputs)

    return step


class _Step:
    """One recorded step, for inputs of one shape."""

    def __init__(self, plain, parameters, inputs):
        xp = kernels.array_module(inputs[0].array)
        self.parameters, self.inputs = parameters, [xp.empty_like(x.array) for x in inputs]
        self.graph = Graph(xp)
        try:
            with self.graph.capture():
                self.loss = plain(*map(Tensor, self.inputs))
            self.grads = [None if p.grad is None else p.grad.array for p in parameters]
        except BaseException:
            for p in parameters:  # some may have one already, of work that was never done
                p.grad = None
            raise

    def __call__(self, *inputs):
        for own, given in zip(self.inputs, inputs, strict=True):
            own[...] = given.array
        self.graph.replay()
        for p, grad in zip(self.parameters, self.grads):
            p.grad = None if grad is None else Tensor(grad)
        return self.loss
