"""Output buffers on the CPU: what `out=` and `accumulate=` mean for a NumPy array."""

from collections.abc import Sequence

import numpy as np


def write(value: np.ndarray, out: np.ndarray | None, accumulate: bool = False) -> np.ndarray:
    """Write `value` into `out`, or add it if `accumulate`, and return `out`; without a buffer, return `value`."""
    if out is None:
        return value
    out[...] = out + value if accumulate else value
    return out


def result(out: np.ndarray | None, shape: Sequence[int]) -> np.ndarray:
    """A C-contiguous float32 array to compute into: `out` if it is suitable, else a new array."""
    if out is not None and out.dtype == np.float32 and out.flags.c_contiguous:
        return out
    return np.empty(shape, np.float32)


def has_rows(x: np.ndarray) -> bool:
    """Whether x is float32 with contiguous rows, so that a kernel needs only its address and strides."""
    return x.dtype == np.float32 and (x.strides[-1] == 4 or x.shape[-1] == 1) and not any(s % 4 for s in x.strides)


def row_result(out: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """An array for a kernel to write row by row: `out` if it has the shape and contiguous rows, else a new array."""
    return out if out is not None and out.shape == shape and has_rows(out) else np.empty(shape, np.float32)


def copy_to_out(y: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Return `out`, filled with y if y was computed elsewhere; y itself if there is no `out`."""
    if out is None or out is y:
        return y
    out[...] = y
    return out
