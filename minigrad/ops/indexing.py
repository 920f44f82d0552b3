"""Indexing, selecting and looking up. What was read once gets its gradient; what was read twice gets the sum of both."""

import numpy as np

import kernels
from minigrad.function import Function
from minigrad.ops.arithmetic import _pair
from minigrad.tensor import Tensor, is_grad_enabled


def _plain(index):
    """An index of slices, ints, None, arrays and tensors, with the tensors as arrays."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(p.array if isinstance(p, Tensor) else np.asarray(p) if isinstance(p, list) else p for p in parts)
    return parts if isinstance(index, tuple) else parts[0]


def _is_basic(index):
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in parts)


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
        else:
            ctx.xp.add.at(dx, index, dy)
        return dx, None


class Where(Function):
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
    @staticmethod
    def forward(ctx, weight, indices):
        ctx.save(indices, len(weight))
        return ctx.kernels.embedding_forward(weight, indices)

    @staticmethod
    def backward(ctx, dy):
        indices, num_embeddings = ctx.saved
        return ctx.kernels.embedding_backward(dy, indices, num_embeddings), None


def getitem(input, index):
    """input[index] with slices, ints, None, …, integer arrays or boolean masks, as in PyTorch."""
    index = _plain(index)
    try:
        return Index.apply(input, index)
    except IndexError as error:
        raise IndexError(f"indexing a tensor of shape {input.shape}: {error}") from None


def setitem(input, index, value):
    """input[index] = value, in place; only on a tensor that autograd does not track."""
    in_place_allowed(input, "item assignment")
    input.array[_plain(index)] = value.array if isinstance(value, Tensor) else value


def in_place_allowed(input, what):
    """Raise unless writing into this tensor leaves every recorded gradient right."""
    if input.requires_grad and is_grad_enabled():
        raise RuntimeError(f"{what} in place on a tensor that requires grad; do it within no_grad(), or make a new tensor")


def where(condition, input, other):
    """input where condition, other elsewhere."""
    a, b = _pair(input, other, "where")
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        raise TypeError("where needs a tensor among its two choices")
    return Where.apply(a, b, condition.array if isinstance(condition, Tensor) else condition)


def masked_fill(input, mask, value):
    """`value`, a number, where mask is True; input elsewhere."""
    mask = mask.array if isinstance(mask, Tensor) else mask
    if mask.dtype.kind != "b":
        raise TypeError(f"masked_fill: the mask must be boolean, got {mask.dtype}")
    value = value.item() if isinstance(value, Tensor) else value
    return Where.apply(input.dtype.type(value), input, mask)


def gather(input, dim, index):
    """out[i][j] = input[index[i][j]][j] for dim 0, input[i][index[i][j]] for dim 1, and so on."""
    index = index.array if isinstance(index, Tensor) else index
    if index.ndim != input.ndim:
        raise RuntimeError(f"gather: index has shape {index.shape} and input {input.shape}; they need equally many axes")
    length = input.shape[dim]
    if input.device == "cpu" and index.size and not (0 <= index.min() and index.max() < length):
        raise IndexError(f"gather: an index lies outside 0…{length - 1} along dim {dim} of a tensor of shape {input.shape}")
    return Gather.apply(input, index, dim % input.ndim)


def embedding(input, weight):
    """Rows of a table.  input: (...,) integer ids, weight: (V, C) -> (..., C).  Raises IndexError for an id outside 0…V−1."""
    ids = input.array if isinstance(input, Tensor) else np.asarray(input)
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
