"""save and load: tensors in nested dicts and lists, as a .safetensors file.

PyTorch's torch.save writes a pickle, which can run any code when it is read. minigrad neither writes nor reads pickles. It
stores the tensors under their names ("model.wte.weight" for a dict within a dict), so any library can read the file. The file's
metadata describes the dicts and lists around them, and their numbers and strings, as JSON.
"""

import json
import math
import os
from typing import Any, Callable, Mapping

from minigrad import serialization
from minigrad.devices import on_device
from minigrad.serialization import CheckpointError, PathLike
from minigrad.tensor import Tensor

_STRUCTURE = "minigrad.structure"  # the name of that description in the metadata
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip archive, and pickle's protocols
_MOST_LEVELS = 100


def save(obj: Any, f: PathLike) -> None:
    """Write tensors to a .safetensors file, atomically.

    load() returns Parameters and tensors that require grad as plain tensors that do not, and an OrderedDict as a dict, whereas
    PyTorch's keeps them as they are. Nothing changes for a state_dict(), whose tensors are plain in both libraries.

    Args:
        obj: a tensor, or dicts, lists and tuples of tensors, numbers, strings, booleans and None. Keys are strings or integers.
            Two names for one tensor (tied weights) are stored twice.
        f: the path.

    Raises:
        TypeError: for anything else, before a file is written.
        CheckpointError: if the file cannot be written, or cannot hold a tensor's name or shape.
    """
    if not isinstance(f, str | os.PathLike):
        raise TypeError(f"save: expected a path, got {type(f).__name__}")
    tensors: dict[str, Tensor] = {}
    structure = _describe(obj, "", tensors, 0)
    serialization.save(f, tensors, {_STRUCTURE: json.dumps(structure)})


def load(f: PathLike, map_location: Any = None, *, weights_only: bool = True, mmap: bool | None = None) -> Any:
    """Read a .safetensors file that save() or another library wrote.

    Args:
        f: the path.
        map_location: the device of the tensors; the CPU if None (PyTorch: the device that they were saved from).
        weights_only, mmap: accepted and without effect; a .safetensors file holds nothing but tensors and text.

    Returns:
        What save() was given, or {name: tensor} for a file from elsewhere.

    Raises:
        CheckpointError: if the file is absent, damaged or a pickle.
    """
    if not isinstance(f, str | os.PathLike):
        raise TypeError(f"load: expected a path, got {type(f).__name__}")
    if map_location is not None and not isinstance(map_location, str):
        raise NotImplementedError(f"load: expected a device as map_location, got {type(map_location).__name__}")
    _refuse_pickles(f)
    arrays, metadata = serialization.load(f)
    tensors = {name: Tensor(on_device(array, map_location or "cpu")) for name, array in arrays.items()}
    if _STRUCTURE not in metadata:
        return tensors
    try:
        return _rebuild(json.loads(metadata[_STRUCTURE]), tensors, 0)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"load: the description of the values in {f} is damaged: {error!r}") from error


def _refuse_pickles(f):
    try:
        with open(f, "rb") as file:
            start = file.read(4)
    except OSError:
        return  # serialization.load has the sentence
    if start.startswith(_PICKLES):
        raise CheckpointError(
            f"load: expected a .safetensors file, got a pickle ({f}), which could run any code; where PyTorch is installed, "
            "convert it with safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
        )


# ── values as JSON: {"tensor": name}, {"dict": [[key, value], …]}, {"list": […]}, {"tuple": […]}, or a scalar as it is ──


def _describe(value, path, tensors, level):
    if level > _MOST_LEVELS:
        raise TypeError(f"save: expected at most {_MOST_LEVELS} levels of nesting, got more at {path}")
    if isinstance(value, Tensor):
        name = path or "tensor"
        while name in tensors:  # {"a.b": …, "a": {"b": …}}
            name += "'"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str | int) or isinstance(key, bool)), None)
        if wrong is not None:
            raise TypeError(f"save: expected strings or integers as keys, got {wrong!r} in {path or 'the dict'}")
        items = [
            (key, _describe(item, f"{path}.{key}" if path else str(key), tensors, level + 1)) for key, item in value.items()
        ]
        return {"dict": [list(item) for item in items]}
    if type(value) in (list, tuple):
        items = [_describe(item, f"{path}.{i}" if path else str(i), tensors, level + 1) for i, item in enumerate(value)]
        return {type(value).__name__: items}
    if type(value) is float and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or type(value) in (str, bool, int, float):
        return value
    advice = "save module.state_dict()" if hasattr(value, "state_dict") else "convert it to tensors, numbers or strings"
    kind = f"{type(value).__name__} at {path or 'the top'}"
    raise TypeError(f"save: expected tensors, numbers, strings, dicts and lists, got {kind}; {advice}")


def _rebuild(node, tensors, level):
    if level > _MOST_LEVELS:
        raise ValueError(f"more than {_MOST_LEVELS} levels")
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    expected: Any = str if kind in ("tensor", "float") else list
    if not isinstance(content, expected):
        raise ValueError(f"{kind}: {content!r}")
    make: Callable = {
        "tensor": lambda: tensors[content],
        "dict": lambda: {key: _rebuild(item, tensors, level + 1) for key, item in content},
        "list": lambda: [_rebuild(item, tensors, level + 1) for item in content],
        "tuple": lambda: tuple(_rebuild(item, tensors, level + 1) for item in content),
        "float": lambda: float(content),
    }[kind]
    return make()
