"""Rows gathered from a table, on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels.gpu import Source, blocks_for, contiguous, deliver, i32, result
from kernels.gpu import indices as checked_indices

SOURCE = Source(__file__)


def embedding_forward(weight, indices, *, out=None):
    """See reference.embedding_forward; weight is float32. On a GPU an index that is no row gives a row of NaN."""
    weight, places = contiguous(weight), checked_indices(indices, len(weight), "embedding_forward")
    y = result(weight, (*places.shape, weight.shape[1]), out, "embedding_forward")
    threads = min(256, 32 * blocks_for(weight.shape[1], 32))
    if y.size:
        args = weight, places, y, i32(len(weight)), i32(weight.shape[1])
        SOURCE.launch("embedding_forward", (places.size,), (threads,), *args)
    return deliver(y, out)


def embedding_backward(dy, indices, num_embeddings, *, out=None, accumulate=False):
    """See reference.embedding_backward: the same bits every time."""
    dy, places = contiguous(dy), checked_indices(indices, num_embeddings, "embedding_backward")
    columns = dy.shape[-1]
    dweight = result(dy, (num_embeddings, columns), out, "embedding_backward")
    in_place = accumulate and dweight is out
    if not in_place:
        dweight.fill(0)
    grid = (places.size, blocks_for(columns, 128))
    args = dy, places, dweight, i32(places.size), i32(num_embeddings), i32(columns), i32(in_place)
    SOURCE.launch("embedding_backward", grid, (32,), *args)
    return deliver(dweight, out, accumulate)
