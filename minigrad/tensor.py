"""Tensor: an array that can be differentiated through, with PyTorch's methods.

engine.py computes gradients, and ops/ has the operations and their methods, one file per family. This file joins both and
adds the rest: a tensor's properties, conversion to Python, NumPy and other dtypes, and changes in place.
"""

import builtins
import weakref
from typing import TYPE_CHECKING, Any, Callable, Iterator, TypeVar

import numpy as np

import kernels
from minigrad.drawing.html import tensor_html
from minigrad.dtypes import bool_, float16, float32, float64, int32, int64
from minigrad.engine import TensorBase, TensorT
from minigrad.hooks import Hooks, RemovableHandle
from minigrad.modes import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from minigrad.ops.activations import ActivationMethods
from minigrad.ops.arithmetic import ArithmeticMethods, add, clamp, div, floor_divide, mul, pow, remainder, sub
from minigrad.ops.comparisons import ComparisonMethods, bitwise_and, bitwise_or
from minigrad.ops.in_place import assign, replace, setitem
from minigrad.ops.indexing import IndexingMethods, index_add, masked_fill, scatter
from minigrad.ops.operands import Number, Operand, as_float, as_int, to_dtype
from minigrad.ops.products import ProductMethods
from minigrad.ops.reductions import ReductionMethods
from minigrad.ops.shape import ShapeMethods
from minigrad.ops.sorting import SortingMethods
from minigrad.random import default_generator

__all__ = ["Tensor", "bool_", "detect_anomaly", "enable_grad", "float16", "float32", "float64", "int32", "int64"]
__all__ += ["is_grad_enabled", "no_grad"]

SelfT = TypeVar("SelfT", bound="Tensor")


class Tensor(
    ArithmeticMethods,
    ComparisonMethods,
    ActivationMethods,
    ReductionMethods,
    ShapeMethods,
    IndexingMethods,
    SortingMethods,
    ProductMethods,
):
    """A NumPy or CuPy array that can be differentiated through.

    >>> import minigrad as mg
    >>> x = mg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> y = (x @ x.T).relu().sum()
    >>> y
    tensor(52., grad_fn=<Sum>)
    >>> y.backward()
    >>> x.grad
    tensor([[ 8., 12.],
            [ 8., 12.]])
    """

    __slots__ = ()
    __array_priority__ = 1000  # `ndarray * tensor` asks the tensor, not NumPy

    # ── properties ──

    @property
    def is_leaf(self) -> builtins.bool:
        """Whether no recorded operation computed this tensor."""
        return self.node is None

    def dim(self) -> builtins.int:
        """The number of axes."""
        return self.array.ndim

    def size(self, dim: builtins.int | None = None) -> Any:
        """The shape, or the length of one axis."""
        if dim is not None and not -self.ndim <= as_int(dim, "size", "dim") < self.ndim:
            raise IndexError(f"size: dim={dim} is out of range for a tensor of shape {self.shape}")
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> builtins.int:
        """The number of elements."""
        return self.array.size

    def element_size(self) -> builtins.int:
        """Bytes per element."""
        return self.array.itemsize

    def __len__(self) -> builtins.int:
        if not self.shape:
            raise TypeError("len: a tensor of no dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        parts = [np.array2string(kernels.to_device(self.array, "cpu"), separator=", ", precision=4, prefix="tensor(")]
        if self.dtype not in (float32, int64, bool_):
            parts.append(f"dtype={self.dtype}")
        if self.device != "cpu":
            parts.append(f"device='{self.device}'")
        if self.node is not None:
            parts.append(f"grad_fn={self.node}")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    def _repr_html_(self) -> str:  # what notebooks show
        return tensor_html(self)

    if not TYPE_CHECKING:  # a type checker would take this to mean that every name exists

        def __getattr__(self, name):  # only called for names that nothing defines
            raise AttributeError(
                f"Tensor has no {name!r}: minigrad implements the part of PyTorch's interface that a GPT needs"
            )

    # ── to Python and NumPy ──

    def item(self) -> Any:
        """The only element as a Python number."""
        if self.array.size != 1:
            raise RuntimeError(f"item: expected a tensor of one element, got shape {self.shape}")
        return self.array.item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self.array.tolist()

    def numpy(self, *, force: builtins.bool = False) -> np.ndarray:
        """This CPU tensor's array, not a copy. force=True allows tensors that require grad, and copies from a device."""
        if force:
            return kernels.to_device(self.array, "cpu")
        if self.requires_grad:
            raise RuntimeError("numpy: this tensor requires grad, and an array has no graph; call .detach().numpy()")
        if self.device != "cpu":
            raise RuntimeError("numpy: expected a tensor on the CPU; call .cpu().numpy()")
        return self.array

    def __array__(self, dtype: Any = None, copy: builtins.bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __float__(self) -> builtins.float:
        return float(self.item())

    def __int__(self) -> builtins.int:
        return int(self.item())

    def __index__(self) -> builtins.int:
        if self.dtype.kind not in "iub":
            raise TypeError(f"index: expected an integer tensor of one element, got {self.dtype}")
        return int(self.item())

    def __bool__(self) -> builtins.bool:
        if self.array.size != 1:
            raise RuntimeError(f"bool: the truth of a tensor of shape {self.shape} is ambiguous; use .any() or .all()")
        return bool(self.array.item())

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.node is not None:
            raise RuntimeError("deepcopy: expected a leaf, got a tensor that an operation computed; copy its .detach()")
        return super().__reduce_ex__(protocol)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    # ── to another dtype or device ──

    def to(self, *targets: Any, device: Any = None, dtype: Any = None, non_blocking: builtins.bool = False) -> "Tensor":
        """This tensor on another device ("cpu", "cuda", "emulator") and/or in another dtype; itself if nothing changes.

        non_blocking is accepted and without effect.
        """
        result: Tensor = self
        for target in (target for target in (*targets, device, dtype) if target is not None):
            if isinstance(target, str) and target in kernels.DEVICES:
                result = result._to_device(target)
            elif isinstance(target, Tensor):
                result = result.to(target.device, target.dtype)
            else:
                try:
                    dtype = np.dtype(target)
                except TypeError as error:
                    expected = "a device ('cpu', 'cuda', 'emulator') or a dtype"
                    raise TypeError(f"to: expected {expected}, got {target!r} ({error})") from None
                result = to_dtype(result, dtype)
        return result

    def _to_device(self, device: str) -> "Tensor":
        if self.device == device:
            return self
        if self.requires_grad:
            raise RuntimeError("to: moving a tensor that requires grad between devices is not recorded; use module.to(device)")
        return Tensor(kernels.to_device(self.array, device))

    def cpu(self) -> "Tensor":
        """This tensor on the CPU."""
        return self.to("cpu")

    def cuda(self) -> "Tensor":
        """This tensor on the GPU."""
        return self.to("cuda")

    def float(self) -> "Tensor":
        """This tensor in float32."""
        return to_dtype(self, float32)

    def double(self) -> "Tensor":
        """This tensor in float64."""
        return to_dtype(self, float64)

    def long(self) -> "Tensor":
        """This tensor in int64."""
        return to_dtype(self, int64)

    def int(self) -> "Tensor":
        """This tensor in int32."""
        return to_dtype(self, int32)

    def half(self) -> "Tensor":
        """This tensor in float16."""
        return to_dtype(self, float16)

    def bool(self) -> "Tensor":
        """This tensor as booleans: whether each element is nonzero."""
        return to_dtype(self, bool_)

    # ── in and out of the graph ──

    def detach(self) -> "Tensor":
        """The same array, outside the graph."""
        return Tensor(self.array)

    @property
    def data(self) -> "Tensor":
        """The same array, outside the graph. Assigning replaces the array and keeps the tensor's identity."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        if not hasattr(value, "dtype"):
            raise TypeError(f"data: expected a tensor or an array, got {type(value).__name__}")
        if value.shape != self.shape:
            raise RuntimeError(f"data: expected shape {self.shape}, got {value.shape}")
        self.array = value.array if isinstance(value, Tensor) else value
        if self.grad is not None and (self.grad.dtype, self.grad.device) != (self.dtype, self.device):
            self.grad = self.grad.detach().to(self.device, self.dtype)

    def requires_grad_(self: TensorT, requires_grad: builtins.bool = True) -> TensorT:
        """Choose whether backward() computes a gradient for this leaf."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad_fn(self) -> Any:
        """The graph's node that computed this tensor; None for a leaf. Its name() is the operation's."""
        return self.node

    def register_hook(self, hook: Callable[["Tensor"], "Tensor | None"]) -> RemovableHandle:
        """Call hook(grad) when backward() has computed this tensor's gradient; a tensor that it returns replaces the gradient.

        Returns a handle whose remove() removes the hook.
        """
        if not self.requires_grad:
            raise RuntimeError("register_hook: this tensor requires no gradient, so the hook would never run")
        if not callable(hook):
            raise TypeError(f"register_hook: expected a function, got {type(hook).__name__}")
        return self._hooks().add(hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[["Tensor"], None]) -> RemovableHandle:
        """Call hook(tensor) in every backward() as soon as this leaf's .grad is complete, while backward() goes on.

        Returns a handle whose remove() removes the hook.
        """
        if self.edge is not None or not self.requires_grad:
            raise RuntimeError("register_post_accumulate_grad_hook: expected a leaf that requires grad; others store no .grad")
        if not callable(hook):
            raise TypeError(f"register_post_accumulate_grad_hook: expected a function, got {type(hook).__name__}")
        return self._hooks().add(hook, after=True)

    def _hooks(self) -> Hooks:
        if self.edge is None:
            self.hooks = self.hooks or Hooks(self)
            return self.hooks
        node, output = self.edge
        node.hooks = node.hooks or {}
        return node.hooks.setdefault(output, Hooks(self))

    def retain_grad(self) -> None:
        """Store the gradient of this interior tensor in .grad too (leaves always store theirs)."""
        if not self.requires_grad:
            raise RuntimeError("retain_grad: this tensor requires no gradient, so there is none to store")
        if self.node is None or self.retains_grad:
            return
        this = weakref.ref(self)

        def store(grad: Tensor) -> None:
            tensor = this()
            if tensor is not None:
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad

        self._hooks().store = store

    @property
    def retains_grad(self) -> builtins.bool:
        """Whether retain_grad() was called on this interior tensor."""
        hooks = self.edge.node.hooks.get(self.edge.output) if self.edge is not None and self.edge.node.hooks else None
        return hooks is not None and hooks.store is not None

    # ── in place ──
    #
    # ops/in_place.py says which changes are recorded.

    __setitem__ = setitem

    def add_(self: SelfT, other: Operand, *, alpha: Number = 1) -> SelfT:
        """self += alpha · other."""
        return assign(self, "add_", lambda x, y: add(x, y if alpha == 1 else y * alpha), other)

    def sub_(self: SelfT, other: Operand, *, alpha: Number = 1) -> SelfT:
        """self -= alpha · other."""
        return assign(self, "sub_", lambda x, y: sub(x, y if alpha == 1 else y * alpha), other)

    def mul_(self: SelfT, other: Operand) -> SelfT:
        """self *= other."""
        return assign(self, "mul_", mul, other)

    def div_(self: SelfT, other: Operand) -> SelfT:
        """self /= other."""
        return assign(self, "div_", div, other)

    def clamp_(self: SelfT, min: Number | None = None, max: Number | None = None) -> SelfT:
        """Limit each element to [min, max]."""
        return assign(self, "clamp_", clamp, min, max)

    def copy_(self: SelfT, other: Operand) -> SelfT:
        """Copy the elements of another tensor into this tensor."""
        return replace(self, "copy_", other)

    def fill_(self: SelfT, value: Operand) -> SelfT:
        """Overwrite every element with one number."""
        return replace(self, "fill_", value)

    def zero_(self: SelfT) -> SelfT:
        """Overwrite every element with 0."""
        return replace(self, "zero_", 0)

    def masked_fill_(self: SelfT, mask: Any, value: Operand) -> SelfT:
        """Overwrite the elements where mask is True with one number."""
        return assign(self, "masked_fill_", masked_fill, mask, value)

    def normal_(self: SelfT, mean: builtins.float = 0.0, std: builtins.float = 1.0, *, generator: Any = None) -> SelfT:
        """Overwrite every element with a normal number, drawn from `generator` (the default generator if None)."""
        if self.dtype.kind != "f":
            raise TypeError(f"normal_: expected a floating-point tensor, got {self.dtype}")
        mean, std = as_float(mean, "normal_", "mean"), as_float(std, "normal_", "std")
        if not std >= 0:
            raise RuntimeError(f"normal_: expected std of at least 0, got {std:g}")
        numbers = (generator or default_generator).numpy.normal(mean, std, self.shape)
        return replace(self, "normal_", Tensor(kernels.to_device(np.asarray(numbers, self.dtype), self.device)))

    def index_add_(self: SelfT, dim: builtins.int, index: Any, source: "Tensor", *, alpha: Number = 1) -> SelfT:
        """self[index[i]] += alpha · source[i] along `dim`; a repeated index adds several times."""
        return assign(self, "index_add_", lambda x, y: index_add(x, dim, index, y, alpha=alpha), source)

    def scatter_(self: SelfT, dim: builtins.int, index: Any, src: Operand, *, reduce: None = None) -> SelfT:
        """scatter() into this tensor's memory."""
        return assign(self, "scatter_", lambda x, y: scatter(x, dim, index, y, reduce=reduce), src)

    def remainder_(self: SelfT, other: Operand) -> SelfT:
        """self %= other."""
        return assign(self, "remainder_", remainder, other)

    def floor_divide_(self: SelfT, other: Operand) -> SelfT:
        """self //= other."""
        return assign(self, "floor_divide_", floor_divide, other)

    def pow_(self: SelfT, exponent: Operand) -> SelfT:
        """self **= exponent."""
        return assign(self, "pow_", pow, exponent)

    def bitwise_and_(self: SelfT, other: Operand) -> SelfT:
        """self &= other."""
        return assign(self, "bitwise_and_", bitwise_and, other)

    def bitwise_or_(self: SelfT, other: Operand) -> SelfT:
        """self |= other."""
        return assign(self, "bitwise_or_", bitwise_or, other)

    __iadd__, __isub__, __imul__, __itruediv__, __ipow__ = add_, sub_, mul_, div_, pow_
    __ifloordiv__, __imod__ = floor_divide_, remainder_
    __iand__, __ior__ = bitwise_and_, bitwise_or_


TensorBase.result_class = Tensor
