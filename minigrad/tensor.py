"""Tensor: an array, its gradient, and the node of the graph that made it.

The graph is a by-product of computing. Every operation (a Function, in function.py) that is given a tensor with
`requires_grad` leaves behind a Node, which remembers its inputs and what its backward pass needs. `loss.backward()` walks the
nodes from the loss towards the parameters, each after everything that depends on it, and sends gradients along the edges.
"""

from contextlib import contextmanager

import numpy as np

import kernels

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
int32, int64, bool_ = np.dtype("int32"), np.dtype("int64"), np.dtype("bool")


class _Mode:
    """The two switches that change how operations run, set only through the context managers below."""

    grad_enabled = True
    detect_anomaly = False


@contextmanager
def _switched(name, value):
    before = getattr(_Mode, name)
    setattr(_Mode, name, value)
    try:
        yield
    finally:
        setattr(_Mode, name, before)


def no_grad():
    """Inside `with no_grad():` no graph is built: for evaluation, sampling and parameter updates."""
    return _switched("grad_enabled", False)


def enable_grad():
    """Inside `with enable_grad():` the graph is built again, within a no_grad block."""
    return _switched("grad_enabled", True)


def is_grad_enabled():
    return _Mode.grad_enabled


def detect_anomaly():
    """Inside `with detect_anomaly():` the first operation to produce NaN or infinity raises FloatingPointError and is named.

    Forward results and backward gradients are both checked; infinities that an operation was given are not blamed on it.
    """
    return _switched("detect_anomaly", True)


class Node:
    """One operation that ran: its Function, what was saved for the backward pass, and the tensors it was given.

    `inputs` holds, for each positional argument, the Tensor that needs a gradient, or None. `outputs` holds the shape and
    dtype of each result. After its backward pass a node is released: it lets go of everything it saved.

    What was saved must not change before the backward pass needs it. Every tensor counts the changes made to its memory
    (`version`); the node notes the counts of what it saved, and refuses to go backward if one has moved on.
    """

    __slots__ = ("function", "ctx", "inputs", "outputs", "watched", "__weakref__")

    def __init__(self, function, ctx, inputs, outputs):
        self.function, self.ctx, self.inputs = function, ctx, inputs
        self.outputs = [(a.shape, a.dtype) for a in outputs]
        self.watched = ()

    def watch(self, tensors):
        """Remember the versions of those of these tensors that the Function saved."""
        saved = {id(s) for s in self.ctx.saved}
        self.watched = [(t.version, t.version[0], t.shape) for t in tensors if id(t.array) in saved]

    def __repr__(self):
        return f"<{self.function.__name__}>"

    def release(self):
        self.ctx, self.inputs, self.watched = None, (), ()

    def backward(self, output_grads, waiting=()):
        """output_grads: one array (or None, meaning zeros) an output.  Returns one array or None an input.

        waiting: what Context.take may take; it is gone from there afterwards if it was.
        """
        if self.ctx is None:
            raise RuntimeError(
                f"backward passed through {self} a second time, but what it had saved was freed after the first; "
                "call the first backward with retain_graph=True"
            )
        for version, then, shape in self.watched:
            if version[0] != then:
                raise RuntimeError(
                    f"{self} saved a tensor of shape {shape} that was changed in place since; its gradient would be wrong. "
                    "Call backward() before changing it, or change a .clone()"
                )
        xp = self.ctx.xp
        grads = [xp.zeros(s, d) if g is None else g for g, (s, d) in zip(output_grads, self.outputs)]
        self.ctx.waiting = waiting
        result = self.function.backward(self.ctx, *grads)
        result = result if isinstance(result, tuple) else (result,)
        if len(result) != len(self.inputs):
            raise RuntimeError(f"{self} has {len(self.inputs)} inputs, but its backward returned {len(result)} gradients")
        pairs = enumerate(zip(self.inputs, result))
        return [None if t is None or g is None else self._checked(i, t, g) for i, (t, g) in pairs]

    def _checked(self, i, tensor, grad):
        grad = self.ctx.xp.asarray(grad)  # NumPy turns arrays of no dimensions into scalars
        if grad.shape != tensor.shape:
            raise RuntimeError(f"{self} returned a gradient of shape {grad.shape} for input {i} of shape {tensor.shape}")
        if _Mode.detect_anomaly and not self.ctx.xp.isfinite(grad).all():
            raise FloatingPointError(f"the backward of {self} gave NaN or infinity for its input {i}, shape {tensor.shape}")
        return grad if grad.dtype == tensor.dtype else grad.astype(tensor.dtype)


class Tensor:
    """A NumPy or CuPy array that can be differentiated through.

    array: the raw array.  requires_grad: whether gradients are wanted.  grad: None, or after backward() a Tensor of the same
    shape and dtype.  node, index: the operation this tensor came from and which of its results it is; None for a leaf.
    version: how often this memory was written to, shared by all tensors that view it; code that writes into `array` itself
    should call changed(). Methods and operators are attached by `minigrad.ops`, and are named as PyTorch's are.
    """

    __slots__ = ("array", "requires_grad", "grad", "node", "index", "version", "_retain_grad", "__weakref__")
    __array_priority__ = 1000  # `ndarray * tensor` asks the tensor, not NumPy

    def __init__(self, array, requires_grad=False, node=None, index=0, version=None):
        kernels.array_module(array)  # raises where it is neither NumPy's nor CuPy's
        if requires_grad and array.dtype.kind != "f":
            raise RuntimeError(f"only floating-point tensors can require gradients, not {array.dtype}")
        self.array, self.requires_grad, self.node, self.index = array, requires_grad, node, index
        self.grad, self._retain_grad = None, False
        self.version = [0] if version is None else version

    # what it is

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    @property
    def device(self):
        return kernels.device_of(self.array)

    @property
    def ndim(self):
        return self.array.ndim

    @property
    def is_leaf(self):
        return self.node is None

    def dim(self):
        return self.array.ndim

    def size(self, dim=None):
        if dim is not None and not -self.ndim <= dim < self.ndim:
            raise IndexError(f"size: dim={dim} is out of range for a tensor of shape {self.shape}")
        return self.shape if dim is None else self.shape[dim]

    def numel(self):
        return self.array.size

    def element_size(self):
        return self.array.itemsize

    def __len__(self):
        if not self.shape:
            raise TypeError("a tensor of no dimensions has no length")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        body = np.array2string(kernels.to_device(self.array, "cpu"), separator=", ", precision=4, prefix="tensor(")
        parts = [body]
        if self.dtype not in (float32, int64, bool_):
            parts.append(f"dtype={self.dtype}")
        if self.device != "cpu":
            parts.append(f"device='{self.device}'")
        if self.node is not None:
            parts.append(f"grad_fn={self.node}")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    def __getattr__(self, name):  # only reached for names that nothing defines
        raise AttributeError(f"Tensor has no {name!r}: minigrad implements the part of PyTorch's interface that a GPT needs")

    # out of the graph, and into Python and NumPy

    def item(self):
        if self.array.size != 1:
            raise RuntimeError(f"item() needs a tensor of one element, this one has shape {self.shape}")
        return self.array.item()

    def tolist(self):
        return self.array.tolist()

    def numpy(self, *, force=False):
        """The array itself, where the tensor is on the CPU and outside the graph; with force=True a copy of any other."""
        if force:
            return kernels.to_device(self.array, "cpu")
        if self.requires_grad:
            raise RuntimeError("numpy() on a tensor that requires grad would lose its graph; call .detach().numpy()")
        if self.device != "cpu":
            raise RuntimeError("numpy() needs the tensor on the CPU; call .cpu().numpy()")
        return self.array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        if self.dtype.kind not in "iub":
            raise TypeError(f"only an integer tensor of one element can be an index, not {self.dtype}")
        return int(self.item())

    def __bool__(self):
        if self.array.size != 1:
            raise RuntimeError(f"the truth of a tensor of shape {self.shape} is ambiguous; use .any() or .all()")
        return bool(self.array.item())

    def __format__(self, spec):
        return format(self.item(), spec) if spec else repr(self)

    def detach(self):
        """The same array, outside the graph."""
        return Tensor(self.array, version=self.version)

    def changed(self):
        """Note that this tensor's memory was written to, so that no gradient is computed from what it held before."""
        self.version[0] += 1

    @property
    def data(self):
        """The same array, outside the graph; assigning replaces the array and keeps the tensor's identity."""
        return self.detach()

    @data.setter
    def data(self, value):
        if value.shape != self.shape:
            raise RuntimeError(f".data must keep its shape {self.shape}, got {value.shape}")
        self.array = value.array if isinstance(value, Tensor) else value
        self.version = value.version if isinstance(value, Tensor) else [0]

    # gradients

    def requires_grad_(self, requires_grad=True):
        if self.node is not None:
            raise RuntimeError("requires_grad can only be changed on a leaf; detach() this tensor first")
        if requires_grad and self.dtype.kind != "f":
            raise RuntimeError(f"only floating-point tensors can require gradients, not {self.dtype}")
        self.requires_grad = requires_grad
        return self

    def retain_grad(self):
        """Keep the gradient of this interior tensor in .grad too (leaves always keep theirs)."""
        self._retain_grad = True

    def backward(self, gradient=None, retain_graph=False):
        """Add d(self)/d(leaf) to the .grad of every leaf that this tensor was computed from.

        gradient: the upstream gradient, of this tensor's shape; may be left out for a single number, where it is 1.
        retain_graph: keep what the operations saved, so that backward can run again.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that does not require grad: no parameter took part in computing it")
        if gradient is None:
            if self.array.size != 1:
                raise RuntimeError(f"backward() of a tensor of shape {self.shape} needs a gradient of that shape")
            upstream = kernels.array_module(self.array).ones_like(self.array)
        else:
            if not isinstance(gradient, Tensor):
                raise TypeError(f"the gradient must be a tensor, not {type(gradient).__name__}")
            upstream = gradient.array
            if upstream.shape != self.shape:
                raise RuntimeError(f"the gradient has shape {upstream.shape}, the tensor {self.shape}; they must agree")
        with no_grad():
            _backward(self, upstream.astype(self.dtype, copy=False), retain_graph)


# Gradients flow backwards. A tensor used in several places has several influences on the loss, and they add; so every
# gradient that arrives is accumulated, and a node runs only when all nodes that depend on it have run.
def _backward(root, upstream, retain_graph):
    pending = {}  # node -> one _Gradient an output
    _deliver(root, upstream, False, pending)
    for node in topological_order(root):
        received = pending.pop(node, None)
        if received is None:
            continue  # nothing that depends on this node was differentiable
        output_grads = [None if g is None else g.value for g in received]
        adding = node.function.adds_up and node.ctx is not None and not _Mode.detect_anomaly
        offered = _waiting(node, output_grads, pending) if adding else {}
        waiting = dict(offered)
        input_grads = node.backward(output_grads, waiting)
        held = [id(a) for a in (*output_grads, *node.ctx.saved, *input_grads)]
        for i, (tensor, grad) in enumerate(zip(node.inputs, input_grads)):
            if grad is not None:
                fresh = grad.base is None and held.count(id(grad)) == 1
                _deliver(tensor, grad, fresh, pending, whole=i in offered and i not in waiting)
        if not retain_graph:
            node.release()


class _Gradient:
    """A gradient being summed up. The first array to arrive may belong to somebody else (an addition hands the same one to
    both of its inputs), so it is only added to in place once it is known to be ours."""

    __slots__ = ("value", "ours")

    def __init__(self, value, ours):
        self.value, self.ours = value, ours

    def add(self, grad):
        if self.ours:
            self.value += grad
        else:
            self.value, self.ours = self.value + grad, True


def _waiting(node, output_grads, pending):
    """{i: (the gradient of input i so far, whether it may be written to)}, for Context.take."""
    waiting = {}
    for i, tensor in enumerate(node.inputs):
        if tensor is None or tensor._retain_grad or sum(tensor is other for other in node.inputs) > 1:
            continue
        if tensor.node is not None:
            slots = pending.get(tensor.node)
            gradient = slots and slots[tensor.index]
        else:
            gradient = None if tensor.grad is None else _Gradient(tensor.grad.array, True)
        if gradient:
            read = [a for a in (*output_grads, *node.ctx.saved) if isinstance(a, type(gradient.value))]
            apart = not any(node.ctx.xp.may_share_memory(gradient.value, a) for a in read)
            waiting[i] = gradient.value, gradient.ours and apart
    return waiting


def _deliver(tensor, grad, fresh, pending, whole=False):
    """Add grad to what tensor has received; whole: that was added already, so grad takes its place."""
    if tensor.node is None or tensor._retain_grad:
        if tensor.grad is None:
            tensor.grad = Tensor(grad if fresh and tensor.node is None else grad.copy())
        elif not whole:
            tensor.grad.array += grad
        elif grad is not tensor.grad.array:  # else it was added to in place
            tensor.grad.array[...] = grad
    if tensor.node is not None:
        slots = pending.setdefault(tensor.node, [None] * len(tensor.node.outputs))
        if whole or slots[tensor.index] is None:
            slots[tensor.index] = _Gradient(grad, fresh)
        else:
            slots[tensor.index].add(grad)


def topological_order(root):
    """The nodes behind `root`, each before every node that it was computed from.

    A depth-first walk with its own stack: a graph of 100,000 nodes would exceed Python's recursion limit. A node is listed
    once all its inputs are, and the list is then turned around.
    """
    order, seen = [], set()
    stack = [(root.node, False)] if root.node is not None else []
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((t.node, False) for t in node.inputs if t is not None and t.node is not None)
    return order[::-1]
