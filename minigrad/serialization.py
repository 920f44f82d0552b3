"""Saving and loading arrays as .safetensors, so that a file is either whole or not there.

A file is written under a temporary name, synced to disk and then renamed: renaming is atomic, so a crash or a full disk at any
moment leaves the old file as it was.
"""

import contextlib
import json
import os
import tempfile

import numpy as np
from safetensors import SafetensorError, safe_open

import kernels
from minigrad.tensor import Tensor


class CheckpointError(RuntimeError):
    """A file could not be written or read; the message says which file, why, and what to do."""


def write_atomically(path, data):
    """Write bytes, or the bytes that a generator yields one after the other, to `path`, or leave what was there.

    Raises CheckpointError in one sentence.
    """
    path = os.fspath(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or ".", prefix=".partial-", delete=False) as file:
            temporary = file.name
            for part in [data] if isinstance(data, bytes) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; an earlier version, if any, is untouched") from error
    finally:  # after an interruption as well; once renamed, it is no longer there
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def save(path, tensors, metadata=None):
    """Write {name: tensor or array} to a .safetensors file, atomically, with string-to-string metadata.

    Arrays are written one after the other, so that no second copy of them all is ever made; a strided view, such as a
    transposed matrix, is written as what it shows.  Raises TypeError for other metadata, before anything is written.
    """
    for key, value in (metadata or {}).items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"save: metadata must map strings to strings, got {key!r}: {type(value).__name__}")
    arrays = {name: v.array if isinstance(v, Tensor) else np.asarray(v) for name, v in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))  # the widest first: each lies aligned
    write_atomically(path, _parts(arrays, metadata))


_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8"}
_NAMES |= {"uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL"}


def _parts(arrays, metadata):
    """The bytes of a .safetensors file, piece by piece: the header's length, the header in JSON, then every array's."""
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, array in arrays.items():
        if array.dtype.name not in _NAMES:
            raise CheckpointError(f"{name} has dtype {array.dtype}, which a .safetensors file cannot hold")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        array = kernels.to_device(array, "cpu")
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        yield memoryview(np.ascontiguousarray(little).reshape(-1)).cast("B") if array.size else b""


def load(path):
    """Read a .safetensors file.  Returns ({name: array}, metadata).  Raises CheckpointError in one sentence."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file (truncated or damaged?): {error}") from error
