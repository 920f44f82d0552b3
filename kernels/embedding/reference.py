"""Rows gathered from a table: the specification, in NumPy, for any float dtype."""

import numpy as np


def embedding_forward(weight, indices, *, out=None):
    """y = weight[indices].  weight: (V, C); indices: (...,) ints in 0…V−1.  Returns y: (..., C)."""
    return np.take(weight, indices, axis=0, out=out)


# The forward pass copied row indices[r] of the table to y[r]; a row copied twice has two influences, and they add:
#   dweight[v] = Σ_{r : indices[r] = v} dy[r].
# Saved: the indices. Sorting them (stably) brings the copies of a row together, so that each sum is one contiguous run.
def embedding_backward(dy, indices, num_embeddings, *, out=None, accumulate=False):
    """dy: (..., C); indices: (...,).  Returns dweight: (num_embeddings, C); rows never looked up get zeros."""
    rows = dy.reshape(-1, dy.shape[-1])  # (R, C)
    flat = indices.reshape(-1)  # (R,)
    dweight = np.zeros((num_embeddings, rows.shape[1]), dy.dtype) if out is None else out
    if out is not None and not accumulate:
        dweight[...] = 0
    if len(flat):
        order = np.argsort(flat, kind="stable")  # (R,)
        seen, first = np.unique(flat[order], return_index=True)  # both (U,)
        dweight[seen] += np.add.reduceat(rows[order], first, axis=0)  # (U, C)
    return dweight
