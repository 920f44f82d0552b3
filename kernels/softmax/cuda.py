"""Softmax and log-softmax on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from functools import partial

from kernels import gpu
from kernels.arrays import Array
from kernels.contract import follows
from kernels.gpu import Source, contiguous, empty, finish_output, i32, output_buffer
from kernels.softmax import reference

SOURCE = Source(__file__)


def _rows(x: Array) -> tuple[int, int]:
    return (x.size // x.shape[-1] if x.size else 0), x.shape[-1]


def softmax_plain(x: Array) -> Array:
    """softmax_forward by the plain kernel, for reading and measuring."""
    x = contiguous(x)
    y = empty(x, x.shape)
    rows, columns = _rows(x)
    SOURCE.launch("softmax_plain", (gpu.blocks_for(rows, 128),), (128,), x, y, i32(rows), i32(columns))
    return y


def _forward(x: Array, *, out: Array | None = None, log: bool) -> Array:
    x = contiguous(x)
    y = output_buffer(x, x.shape, out)
    rows, columns = _rows(x)
    SOURCE.launch("softmax_forward", *gpu.row_teams(rows, columns), x, y, i32(rows), i32(columns), i32(log), gpu.aligned(x, y))
    return finish_output(y, out)


def _backward(dy: Array, y: Array, *, out: Array | None = None, log: bool) -> Array:
    dy, y = contiguous(dy), contiguous(y)
    dx = output_buffer(y, y.shape, out)
    rows, columns = _rows(y)
    sizes = i32(rows), i32(columns)
    SOURCE.launch("softmax_backward", *gpu.row_teams(rows, columns), dy, y, dx, *sizes, i32(log), gpu.aligned(dy, y, dx))
    return finish_output(dx, out)


# See reference.py; all arrays are float32.
softmax_forward = follows(reference.softmax_forward)(partial(_forward, log=False))
softmax_backward = follows(reference.softmax_backward)(partial(_backward, log=False))
log_softmax_forward = follows(reference.log_softmax_forward)(partial(_forward, log=True))
log_softmax_backward = follows(reference.log_softmax_backward)(partial(_backward, log=True))
