"""Shapes: views and joins. A view's gradient is the inverse view; a join's gradient is split."""

import math
from typing import Any, Iterable, Sequence

import numpy as np

import kernels
from kernels.graph import concatenate
from minigrad.engine import TensorBase, TensorT
from minigrad.function import Function
from minigrad.ops.operands import Dim, Number, as_int, as_scalar, as_sizes, common_dtype, need_tensors, one_axis, to_dtype


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
        return dy.transpose(_inverse(ctx.saved[0])), None


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
        return _join(dys, ctx.saved[0], ctx.xp), None, None


class Copy(Function):
    @staticmethod
    def forward(ctx, x):
        return x.copy()

    @staticmethod
    def backward(ctx, dy):
        return dy


class Flip(Function):
    @staticmethod
    def forward(ctx, x, axes):
        ctx.save(axes)
        return ctx.xp.flip(x, axes).copy()

    @staticmethod
    def backward(ctx, dy):
        return ctx.xp.flip(dy, ctx.saved[0]), None


class Roll(Function):
    @staticmethod
    def forward(ctx, x, shifts, axes):
        ctx.save(shifts, axes)
        return ctx.xp.roll(x, shifts, axes)

    @staticmethod
    def backward(ctx, dy):
        shifts, axes = ctx.saved
        return ctx.xp.roll(dy, tuple(-shift for shift in shifts), axes), None, None


class Pad(Function):
    @staticmethod
    def forward(ctx, x, widths, value):
        ctx.save(widths)
        return ctx.xp.pad(x, widths, constant_values=value)

    # The frame is constant; inside it, y = x.
    @staticmethod
    def backward(ctx, dy):
        (widths,) = ctx.saved
        return dy[tuple(slice(before, n - after) for n, (before, after) in zip(dy.shape, widths))], None, None


class Triangle(Function):
    @staticmethod
    def forward(ctx, x, cut):
        ctx.save(cut)
        return cut(x)

    # A zeroed element has no influence on the loss, so its gradient is zero.
    @staticmethod
    def backward(ctx, dy):
        return ctx.saved[0](dy), None


def _inverse(order):
    """The inverse of a permutation. Axis i of y is axis order[i] of x, so sorting `order` tells where each axis of x went."""
    return sorted(range(len(order)), key=order.__getitem__)


def _pieces(array, sizes, dim):
    index, begin = [slice(None)] * array.ndim, 0
    for size in sizes:
        index[dim] = slice(begin, begin + size)
        yield array[tuple(index)]
        begin += size


def _join(pieces, dim, xp):
    """The pieces joined along `dim`, without a copy if they already lie side by side in one buffer.

    Attention.backward writes the gradients of q, k and v that way.
    """
    base, strides = pieces[0].base, pieces[0].strides
    shape = list(pieces[0].shape)
    shape[dim] = sum(p.shape[dim] for p in pieces)
    if base is not None and all(p.base is base for p in pieces) and base.size == math.prod(shape):
        order = sorted(range(len(shape)), key=lambda i: -strides[i])  # the axes, in memory order
        whole = base.reshape([shape[i] for i in order]).transpose(_inverse(order))
        parts = list(_pieces(whole, [p.shape[dim] for p in pieces], dim))
        if all(kernels.same_memory(p, q) for p, q in zip(parts, pieces)):
            return whole
    return concatenate(xp, pieces, dim)


def reshape(input: TensorT, *shape: Any) -> TensorT:
    """The same elements in another shape, of which one size may be -1. A view if the memory layout allows it, else a copy."""
    need_tensors("reshape", input)
    shape = as_sizes("reshape", shape, least=-1)
    try:
        return Reshape.apply(input, shape)
    except ValueError:
        raise RuntimeError(f"reshape: cannot reshape {input.shape} ({input.array.size} elements) to {shape}") from None


def view(input: TensorT, *shape: Any) -> TensorT:
    """reshape without a copy; raises RuntimeError where the memory layout would need one, as PyTorch does."""
    result = reshape(input, *shape)
    if input.device == "cpu" and input.array.size and not np.may_share_memory(result.array, input.array):
        raise RuntimeError(
            f"view: a tensor of shape {input.shape} that is not contiguous cannot be viewed as {result.shape} without a copy; "
            "use .reshape(…) or .contiguous() first"
        )
    return result


def view_as(input: TensorT, other: TensorBase) -> TensorT:
    """view in the shape of another tensor."""
    return view(input, other.shape)


def flatten(input: TensorT, start_dim: int = 0, end_dim: int = -1) -> TensorT:
    """Merge the axes start_dim … end_dim into one."""
    start, end = one_axis("flatten", input, start_dim), one_axis("flatten", input, end_dim)
    if start > end:
        raise RuntimeError(f"flatten: start_dim={start_dim} comes after end_dim={end_dim} in shape {input.shape}")
    merged = math.prod(input.shape[start : end + 1])
    return reshape(input, (*input.shape[:start], merged, *input.shape[end + 1 :]))


def permute(input: TensorT, *dims: Any) -> TensorT:
    """Put the axes in another order (a view)."""
    order = tuple(one_axis("permute", input, d) for d in as_sizes("permute", dims))
    if sorted(order) != list(range(input.ndim)):
        raise RuntimeError(f"permute: expected an order of the axes of shape {input.shape}, got {dims}")
    return Permute.apply(input, order)


def transpose(input: TensorT, dim0: int, dim1: int) -> TensorT:
    """Swap two axes (a view)."""
    a, b = one_axis("transpose", input, dim0), one_axis("transpose", input, dim1)
    order = list(range(input.ndim))
    if order:
        order[a], order[b] = b, a
    return Permute.apply(input, tuple(order))


def t(input: TensorT) -> TensorT:
    """The transpose of a matrix (a view)."""
    need_tensors("t", input)
    if input.ndim > 2:
        raise RuntimeError(f"t: expected at most 2 dimensions, got shape {input.shape}; use .mT or .transpose()")
    return permute(input, *range(input.ndim)[::-1])


def squeeze(input: TensorT, dim: Dim = None) -> TensorT:
    """Drop axes of length one: all, or only the named ones."""
    need_tensors("squeeze", input)
    dims = range(input.ndim) if dim is None else dim if isinstance(dim, Iterable) else (dim,)
    drop = {one_axis("squeeze", input, d) for d in dims}
    return reshape(input, tuple(n for i, n in enumerate(input.shape) if i not in drop or n != 1))


def unsqueeze(input: TensorT, dim: int) -> TensorT:
    """Insert an axis of length one."""
    axis = one_axis("unsqueeze", input, dim, room=1)
    shape = list(input.shape)
    shape.insert(axis, 1)
    return reshape(input, tuple(shape))


def expand(input: TensorT, *sizes: Any) -> TensorT:
    """Repeat axes of length one without copying; a size of -1 leaves the axis as it is."""
    need_tensors("expand", input)
    sizes = as_sizes("expand", sizes, least=-1)
    new = len(sizes) - input.ndim
    old = (1,) * new + input.shape
    shape = tuple(n if s == -1 else s for s, n in zip(sizes, old))
    if new < 0 or any(n not in (1, s) for s, n in zip(shape, old)) or -1 in sizes[: max(new, 0)]:
        raise RuntimeError(f"expand: a tensor of shape {input.shape} cannot be expanded to {sizes}")
    return Expand.apply(input, shape)


def repeat(input: TensorT, *sizes: Any) -> TensorT:
    """The tensor tiled sizes[i] times along axis i; more sizes than axes add axes in front."""
    need_tensors("repeat", input)
    sizes = as_sizes("repeat", sizes, least=0)
    if len(sizes) < input.ndim:
        raise RuntimeError(f"repeat: expected at least {input.ndim} sizes, got {sizes}")
    shape = (1,) * (len(sizes) - input.ndim) + input.shape
    rows = reshape(input, tuple(n for size in shape for n in (1, size)))  # an axis of length 1 before each axis …
    tiled = expand(rows, tuple(n for pair in zip(sizes, shape) for n in pair))  # … is expanded, and then merged with it
    return clone(reshape(tiled, tuple(times * size for times, size in zip(sizes, shape))))


def flip(input: TensorT, *axes: Any, dims: Sequence[int] = ()) -> TensorT:
    """The elements in reverse order along axes: flip(x, 0, 1), flip(x, (0, 1)) or flip(x, dims=(0, 1)). A copy."""
    axes = tuple(one_axis("flip", input, axis) for axis in (as_sizes("flip", axes) or dims))
    if len(set(axes)) < len(axes):
        raise RuntimeError(f"flip: the axes {axes} name an axis twice")
    return Flip.apply(input, axes if input.ndim else ())


def roll(input: TensorT, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> TensorT:
    """Move the elements `shifts` places along `dims`, the last ones to the start; of the flattened tensor without dims."""
    need_tensors("roll", input)
    shifts = tuple(as_int(s, "roll", "shift") for s in (shifts if isinstance(shifts, Iterable) else (shifts,)))
    axes = () if dims is None else tuple(dims) if isinstance(dims, Iterable) else (dims,)
    if not shifts:
        raise RuntimeError("roll: expected at least one shift, got none")
    if not axes and len(shifts) == 1:
        return reshape(roll(reshape(input, -1), shifts, 0), input.shape)
    if len(shifts) != len(axes):
        raise RuntimeError(f"roll: expected as many shifts as dims, got {len(shifts)} and {len(axes)}")
    if not input.ndim:
        raise IndexError(f"roll: a tensor of no dimensions has no axis {dims}")
    return Roll.apply(input, shifts, tuple(one_axis("roll", input, axis) for axis in axes))


def pad(input: TensorT, pad: Sequence[int], mode: str = "constant", value: Number | None = None) -> TensorT:
    """A frame of `value` around the tensor.

    Args:
        pad: elements to add before and after the last axis, then before and after the last but one, and so on; a negative
            number cuts elements off.
        mode: "constant"; the others are not implemented.
        value: 0 if None.
    """
    if mode != "constant":
        raise NotImplementedError(f"pad: only mode='constant' is implemented, got {mode!r}")
    need_tensors("pad", input)
    if not isinstance(pad, Iterable):
        raise TypeError(f"pad: expected a pair of widths for each axis, got {type(pad).__name__}")
    pad = [as_int(width, "pad", "width") for width in pad]
    if not pad:
        return clone(input)
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise RuntimeError(f"pad: expected one pair of widths for each of at most {input.ndim} axes, got {tuple(pad)}")
    ends = list(zip(pad[::2], pad[1::2]))[::-1]
    widths = [(0, 0)] * (input.ndim - len(ends)) + ends
    if any(before + n + after < 0 for n, (before, after) in zip(input.shape, widths)):
        raise RuntimeError(f"pad: {tuple(pad)} cuts off more than a tensor of shape {input.shape} has")
    for axis, (n, (before, after)) in enumerate(zip(input.shape, widths)):
        if before < 0 or after < 0:
            _, input, _ = split(input, [max(-before, 0), n - max(-before, 0) - max(-after, 0), max(-after, 0)], axis)
    frame = tuple((max(before, 0), max(after, 0)) for before, after in widths)
    return Pad.apply(input, frame, as_scalar(0 if value is None else value, input.dtype, "pad"))


def contiguous(input: TensorT) -> TensorT:
    """The tensor itself if its memory is in row-major order, else a copy that is."""
    return input if input.array.flags.c_contiguous else clone(input)


def clone(input: TensorT) -> TensorT:
    """A copy in fresh memory, still part of the graph."""
    need_tensors("clone", input)
    return Copy.apply(input)


def _several(name: str, tensors: Iterable[TensorT]) -> list[TensorT]:
    """The tensors to join, as a list."""
    if isinstance(tensors, TensorBase) or not isinstance(tensors, Iterable):
        raise TypeError(f"{name}: expected a list of tensors, got {type(tensors).__name__}; put it into a list")
    tensors = list(tensors)
    if not tensors:
        raise RuntimeError(f"{name}: expected at least one tensor, got none; pass a list of tensors")
    need_tensors(name, *tensors)
    return tensors


def cat(tensors: Iterable[TensorT], dim: int = 0) -> TensorT:
    """Join tensors along an existing axis. A tensor of shape (0,) adds nothing, whatever the others' shapes."""
    tensors = _several("cat", tensors)
    if any(t.ndim == 0 for t in tensors):
        raise RuntimeError("cat: cannot join tensors of no dimensions; use stack()")
    dtype = common_dtype(*tensors)
    tensors = [t for t in tensors if t.shape != (0,)] or tensors[:1]
    axis = one_axis("cat", tensors[0], dim)
    if len({(t.ndim, *t.shape[:axis], None, *t.shape[axis + 1 :]) for t in tensors}) > 1:
        shapes = ", ".join(str(t.shape) for t in tensors)
        raise RuntimeError(f"cat along dim {dim}: the other axes must agree, got shapes {shapes}")
    return Cat.apply(axis, *(to_dtype(t, dtype) for t in tensors))


def stack(tensors: Iterable[TensorT], dim: int = 0) -> TensorT:
    """Join tensors of one shape along a new axis."""
    tensors = _several("stack", tensors)
    if len({t.shape for t in tensors}) > 1:
        raise RuntimeError(f"stack: all shapes must agree, got {', '.join(str(t.shape) for t in tensors)}")
    axis = one_axis("stack", tensors[0], dim, room=1)
    return cat([unsqueeze(t, axis) for t in tensors], axis)


def split(input: TensorT, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[TensorT, ...]:
    """Cut along `dim` into views, of one size (the last may be smaller) or of the listed sizes."""
    need_tensors("split", input)
    if not input.ndim:
        raise RuntimeError("split: a tensor of no dimensions cannot be cut")
    dim = one_axis("split", input, dim)
    length = input.shape[dim]
    if isinstance(split_size_or_sections, Iterable):
        sizes = [as_int(size, "split", "size") for size in split_size_or_sections]
    else:
        size = as_int(split_size_or_sections, "split", "size", least=1 if length else 0)
        sizes = [min(size, length - i) for i in range(0, length, size or 1)] or [0]
    if sum(sizes) != length or min(sizes, default=0) < 0:
        raise RuntimeError(f"split: sizes {sizes} add up to {sum(sizes)}, but axis {dim} of shape {input.shape} has {length}")
    return Split.apply(input, sizes, dim)


def chunk(input: TensorT, chunks: int, dim: int = 0) -> tuple[TensorT, ...]:
    """Cut along `dim` into at most `chunks` views of equal size (the last may be smaller)."""
    chunks, axis = as_int(chunks, "chunk", "chunks", least=1), one_axis("chunk", input, dim)
    length = input.shape[axis] if input.ndim else 0
    return split(input, -(-length // chunks) or [0] * chunks, dim)


def tril(input: TensorT, diagonal: int = 0) -> TensorT:
    """The last two axes with everything above the diagonal set to zero."""
    return _triangle("tril", input, diagonal)


def triu(input: TensorT, diagonal: int = 0) -> TensorT:
    """The last two axes with everything below the diagonal set to zero."""
    return _triangle("triu", input, diagonal)


def _triangle(name: str, input: TensorT, diagonal: int) -> TensorT:
    need_tensors(name, input)
    diagonal = as_int(diagonal, name, "diagonal")
    if input.ndim < 2:
        raise RuntimeError(f"{name}: expected at least 2 dimensions, got shape {input.shape}")
    cut = getattr(kernels.array_module(input.array), name)
    return Triangle.apply(input, lambda x: cut(x, diagonal))


class ShapeMethods(TensorBase):
    """The functions above as methods: x.reshape(2, 3) is reshape(x, 2, 3)."""

    __slots__ = ()

    reshape, view, view_as, flatten = reshape, view, view_as, flatten
    permute, transpose, t = permute, transpose, t
    squeeze, unsqueeze, expand, repeat = squeeze, unsqueeze, expand, repeat
    flip, roll = flip, roll
    contiguous, clone = contiguous, clone
    split, chunk, tril, triu = split, chunk, tril, triu

    @property
    def T(self: TensorT) -> TensorT:
        """The transpose of a matrix (a view)."""
        return t(self)

    @property
    def mT(self: TensorT) -> TensorT:
        """The last two axes swapped (a view)."""
        return transpose(self, -1, -2)
