"""Read a .safetensors file from elsewhere: check it first, then copy a few MiB at a time.

The file begins with the length of its header (8 bytes). The header is JSON and gives the dtype, shape and byte range of
every tensor; the tensors' bytes follow. The file contains no code and is safe to open, whereas a pickled `.bin` or `.pt` can
run any program. But its numbers may be wrong, so `WeightsFile` checks all of them against the size of the file before it
allocates memory.

Source of the format: github.com/huggingface/safetensors, "Format".
"""

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigrad.serialization import CheckpointError

MOST_HEADER = 4 << 20  # bytes; GPT-2 XL's header has 60,000, and in memory parsed JSON takes twenty times its length
SLAB = 4 << 20  # bytes mapped at a time: pages count as memory in use until they are unmapped
WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
WIDTHS |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
READABLE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16, so we read its 16 bits as an integer
WHY_NO_PICKLES = (
    "so it was not loaded: unpickling can run any code that its author put in; use the same model's model.safetensors"
)


class Entry(NamedTuple):
    """The place of one tensor in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the beginning of the file
    end: int


class WeightsFile:
    """The tensors of a .safetensors file by name.

    Raises:
        CheckpointError: if the file is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        try:
            self.entries = _entries(self.path)
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from error

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError if a tensor is missing, has another shape, or has a dtype that cannot be read."""
        if name not in self.entries:
            raise CheckpointError(f"{self.path} lacks the tensor {_short(name)}: its config.json describes another model")
        entry = self.entries[name]
        if entry.shape != tuple(shape):
            raise CheckpointError(f"{self.path}: {name} has the shape {_short(entry.shape)}, but config.json says {shape}")
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
        """Copy a tensor into a float32 array of its shape, which may be a transposed view."""
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


# ── the checks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _entries(path: str) -> dict[str, Entry]:
    """The tensors of a file; CheckpointError unless its header describes exactly the bytes that follow."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise CheckpointError(f"{path} has {size} bytes, too few to be a .safetensors file")
        length = int.from_bytes(first, "little")
        too_long = length > min(size - 8, MOST_HEADER)
        if too_long and first[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):  # a valid length may begin with these bytes too
            raise CheckpointError(f"{path} is a pickled PyTorch file, whatever its name says, {WHY_NO_PICKLES}")
        if length > size - 8:
            raise CheckpointError(
                f"{path} announces a header of {length:,} bytes but has {size:,} in all: "
                "it is truncated, or not a .safetensors file; fetch it again"
            )
        if length > MOST_HEADER:
            raise CheckpointError(f"{path} has a header of {length:,} bytes; no GPT needs more than {MOST_HEADER:,}")
        header = _parse(path, file.read(length))
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, fields, 8 + length, size) for name, fields in header.items()}
    _check_cover(path, entries, 8 + length, size)
    return entries


def _parse(path: str, text: bytes) -> dict[str, Any]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) < len(pairs):
            raise ValueError("a name occurs twice")
        return names

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{path} is damaged: its header is not JSON ({_short(str(error), 100)})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its header does not list tensors by name")
    return header


def _entry(path: str, name: str, fields: Any, begin: int, size: int) -> Entry:
    """One tensor of the header, with every number checked against the size of the file."""

    def damaged(problem: str) -> CheckpointError:
        return CheckpointError(f"{path} is damaged or mislabelled: tensor {_short(name)} {problem}")

    def are_sizes(values: Any, most: int) -> bool:
        return isinstance(values, list) and all(type(value) is int and 0 <= value <= most for value in values)

    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise damaged("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise damaged(f"has the unknown dtype {_short(dtype)}")
    if not are_sizes(shape, size) or len(shape) > 8:
        raise damaged(f"has the impossible shape {_short(shape)}")
    if not are_sizes(offsets, size - begin) or len(offsets) != 2:
        raise damaged(f"lies at {_short(offsets)}, outside the {size - begin:,} bytes of data")
    if offsets[1] - offsets[0] != math.prod(shape) * WIDTHS[dtype]:
        raise damaged(f"has {offsets[1] - offsets[0]:,} bytes, but {dtype} of shape {shape} needs a different number")
    return Entry(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _check_cover(path: str, entries: dict[str, Entry], begin: int, size: int) -> None:
    """Check that every byte of the data belongs to exactly one tensor, as the format demands."""
    at = begin
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != at:
            raise CheckpointError(f"{path} is damaged: tensor {_short(name)} does not begin where the one before it ends")
        at = entry.end
    if at != size:
        raise CheckpointError(f"{path} is damaged: {size - at:,} bytes at its end belong to no tensor")


def _short(value: Any, most: int = 60) -> str:
    """A value from an untrusted file, short enough for an error message."""
    if isinstance(value, list | tuple):
        value = value[:8]
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + "…"
