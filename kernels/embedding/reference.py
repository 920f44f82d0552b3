"""Rows gathered from a table: the specification, in NumPy, for any float dtype."""

import numpy as np

from kernels.contract import contract


@contract("weight: (V, C); indices: (...) below V; out?: (..., C)", floats=False)
def embedding_forward(weight: np.ndarray, indices: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """y = weight[indices].  weight: (V, C); indices: (...,) ints in 0…V−1 -> y: (..., C)."""
    return np.take(weight, indices.astype(np.int64, copy=False), axis=0, out=out)


# The forward pass copied row indices[r] of the table to y[r]. The gradients of all copies of a row add up:
#   dweight[v] = Σ_{r : indices[r] = v} dy[r].
# A stable sort of the indices brings the copies of a row together, so that each sum is one contiguous run.
# Saved: the indices.
@contract("dy: (..., C); indices: (...) below num_embeddings; out?: (num_embeddings, C)")
def embedding_backward(
    dy: np.ndarray, indices: np.ndarray, num_embeddings: int, *, out: np.ndarray | None = None, accumulate: bool = False
) -> np.ndarray:
    """Gradient of the table.

    Args:
        dy: gradient of y, (..., C).
        indices: as in the forward pass, (...,).
        num_embeddings: V.
        accumulate: add to `out` instead of overwriting it.

    Returns:
        dweight: (V, C), zero in rows that no index names.
    """
    rows = dy.reshape(-1, dy.shape[-1])  # (R, C)
    flat = indices.reshape(-1)  # (R,)
    dweight = np.zeros((num_embeddings, rows.shape[1]), dy.dtype) if out is None else out
    if out is not None and not accumulate:
        dweight[...] = 0
    if len(flat):
        order = np.argsort(flat, kind="stable")  # (R,)
        distinct, first = np.unique(flat[order], return_index=True)  # both (U,)
        dweight[distinct] += np.add.reduceat(rows[order], first, axis=0)  # (U, C)
    return dweight
