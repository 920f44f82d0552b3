"""Shapes: views and joins. A view's gradient is the inverse view; what was joined is split again."""

import math

import numpy as np

import kernels
from kernels.graph import concatenate
from minigrad.function import Function
from minigrad.ops.arithmetic import common_dtype, to_dtype
from minigrad.ops.axes import one_axis


def _dims(args):
    """Sizes given as f(2, 3) or f((2, 3))."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else tuple(int(a) for a in args)


class Reshape(Function):
    @staticmethod
    def forward(ctx, x, shape):
        ctx.save(x.shape)
        return x.reshape(shape)

    @staticmethod
    def backward(ctx, dy):
        return dy.reshape(ctx.saved[0]), None


class Permute(Function):
    @staticmethod
    def forward(ctx, x, dims):
        ctx.save(dims)
        return x.transpose(dims)

    @staticmethod
    def backward(ctx, dy):
        return dy.transpose(_undoing(ctx.saved[0])), None


class Expand(Function):
    @staticmethod
    def forward(ctx, x, shape):
        ctx.save(x.shape)
        return ctx.xp.broadcast_to(x, shape)

    @staticmethod
    def backward(ctx, dy):
        return kernels.unbroadcast(dy, ctx.saved[0]), None


class Cat(Function):
    @staticmethod
    def forward(ctx, dim, *arrays):
        ctx.save(dim, [a.shape[dim] for a in arrays])
        return concatenate(ctx.xp, arrays, dim)

    @staticmethod
    def backward(ctx, dy):
        dim, sizes = ctx.saved
        return None, *_pieces(dy, sizes, dim)


class Split(Function):
    @staticmethod
    def forward(ctx, x, sizes, dim):
        ctx.save(dim)
        return tuple(_pieces(x, sizes, dim))

    @staticmethod
    def backward(ctx, *dys):
        return _rejoined(dys, ctx.saved[0], ctx.xp), None, None


class Copy(Function):
    @staticmethod
    def forward(ctx, x):
        return x.copy()

    @staticmethod
    def backward(ctx, dy):
        return dy


def _undoing(order):
    """The permutation that undoes this one. Axis i of y is axis order[i] of x; sorting order says where each axis went."""
    return sorted(range(len(order)), key=order.__getitem__)


def _pieces(array, sizes, dim):
    index, begin = [slice(None)] * array.ndim, 0
    for size in sizes:
        index[dim] = slice(begin, begin + size)
        yield array[tuple(index)]
        begin += size


def _rejoined(pieces, dim, xp):
    """The pieces joined along `dim`: without a copy where they already lie side by side in one buffer.

    The gradients of a block's q, k and v do: attention writes them there, see Attention.backward.
    """
    base, strides = pieces[0].base, pieces[0].strides
    shape = list(pieces[0].shape)
    shape[dim] = sum(p.shape[dim] for p in pieces)
    if base is not None and all(p.base is base for p in pieces) and base.size == math.prod(shape):
        order = sorted(range(len(shape)), key=lambda i: -strides[i])  # the axes as they follow one another in the buffer
        whole = base.reshape([shape[i] for i in order]).transpose(_undoing(order))
        parts = list(_pieces(whole, [p.shape[dim] for p in pieces], dim))
        if all(kernels.same_memory(p, q) for p, q in zip(parts, pieces)):
            return whole
    return concatenate(xp, pieces, dim)


def reshape(input, *shape):
    """The same elements in another shape, one size may be -1; a view where the memory allows it, a copy elsewhere."""
    shape = _dims(shape)
    try:
        return Reshape.apply(input, shape)
    except ValueError:
        raise RuntimeError(f"cannot reshape a tensor of shape {input.shape} ({input.numel()} elements) to {shape}") from None


def view(input, *shape):
    """reshape that never copies: raises where the memory layout would need it, as PyTorch does."""
    result = reshape(input, *shape)
    if input.device == "cpu" and input.numel() and not np.may_share_memory(result.array, input.array):
        raise RuntimeError(
            f"view: a tensor of shape {input.shape} that is not contiguous cannot be seen as {result.shape} without a copy; "
            "use .reshape(...) or .contiguous() first"
        )
    return result


def view_as(input, other):
    return view(input, other.shape)


def flatten(input, start_dim=0, end_dim=-1):
    """Merge the axes start_dim … end_dim into one."""
    start, end = one_axis("flatten", input, start_dim), one_axis("flatten", input, end_dim)
    if start > end:
        raise RuntimeError(f"flatten: start_dim={start_dim} comes after end_dim={end_dim} in shape {input.shape}")
    merged = math.prod(input.shape[start : end + 1])
    return reshape(input, (*input.shape[:start], merged, *input.shape[end + 1 :]))


def permute(input, *dims):
    order = tuple(one_axis("permute", input, d) for d in _dims(dims))
    if sorted(order) != list(range(input.ndim)):
        raise RuntimeError(f"permute: {dims} is not an order of the {input.ndim} axes of a tensor of shape {input.shape}")
    return Permute.apply(input, order)


def transpose(input, dim0, dim1):
    """Swap two axes (a view)."""
    a, b = one_axis("transpose", input, dim0), one_axis("transpose", input, dim1)
    order = list(range(input.ndim))
    if order:
        order[a], order[b] = b, a
    return Permute.apply(input, tuple(order))


def t(input):
    if input.ndim > 2:
        raise RuntimeError(f"t() needs at most 2 dimensions, this tensor has shape {input.shape}; use .mT or .transpose()")
    return permute(input, *range(input.ndim)[::-1])


def squeeze(input, dim=None):
    """Drop axes of length one: all, or those named."""
    dims = range(input.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    drop = {one_axis("squeeze", input, d) for d in dims}
    return reshape(input, tuple(n for i, n in enumerate(input.shape) if i not in drop or n != 1))


def unsqueeze(input, dim):
    """Insert an axis of length one at `dim`."""
    shape = list(input.shape)
    shape.insert(one_axis("unsqueeze", input, dim, room=1), 1)
    return reshape(input, tuple(shape))


def expand(input, *sizes):
    """Repeat axes of length one (-1 leaves an axis as it is) without copying."""
    sizes = _dims(sizes)
    new = len(sizes) - input.ndim
    given = (1,) * new + input.shape
    shape = tuple(n if s == -1 else s for s, n in zip(sizes, given))
    if new < 0 or any(n not in (1, s) for s, n in zip(shape, given)) or -1 in sizes[: max(new, 0)]:
        raise RuntimeError(f"expand: a tensor of shape {input.shape} cannot be expanded to {sizes}")
    return Expand.apply(input, shape)


def contiguous(input):
    return input if input.array.flags.c_contiguous else clone(input)


def clone(input):
    """A copy in fresh memory, still part of the graph."""
    return Copy.apply(input)


def cat(tensors, dim=0):
    """Join along an existing axis."""
    tensors = list(tensors)
    if not tensors:
        raise RuntimeError("cat needs at least one tensor")
    if any(t.ndim == 0 for t in tensors):
        raise RuntimeError("cat cannot join tensors of no dimensions; use stack()")
    axis, dtype = one_axis("cat", tensors[0], dim), common_dtype(*tensors)
    if len({(t.ndim, *t.shape[:axis], None, *t.shape[axis + 1 :]) for t in tensors}) > 1:
        shapes = ", ".join(str(t.shape) for t in tensors)
        raise RuntimeError(f"cat along dim {dim}: the other axes must agree, got shapes {shapes}")
    return Cat.apply(axis, *(to_dtype(t, dtype) for t in tensors))


def stack(tensors, dim=0):
    """Join along a new axis."""
    tensors = list(tensors)
    if len({t.shape for t in tensors}) > 1:
        raise RuntimeError(f"stack: all shapes must agree, got {', '.join(str(t.shape) for t in tensors)}")
    axis = one_axis("stack", tensors[0], dim, room=1) if tensors else 0
    return cat([unsqueeze(t, axis) for t in tensors], axis)


def split(input, split_size_or_sections, dim=0):
    """Cut along `dim` into pieces of one size (the last may be smaller) or of the sizes listed. The pieces are views."""
    if not input.ndim:
        raise RuntimeError("split: a tensor of no dimensions cannot be cut")
    dim = one_axis("split", input, dim)
    length = input.shape[dim]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 1:
            raise RuntimeError(f"split: the size of a piece must be at least 1, got {size}")
        sizes = [min(size, length - i) for i in range(0, length, size)] or [0]
    else:
        sizes = list(split_size_or_sections)
    if sum(sizes) != length or min(sizes, default=0) < 0:
        raise RuntimeError(f"split: sizes {sizes} add up to {sum(sizes)}, but axis {dim} of shape {input.shape} has {length}")
    return Split.apply(input, sizes, dim)


def chunk(input, chunks, dim=0):
    """Cut along `dim` into at most `chunks` pieces of equal size (the last may be smaller)."""
    if chunks < 1:
        raise RuntimeError(f"chunk: the number of chunks must be at least 1, got {chunks}")
    length = input.shape[one_axis("chunk", input, dim)] if input.ndim else 0
    return split(input, max(-(-length // chunks), 1), dim)


class Triangle(Function):
    @staticmethod
    def forward(ctx, x, keep):
        ctx.save(keep)
        return keep(x)

    # What was zeroed has no influence: its gradient is zeroed, too.
    @staticmethod
    def backward(ctx, dy):
        return ctx.saved[0](dy), None


def _triangle(name):
    def triangle(input, diagonal=0):
        if input.ndim < 2:
            raise RuntimeError(f"{name} needs at least 2 dimensions, got shape {input.shape}")
        cut = getattr(kernels.array_module(input.array), name)
        return Triangle.apply(input, lambda x: cut(x, diagonal))

    triangle.__name__ = name
    side = "above" if name == "tril" else "below"
    triangle.__doc__ = f"The last two axes with everything {side} the given diagonal set to zero ({name})."
    return triangle


tril, triu = _triangle("tril"), _triangle("triu")
