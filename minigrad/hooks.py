"""Hooks: functions that see a gradient during backward(), and may replace it. (A module's forward hooks are in nn/module.py.)

>>> import minigrad as mg
>>> x = mg.tensor([1.0, 2.0], requires_grad=True)
>>> handle = x.register_hook(lambda grad: grad.clamp(-1, 1))
>>> (x * x).sum().backward()
>>> x.grad
tensor([1., 1.])
"""

from collections.abc import Callable, Sequence
from typing import Any


class Hooks:
    """The hooks of one tensor, in the order in which they were registered."""

    def __init__(self, tensor: Any):
        self.tensor_class = tensor.result_class
        self.functions: dict[RemovableHandle, Callable[[Any], Any]] = {}
        self.store: Callable[[Any], Any] | None = None  # retain_grad's function, which runs after all hooks
        # What runs once a leaf's .grad is complete. It changes no gradient, so __bool__ leaves it out.
        self.after: dict[RemovableHandle, Callable[[Any], Any]] = {}

    def __bool__(self) -> bool:
        return bool(self.functions or self.store)

    def add(self, function: Callable[[Any], Any], after: bool = False) -> "RemovableHandle":
        """Add a function, and return the handle that removes it.  after: it runs once a leaf's .grad is complete."""
        functions = self.after if after else self.functions
        handle = RemovableHandle(functions)
        functions[handle] = function
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


class WatchedLeaves:
    """Tells the functions of register_post_accumulate_grad_hook when their leaf's .grad is complete, during one backward().

    A leaf is complete once every node that used it has run. If it also has hooks that may replace its gradient, it is complete
    at the end, when they have run.

    order: the nodes that will run.
    """

    def __init__(self, order: Sequence[Any]):
        self.uses: dict[Any, int] = {}  # leaf -> the nodes that used it and have not run
        for node in order:
            for leaf in filter(_watched, node.inputs):
                self.uses[leaf] = self.uses.get(leaf, 0) + 1

    def passed(self, inputs: Sequence[Any]) -> None:
        """Note that a node with these inputs has run."""
        for leaf in filter(_watched, inputs) if self.uses else ():
            self.uses[leaf] -= 1
            if self.uses[leaf] == 0 and not leaf.hooks:
                self._complete(leaf)

    def finish(self) -> None:
        """Call the functions of all leaves that are left."""
        for leaf in list(self.uses):
            self._complete(leaf)

    def _complete(self, leaf: Any) -> None:
        del self.uses[leaf]
        for function in list(leaf.hooks.after.values()):
            function(leaf)


def _watched(place: Any) -> bool:
    """Whether a node's input is a leaf with a function that waits for its gradient."""
    hooks = getattr(place, "hooks", None)  # an edge has none
    return hooks is not None and bool(hooks.after)


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
