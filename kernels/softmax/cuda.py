"""Softmax and log-softmax on a GPU: reference.py's signatures over the kernels in cuda.cu."""

import numpy as np

from kernels import gpu
from kernels.arrays import Array
from kernels.gpu import Source, contiguous, empty, finish_output, i32, output_buffer

SOURCE = Source(__file__)


def softmax_plain(x: Array) -> Array:
    """softmax_forward by the plain kernel, for reading and measuring."""
    x = contiguous(x)
    y = empty(x, x.shape)
    rows, columns = _rows(x)
    SOURCE.launch("softmax_plain", (gpu.blocks_for(rows, 128),), (128,), x, y, i32(rows), i32(columns))
    return y


def softmax_forward(x: Array, *, out: Array | None = None) -> Array:
    """See reference.softmax_forward; x is float32."""
    return _forward(x, out, log_form=i32(0))


def log_softmax_forward(x: Array, *, out: Array | None = None) -> Array:
    """See reference.log_softmax_forward."""
    return _forward(x, out, log_form=i32(1))


def softmax_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """See reference.softmax_backward."""
    return _backward(dy, y, out, log_form=i32(0))


def log_softmax_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """See reference.log_softmax_backward."""
    return _backward(dy, y, out, log_form=i32(1))


def _rows(x: Array) -> tuple[int, int]:
    return (x.size // x.shape[-1] if x.size else 0), x.shape[-1]


def _forward(x: Array, out: Array | None, log_form: np.int32) -> Array:
    x = contiguous(x)
    y = output_buffer(x, x.shape, out, "softmax_forward")
    rows, columns = _rows(x)
    SOURCE.launch("softmax_forward", *gpu.row_teams(rows, columns), x, y, i32(rows), i32(columns), log_form, gpu.aligned(x, y))
    return finish_output(y, out)


def _backward(dy: Array, y: Array, out: Array | None, log_form: np.int32) -> Array:
    dy, y = contiguous(dy), contiguous(y)
    dx = output_buffer(y, y.shape, out, "softmax_backward")
    rows, columns = _rows(y)
    sizes = i32(rows), i32(columns)
    SOURCE.launch("softmax_backward", *gpu.row_teams(rows, columns), dy, y, dx, *sizes, log_form, gpu.aligned(dy, y, dx))
    return finish_output(dx, out)
