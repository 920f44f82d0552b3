"""Hooks: functions that see a gradient during backward(), and may replace it. (A module's forward hooks are in nn/module.py.)

>>> import minigrad as mg
>>> x = mg.tensor([1.0, 2.0], requires_grad=True)
>>> handle = x.register_hook(lambda grad: grad.clamp(-1, 1))
>>> (x * x).sum().backward()
>>> x.grad
tensor([1., 1.])
"""

from collections.abc import Callable
from typing import Any


class Hooks:
    """The hooks of one tensor, in the order in which they were registered."""

    def __init__(self, tensor: Any):
        self.tensor_class = tensor.result_class
        self.functions: dict[RemovableHandle, Callable[[Any], Any]] = {}
        self.store: Callable[[Any], Any] | None = None  # retain_grad's function, which runs after all hooks

    def __bool__(self) -> bool:
        return bool(self.functions or self.store)

    def add(self, function: Callable[[Any], Any]) -> "RemovableHandle":
        """Add a function, and return the handle that removes it."""
        handle = RemovableHandle(self.functions)
        self.functions[handle] = function
        return handle

    def run(self, grad: Any) -> Any:
        """The gradient, an array, after all hooks. A hook gets a tensor, and returns None or a tensor in its place."""
        for function in [*self.functions.values(), *([self.store] if self.store else [])]:
            # The hook may store the tensor, and the engine goes on adding to the array: pass a copy.
            replaced = function(self.tensor_class(grad.copy()))
            if replaced is None:
                continue
            array = getattr(replaced, "array", None)
            if array is None or array.shape != grad.shape:
                got = type(replaced).__name__ if array is None else f"shape {array.shape}"
                raise RuntimeError(f"hook: expected None or a gradient of shape {grad.shape}, got {got}")
            grad = array.astype(grad.dtype, copy=False)
        return grad


class RemovableHandle:
    """A registered hook; remove() unregisters it, and so does the end of a `with` block."""

    def __init__(self, functions: dict["RemovableHandle", Any]):
        self.functions = functions

    def remove(self) -> None:
        """Remove the hook; does nothing the second time."""
        self.functions.pop(self, None)

    def __enter__(self) -> "RemovableHandle":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.remove()
