"""Rows gathered from a table, on a GPU: reference.py's signatures over the kernels in cuda.cu."""

from kernels import gpu
from kernels.arrays import Array
from kernels.contract import follows
from kernels.embedding import reference
from kernels.gpu import Source, contiguous, finish_output, i32, output_buffer

SOURCE = Source(__file__)


@follows(reference.embedding_forward)
def embedding_forward(weight: Array, indices: Array, *, out: Array | None = None) -> Array:
    """See reference.embedding_forward; weight is float32. On a GPU an index out of range gives a row of NaN."""
    weight, indices = contiguous(weight), gpu.int64_indices(indices)
    table_rows, columns = weight.shape
    y = output_buffer(weight, (*indices.shape, columns), out)
    if y.size:
        block = (min(256, 32 * gpu.blocks_for(columns, 32)),)
        SOURCE.launch("embedding_forward", (indices.size,), block, weight, indices, y, i32(table_rows), i32(columns))
    return finish_output(y, out)


@follows(reference.embedding_backward)
def embedding_backward(
    dy: Array, indices: Array, num_embeddings: int, *, out: Array | None = None, accumulate: bool = False
) -> Array:
    """See reference.embedding_backward; the same inputs give the same bits every time."""
    dy, indices = contiguous(dy), gpu.int64_indices(indices)
    columns = dy.shape[-1]
    dweight = output_buffer(dy, (num_embeddings, columns), out)
    in_place = accumulate and dweight is out
    if not in_place:
        dweight.fill(0)
    grid = (indices.size, gpu.blocks_for(columns, 128))
    sizes = i32(indices.size), i32(num_embeddings), i32(columns)
    SOURCE.launch("embedding_backward", grid, (32,), dy, indices, dweight, *sizes, i32(in_place))
    return finish_output(dweight, out, accumulate)
