"""Saving and loading arrays as .safetensors, so that a file is either whole or not there.

A file is written under a temporary name, synced to disk and then renamed: renaming is atomic, so a crash or a full disk at any
moment leaves the old file as it was.
"""

import os
import tempfile

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as _encode

import kernels
from minigrad.tensor import Tensor


class CheckpointError(RuntimeError):
    """A file could not be written or read; the message says which file, why, and what to do."""


def write_atomically(path, data):
    """Write bytes to `path`, or leave what was there. Raises CheckpointError in one sentence."""
    path = os.fspath(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or ".", prefix=".partial-", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise CheckpointError(f"cannot write {path}: {error.strerror}; an earlier version, if any, is untouched") from error


def save(path, tensors, metadata=None):
    """Write {name: tensor or array} to a .safetensors file, atomically, with string-to-string metadata."""
    arrays = {}
    for name, value in tensors.items():
        array = kernels.to_device(value.array if isinstance(value, Tensor) else np.asarray(value), "cpu")
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    write_atomically(path, _encode(arrays, metadata))


def load(path):
    """Read a .safetensors file.  Returns ({name: array}, metadata).  Raises CheckpointError in one sentence."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file (truncated or damaged?): {error}") from error
