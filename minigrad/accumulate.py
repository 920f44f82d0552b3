"""Adding gradients up in place. A reader of engine.py can skip this file: it computes the same sums as `+`, only faster.

A tensor that was used several times receives several gradients, and they add up. `total = total + grad` would allocate a new
array each time, only to drop the old sum. Two measures avoid that; both must know whether other code still reads an array.

1. Add in place. `total += grad` is right only if no one else reads `total`. The first gradient to arrive may belong to someone
   else: the backward pass of a + b hands one array to both inputs, and a reshape hands on a view. An array is *owned* if it
   has memory of its own and the backward pass that returned it neither read it nor returned it twice. The first addition to
   an array that is not owned makes a new array, which is owned from then on.

2. Let the kernel add. Most kernels can add their result to an array while they write it, which saves a pass over memory. The
   backward pass of such an operation calls `ctx.take(i)`. It gets the sum so far for input i, and must return the new sum.
   Three examples:

       x + f(layer_norm(x))      the gradient along the residual path waits, and layernorm's backward adds its own to it
       tied embedding and head   the second use of the matrix adds to the gradient of the first, in place
       a second batch            its gradient is added to the .grad from the first batch, in place

   With to_write=True, take() returns only an array that the kernel may write to: an owned array that shares no memory with
   the arrays that the backward pass reads.
"""

from typing import Any, Sequence


class _Sum:
    """The gradients of one tensor, added up."""

    __slots__ = ("array", "owned")

    def __init__(self, array, owned):
        self.array, self.owned = array, owned

    def add(self, grad):
        if self.owned:
            self.array += grad
        else:
            self.array, self.owned = self.array + grad, True


class GradientSums:
    """The gradients that have arrived during one backward(), summed for each tensor.

    A leaf's sum is its .grad. An interior tensor's sum waits here until the tensor's node runs.
    (A place is a leaf or an engine.Edge, and a node an engine.Node; engine imports this file.)

    in_place: whether Context.take may return a sum. It may not under detect_anomaly: an error must leave .grad unchanged.
    into_leaves: whether a leaf's sum is added to its .grad.
    """

    def __init__(self, in_place: bool = True, into_leaves: bool = True):
        self._in_place, self._into_leaves = in_place, into_leaves
        self._leaves: dict[Any, _Sum] = {}  # leaf with hooks -> the sum that the hooks wait for
        self._sums: dict[Any, list[_Sum | None]] = {}  # node -> the sum for each of its outputs
        self._node: Any = None  # the node whose backward pass is running or has just run
        self._output_grads: list[Any] = []  # its output gradients
        self._taken: set[int] = set()  # the ids of the places whose sums it took
        self._arrays: list[int] = []  # the ids of the arrays that it read and returned

    def pop(self, node: Any) -> list[Any] | None:
        """The gradients of a node's outputs, which are complete now; None if none arrived."""
        sums = self._sums.pop(node, None)
        if sums is None:
            return None
        self._node, self._output_grads = node, [None if s is None else s.array for s in sums]
        for index, hooks in (node.hooks or {}).items():
            if self._output_grads[index] is not None:
                self._output_grads[index] = hooks.run(self._output_grads[index])
        self._taken.clear()
        return self._output_grads

    def returned(self, input_grads: Sequence[Any]) -> None:
        """Note which arrays the node's backward pass read and returned, to tell which of them are owned."""
        self._arrays = [id(a) for a in (*self._output_grads, *self._node.ctx.saved, *input_grads)]

    def add(self, place: Any, grad: Any) -> None:
        """Add a gradient, an array of the place's shape and dtype, to the place's sum."""
        owned = grad.base is None and self._arrays.count(id(grad)) == 1
        taken = id(place) in self._taken  # then grad is the whole sum
        if isinstance(place, tuple):
            node, output = place
            sums = self._sums.setdefault(node, [None] * len(node.outputs))
            earlier = sums[output]
            if taken or earlier is None:
                sums[output] = _Sum(grad, owned)
            else:
                earlier.add(grad)
        elif place.hooks:
            if place in self._leaves:
                self._leaves[place].add(grad)
            else:
                self._leaves[place] = _Sum(grad, owned)
        elif self._into_leaves:
            self._add_to_leaf(place, grad, owned, taken)

    def _add_to_leaf(self, leaf, grad, owned, taken):
        if leaf.grad is None:
            leaf.grad = leaf.result_class(grad if owned else grad.copy())
        else:
            if not taken:
                leaf.grad.array += grad
            elif grad is not leaf.grad.array:  # else the kernel has already added to it
                leaf.grad.array[...] = grad
            leaf.grad.changed()

    def finish(self) -> None:
        """Run the hooks of the leaves, whose sums are complete now."""
        for leaf, total in self._leaves.items():
            grad = leaf.hooks.run(total.array)
            if self._into_leaves:
                self._add_to_leaf(leaf, grad, owned=False, taken=False)

    def take(self, i: int, to_write: bool) -> Any:
        """The sum so far for input i of the running node, or None; see Context.take."""
        inputs = self._node.inputs
        place = inputs[i]
        if not self._in_place or place is None or sum(place is p for p in inputs) > 1:
            return None
        if isinstance(place, tuple):
            node, output = place
            earlier = self._sums.get(node, [None] * (output + 1))[output]
        elif place.hooks or not self._into_leaves:
            return None
        else:
            earlier = None if place.grad is None else _Sum(place.grad.array, True)
        if earlier is None or to_write and not (earlier.owned and self._is_apart(earlier.array)):
            return None
        self._taken.add(id(place))
        return earlier.array

    def _is_apart(self, array: Any) -> bool:
        """Whether an array shares no memory with the arrays that the running backward pass reads."""
        ctx = self._node.ctx
        read = [a for a in (*self._output_grads, *ctx.saved) if isinstance(a, type(array))]
        return not any(ctx.xp.may_share_memory(array, a) for a in read)
