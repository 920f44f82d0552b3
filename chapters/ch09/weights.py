"""A .safetensors file from elsewhere, looked at before it is trusted, and read a few MiB at a time.

The file begins with the length of its header (8 bytes), then the header, JSON that says of every tensor its dtype, its
shape and from where to where its bytes lie; the bytes follow. Nothing in it is code, which is why it may be opened at
all: a pickled `.bin` or `.pt` can run whatever its author liked. But any of these numbers may be wrong. So all of them
are checked against the size of the file, and only then is memory asked for.

Source of the format: github.com/huggingface/safetensors, "Format".
"""

import json
import math
import os
from typing import NamedTuple

import numpy as np

from minigrad.serialization import CheckpointError

MOST_HEADER = 4 << 20  # bytes; that of GPT-2 XL has 60,000, and JSON takes twenty times its length once it is parsed
SLAB = 4 << 20  # bytes that are mapped at a time: pages that were read count as memory in use until they are let go
WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
WIDTHS |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
READABLE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: its 16 bits are read as a number


class Entry(NamedTuple):
    """Where one tensor lies in the file."""

    dtype: str
    shape: tuple
    begin: int  # bytes from the beginning of the file
    end: int


class Checkpoint:
    """The tensors of a .safetensors file by name. Raises CheckpointError, in one sentence, for a file that is not whole."""

    def __init__(self, path):
        self.path = os.fspath(path)
        try:
            self.entries = _entries(self.path)
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from error

    def check(self, name, shape):
        """Refuse a tensor that is missing, has another shape, or holds no floats that can be read."""
        if name not in self.entries:
            raise CheckpointError(f"{self.path} lacks the tensor {_shown(name)}: its config.json describes another model")
        entry = self.entries[name]
        if entry.shape != tuple(shape):
            raise CheckpointError(f"{self.path}: {name} has the shape {_shown(entry.shape)}, its config.json says {shape}")
        if entry.dtype not in READABLE:
            raise CheckpointError(f"{self.path}: {name} is stored as {entry.dtype}, not as {', '.join(READABLE)}")

    def copy_into(self, name, array):
        """Copy a tensor into a float32 array of its shape, which may be a transposed view of another."""
        entry = self.entries[name]
        dtype = np.dtype(READABLE[entry.dtype])
        row_bytes = math.prod(entry.shape[1:]) * dtype.itemsize
        step = max(1, SLAB // max(row_bytes, 1))
        for start in range(0, entry.shape[0], step):
            shape = (min(step, entry.shape[0] - start), *entry.shape[1:])
            try:  # mapped, copied, and unmapped when the loop comes round
                slab = np.memmap(self.path, dtype, "r", entry.begin + start * row_bytes, shape)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{self.path} changed while it was read: {error}") from error
            _convert(slab, array[start : start + step], entry.dtype)


def _convert(source, target, dtype):
    """source -> target, float32. A bfloat16 is the upper half of a float32's bits; the lower half becomes zeros."""
    if dtype == "BF16":
        np.left_shift(source, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
    elif target.ndim == 2 and target.strides[0] < target.strides[1]:  # transposed: in tiles, that stay in the cache
        for i in range(0, target.shape[0], 64):
            for j in range(0, target.shape[1], 64):
                target[i : i + 64, j : j + 64] = source[i : i + 64, j : j + 64]
    else:
        target[...] = source


# ── what is looked at first ──────────────────────────────────────────────────────────────────────────────────────────


def _entries(path):
    """{name: Entry} of a file whose header is in order and describes exactly the bytes that are there."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise CheckpointError(f"{path} has {size} bytes, too few to be a .safetensors file")
        length = int.from_bytes(first, "little")
        too_long = length > min(size - 8, MOST_HEADER)
        if too_long and first[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):  # a length that fits may begin so too
            raise CheckpointError(f"{path} is a pickled PyTorch file, whatever its name says, {WHY_NO_PICKLES}")
        if length > size - 8:
            raise CheckpointError(
                f"{path} announces a header of {length:,} bytes but has {size:,} in all: "
                "it is truncated, or no .safetensors file; fetch it again"
            )
        if length > MOST_HEADER:
            raise CheckpointError(f"{path} has a header of {length:,} bytes; no GPT needs more than {MOST_HEADER:,}")
        header = _parsed(path, file.read(length))
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, told, 8 + length, size) for name, told in header.items()}
    _check_cover(path, entries, 8 + length, size)
    return entries


WHY_NO_PICKLES = (
    "and is not opened: a pickle is a program, which runs whatever its author liked as soon as it is read; "
    "use the model.safetensors of the same model"
)


def _parsed(path, text):
    def once(pairs):
        names = dict(pairs)
        if len(names) < len(pairs):
            raise ValueError("a name occurs twice")
        return names

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{path} is damaged: its header is not JSON ({_shown(str(error), 100)})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its header does not list tensors by name")
    return header


def _whole(value, most):
    return type(value) is int and 0 <= value <= most


def _entry(path, name, told, begin, size):
    """One line of the header, every number of it within the file."""

    def damaged(what):
        return CheckpointError(f"{path} is damaged or mislabelled: tensor {_shown(name)} {what}")

    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise damaged("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise damaged(f"has the unknown dtype {_shown(dtype)}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_whole(n, size) for n in shape):
        raise damaged(f"has the impossible shape {_shown(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(n, size - begin) for n in offsets):
        raise damaged(f"lies at {_shown(offsets)}, outside the {size - begin:,} bytes of data")
    if offsets[1] - offsets[0] != math.prod(shape) * WIDTHS[dtype]:
        raise damaged(f"has {offsets[1] - offsets[0]:,} bytes, but {dtype} of shape {shape} has another number")
    return Entry(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _check_cover(path, entries, begin, size):
    """Every byte of the data belongs to exactly one tensor, as the format demands: none is shared, none is left over."""
    at = begin
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != at:
            raise CheckpointError(f"{path} is damaged: tensor {_shown(name)} does not begin where the one before it ends")
        at = entry.end
    if at != size:
        raise CheckpointError(f"{path} is damaged: {size - at:,} bytes at its end belong to no tensor")


def _shown(value, most=60):
    """A value out of a strange file, short enough for a sentence."""
    text = repr(value[:8] if isinstance(value, (list, tuple)) else value) if not isinstance(value, str) else value[:most]
    return text if len(text) <= most else text[:most] + "…"
