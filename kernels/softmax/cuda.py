"""Softmax and log-softmax on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.gpu import Source, blocks_for, contiguous, deliver, i32, result, row_teams, vectorises

SOURCE = Source(__file__)


def softmax_forward(x, *, out=None):
    """See reference.softmax_forward; x is float32."""
    return _forward(x, out, log_form=0)


def log_softmax_forward(x, *, out=None):
    """See reference.log_softmax_forward."""
    return _forward(x, out, log_form=1)


def softmax_backward(dy, y, *, out=None):
    """See reference.softmax_backward."""
    return _backward(dy, y, out, log_form=0)


def log_softmax_backward(dy, y, *, out=None):
    """See reference.log_softmax_backward."""
    return _backward(dy, y, out, log_form=1)


def softmax_plain(x):
    """softmax_forward by the kernel that gives each row to one thread: to read and to measure, not to use."""
    x = contiguous(x)
    y = result(x, x.shape, None, "softmax_plain")
    rows, columns = _rows(x)
    SOURCE.launch("softmax_plain", (blocks_for(rows, 128),), (128,), x, y, i32(rows), i32(columns))
    return y


def _rows(x):
    return (x.size // x.shape[-1] if x.size else 0), x.shape[-1]


def _forward(x, out, log_form):
    x = contiguous(x)
    y = result(x, x.shape, out, "softmax_forward")
    rows, columns = _rows(x)
    grid, block = row_teams(rows, columns)
    SOURCE.launch("softmax_forward", grid, block, x, y, i32(rows), i32(columns), i32(log_form), i32(vectorises(x, y)))
    return deliver(y, out)


def _backward(dy, y, out, log_form):
    dy, y = contiguous(dy), contiguous(y)
    dx = result(y, y.shape, out, "softmax_backward")
    rows, columns = _rows(y)
    grid, block = row_teams(rows, columns)
    aligned = i32(vectorises(dy, y, dx))
    SOURCE.launch("softmax_backward", grid, block, dy, y, dx, i32(rows), i32(columns), i32(log_form), aligned)
    return deliver(dx, out)
