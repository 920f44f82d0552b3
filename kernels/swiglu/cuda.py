"""SwiGLU on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.gpu import Source, blocks_for, contiguous, deliver, i32, i64, result

SOURCE = Source(__file__)
THREADS = 256


def swiglu_forward(x, *, out=None):
    """See reference.swiglu_forward; x is float32."""
    x, F = contiguous(x), x.shape[-1] // 2
    y = result(x, (*x.shape[:-1], F), out, "swiglu_forward")
    SOURCE.launch("swiglu_forward", (blocks_for(y.size, THREADS),), (THREADS,), x, y, i64(y.size), i32(F))
    return deliver(y, out)


def swiglu_backward(dy, x, *, out=None):
    """See reference.swiglu_backward."""
    dy, x = contiguous(dy), contiguous(x)
    dx = result(x, x.shape, out, "swiglu_backward")
    grid = (blocks_for(dy.size, THREADS),)
    SOURCE.launch("swiglu_backward", grid, (THREADS,), dy, x, dx, i64(dy.size), i32(dy.shape[-1]))
    return deliver(dx, out)
