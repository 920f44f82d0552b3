"""Indexing, selecting and looking up. What was read once gets its gradient; what was read twice gets the sum of both."""

import math

import numpy as np

import kernels
from minigrad.function import Function, check_one_device
from minigrad.ops.arithmetic import _pair
from minigrad.ops.axes import broadcast, one_axis
from minigrad.tensor import Tensor, float32, is_grad_enabled


def _plain(index, device):
    """An index as a tuple of slices, ints, None, Ellipsis and arrays, these on `device`."""
    return tuple(_plain_part(p, device) for p in (index if isinstance(index, tuple) else (index,)))


def _plain_part(part, device):
    if isinstance(part, list):
        part = np.asarray(part) if part else np.zeros(0, np.int64)
    part = part.array if isinstance(part, Tensor) else part
    if hasattr(part, "dtype"):
        if part.dtype.kind not in "iub":
            raise TypeError(f"indices must be integers or booleans, not {part.dtype}")
        if part.ndim == 0 and part.dtype.kind != "b":
            return int(part)
        return kernels.to_device(np.asarray(part) if isinstance(part, np.generic) else part, device)
    return part


def _is_basic(index):
    return all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in index)


def _two_steps(index):
    """Split an index that mixes ints with arrays into a basic one and one of arrays.

    NumPy counts an int among the arrays, which moves their axes to the front: x[0, :, ids] is (ids, :). PyTorch, and we,
    take the int first: x[0] and then [:, ids].
    """
    if not any(isinstance(p, (int, np.integer)) for p in index) or _is_basic(index):
        return None, index
    first, then = [], []
    for p in index:
        if hasattr(p, "dtype"):
            first += [slice(None)] * (p.ndim if p.dtype.kind == "b" else 1)
            then.append(p)
        else:
            first.append(p)
            if not isinstance(p, (int, np.integer)):
                then.append(Ellipsis if p is Ellipsis else slice(None))
    return tuple(first), tuple(then)


class Index(Function):
    @staticmethod
    def forward(ctx, x, index):
        ctx.save(x.shape, index)
        return x[index]

    # y = x[index]. Slices and ints read each element at most once, so dy is written into its place among zeros. Arrays may
    # name an element several times, and each time counts: there the gradient is added, not written.
    @staticmethod
    def backward(ctx, dy):
        shape, index = ctx.saved
        dx = ctx.xp.zeros(shape, dy.dtype)
        if _is_basic(index):
            dx[index] = dy
        elif ctx.xp is not np and all(getattr(p, "dtype", np.dtype(bool)).kind in "iu" for p in index):
            return _added_rows(ctx, dy, shape, index), None
        else:
            ctx.xp.add.at(dx, index, dy)
        return dx, None


def _added_rows(ctx, dy, shape, index):
    """What add.at does, for a GPU, whose add.at adds in no fixed order: the kernel of a table's gradient keeps to one."""
    rows, width = shape[: len(index)], math.prod(shape[len(index) :])
    places = 0
    for part, n in zip(index, rows):
        places = places * n + part % n
    dx = ctx.kernels.embedding_backward(dy.reshape(*places.shape, width), places, math.prod(rows))  # (rows, width)
    return dx.reshape(shape)


class Where(Function):
    creates_values = False

    @staticmethod
    def forward(ctx, a, b, condition):
        ctx.save(condition, np.shape(a), np.shape(b))
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
        return ctx.xp.take_along_axis(x[_within(x, indices, dim)], indices, axis=dim)

    # y[…, j, …] = x[…, indices[…, j, …], …]: each dy is added to the place that it was read from.
    @staticmethod
    def backward(ctx, dy):
        shape, indices, dim = ctx.saved
        dx = ctx.xp.zeros(shape, dy.dtype)
        places = list(ctx.xp.indices(indices.shape, sparse=True))
        places[dim] = indices
        ctx.xp.add.at(dx, tuple(places), dy)
        return dx, None, None


def _within(x, indices, dim):
    """gather reads only the leading part of every other axis that is as long as the indices."""
    return tuple(slice(None) if i == dim % x.ndim else slice(n) for i, n in enumerate(indices.shape))


class Embedding(Function):
    adds_up = True

    @staticmethod
    def forward(ctx, weight, indices):
        ctx.save(indices, len(weight))
        return ctx.kernels.embedding_forward(weight, indices)

    @staticmethod
    def backward(ctx, dy):
        indices, num_embeddings = ctx.saved
        # Where the matrix already has a gradient (it is tied to the head, or an earlier batch left one) only few rows change.
        out = ctx.take(0, to_write=True)
        return ctx.kernels.embedding_backward(dy, indices, num_embeddings, out=out, accumulate=out is not None), None


def getitem(input, index):
    """input[index] with slices, ints, None, …, integer arrays or boolean masks, as in PyTorch."""
    first, index = _two_steps(_plain(index, input.device))
    try:
        return Index.apply(input if first is None else Index.apply(input, first), index)
    except IndexError as error:
        raise IndexError(f"indexing a tensor of shape {input.shape}: {error}") from None


def setitem(input, index, value):
    """input[index] = value, in place; only where autograd tracks neither."""
    check_in_place("item assignment", input, value)
    first, index = _two_steps(_plain(index, input.device))
    place = input.array if first is None else input.array[first]
    try:
        place[index] = _beside(input, value, "item assignment") if hasattr(value, "dtype") else value
    except (IndexError, ValueError) as error:
        raise type(error)(f"item assignment to a tensor of shape {input.shape}: {error}") from None
    input.changed()


def check_in_place(what, input, *values):
    """Raise unless writing `values` into `input` leaves every recorded gradient right."""
    if is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (input, *values)):
        raise RuntimeError(
            f"{what} in place, where a tensor requires grad, is not recorded; make a new tensor (a = a + b), or use no_grad()"
        )


def _beside(input, value, what):
    """The array of a mask or an index, on input's device: one of NumPy's is sent there, a tensor has to be there."""
    if not hasattr(value, "dtype"):
        raise TypeError(f"{what} takes a tensor or an array, not {type(value).__name__}")
    if not isinstance(value, Tensor):
        return kernels.to_device(value, input.device)
    check_one_device(what, (input, value))
    return value.array


def where(condition, input, other):
    """input where condition, other elsewhere."""
    beside = next((t for t in (input, other, condition) if isinstance(t, Tensor)), None)
    condition = condition if beside is None else _beside(beside, condition, "where")
    if condition.dtype.kind != "b":
        raise TypeError(f"where: the condition must be boolean, got {condition.dtype}")
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        input = Tensor(kernels.array_module(condition).asarray(input, float32 if isinstance(input, float) else None))
    a, b = _pair(input, other, "where")
    broadcast("where", condition.shape, np.shape(a), np.shape(b))
    return Where.apply(a, b, condition)


def masked_fill(input, mask, value):
    """`value`, a number, where mask is True; input elsewhere."""
    mask = _beside(input, mask, "masked_fill")
    if mask.dtype.kind != "b":
        raise TypeError(f"masked_fill: the mask must be boolean, got {mask.dtype}")
    if isinstance(value, Tensor):
        if value.requires_grad and is_grad_enabled():
            raise NotImplementedError("masked_fill: a value that requires grad is not supported; use where()")
        value = value.item()
    broadcast("masked_fill", mask.shape, input.shape)
    return Where.apply(input.dtype.type(value), input, mask)


def gather(input, dim, index):
    """out[i][j] = input[index[i][j]][j] for dim 0, input[i][index[i][j]] for dim 1, and so on."""
    index = _beside(input, index, "gather")
    if index.dtype.kind not in "iu":
        raise TypeError(f"gather: the index must hold integers, got {index.dtype}")
    dim = one_axis("gather", input, dim)
    if index.ndim != input.ndim or any(n > m for i, (n, m) in enumerate(zip(index.shape, input.shape)) if i != dim):
        raise RuntimeError(
            f"gather: index has shape {index.shape} and input {input.shape}; it needs as many axes, none longer but dim"
        )
    if not input.ndim:
        return gather(input.reshape(1), 0, index.reshape(1)).reshape(())
    length = input.shape[dim]
    if input.device == "cpu" and index.size and not (0 <= index.min() and index.max() < length):
        raise IndexError(f"gather: an index lies outside 0…{length - 1} along dim {dim} of a tensor of shape {input.shape}")
    return Gather.apply(input, index, dim)


def embedding(input, weight):
    """Rows of a table.  input: (...,) integer ids, weight: (V, C) -> (..., C).  Raises IndexError for an id outside 0…V−1."""
    ids = _beside(weight, input if isinstance(input, Tensor) else np.asarray(input), "embedding")
    if weight.ndim != 2:
        raise RuntimeError(f"embedding: the table must be (V, C), got shape {weight.shape}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids must be integers, got {ids.dtype}")
    check_ids(ids, len(weight), "embedding: id")
    return Embedding.apply(weight, ids)


def check_ids(ids, count, what):
    """Raise IndexError, naming the first culprit, unless all ids lie in 0…count−1.

    Not on a GPU: looking would stop the CPU until the GPU has caught up. There the kernels answer a wrong id with NaN.
    """
    if isinstance(ids, np.ndarray) and ids.size and not (0 <= ids.min() and ids.max() < count):
        wrong = ids[(ids < 0) | (ids >= count)].flat[0]
        raise IndexError(f"{what} {wrong} is outside 0…{count - 1}")
