"""Indexing, selecting and looking up. An element that is read several times gets the sum of its gradients."""

import math
from typing import Any

import numpy as np

import kernels
from minigrad.dtypes import float16
from minigrad.engine import TensorBase, TensorT, wrap
from minigrad.function import Function
from minigrad.modes import is_grad_enabled
from minigrad.ops.operands import (
    Number,
    Operand,
    array_on_device,
    as_int,
    as_scalar,
    broadcast,
    check_ids,
    check_kind,
    default_dtype,
    need_tensors,
    one_axis,
    promote_pair,
    shape_of,
)
from minigrad.ops.shape import clone, reshape


class Index(Function):
    @staticmethod
    def forward(ctx, x, index):
        ctx.save(x.shape, index)
        return x[index]

    # y = x[index]. Slices and ints read each element at most once, so dx is zeros with dy written into its place. Arrays may
    # read an element several times, so there dy is added once per read.
    @staticmethod
    def backward(ctx, dy):
        shape, index = ctx.saved
        dx = ctx.xp.zeros(shape, dy.dtype)
        if _is_basic(index):
            dx[index] = dy
        elif ctx.xp is not np and all(getattr(p, "dtype", np.dtype(bool)).kind in "iu" for p in index):
            return _add_rows(ctx, dy, shape, index), None
        else:
            ctx.xp.add.at(dx, index, dy)
        return dx, None


def _is_basic(index):
    """Whether an index holds no arrays."""
    return all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in index)


def _add_rows(ctx, dy, shape, index):
    """add.at for a GPU. CuPy's add.at adds in no fixed order; the kernel of an embedding's gradient has a fixed order."""
    rows, width = shape[: len(index)], math.prod(shape[len(index) :])
    places: Any = 0
    for part, n in zip(index, rows):
        places = places * n + part % n
    dx = ctx.kernels.embedding_backward(dy.reshape(*places.shape, width), places, math.prod(rows))  # (rows, width)
    return dx.reshape(shape)


class Where(Function):
    creates_values = False

    @staticmethod
    def forward(ctx, a, b, condition):
        ctx.save(condition, shape_of(a), shape_of(b))
        return ctx.xp.where(condition, a, b)

    @staticmethod
    def backward(ctx, dy):
        condition, a_shape, b_shape = ctx.saved
        zero = dy.dtype.type(0)
        da = kernels.unbroadcast(ctx.xp.where(condition, dy, zero), a_shape) if ctx.needs[0] else None
        db = kernels.unbroadcast(ctx.xp.where(condition, zero, dy), b_shape) if ctx.needs[1] else None
        return da, db, None


class Gather(Function):
    @staticmethod
    def forward(ctx, x, indices, dim):
        ctx.save(x.shape, indices, dim)
        return ctx.xp.take_along_axis(x[_read_by_gather(x, indices, dim)], indices, axis=dim)

    # y[…, j, …] = x[…, indices[…, j, …], …]: each dy is added where its y was read.
    @staticmethod
    def backward(ctx, dy):
        shape, indices, dim = ctx.saved
        dx = ctx.xp.zeros(shape, dy.dtype)
        places = list(ctx.xp.indices(indices.shape, sparse=True))
        places[dim] = indices
        ctx.xp.add.at(dx, tuple(places), dy)
        return dx, None, None


def _read_by_gather(x, indices, dim):
    """The part of x that gather reads: along every axis but `dim`, as many elements as there are indices."""
    return tuple(slice(None) if i == dim % x.ndim else slice(n) for i, n in enumerate(indices.shape))


class Scatter(Function):
    @staticmethod
    def forward(ctx, x, src, indices, dim):
        places = list(ctx.xp.indices(indices.shape, sparse=True))
        places[dim] = indices
        read = tuple(slice(n) for n in indices.shape)
        ctx.save(tuple(places), read, shape_of(src))
        y = x.copy()
        y[tuple(places)] = src[read] if shape_of(src) else src
        return y

    # y[…, indices[…, j, …], …] = src[…, j, …]: there dy belongs to src, elsewhere to x.
    @staticmethod
    def backward(ctx, dy):
        places, read, src_shape = ctx.saved
        dx = dsrc = None
        if ctx.needs[0]:
            dx = dy.copy()
            dx[places] = 0
        if ctx.needs[1]:
            dsrc = ctx.xp.zeros(src_shape, dy.dtype)
            dsrc[read] = dy[places]
        return dx, dsrc, None, None


class IndexAdd(Function):
    @staticmethod
    def forward(ctx, x, source, index, dim, alpha):
        rows = (slice(None),) * dim + (index,)
        ctx.save(rows, alpha)
        y = x.copy()
        ctx.xp.add.at(y, rows, source if alpha == 1 else source * alpha)
        return y

    # y[index[i]] += α source[i]:  dx = dy,  dsource[i] = α dy[index[i]].
    @staticmethod
    def backward(ctx, dy):
        rows, alpha = ctx.saved
        return dy, dy[rows] * alpha if ctx.needs[1] else None, None, None, None


class Embedding(Function):
    """Derivation: kernels/embedding/reference.py, embedding_backward."""

    @staticmethod
    def forward(ctx, weight, indices):
        ctx.save(indices, len(weight))
        return ctx.kernels.embedding_forward(weight, indices)

    @staticmethod
    def backward(ctx, dy):
        indices, num_embeddings = ctx.saved
        # A matrix that is tied to the head, or used in an earlier batch, has a gradient already: add to the few rows in use.
        out = ctx.take(0, to_write=True)
        return ctx.kernels.embedding_backward(dy, indices, num_embeddings, out=out, accumulate=out is not None), None


# An index becomes a tuple of slices, ints, None, Ellipsis and arrays, and is split where NumPy and PyTorch differ.


def _plain_index(index, device):
    if isinstance(index, list) and any(not isinstance(p, (int, np.integer)) for p in index):
        index = tuple(index)  # x[[a, b]] is x[a, b] if a or b is more than a number, as in PyTorch
    return tuple(_plain_part(p, device) for p in (index if isinstance(index, tuple) else (index,)))


def _plain_part(part, device):
    if isinstance(part, list):
        part = np.asarray(part) if part else np.zeros(0, np.int64)
    part = part.array if isinstance(part, TensorBase) else part
    if isinstance(part, slice):
        ends = [None if end is None else as_int(end, "indexing", "slice") for end in (part.start, part.stop, part.step)]
        if ends[2] is not None and ends[2] < 1:
            raise ValueError(f"indexing: expected a positive step, got {ends[2]}; flip the tensor instead")
        return slice(*ends)
    if hasattr(part, "dtype") and part.dtype == np.uint8:
        part = part.astype(bool)  # PyTorch's old masks
    if hasattr(part, "dtype"):
        if part.dtype.kind not in "iub":
            raise TypeError(f"indexing: indices must be integers or booleans, got {part.dtype}")
        if part.ndim == 0 and part.dtype.kind != "b":
            return int(part)
        return kernels.to_device(np.asarray(part) if isinstance(part, np.generic) else part, device)
    return part


def two_steps(index: Any, device: str) -> tuple[tuple, tuple]:
    """Split an index that mixes ints with arrays into a basic index and an index of arrays; any other stays whole.

    NumPy counts an int among the arrays, which moves their axes to the front: x[0, :, ids] has shape (ids, :). PyTorch, and
    we, apply the int first: x[0], and then [:, ids].
    """
    index = _plain_index(index, device)
    if _is_basic(index):
        return (), index if Ellipsis in index else (*index, Ellipsis)  # with …, NumPy makes a view even of one element
    if not any(isinstance(p, (int, np.integer)) for p in index):
        return (), index
    basic, arrays = [], []
    for p in index:
        if hasattr(p, "dtype"):
            basic += [slice(None)] * (p.ndim if p.dtype.kind == "b" else 1)
            arrays.append(p)
        else:
            basic.append(p)
            if not isinstance(p, (int, np.integer)):
                arrays.append(Ellipsis if p is Ellipsis else slice(None))
    return tuple(basic), tuple(arrays)


def getitem(input: TensorT, index: Any) -> TensorT:
    """input[index] with slices, ints, None, …, integer arrays or boolean masks, as in PyTorch."""
    basic, index = two_steps(index, input.device)
    try:
        return Index.apply(Index.apply(input, basic) if basic else input, index)
    except IndexError as error:
        raise IndexError(f"indexing a tensor of shape {input.shape}: {error}") from None


def assigned_value(input: TensorBase, index: tuple, value: Any) -> Any:
    """The value of input[index] = value, checked: a tensor, an array, or a number as a NumPy scalar."""
    name = "item assignment"
    if isinstance(value, (list, tuple)):
        need_tensors(name, value)
    if not isinstance(value, (TensorBase, np.ndarray)):
        return as_scalar(value, input.dtype, name, infinite=input.dtype == float16)
    check_kind(array_on_device(input, value, name), name)
    arrays = [part for part in index if hasattr(part, "dtype")]
    one_number = math.prod(value.shape) == 1 and all(part.dtype.kind == "b" for part in arrays)
    if isinstance(value, TensorBase) and value.dtype != input.dtype and arrays and not one_number:
        raise RuntimeError(
            f"{name}: expected a value of dtype {input.dtype} as the tensor's own, got {value.dtype}; convert with .to(dtype)"
        )
    return value


def where(condition: Any, input: Operand, other: Operand) -> Any:
    """input where condition is True, other elsewhere."""
    tensor: TensorBase | None = next((t for t in (input, other, condition) if isinstance(t, TensorBase)), None)
    condition = condition if tensor is None else array_on_device(tensor, condition, "where")
    if condition.dtype.kind != "b":
        raise TypeError(f"where: the condition must be boolean, got {condition.dtype}")
    if not isinstance(input, TensorBase) and not isinstance(other, TensorBase):
        input = wrap(kernels.array_module(condition).asarray(as_scalar(input, default_dtype(input), "where")))
    a, b = promote_pair(input, other, "where")
    broadcast("where", condition.shape, shape_of(a), shape_of(b))
    return Where.apply(a, b, condition)


def masked_fill(input: TensorT, mask: Any, value: Operand) -> TensorT:
    """`value`, a number, where mask is True; input elsewhere."""
    need_tensors("masked_fill", input)
    mask = array_on_device(input, mask, "masked_fill")
    if mask.dtype.kind != "b":
        raise TypeError(f"masked_fill: the mask must be boolean, got {mask.dtype}")
    if isinstance(value, TensorBase):
        if value.requires_grad and is_grad_enabled():
            raise NotImplementedError("masked_fill: a value that requires grad is not implemented; use where()")
        if value.ndim:
            raise RuntimeError(f"masked_fill: expected a number or a tensor of no dimensions, got shape {value.shape}")
    broadcast("masked_fill", mask.shape, input.shape)
    return Where.apply(as_scalar(value, input.dtype, "masked_fill"), input, mask)


def gather(input: TensorT, dim: int, index: Any) -> TensorT:
    """out[i][j] = input[index[i][j]][j] for dim 0, input[i][index[i][j]] for dim 1, and so on."""
    need_tensors("gather", input)
    index = array_on_device(input, index, "gather")
    if index.dtype.kind not in "iu":
        raise TypeError(f"gather: the index must hold integers, got {index.dtype}")
    dim = one_axis("gather", input, dim)
    if index.ndim != input.ndim or any(n > m for i, (n, m) in enumerate(zip(index.shape, input.shape)) if i != dim):
        raise RuntimeError(
            f"gather: expected an index of {input.ndim} axes, no longer than {input.shape} except along dim {dim}, "
            f"got {index.shape}"
        )
    if not input.ndim:
        return reshape(gather(reshape(input, 1), 0, index.reshape(1)), ())
    check_ids(index, input.shape[dim], f"gather along dim {dim} of shape {input.shape}: index")
    return Gather.apply(input, index, dim)


def _checked_index(name: str, input: TensorBase, dim: int, index: Any) -> tuple[int, Any]:
    """The axis, and the index as an array of integers that lie in that axis of `input`."""
    need_tensors(name, input)
    index = array_on_device(input, index, name)
    if index.dtype not in (np.int32, np.int64):
        raise TypeError(f"{name}: the index must hold int32 or int64 integers, got {index.dtype}")
    dim = one_axis(name, input, dim)
    check_ids(index, input.shape[dim] if input.ndim else 1, f"{name} along dim {dim} of shape {input.shape}: index")
    return dim, index


def scatter(input: TensorT, dim: int, index: Any, src: Operand, *, reduce: None = None) -> TensorT:
    """The inverse of gather: input with out[index[i][j]][j] = src[i][j] for dim 0, and so on; src may be one number.

    If an index repeats, the last element is written. reduce is not implemented.
    """
    if reduce is not None:
        raise NotImplementedError("scatter: reduce is not implemented; use index_add_()")
    dim, index = _checked_index("scatter", input, dim, index)
    if isinstance(src, TensorBase) and src.dtype != input.dtype:
        raise RuntimeError(f"scatter: expected src of dtype {input.dtype} as the input's, got {src.dtype}")
    src_shape = shape_of(src) if isinstance(src, TensorBase) else index.shape
    if not input.ndim:
        flat = reshape(src, -1) if isinstance(src, TensorBase) else src
        return reshape(scatter(reshape(input, 1), 0, wrap(index.reshape(-1)), flat), ())
    limits = [src_shape[i] if i == dim else min(n, src_shape[i]) for i, n in enumerate(input.shape) if i < len(src_shape)]
    if index.size and not (index.ndim == input.ndim == len(src_shape) and all(n <= m for n, m in zip(index.shape, limits))):
        raise RuntimeError(
            f"scatter: expected an index of {input.ndim} axes, no longer than src {src_shape}, nor than input {input.shape} "
            f"except along dim {dim}, got {index.shape}"
        )
    if not index.size:
        return clone(input)
    return Scatter.apply(input, src if isinstance(src, TensorBase) else as_scalar(src, input.dtype, "scatter"), index, dim)


def index_select(input: TensorT, dim: int, index: Any) -> TensorT:
    """The slices index[0], index[1], … of input along `dim`.  index: integers, (n,)."""
    dim, index = _checked_index("index_select", input, dim, index)
    if index.ndim > 1:
        raise IndexError(f"index_select: expected an index of one axis, got shape {index.shape}")
    if not input.ndim:
        return reshape(index_select(reshape(input, 1), 0, wrap(index)), ())
    return Index.apply(input, (slice(None),) * dim + (index.reshape(-1),))


def index_add(input: TensorT, dim: int, index: Any, source: TensorBase, *, alpha: Number = 1) -> TensorT:
    """input + alpha · source, where slice i of source along `dim` is added to slice index[i]; a repeat adds several times."""
    need_tensors("index_add", source)
    dim, index = _checked_index("index_add", input, dim, index)
    if source.dtype != input.dtype:
        raise RuntimeError(f"index_add: expected a source of dtype {input.dtype} as the input's, got {source.dtype}")
    if index.ndim > 1:
        raise IndexError(f"index_add: expected an index of one axis, got shape {index.shape}")
    if not input.ndim:
        return reshape(index_add(reshape(input, 1), 0, wrap(index), reshape(source, 1), alpha=alpha), ())
    expected = (*input.shape[:dim], index.size, *input.shape[dim + 1 :])
    if source.shape != expected:
        raise RuntimeError(f"index_add: expected a source of shape {expected}, got {source.shape}")
    return IndexAdd.apply(input, source, index.reshape(-1), dim, as_scalar(alpha, input.dtype, "index_add"))


def one_hot(input: TensorBase, num_classes: int = -1) -> Any:
    """A 1 at each class index and 0 elsewhere.  input: int64 class indices, (...,) -> int64, (..., num_classes).

    num_classes: the largest index plus 1 if -1.
    """
    need_tensors("one_hot", input)
    if input.dtype != np.int64:
        raise RuntimeError(f"one_hot: expected class indices in int64, got {input.dtype}; convert with .long()")
    if not input.array.size and num_classes < 1:
        raise RuntimeError(f"one_hot: expected num_classes of at least 1 for an empty tensor, got {num_classes}")
    xp = kernels.array_module(input.array)
    classes = int(input.array.max()) + 1 if num_classes == -1 else num_classes
    if classes < 1:
        raise RuntimeError(f"one_hot: expected num_classes of at least 1, or -1 for the largest index + 1, got {num_classes}")
    check_ids(input.array, classes, "one_hot: class")
    return wrap((input.array[..., None] == xp.arange(classes)).astype(np.int64))


def embedding(input: Any, weight: TensorT) -> TensorT:
    """Rows of a table.  input: integer ids, (...,), weight: (V, C) -> (..., C).

    Raises:
        IndexError: for an id outside 0…V − 1 (on the CPU).
    """
    ids = array_on_device(weight, input if isinstance(input, TensorBase) else np.asarray(input), "embedding")
    if ids.ndim == 0:
        return reshape(embedding(wrap(ids.reshape(1)), weight), weight.shape[1])
    if weight.ndim != 2:
        raise RuntimeError(f"embedding: expected a table (V, C), got shape {weight.shape}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids must be integers, got {ids.dtype}")
    check_ids(ids, weight.shape[0], "embedding: id")
    return Embedding.apply(weight, ids)


class IndexingMethods(TensorBase):
    """The functions above as methods, and x[index]."""

    __slots__ = ()

    masked_fill, gather, scatter = masked_fill, gather, scatter
    index_select, index_add = index_select, index_add
    __getitem__ = getitem
