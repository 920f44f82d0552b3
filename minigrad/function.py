"""Function: a differentiable operation as a pair, forward and backward, and the Context that carries arrays between the two."""

from typing import Any, Sequence

import kernels
from minigrad.accumulate import GradientSums
from minigrad.engine import Edge, Node, TensorBase
from minigrad.modes import mode


class Context:
    """The values that a forward pass saves for its backward pass.

    Attributes:
        xp: numpy or cupy, whichever made the arrays.
        needs: whether each positional argument needs a gradient; a backward pass may skip the others.
        saved: the values that the forward pass gave to `save`.
    """

    __slots__ = ("xp", "needs", "saved", "sums", "_array", "_kernels")

    def __init__(self, array: Any, needs: tuple[bool, ...]):
        self.xp, self.needs = kernels.array_module(array), needs
        self.saved: tuple = ()
        self.sums: GradientSums | None = None  # set while backward runs
        self._array = array
        self._kernels: Any = None

    @property
    def kernels(self) -> Any:
        """The kernel set that serves these arrays, in both passes."""
        if self._kernels is None:
            self._kernels, self._array = kernels.serving(self._array), None
        return self._kernels

    def save(self, *values: Any) -> None:
        """Keep values for the backward pass."""
        self.saved = values

    def take(self, i: int, to_write: bool = False) -> Any:
        """The gradient that input i has received from its other uses so far, or None.

        A backward pass whose kernel can add calls this, and returns the new sum. If it does not, the engine adds the gradients.

        Args:
            i: the number of the input.
            to_write: return only an array that the kernel may write to.
        """
        return None if self.sums is None else self.sums.take(i, to_write)


class Function:
    """A differentiable operation. A subclass writes two static methods and leaves the heavy arithmetic to the kernels:

        forward(ctx, *args, **settings) -> array, or a tuple of arrays
        backward(ctx, *output_grads)    -> for each positional argument of forward its gradient, or None

    `TheFunction.apply(...)` then computes the operation and records it. `forward` receives arrays in place of tensors.
    `backward` returns new arrays, or views of the gradients that it received. It never writes to these gradients or to saved
    arrays.

    creates_values: False for an operation that only selects among its inputs; detect_anomaly does not blame it.
    """

    creates_values = True

    @staticmethod
    def forward(ctx: Context, *args: Any, **settings: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *output_grads: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any, **settings: Any) -> Any:
        """Run forward, record a Node if an argument requires a gradient, and return one Tensor or a tuple, as forward does."""
        tensors = [a for a in args if isinstance(a, TensorBase)]
        if not tensors:
            raise TypeError(f"{cls.__name__}: expected at least one tensor, got {', '.join(type(a).__name__ for a in args)}")
        check_one_device(cls.__name__, tensors)
        floats = [t.array for t in tensors if t.array.dtype.kind == "f"]
        recording = mode.grad_enabled
        needs = tuple([recording and isinstance(a, TensorBase) and a.requires_grad for a in args])
        ctx = Context(floats[0] if floats else tensors[0].array, needs)

        result = cls.forward(ctx, *[a.array if isinstance(a, TensorBase) else a for a in args], **settings)
        arrays = [ctx.xp.asarray(a) for a in (result if isinstance(result, tuple) else (result,))]  # scalars become arrays
        if any(a is t.array for a in arrays for t in tensors):  # a view, so that tensors with equal memory can be told apart
            arrays = [a.view() for a in arrays]
        if mode.detect_anomaly:
            _check_finite(cls, ctx.xp, tensors, arrays)
        node = Node(cls, ctx, [a if n else None for a, n in zip(args, needs)], arrays) if True in needs else None
        outputs = [_output(a, node, i) for i, a in enumerate(arrays)]
        return tuple(outputs) if isinstance(result, tuple) else outputs[0]


def _output(array, node, index):
    if node is None or array.dtype.kind != "f":
        return TensorBase.result_class(array)
    return TensorBase.result_class(array, True, Edge(node, index))


def _check_finite(function, xp, tensors, outputs):
    if not function.creates_values or all(xp.isfinite(a).all() for a in outputs):
        return
    if not all(xp.isfinite(t.array).all() for t in tensors):
        return  # the inputs held NaN or infinity already
    shapes = ", ".join(str(t.shape) for t in tensors)
    raise FloatingPointError(f"{function.__name__} made NaN or infinity out of finite inputs of shapes {shapes}")


def check_one_device(name: str, tensors: Sequence[TensorBase]) -> None:
    """Raise RuntimeError, naming the operation and the shapes, unless all tensors are on one device."""
    types = [type(t.array) for t in tensors]
    if types.count(types[0]) < len(types) and len({kernels.array_module(t.array) for t in tensors}) > 1:
        shapes = ", ".join(f"{t.shape} on {t.device}" for t in tensors)
        raise RuntimeError(f"{name}: the tensors are on different devices ({shapes}); move them with .to(device)")
