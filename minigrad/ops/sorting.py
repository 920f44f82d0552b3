"""Sorting: the order of elements along an axis, and what follows from it. Values have gradients, indices have none."""

from typing import Any

import numpy as np

import kernels
from minigrad.engine import TensorBase, TensorT, wrap
from minigrad.ops.indexing import gather, index_select
from minigrad.ops.operands import as_int, need_numbers, need_tensors, one_axis
from minigrad.ops.reductions import ValuesAndIndices
from minigrad.ops.shape import clone, reshape


def argsort(input: TensorT, dim: int = -1, descending: bool = False, stable: bool = False) -> TensorT:
    """The indices that sort the elements along `dim`; int64. NaN counts as the largest, and equal elements keep their order."""
    axis = one_axis("argsort", input, dim)
    xp = kernels.array_module(input.array)
    if not input.ndim:
        return wrap(xp.zeros((), np.int64))
    if not descending:
        return wrap(xp.argsort(input.array, axis=axis, kind="stable"))
    # Reversing an ascending order would also reverse equal elements. Sorting from the other end reverses them twice.
    order = xp.flip(xp.argsort(xp.flip(input.array, axis), axis=axis, kind="stable"), axis)
    return wrap(input.shape[axis] - 1 - order)


def sort(input: TensorT, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesAndIndices:
    """The elements in order along `dim`, and where they were; see argsort."""
    order = argsort(input, dim, descending)
    return ValuesAndIndices(gather(input, dim, order), order)


def topk(input: TensorT, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesAndIndices:
    """The k largest (or smallest) elements along `dim`, and where they were. Among equal elements the first ones win."""
    need_numbers("topk", input, instead="convert a mask with .long()")
    axis = one_axis("topk", input, dim)
    if not 0 <= as_int(k, "topk", "k") <= (input.shape[axis] if input.ndim else 1):
        raise RuntimeError(f"topk: expected k between 0 and the length of dim {dim} in shape {input.shape}, got {k}")
    if not input.ndim:
        return ValuesAndIndices(clone(input), argsort(input))  # even if k is 0, as in PyTorch
    first = wrap(argsort(input, axis, descending=largest).array.take(range(k), axis=axis))
    return ValuesAndIndices(gather(input, axis, first), first)


def unique(
    input: TensorT, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The different elements in ascending order, without a gradient.

    Args:
        sorted: they are sorted in any case.
        return_inverse: also return where each element of input stands among the different ones, shaped like input.
        return_counts: also return how often each occurs.
        dim: compare slices along this axis instead of elements; not implemented.
    """
    need_tensors("unique", input)
    if dim is not None:
        raise NotImplementedError("unique: dim is not implemented; without it, unique compares elements")
    xp = kernels.array_module(input.array)
    values, inverse, counts = xp.unique(input.array, return_inverse=True, return_counts=True, equal_nan=False)
    results = [wrap(values)]
    if return_inverse:
        results.append(wrap(inverse.reshape(input.shape)))
    if return_counts:
        results.append(wrap(counts))
    return results[0] if len(results) == 1 else tuple(results)


def nonzero(input: TensorT, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero: (count, rank), or with as_tuple one tensor (count,) for each axis."""
    need_tensors("nonzero", input)
    xp = kernels.array_module(input.array)
    if as_tuple:
        return tuple(wrap(index) for index in xp.atleast_1d(input.array).nonzero())
    return wrap(xp.argwhere(input.array).astype(np.int64))


def repeat_interleave(
    input: TensorT, repeats: int | TensorBase, dim: int | None = None, *, output_size: int | None = None
) -> TensorT:
    """Each slice along `dim` (each element of the flat tensor if None) `repeats` times in a row.

    repeats: one number, or a tensor with one for each slice.  output_size: the length of the result, which is checked.
    """
    if dim is None:
        input, dim = reshape(input, -1), 0
    axis = one_axis("repeat_interleave", input, dim)
    length = input.shape[axis] if input.ndim else 1
    counts = kernels.to_device(repeats.array, "cpu") if isinstance(repeats, TensorBase) else np.asarray(repeats)
    if counts.dtype not in (np.int32, np.int64) or counts.ndim > 1:
        raise RuntimeError(f"repeat_interleave: expected repeats in int32 or int64, of at most one axis, got {counts.dtype}")
    if counts.size not in (1, length) or (counts < 0).any():
        raise RuntimeError(f"repeat_interleave: expected 1 or {length} repeats, none negative, got {counts.tolist()}")
    index = np.repeat(np.arange(length), np.broadcast_to(counts.reshape(-1), length))
    if output_size not in (None, len(index)):
        raise RuntimeError(f"repeat_interleave: the result has length {len(index)}, but output_size={output_size}")
    return index_select(reshape(input, 1) if not input.ndim else input, axis, index)


class SortingMethods(TensorBase):
    """The functions above as methods: x.sort(0) is sort(x, 0)."""

    __slots__ = ()

    argsort, sort, topk, unique, nonzero = argsort, sort, topk, unique, nonzero
    repeat_interleave = repeat_interleave
