"""Every differentiable operation, a file a family, and the table that makes them methods and operators of Tensor."""

import numpy as np

import kernels
from minigrad.ops import activations, arithmetic, indexing, losses, products, reductions, shape
from minigrad.ops.arithmetic import to_dtype
from minigrad.ops.axes import broadcast
from minigrad.ops.indexing import check_in_place
from minigrad.tensor import Tensor

METHODS = {
    arithmetic: "add sub mul div pow neg exp log sqrt rsqrt abs square clamp maximum minimum "
    "eq ne lt le gt ge logical_and logical_or logical_not isnan isfinite",
    activations: "sigmoid logsigmoid tanh relu softmax log_softmax",
    reductions: "sum mean var std norm max min amax amin argmax argmin logsumexp cumsum all any",
    shape: "reshape view view_as flatten permute transpose t squeeze unsqueeze expand contiguous clone split chunk tril triu",
    indexing: "masked_fill gather",
    products: "matmul",
}
OPERATORS = {
    "__add__": arithmetic.add,
    "__sub__": arithmetic.sub,
    "__mul__": arithmetic.mul,
    "__truediv__": arithmetic.div,
    "__pow__": arithmetic.pow,
    "__neg__": arithmetic.neg,
    "__abs__": arithmetic.abs,
    "__radd__": lambda self, other: arithmetic.add(other, self),
    "__rsub__": lambda self, other: arithmetic.sub(other, self),
    "__rmul__": lambda self, other: arithmetic.mul(other, self),
    "__rtruediv__": lambda self, other: arithmetic.div(other, self),
    "__rpow__": lambda self, other: arithmetic.pow(other, self),
    "__matmul__": products.matmul,
    "__eq__": arithmetic.eq,
    "__ne__": arithmetic.ne,
    "__lt__": arithmetic.lt,
    "__le__": arithmetic.le,
    "__gt__": arithmetic.gt,
    "__ge__": arithmetic.ge,
    "__and__": arithmetic.bitwise_and,
    "__or__": arithmetic.bitwise_or,
    "__invert__": arithmetic.bitwise_not,
    "__getitem__": indexing.getitem,
    "__setitem__": indexing.setitem,
    "__hash__": object.__hash__,  # == compares elements, so a tensor is hashed by identity
}


def to(self, *where):
    """The tensor on another device ("cpu", "cuda", "emulator") and/or in another dtype; itself where nothing changes."""
    result = self
    for target in where:
        if isinstance(target, str) and target in kernels.DEVICES:
            result = _to_device(result, target)
        elif isinstance(target, Tensor):
            result = to(result, target.device, target.dtype)
        else:
            try:
                dtype = np.dtype(target)
            except TypeError:
                raise TypeError(f"to() takes a device ('cpu', 'cuda', 'emulator') or a dtype, not {target!r}") from None
            result = to_dtype(result, dtype)
    return result


def _to_device(tensor, device):
    if tensor.device == device:
        return tensor
    if tensor.requires_grad:
        raise RuntimeError("moving a tensor that requires grad between devices is not recorded; use module.to(device)")
    return Tensor(kernels.to_device(tensor.array, device))


# In place: only where nothing recorded could go wrong (see in_place_allowed), for parameter updates within no_grad().


def _in_place(name, compute):
    def method(self, *args, **kwargs):
        check_in_place(name, self, *args)
        value = compute(self, *args, **kwargs).array
        if value.dtype.kind == "f" and self.dtype.kind != "f":
            raise RuntimeError(f"{name}: a result of {value.dtype} cannot be written into a tensor of {self.dtype}")
        if broadcast(name, self.shape, value.shape) != self.shape:
            raise RuntimeError(f"{name}: a result of shape {value.shape} cannot be written into shape {self.shape}")
        self.array[...] = value
        self.changed()
        return self

    method.__name__ = name
    method.__doc__ = f"In place: allowed within no_grad(), or where no tensor involved requires grad ({name})."
    return method


def _filled_from(self, value):
    return value if isinstance(value, Tensor) else Tensor(np.asarray(value))


IN_PLACE = {
    "add_": lambda self, other, *, alpha=1: self + (other if alpha == 1 else other * alpha),
    "sub_": lambda self, other, *, alpha=1: self - (other if alpha == 1 else other * alpha),
    "mul_": arithmetic.mul,
    "div_": arithmetic.div,
    "clamp_": arithmetic.clamp,
    "copy_": _filled_from,
    "fill_": _filled_from,
    "zero_": lambda self: _filled_from(self, 0),
}


def _attach():
    for module, names in METHODS.items():
        for name in names.split():
            setattr(Tensor, name, getattr(module, name))
    for name, function in OPERATORS.items():
        setattr(Tensor, name, function)
    for name, compute in IN_PLACE.items():
        setattr(Tensor, name, _in_place(name, compute))
    for operator, name in (("__iadd__", "add_"), ("__isub__", "sub_"), ("__imul__", "mul_"), ("__itruediv__", "div_")):
        setattr(Tensor, operator, getattr(Tensor, name))
    Tensor.to = to
    Tensor.cpu = lambda self: to(self, "cpu")
    Tensor.cuda = lambda self: to(self, "cuda")
    Tensor.float = lambda self: to_dtype(self, "float32")
    Tensor.double = lambda self: to_dtype(self, "float64")
    Tensor.long = lambda self: to_dtype(self, "int64")
    Tensor.bool = lambda self: to_dtype(self, "bool")
    Tensor.T = property(shape.t)
    Tensor.mT = property(lambda self: shape.transpose(self, -1, -2))


_attach()

__all__ = ["activations", "arithmetic", "indexing", "losses", "products", "reductions", "shape"]
