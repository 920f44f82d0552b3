"""Changes in place: which are recorded in the graph, and which are refused.

A change in place of a tensor that an operation computed is recorded: the tensor becomes the result of the change, in the same
memory. An operation that used the tensor before keeps its old edge; its backward pass refuses only if it saved the values that
were overwritten (writes.py). The same holds for a constant that receives a tensor of the graph: total += loss. A leaf that
requires grad can be changed only within no_grad().
"""

import sys
from collections.abc import Callable
from typing import Any

import kernels
from minigrad.dtypes import float16
from minigrad.engine import TensorBase, TensorT
from minigrad.function import Function
from minigrad.modes import is_grad_enabled
from minigrad.ops.indexing import assigned_value, two_steps
from minigrad.ops.operands import KIND_RANK, Operand, as_scalar, broadcast, shape_of, to_dtype
from minigrad.writes import note_recorded


def assign(input: TensorT, name: str, compute: Callable[..., Any], *operands: Any) -> TensorT:
    """Write compute(input, *operands) into the input's memory, and return the input."""
    if records(name, input, *operands):
        return _record(input, name, compute, *operands)
    _write_result(name, input, compute(input, *operands))
    return input


def _record(input: TensorT, name: str, compute: Callable[..., Any], *operands: Any) -> TensorT:
    """The same for a change that is recorded."""
    # What the change saves for its backward pass must survive the change: it works on a copy.
    before = input.result_class(input.array.copy(), input.requires_grad, input.edge)
    result = compute(before, *(before if operand is input else operand for operand in operands))
    _write_result(name, input, result)
    input.edge, input._requires_grad = to_dtype(result, input.dtype).edge, True
    note_recorded(input.array, input.edge.node.time)
    return input


def _write_result(name: str, input: TensorBase, result: TensorBase) -> None:
    if KIND_RANK[result.dtype.kind] > KIND_RANK[input.dtype.kind]:
        raise RuntimeError(f"{name}: a result of {result.dtype} cannot be written into a tensor of {input.dtype}")
    if broadcast(name, input.shape, result.shape) != input.shape:
        raise RuntimeError(f"{name}: a result of shape {result.shape} cannot be written into shape {input.shape}")
    write(name, input, result.array)


def records(name: str, input: TensorBase, *operands: Any) -> bool:
    """Whether a change in place is recorded: of an interior tensor always, of a constant if an operand requires grad.

    The constant then becomes an interior tensor. It may only if no other tensor views its memory, for such a view would have
    to join the graph as well. A view holds a reference to the array that owns the memory; here that array must have one
    reference, this tensor's.

    Raises:
        RuntimeError: if the change would lose a gradient.
    """
    if not is_grad_enabled():
        return False
    if input.edge is not None:
        _check_interior(name, input)
        return True
    if input.requires_grad:
        expected = f"{name}: expected an interior tensor to change in place, got a leaf that requires grad"
        raise RuntimeError(f"{expected}; use no_grad(), or make a new tensor (a = a + b)")
    if not any(isinstance(t, TensorBase) and t.requires_grad for t in operands):
        return False
    alone = input.array.base is None and sys.getrefcount(input.array) <= 2  # this tensor's, and this call's argument
    if input.dtype.kind != "f" or not alone:
        expected = f"{name}: expected a floating-point tensor with memory of its own to change in place"
        raise RuntimeError(f"{expected}, since an operand requires grad; make a new tensor (a = a + b)")
    return True


def _check_interior(name: str, input: Any) -> None:
    """Raise RuntimeError if a change in place of this interior tensor would change other tensors of the graph."""
    if input.node.ctx is None:
        raise RuntimeError(f"{name}: backward() has freed the graph behind this tensor; change a .detach() of it")
    base = input.array.base
    if base is not None and sys.getrefcount(base) > 3:  # this array's reference, the variable's, and this call's argument
        raise RuntimeError(f"{name}: this tensor is a view of another tensor of the graph; change a .clone() of it")
    if input.retains_grad:
        raise RuntimeError(f"{name}: retain_grad() was called before this change in place; call it afterwards")


def write(name: str, input: TensorBase, array: Any, basic: Any = (), index: Any = ()) -> None:
    """Write an array into input[basic][index], converted to the tensor's dtype."""
    if input.array.size and any(stride == 0 and n > 1 for stride, n in zip(input.array.strides, input.shape)):
        raise RuntimeError(f"{name}: several elements of this expanded tensor share memory; write into a .clone()")
    _part(input.array, basic)[index] = array
    input.changed()


def replace(input: TensorT, name: str, value: Operand) -> TensorT:
    """Write a value into the input's memory, whatever its dtype."""
    dtype = input.dtype
    array = value.array if isinstance(value, TensorBase) else as_scalar(value, dtype, name, infinite=dtype == float16)
    if broadcast(name, input.shape, array.shape) != input.shape:
        raise RuntimeError(f"{name}: a value of shape {array.shape} cannot be written into shape {input.shape}")
    return put(name, input, value if isinstance(value, TensorBase) else array)


def setitem(input: TensorBase, index: Any, value: Any) -> None:
    """input[index] = value."""
    basic, index = two_steps(index, input.device)
    value = assigned_value(input, index, value)
    try:
        put("item assignment", input, value, basic, index)
    except (IndexError, ValueError) as error:
        raise type(error)(f"item assignment to a tensor of shape {input.shape}: {error}") from None


def put(name: str, input: TensorT, value: Any, basic: tuple = (), index: tuple = ()) -> TensorT:
    """Write a value into input[basic][index], and return the input."""
    if records(name, input, value):
        return _record(input, name, lambda x, value: Put.apply(x, value, basic, index), value)
    write(name, input, value.array if isinstance(value, TensorBase) else value, basic, index)
    return input


def _part(array, basic):
    return array[basic] if basic else array  # array[()] would be a scalar if the array has no dimensions


class Put(Function):
    @staticmethod
    def forward(ctx, x, value, basic, index):
        ctx.save(basic, index, shape_of(value))
        y = x.copy()
        _part(y, basic)[index] = value
        return y

    # y[index] = value, elsewhere y = x: there dy belongs to value, elsewhere to x.
    @staticmethod
    def backward(ctx, dy):
        basic, index, value_shape = ctx.saved
        dx = dvalue = None
        if ctx.needs[0]:
            dx = dy.copy()
            _part(dx, basic)[index] = 0
        if ctx.needs[1]:
            dvalue = _part(dy, basic)[index]
            more = len(value_shape) - dvalue.ndim  # axes that the value has more than its place, all of length 1
            dvalue = kernels.unbroadcast(dvalue.reshape((1,) * more + dvalue.shape), value_shape)
        return dx, dvalue, None, None
