"""Saving and loading arrays as .safetensors, so that a file is either whole or absent, and read only if it is what was written.

A file is written under a temporary name, synced to disk and then renamed. Renaming is atomic, so a crash or a full disk at any
moment leaves the old file as it was.

The file begins with the length of its header (8 bytes). The header is JSON and gives the dtype, shape and byte range of
every tensor; the tensors' bytes follow. The file contains no code and is safe to open, whereas a pickled `.bin` or `.pt` can
run any program. But its numbers may be wrong, so `read_header` checks all of them against the size of the file before anyone
allocates memory. Our own files also hold a checksum, because a changed weight looks like any other weight.

Source of the format: github.com/huggingface/safetensors, "Format".
"""

import contextlib
import json
import math
import os
import secrets
import zlib
from typing import Any, Iterator, Mapping, NamedTuple

import numpy as np

import kernels
from minigrad.checked_json import checksum, parse_json
from minigrad.engine import TensorBase

PathLike = str | os.PathLike[str]
PARTIAL = ".partial-"  # how the names of unfinished files begin

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?"}
DTYPES |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"}
WIDTHS = {name: np.dtype(dtype).itemsize for name, dtype in DTYPES.items()}  # bytes of a number
WIDTHS |= {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}  # NumPy lacks these
MOST_HEADER = 4 << 20  # bytes; GPT-2 XL's header has 60,000, and in memory parsed JSON takes twenty times its length
MOST_AXES = 8  # of a tensor
MOST_EMPTY = 1 << 40  # product of an empty tensor's other sizes, for NumPy's sake
CHECKSUM, CRC = "minigrad.checksum", "minigrad-crc32:"  # name and beginning of the metadata's entry
WHY_NO_PICKLES = (
    "so it was not loaded: unpickling can run any code that its author put in; use the same model's model.safetensors"
)


class CheckpointError(RuntimeError):
    """A file could not be written or read; the message says which file, why, and what to do."""


def write_atomically(path: PathLike, data: Any) -> None:
    """Write `data`, bytes or an iterable of pieces of bytes, to `path`; on failure the old file stays.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    path = os.fspath(path)
    temporary = None
    try:
        name = os.path.join(os.path.dirname(path), f"{PARTIAL}{secrets.token_hex(8)}")
        with open(name, "xb") as file:  # with the permissions of any new file
            temporary = name
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; an earlier version, if any, is untouched") from error
    finally:  # after an interruption too; once renamed, the temporary file is gone
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def save(path: PathLike, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and metadata to a .safetensors file, atomically.

    It writes one array after the other, so memory never holds a second copy of them all.

    Args:
        path: the file.
        tensors: name -> tensor or array; a strided view, such as a transposed matrix, is written in row-major order.
        metadata: string -> string.

    Raises:
        TypeError: if metadata does not map strings to strings, before anything is written.
        CheckpointError: if the file cannot be written, or cannot hold a dtype, a name or a shape.
    """
    for key, value in (metadata or {}).items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"save: metadata must map strings to strings, got {key!r}: {type(value).__name__}")
    if "__metadata__" in tensors:
        raise CheckpointError("save: expected a tensor name other than '__metadata__', which the format reserves; rename it")
    arrays = {name: v.array if isinstance(v, TensorBase) else np.asarray(v) for name, v in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))  # the widest first, so all are aligned
    write_atomically(path, _file_pieces(arrays, metadata))


def _file_pieces(arrays: Mapping[str, Any], metadata: Mapping[str, str] | None) -> Iterator[Any]:
    """The bytes of a .safetensors file: the header's length, the header in JSON, then each array's bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    end = 0
    for name, array in arrays.items():
        if array.dtype not in names:
            raise CheckpointError(f"save: {name} has dtype {array.dtype}, which a .safetensors file cannot hold")
        if array.ndim > MOST_AXES:
            raise CheckpointError(f"save: expected at most {MOST_AXES} axes, got {array.ndim} in {name}; reshape it first")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    crc = checksum(header)
    for array in arrays.values():
        crc = zlib.crc32(_bytes_of(array), crc)
    header = {"__metadata__": {**(metadata or {}), CHECKSUM: f"{CRC}{crc:08x}"}} | {name: header[name] for name in arrays}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    if len(text) > MOST_HEADER:
        raise CheckpointError(
            f"save: expected a header of at most {MOST_HEADER:,} bytes, got {len(text):,}; save fewer tensors"
        )
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        yield _bytes_of(array)


def _bytes_of(array: Any) -> Any:
    """The bytes of an array in row-major order, little-endian."""
    array = kernels.to_device(array, "cpu")
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little_endian).reshape(-1).data.cast("B") if array.size else b""


def load(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a .safetensors file.

    Returns:
        ({name: array}, metadata).

    Raises:
        CheckpointError: if the file is absent, damaged, changed since `save` wrote it, or holds a dtype that NumPy lacks.
    """
    entries, metadata = read_header(path)
    arrays = {}
    try:
        with open(path, "rb") as file:
            for name, entry in entries.items():
                if entry.dtype not in DTYPES:
                    raise CheckpointError(f"{path}: {short(name)} is stored as {entry.dtype}, expected {', '.join(DTYPES)}")
                array = np.empty(entry.shape, DTYPES[entry.dtype])
                file.seek(entry.begin)
                if array.size and file.readinto(array.reshape(-1).data.cast("B")) < array.nbytes:
                    raise CheckpointError(f"{path} changed while it was read; load it again")
                arrays[name] = array
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    return arrays, metadata


# ── the checks ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Entry(NamedTuple):
    """The place of one tensor in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the beginning of the file
    end: int


def read_header(path: PathLike) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors' places and the metadata of a .safetensors file.

    Raises:
        CheckpointError: unless the header describes exactly the bytes that follow, and the checksum, if there is one, fits.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return _checked_header(path, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise CheckpointError(f"load: expected a file, found none at {path}; check the path") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def load_metadata(path: PathLike) -> dict[str, str]:
    """The metadata of a .safetensors file, without its arrays.  Raises CheckpointError if the file is absent or damaged."""
    return read_header(path)[1]


def damaged(path: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole .safetensors file (truncated or damaged?): {problem}")


def _checked_header(path: str, file: Any, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    first = file.read(8)
    if len(first) < 8:
        raise damaged(path, f"it has {size} bytes, which is too few")
    length = int.from_bytes(first, "little")
    too_long = length > min(size - 8, MOST_HEADER)
    if too_long and first[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):  # a valid length may begin with these bytes too
        raise CheckpointError(f"{path} is a pickled PyTorch file, whatever its name says, {WHY_NO_PICKLES}")
    if length > size - 8:
        raise damaged(path, f"it announces a header of {length:,} bytes but has {size:,} in all; fetch or write it again")
    if length > MOST_HEADER:
        raise damaged(path, f"it has a header of {length:,} bytes; no GPT needs more than {MOST_HEADER:,}")
    try:
        header = parse_json(file.read(length))
    except ValueError as error:
        raise damaged(path, f"its header is not JSON ({short(str(error), 100)})") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header does not list tensors by name")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "its metadata does not map names to texts")
    entries = {name: _entry(path, name, fields, 8 + length, size) for name, fields in header.items()}
    _check_cover(path, entries, 8 + length, size)
    # The beginning of its value betrays a checksum whose name was damaged.
    if CHECKSUM in metadata or any(value.startswith(CRC) for value in metadata.values()):
        written = metadata.pop(CHECKSUM, "")
        crc = checksum(({"__metadata__": metadata} if metadata else {}) | header)
        while piece := file.read(1 << 16):
            crc = zlib.crc32(piece, crc)
        if written != f"{CRC}{crc:08x}":
            raise damaged(path, "its checksum does not fit its contents; fetch or write it again")
    return entries, metadata


def _entry(path: str, name: str, fields: Any, begin: int, size: int) -> Entry:
    """One tensor of the header, with every number checked against the size of the file."""

    def wrong(problem: str) -> CheckpointError:
        return damaged(path, f"tensor {short(name)} {problem}")

    def are_sizes(values: Any, most: int) -> bool:
        return isinstance(values, list) and all(type(value) is int and 0 <= value <= most for value in values)

    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise wrong("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise wrong(f"has the unknown dtype {short(dtype)}")
    most = MOST_EMPTY if isinstance(shape, list) and 0 in shape else size  # no tensor has more elements than the file has bytes
    if not are_sizes(shape, most) or len(shape) > MOST_AXES or math.prod(filter(None, shape)) > most:
        raise wrong(f"has the impossible shape {short(shape)}")
    if not are_sizes(offsets, size - begin) or len(offsets) != 2:
        raise wrong(f"lies at {short(offsets)}, outside the {size - begin:,} bytes of data")
    if offsets[1] - offsets[0] != math.prod(shape) * WIDTHS[dtype]:
        raise wrong(f"has {offsets[1] - offsets[0]:,} bytes, but {dtype} of shape {shape} needs a different number")
    return Entry(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _check_cover(path: str, entries: dict[str, Entry], begin: int, size: int) -> None:
    """Check that every byte of the data belongs to exactly one tensor, as the format demands."""
    at = begin
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != at:
            raise damaged(path, f"tensor {short(name)} does not begin where the one before it ends")
        at = entry.end
    if at != size:
        raise damaged(path, f"{size - at:,} bytes at its end belong to no tensor")


def check_weights(path: PathLike, name: str, array: np.ndarray) -> None:
    """Raise CheckpointError unless an array from a file can be a model's weights: finite float numbers."""
    if array.dtype.kind != "f":
        raise CheckpointError(f"{path}: expected {short(name)} to hold float numbers, got {array.dtype}; use another file")
    if not np.isfinite(array).all():
        raise CheckpointError(f"{path}: {short(name)} holds NaN or infinity; train again, or use an earlier file")


def short(value: Any, most: int = 60) -> str:
    """A value from an untrusted file in one line, short enough for an error message."""
    if isinstance(value, list | tuple):
        value = value[:8]
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= most else text[:most] + "…"
