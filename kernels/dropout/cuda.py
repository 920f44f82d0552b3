"""Dropout on a GPU: reference.py's signature over the kernel in cuda.cu."""

from kernels.gpu import Source, blocks_for, contiguous, deliver, f32, i64, result, u64
from kernels.graph import GraphError, capturing

SOURCE = Source(__file__)
THREADS = 256


def dropout(x, p, seed, *, out=None):
    """See reference.dropout: the same mask for the same seed, on any device.  Raises GraphError inside a graph."""
    if capturing():
        raise GraphError("dropout: a graph would draw the same mask every time; record the step without dropout")
    x = contiguous(x)
    y = result(x, x.shape, out, "dropout")
    scale = 0 if p >= 1 else 1 / (1 - p)
    grid = (blocks_for(x.size, THREADS),)
    SOURCE.launch("dropout", grid, (THREADS,), x, y, i64(x.size), u64(seed), f32(p), f32(scale))
    return deliver(y, out)
