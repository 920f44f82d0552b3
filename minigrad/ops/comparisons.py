"""Comparisons and logic, elementwise with broadcasting. The results are masks, which have no gradient."""

from typing import Any

import kernels
from minigrad.dtypes import int64
from minigrad.engine import TensorBase, TensorT, wrap
from minigrad.ops.operands import Operand, array_module_of, as_scalar, cast_array, is_operand, need_tensors, promote_pair


def _pairwise(ufunc: str, input: Any, other: Any) -> Any:
    """NumPy's or CuPy's `ufunc`, applied to two promoted operands, the first of them a tensor."""
    need_tensors(ufunc, input)
    if input.dtype.kind in "iu" and isinstance(other, int):  # wraps around, as in PyTorch: 300 is 44 beside uint8
        other = cast_array(as_scalar(other, int64, ufunc), input.dtype)
    a, b = (t.array if isinstance(t, TensorBase) else t for t in promote_pair(input, other, ufunc))
    xp = array_module_of(input, other)
    try:
        return wrap(xp.asarray(getattr(xp, ufunc)(a, b)))
    except TypeError:
        raise TypeError(f"{ufunc}: expected integers or booleans, got {a.dtype}; make masks with comparisons") from None


def eq(input: TensorT, other: Operand) -> TensorT:
    """input == other, elementwise."""
    return _pairwise("equal", input, other)


def ne(input: TensorT, other: Operand) -> TensorT:
    """input != other, elementwise."""
    return _pairwise("not_equal", input, other)


def lt(input: TensorT, other: Operand) -> TensorT:
    """input < other, elementwise."""
    return _pairwise("less", input, other)


def le(input: TensorT, other: Operand) -> TensorT:
    """input <= other, elementwise."""
    return _pairwise("less_equal", input, other)


def gt(input: TensorT, other: Operand) -> TensorT:
    """input > other, elementwise."""
    return _pairwise("greater", input, other)


def ge(input: TensorT, other: Operand) -> TensorT:
    """input >= other, elementwise."""
    return _pairwise("greater_equal", input, other)


def logical_and(input: TensorT, other: Operand) -> TensorT:
    """Whether both elements are nonzero."""
    need_tensors("logical_and", other)
    return _pairwise("logical_and", input, other)


def logical_or(input: TensorT, other: Operand) -> TensorT:
    """Whether at least one of two elements is nonzero."""
    need_tensors("logical_or", other)
    return _pairwise("logical_or", input, other)


def bitwise_and(input: TensorT, other: Operand) -> TensorT:
    """input & other, for masks and integers."""
    return _pairwise("bitwise_and", input, other)


def bitwise_or(input: TensorT, other: Operand) -> TensorT:
    """input | other, for masks and integers."""
    return _pairwise("bitwise_or", input, other)


def bitwise_not(input: TensorT) -> TensorT:
    """~input, for masks and integers."""
    need_tensors("bitwise_not", input)
    if input.dtype.kind == "f":
        raise TypeError(f"bitwise_not: expected integers or booleans, got {input.dtype}")
    return wrap(kernels.array_module(input.array).invert(input.array))


def logical_not(input: TensorT) -> TensorT:
    """Whether each element is zero."""
    need_tensors("logical_not", input)
    return wrap(kernels.array_module(input.array).logical_not(input.array))


def isnan(input: TensorT) -> TensorT:
    """Whether each element is NaN."""
    need_tensors("isnan", input)
    return wrap(kernels.array_module(input.array).isnan(input.array))


def isfinite(input: TensorT) -> TensorT:
    """Whether each element is neither NaN nor infinite."""
    need_tensors("isfinite", input)
    return wrap(kernels.array_module(input.array).isfinite(input.array))


class ComparisonMethods(TensorBase):
    """The functions above as methods and operators: x.eq(y) is eq(x, y), and x < y is lt(x, y)."""

    __slots__ = ()

    eq, ne, lt, le, gt, ge = eq, ne, lt, le, gt, ge
    logical_and, logical_or, logical_not = logical_and, logical_or, logical_not
    isnan, isfinite = isnan, isfinite

    __and__ = bitwise_and
    __or__ = bitwise_or
    __invert__ = bitwise_not
    __lt__ = lt
    __le__ = le
    __gt__ = gt
    __ge__ = ge
    __hash__ = object.__hash__  # == compares elements, so a tensor is hashed by identity

    def __eq__(self, other: Any) -> Any:
        return eq(self, other) if is_operand(other) else NotImplemented  # x == None is False

    def __ne__(self, other: Any) -> Any:
        return ne(self, other) if is_operand(other) else NotImplemented

    # Reversed operators: Python calls these for `number & tensor`.

    def __rand__(self: TensorT, other: Any) -> TensorT:
        return bitwise_and(self, other)

    def __ror__(self: TensorT, other: Any) -> TensorT:
        return bitwise_or(self, other)
