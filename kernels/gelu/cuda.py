"""GELU on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.arrays import Array
from kernels.contract import follows
from kernels.gelu import reference
from kernels.gpu import Source, aligned, contiguous, elementwise, finish_output, i32, i64, output_buffer

SOURCE = Source(__file__)


@follows(reference.gelu_forward)
def gelu_forward(x: Array, *, approximate: str = "none", out: Array | None = None) -> Array:
    """See reference.gelu_forward; x is float32."""
    x = contiguous(x)
    y = output_buffer(x, x.shape, out)
    tanh_form = i32(approximate == "tanh")
    SOURCE.launch("gelu_forward", *elementwise(x.size, 4), x, y, i64(x.size), tanh_form, aligned(x, y))
    return finish_output(y, out)


@follows(reference.gelu_backward)
def gelu_backward(dy: Array, x: Array, *, approximate: str = "none", out: Array | None = None) -> Array:
    """See reference.gelu_backward."""
    dy, x = contiguous(dy), contiguous(x)
    dx = output_buffer(x, x.shape, out)
    tanh_form = i32(approximate == "tanh")
    SOURCE.launch("gelu_backward", *elementwise(x.size, 4), dy, x, dx, i64(x.size), tanh_form, aligned(dy, x, dx))
    return finish_output(dx, out)
