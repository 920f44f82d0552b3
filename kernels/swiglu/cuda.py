"""SwiGLU on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.arrays import Array
from kernels.contract import follows
from kernels.gpu import Source, contiguous, elementwise, finish_output, i32, i64, output_buffer
from kernels.swiglu import reference

SOURCE = Source(__file__)


@follows(reference.swiglu_forward)
def swiglu_forward(x: Array, *, out: Array | None = None) -> Array:
    """See reference.swiglu_forward; x is float32."""
    x, F = contiguous(x), x.shape[-1] // 2
    y = output_buffer(x, (*x.shape[:-1], F), out)
    SOURCE.launch("swiglu_forward", *elementwise(y.size), x, y, i64(y.size), i32(F))
    return finish_output(y, out)


@follows(reference.swiglu_backward)
def swiglu_backward(dy: Array, x: Array, *, out: Array | None = None) -> Array:
    """See reference.swiglu_backward."""
    dy, x = contiguous(dy), contiguous(x)
    dx = output_buffer(x, x.shape, out)
    SOURCE.launch("swiglu_backward", *elementwise(dy.size), dy, x, dx, i64(dy.size), i32(dy.shape[-1]))
    return finish_output(dx, out)
