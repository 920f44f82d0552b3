"""Saving and loading arrays as .safetensors, so that a file is either whole or absent.

A file is written under a temporary name, synced to disk and then renamed. Renaming is atomic, so a crash or a full disk at any
moment leaves the old file as it was.
"""

import contextlib
import json
import os
import secrets
from typing import Any, Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

import kernels
from minigrad.engine import TensorBase

PathLike = str | os.PathLike[str]
PARTIAL = ".partial-"  # how the names of unfinished files begin


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
        CheckpointError: if the file cannot be written, or cannot hold a dtype.
    """
    for key, value in (metadata or {}).items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"save: metadata must map strings to strings, got {key!r}: {type(value).__name__}")
    arrays = {name: v.array if isinstance(v, TensorBase) else np.asarray(v) for name, v in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))  # the widest first, so all are aligned
    write_atomically(path, _file_pieces(arrays, metadata))


_DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL"}
_DTYPE_NAMES |= {"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8"}
_DTYPE_NAMES |= {"uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8"}


def _file_pieces(arrays: Mapping[str, Any], metadata: Mapping[str, str] | None) -> Iterator[Any]:
    """The bytes of a .safetensors file: the header's length, the header in JSON, then each array's bytes."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPE_NAMES:
            raise CheckpointError(f"save: {name} has dtype {array.dtype}, which a .safetensors file cannot hold")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _DTYPE_NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        array = kernels.to_device(array, "cpu")
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        yield np.ascontiguousarray(little_endian).reshape(-1).data.cast("B") if array.size else b""


def load(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a .safetensors file.

    Returns:
        ({name: array}, metadata).

    Raises:
        CheckpointError: if the file is absent or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file (truncated or damaged?): {error}") from error
