"""The engine: a graph of operations, and the walk back through it that computes gradients.

Every operation on a tensor that requires a gradient leaves a Node behind, which remembers where its inputs came from: leaves,
or Edges to the nodes that computed them. A result has an edge to its own node, so the loss holds the whole graph.
`loss.backward()` visits the nodes from the loss towards the leaves. Each node turns the gradients of its outputs into gradients
of its inputs, and the gradients that reach the same place are added up.

This file knows no operation. Operations are Functions (function.py and ops/), and Tensor (tensor.py) adds them as methods.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

import kernels
from minigrad.accumulate import GradientSums
from minigrad.hooks import Hooks, WatchedLeaves
from minigrad.modes import mode, no_grad
from minigrad.writes import note_write, now, recorded_since, written_since

TensorT = TypeVar("TensorT", bound="TensorBase")  # an operation on a Tensor returns a Tensor


class Edge(NamedTuple):
    """A place in the graph: one output of a node, by its number."""

    node: "Node"
    output: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.outputs[self.output][0]

    @property
    def dtype(self) -> np.dtype:
        return self.node.outputs[self.output][1]


class TensorBase:
    """An array that can be differentiated through. Tensor is the class to use: it adds the operations.

    Attributes:
        array: the NumPy or CuPy array.
        requires_grad: whether backward() computes a gradient for this tensor.
        grad: the gradient, a tensor of the same shape and dtype; None before backward().
        edge: where this tensor stands in the graph: the Node that computed it, and its number among the node's outputs. A
            leaf has None. A change in place gives the tensor another edge; the nodes that used it before keep the old one.
        hooks: the functions that a leaf's gradient passes through (hooks.py); None without any.
    """

    __slots__ = ("array", "_requires_grad", "_grad", "edge", "hooks", "__weakref__")

    # The class of every result: Tensor, even if an operand is of a subclass (parameter * 2 is not a Parameter). tensor.py sets
    # it, because this file cannot import tensor.py; PyTorch's C++ engine is told its Python class in the same way.
    result_class: ClassVar[type] = object

    def __init__(self, array: Any, requires_grad: bool = False, edge: Edge | None = None):
        if type(array) is list:  # Tensor([1, 2]), as in PyTorch; tensor(…) chooses the dtype by the numbers
            array = np.array(array, np.float32)
        kernels.array_module(array)  # raises TypeError for anything but an array
        if requires_grad and array.dtype.kind != "f":
            raise RuntimeError(f"requires_grad: expected a floating-point tensor, got {array.dtype}; convert it with .float()")
        self.array, self._requires_grad, self.edge = array, requires_grad, edge
        self._grad: Any = None
        self.hooks: Hooks | None = None

    @property
    def node(self) -> "Node | None":
        """The Node that computed this tensor; None for a leaf."""
        return None if self.edge is None else self.edge.node

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.edge is not None and not value:
            raise RuntimeError(
                "requires_grad: only a leaf can stop requiring grad, and an operation computed this; call .detach()"
            )
        if value and self.array.dtype.kind != "f":
            raise RuntimeError(f"requires_grad: expected a floating-point tensor, got {self.dtype}; convert it with .float()")
        self._requires_grad = bool(value)

    @property
    def grad(self) -> Any:
        return self._grad

    @grad.setter
    def grad(self, value: "TensorBase | None") -> None:
        if value is not None and not isinstance(value, TensorBase):
            raise TypeError(f"grad: expected a tensor or None, got {type(value).__name__}")
        if value is not None and (value.shape, value.dtype, value.device) != (self.shape, self.dtype, self.device):
            raise RuntimeError(
                f"grad: expected shape {self.shape}, dtype {self.dtype} and device {self.device} as the tensor's own, "
                f"got {value.shape}, {value.dtype} and {value.device}"
            )
        self._grad = value

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def device(self) -> str:
        return kernels.device_of(self.array)

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def changed(self) -> None:
        """Note a write to this tensor's memory; code that writes to `array` directly must call this. See writes.py."""
        note_write(self.array)

    def backward(self, gradient: "TensorBase | None" = None, retain_graph: bool = False) -> None:
        """Add the derivative of this tensor with respect to every leaf to the leaf's .grad.

        Args:
            gradient: the upstream gradient, shaped like this tensor; None counts as 1 for a tensor of one element.
            retain_graph: keep the operations' saved arrays, so that backward can run again.

        >>> import minigrad as mg
        >>> x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        tensor([2., 4., 6.])
        """
        sums = GradientSums(in_place=not mode.detect_anomaly)
        walk_back([self], [self.upstream(gradient)], sums, retain_graph)

    def upstream(self, gradient: "TensorBase | None") -> Any:
        """The array that backward(gradient) starts from.  Raises TypeError or RuntimeError if the gradient does not fit."""
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor does not require grad; compute it from a tensor with requires_grad=True")
        if gradient is None:
            if self.array.size != 1:
                raise RuntimeError(f"backward: a tensor of shape {self.shape} needs a gradient of that shape; pass gradient=…")
            return kernels.array_module(self.array).ones_like(self.array)
        if not isinstance(gradient, TensorBase):
            raise TypeError(f"backward: expected a tensor as the gradient, got {type(gradient).__name__}")
        if gradient.shape != self.shape:
            raise RuntimeError(f"backward: expected a gradient of shape {self.shape}, got {gradient.shape}")
        return gradient.array.astype(self.dtype, copy=False)


def walk_back(roots: Sequence[TensorBase], upstreams: Sequence[Any], sums: GradientSums, retain_graph: bool) -> None:
    """Turn the upstream gradients of the roots into gradients of everything behind them.

    Args:
        roots: the tensors to start from.
        upstreams: the gradient of each root, an array.
        sums: adds up the gradients of each tensor as they arrive.
        retain_graph: keep the operations' saved arrays.
    """
    with no_grad():
        order = topological_order(roots)  # each node after all nodes that used its outputs
        watched = WatchedLeaves(order)
        for root, upstream in zip(roots, upstreams):
            sums.add(source(root), upstream)
        for node in order:
            inputs, output_grads = node.inputs, sums.pop(node)
            if output_grads is not None:  # else no gradient reached this node
                for place, grad in zip(inputs, node.backward(output_grads, sums)):
                    if grad is not None:
                        sums.add(place, grad)
                if not retain_graph:
                    node.release()
            watched.passed(inputs)
        sums.finish()
        watched.finish()


def topological_order(roots: Sequence[TensorBase]) -> list["Node"]:
    """The nodes behind the roots, each before the nodes that computed its inputs.

    This is a depth-first walk with a stack of its own: a graph of 100,000 nodes would exceed Python's recursion limit. A node
    joins the list after all nodes behind it; the reversed list is the order.
    """
    order, seen = [], set()
    stack = [(root.node, False) for root in roots if root.node is not None]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((place.node, False) for place in node.inputs if isinstance(place, Edge))
    return order[::-1]


class Node:
    """One operation that ran.

    Attributes:
        function: the Function, whose backward pass this node calls.
        ctx: its Context, with everything the forward pass saved; None once the node is released.
        inputs: per positional argument, the leaf or the Edge that its gradient goes to; None if it needs no gradient.
        outputs: the shape and dtype of each result.
        time: when the forward pass ended. If a saved array is written to afterwards, backward() refuses.
        hooks: the number of an output -> the functions that its gradient passes through (hooks.py); None without any.
    """

    __slots__ = ("function", "ctx", "inputs", "outputs", "time", "hooks", "__weakref__")

    def __init__(self, function: Any, ctx: Any, inputs: Sequence[TensorBase | None], outputs: Sequence[Any]):
        self.function, self.ctx = function, ctx
        self.inputs: Sequence[TensorBase | Edge | None] = [None if t is None else source(t) for t in inputs]
        self.outputs = [(a.shape, a.dtype) for a in outputs]
        self.time = now()
        self.hooks: dict[int, Hooks] | None = None

    def __repr__(self) -> str:
        return f"<{self.function.__name__}>"

    def name(self) -> str:
        """The name of the Function."""
        return self.function.__name__

    def release(self) -> None:
        """Release everything that the forward pass saved."""
        self.ctx, self.inputs = None, ()

    def backward(self, output_grads: Sequence[Any], sums: GradientSums | None = None) -> list[Any]:
        """Compute the gradients of the inputs.

        Args:
            output_grads: an array for each output, or None for zeros.
            sums: the gradients so far, which a kernel may add to (see accumulate.py).

        Returns:
            One gradient per input; None for an input that needs none.
        """
        if self.ctx is None:
            raise RuntimeError(
                f"backward: {self} was already differentiated and has freed its saved arrays; "
                "call the first backward with retain_graph=True"
            )
        changed = written_since(self.time, self.ctx.saved)
        if changed is not None:
            raise RuntimeError(
                f"backward: {self} saved a tensor of shape {changed.shape} that was changed in place since, which would make "
                "its gradient wrong; call backward() before changing it, or change a .clone()"
            )
        xp = self.ctx.xp
        grads = [xp.zeros(s, d) if g is None else g for g, (s, d) in zip(output_grads, self.outputs)]
        self.ctx.sums = sums
        result = self.function.backward(self.ctx, *grads)
        self.ctx.sums = None
        result = result if isinstance(result, tuple) else (result,)
        if len(result) != len(self.inputs):
            expected = f"expected a gradient for each of {len(self.inputs)} inputs"
            raise RuntimeError(f"backward of {self}: {expected}, got {len(result)}")
        pairs = enumerate(zip(self.inputs, result))
        input_grads = [None if p is None or g is None else self._checked(i, p, g) for i, (p, g) in pairs]
        if sums is not None:
            sums.returned(input_grads)
        return input_grads

    def _checked(self, i, place, grad):
        grad = self.ctx.xp.asarray(grad)  # NumPy turns arrays of no dimensions into scalars
        if grad.shape != place.shape:
            raise RuntimeError(f"backward of {self}: gradient of shape {grad.shape} for input {i} of shape {place.shape}")
        if mode.detect_anomaly and not self.ctx.xp.isfinite(grad).all():
            raise FloatingPointError(f"the backward of {self} made NaN or infinity for its input {i} of shape {place.shape}")
        return grad if grad.dtype == place.dtype else grad.astype(place.dtype)


def source(tensor: TensorBase) -> TensorBase | Edge:
    """Where a tensor's gradient goes: to the leaf itself, or to the edge of an interior tensor.

    Raises:
        RuntimeError: if the tensor views memory of another tensor, and a change in place of that one has been recorded since.
            The view holds the new values, but its edge leads to the old ones.
    """
    if tensor.edge is None:
        return tensor
    if recorded_since(tensor.edge.node.time, tensor.array):
        raise RuntimeError(
            f"{tensor.edge.node}: this view of shape {tensor.shape} was made before a change in place of its memory; "
            "make the view again after the change"
        )
    return tensor.edge


def wrap(array: Any) -> Any:
    """A Tensor around an array, outside the graph."""
    return TensorBase.result_class(array)
