"""GELU on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.gpu import Source, blocks_for, contiguous, deliver, i32, i64, result, vectorises

SOURCE = Source(__file__)
THREADS = 256


def gelu_forward(x, *, approximate="none", out=None):
    """See reference.gelu_forward; x is float32."""
    x = contiguous(x)
    y = result(x, x.shape, out, "gelu_forward")
    grid = (blocks_for(x.size, 4 * THREADS),)
    SOURCE.launch("gelu_forward", grid, (THREADS,), x, y, i64(x.size), i32(approximate == "tanh"), i32(vectorises(x, y)))
    return deliver(y, out)


def gelu_backward(dy, x, *, approximate="none", out=None):
    """See reference.gelu_backward."""
    dy, x = contiguous(dy), contiguous(x)
    dx = result(x, x.shape, out, "gelu_backward")
    grid, aligned = (blocks_for(x.size, 4 * THREADS),), i32(vectorises(dy, x, dx))
    SOURCE.launch("gelu_backward", grid, (THREADS,), dy, x, dx, i64(x.size), i32(approximate == "tanh"), aligned)
    return deliver(dx, out)
