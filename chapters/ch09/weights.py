"""Copy the weights of a .safetensors file into a model, a few MiB at a time.

`minigrad.serialization` describes the format and checks the header; nobody allocates memory before that.
"""

import math
import os
from pathlib import Path

import numpy as np

from minigrad.serialization import CheckpointError, check_weights, read_header, short

SLAB = 4 << 20  # bytes mapped at a time: pages count as memory in use until they are unmapped
READABLE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16, so we read its 16 bits as an integer


class WeightsFile:
    """The tensors of a .safetensors file by name.

    Raises:
        CheckpointError: if the file is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        self.entries, _ = read_header(path)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError if a tensor is missing, has another shape, or has a dtype that cannot be read."""
        if name not in self.entries:
            raise CheckpointError(f"{self.path} lacks the tensor {short(name)}: its config.json describes another model")
        entry = self.entries[name]
        if entry.shape != tuple(shape):
            raise CheckpointError(f"{self.path}: {name} has the shape {short(entry.shape)}, but config.json says {shape}")
        if entry.dtype not in READABLE:
            raise CheckpointError(f"{self.path}: {name} is stored as {entry.dtype}, expected {', '.join(READABLE)}")

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors have the same dtype, shape and bytes."""
        a, b = self.entries[name], self.entries[other]
        if a[:2] != b[:2]:
            return False
        for start in range(0, a.end - a.begin, SLAB):
            shape = (min(SLAB, a.end - a.begin - start),)
            slab, other_slab = (np.memmap(self.path, np.uint8, "r", entry.begin + start, shape) for entry in (a, b))
            if not np.array_equal(slab, other_slab):
                return False
        return True

    def copy_into(self, name: str, array: np.ndarray) -> None:
        """Copy a tensor into a float32 array of its shape, which may be a transposed view; it must be finite."""
        entry = self.entries[name]
        dtype = np.dtype(READABLE[entry.dtype])
        row_bytes = math.prod(entry.shape[1:]) * dtype.itemsize
        step = max(1, SLAB // max(row_bytes, 1))
        for start in range(0, entry.shape[0], step):
            shape = (min(step, entry.shape[0] - start), *entry.shape[1:])
            try:  # each pass unmaps the previous slab
                slab = np.memmap(self.path, dtype, "r", entry.begin + start * row_bytes, shape)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{self.path} changed while it was read: {error}") from error
            _convert(slab, array[start : start + step], entry.dtype)
            check_weights(self.path, name, array[start : start + step])


def _convert(source: np.ndarray, target: np.ndarray, dtype: str) -> None:
    """Copy into float32. A bfloat16 is the upper half of a float32's bits; the lower half becomes zeros."""
    if dtype == "BF16":
        np.left_shift(source, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
    elif target.ndim == 2 and target.strides[0] < target.strides[1]:  # transposed: in tiles that stay in the cache
        for i in range(0, target.shape[0], 64):
            for j in range(0, target.shape[1], 64):
                target[i : i + 64, j : j + 64] = source[i : i + 64, j : j + 64]
    else:
        target[...] = source
