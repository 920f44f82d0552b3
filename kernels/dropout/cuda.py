"""Dropout on a GPU: reference.py's signature over the kernel in cuda.cu."""

from kernels.arrays import Array
from kernels.contract import follows
from kernels.dropout import reference
from kernels.gpu import Source, contiguous, elementwise, f32, finish_output, i64, output_buffer, u64
from kernels.graph import GraphError, capturing

SOURCE = Source(__file__)


@follows(reference.dropout)
def dropout(x: Array, p: float, seed: int, *, out: Array | None = None) -> Array:
    """See reference.dropout; the same seed gives the same mask on any device.

    Raises:
        GraphError: inside a graph, which would repeat one mask forever.
    """
    if capturing():
        raise GraphError("dropout: a graph would draw the same mask every time; record the step without dropout")
    x = contiguous(x)
    y = output_buffer(x, x.shape, out)
    scale = 0 if p >= 1 else 1 / (1 - p)
    SOURCE.launch("dropout", *elementwise(x.size), x, y, i64(x.size), u64(seed), f32(p), f32(scale))
    return finish_output(y, out)
