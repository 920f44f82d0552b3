"""Function: an operation as a pair, forward and backward, and the Context that carries what passes between the two."""

import kernels
from minigrad.tensor import Node, Tensor, _Mode


class Context:
    """What a forward pass leaves for its backward pass.

    xp: numpy or cupy.  needs: for each positional argument, whether its gradient is wanted (work for the others can be
    skipped).  saved: whatever `save` was given.  kernels: the kernel set that serves these arrays, forward and backward.
    waiting: see `take`.
    """

    __slots__ = ("xp", "needs", "saved", "waiting", "_array", "_kernels")

    def __init__(self, array, needs):
        self.xp, self.needs, self.saved = kernels.array_module(array), needs, ()
        self.waiting = ()
        self._array, self._kernels = array, None

    @property
    def kernels(self):
        if self._kernels is None:
            self._kernels, self._array = kernels.serving(self._array), None
        return self._kernels

    def save(self, *values):
        self.saved = values

    def take(self, i, to_write=False):
        """The gradient of input i that has come from the other uses of that tensor so far, or None.

        to_write: only if it may be written to, since nobody else holds it.

        Gradients add up, and an addition by itself reads and writes much memory for little work. A backward pass whose kernel
        can add on its way takes what is waiting and returns the sum; of one that does not ask, the engine adds the result.
        """
        if i not in self.waiting or (to_write and not self.waiting[i][1]):
            return None
        return self.waiting.pop(i)[0]


class Function:
    """A differentiable operation. Subclasses write two static methods and do no arithmetic of weight themselves:

        forward(ctx, *args, **settings) -> array, or a tuple of arrays
        backward(ctx, *output_grads)    -> one gradient (or None) for each positional argument of forward

    `forward` is given raw arrays where the caller passed tensors. `backward` returns new arrays, or views of the gradients it
    was given; it never writes into those or into what was saved. Then `TheFunction.apply(...)` computes and records.

    creates_values: False for an operation that only selects among given values, and is not to blame for an infinity there.
    adds_up: True for one whose backward pass asks for the gradients that are waiting (Context.take).
    """

    creates_values, adds_up = True, False

    @staticmethod
    def forward(ctx, *args, **settings):
        raise NotImplementedError

    @staticmethod
    def backward(ctx, *output_grads):
        raise NotImplementedError

    @classmethod
    def apply(cls, *args, **settings):
        given = [a for a in args if isinstance(a, Tensor)]
        if not given:
            raise TypeError(f"{cls.__name__} needs at least one Tensor, got {', '.join(type(a).__name__ for a in args)}")
        check_one_device(cls.__name__, given)
        floats = [t.array for t in given if t.array.dtype.kind == "f"]
        needs = tuple([_Mode.grad_enabled and isinstance(a, Tensor) and a.requires_grad for a in args])
        ctx = Context(floats[0] if floats else given[0].array, needs)

        result = cls.forward(ctx, *[a.array if isinstance(a, Tensor) else a for a in args], **settings)
        outputs = [ctx.xp.asarray(a) for a in (result if isinstance(result, tuple) else (result,))]  # NumPy's scalars too
        if _Mode.detect_anomaly:
            _check_finite(cls, ctx.xp, given, outputs)
        node = Node(cls, ctx, [a if n else None for a, n in zip(args, needs)], outputs) if True in needs else None
        made = [_made(a, node, i, _shared_version(a, given)) for i, a in enumerate(outputs)]
        if node is not None:
            node.watch(given + made)
        return tuple(made) if isinstance(result, tuple) else made[0]


def _made(array, node, index, version):
    if node is None or array.dtype.kind != "f":
        return Tensor(array, version=version)
    return Tensor(array, True, node, index, version)


def check_one_device(name, tensors):
    """Raise RuntimeError, naming the operation and the shapes, where the tensors do not all live on one device."""
    kinds = [type(t.array) for t in tensors]
    if kinds.count(kinds[0]) < len(kinds) and len({kernels.array_module(t.array) for t in tensors}) > 1:
        shapes = ", ".join(f"{t.shape} on {t.device}" for t in tensors)
        raise RuntimeError(f"{name} was given tensors on different devices ({shapes}); move them with .to(device)")


def _shared_version(array, given):
    """The version of the tensor that `array` is a view of, None if it has memory of its own."""
    owner = array if array.base is None else array.base
    for t in given:
        if owner is t.array or owner is t.array.base:
            return t.version
    return None


def _check_finite(function, xp, given, outputs):
    if not function.creates_values or all(xp.isfinite(a).all() for a in outputs):
        return
    if not all(xp.isfinite(t.array).all() for t in given):
        return  # it was given the bad value
    shapes = ", ".join(str(t.shape) for t in given)
    raise FloatingPointError(f"{function.__name__} made NaN or infinity out of finite inputs of shapes {shapes}")
