"""Axes and shapes as callers give them, checked: negative numbers wrapped, wrong ones refused in a sentence."""

import numpy as np


def one_axis(name, input, dim, room=0):
    """`dim` as a number in 0 … rank−1 (+ room for an axis yet to be made). A tensor of no dimensions counts as having one."""
    rank = max(input.ndim + room, 1)
    if not isinstance(dim, (int, np.integer)) or not -rank <= dim < rank:
        raise IndexError(f"{name}: dim={dim} is out of range for a tensor of shape {input.shape}")
    return int(dim) % rank


def several_axes(name, input, dim):
    """`dim` (None for all, an int or several) as a sorted tuple of axes; () for a tensor of no dimensions."""
    if dim is None or dim == ():
        return tuple(range(input.ndim))
    axes = sorted(one_axis(name, input, d) for d in ((dim,) if isinstance(dim, (int, np.integer)) else dim))
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: dim={dim} names an axis twice")
    return tuple(axes) if input.ndim else ()


def broadcast(name, *shapes):
    """The shape that these broadcast to; RuntimeError, naming the operation, where they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast") from None


def need_float(name, *tensors):
    """Raise TypeError unless all these are floating-point tensors of one dtype (None is passed over)."""
    dtypes = {t.dtype for t in tensors if t is not None}
    if any(d.kind != "f" for d in dtypes):
        raise TypeError(f"{name} needs floating-point tensors, got {' and '.join(sorted(map(str, dtypes)))}; use .float()")
    if len(dtypes) > 1:
        raise TypeError(f"{name}: all tensors need one dtype, got {' and '.join(sorted(map(str, dtypes)))}")
