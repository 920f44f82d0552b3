"""Rotary positions on a GPU: reference.py's signature over the kernel in cuda.cu."""

from kernels.gpu import Source, blocks_for, contiguous, deliver, f32, i32, i64, result

SOURCE = Source(__file__)
THREADS = 256


def rotary(x, cos, sin, *, inverse=False, out=None):
    """See reference.rotary; all arrays are float32."""
    x, cos, sin = contiguous(x), contiguous(cos), contiguous(sin)
    y = result(x, x.shape, out, "rotary")
    pairs, half = x.size // 2, x.shape[-1] // 2
    args = x, cos, sin, y, i64(pairs), i32(x.shape[-2]), i32(half), f32(-1 if inverse else 1)
    SOURCE.launch("rotary", (blocks_for(pairs, THREADS),), (THREADS,), *args)
    return deliver(y, out)
