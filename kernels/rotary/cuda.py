"""Rotary positions on a GPU: reference.py's signature over the kernel in cuda.cu."""

from kernels.arrays import Array
from kernels.contract import follows
from kernels.gpu import Source, contiguous, elementwise, f32, finish_output, i32, i64, output_buffer
from kernels.rotary import reference

SOURCE = Source(__file__)


@follows(reference.rotary)
def rotary(x: Array, cos: Array, sin: Array, *, inverse: bool = False, out: Array | None = None) -> Array:
    """See reference.rotary; all arrays are float32."""
    x, cos, sin = contiguous(x), contiguous(cos), contiguous(sin)
    y = output_buffer(x, x.shape, out)
    pairs, T, half = x.size // 2, x.shape[-2], x.shape[-1] // 2
    sign = f32(-1 if inverse else 1)
    SOURCE.launch("rotary", *elementwise(pairs), x, cos, sin, y, i64(pairs), i32(T), i32(half), sign)
    return finish_output(y, out)
