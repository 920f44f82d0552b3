"""The JSON files that minigrad writes. Reading one checks its syntax, names and types, and the checksum of a result.

A result without the line "checksum" is not checked further, so files of earlier versions load. Delete that line if you edit a
result on purpose.
"""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from minigrad.checked_json import checksum, parse_json
from minigrad.serialization import short, write_atomically

T = TypeVar("T")
CHECKSUM, CRC = "checksum", "crc32:"  # name and beginning of a result's last entry
ADVICE = "delete it and give the same command again"


def read_json(path: Path, advice: str = ADVICE) -> Any:
    """The content of a JSON file; an object comes without its checksum.

    Raises:
        ValueError: if the file is damaged, or changed since `write_result`; it ends with the advice.
    """
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {advice}") from None
    return without_checksum(value, str(path), advice) if isinstance(value, dict) else value


def read_object(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """The same for a file that must hold an object."""
    value = read_json(path, advice)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {short(value)}; {advice}")
    return value


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result with its checksum, whole or not at all.  Raises CheckpointError if the disk refuses."""
    text = json.dumps(with_checksum(result), indent=1, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its checksum as the last entry.

    >>> with_checksum({"accuracy": 0.815})
    {'accuracy': 0.815, 'checksum': 'crc32:54b5d9f0'}
    """
    return {**value, CHECKSUM: f"{CRC}{checksum(value):08x}"}


def without_checksum(value: dict[str, Any], where: str, advice: str) -> dict[str, Any]:
    """The object without its checksum.  Raises ValueError if there is one, and it does not fit."""
    # The beginning of its value betrays a checksum whose name was damaged.
    if CHECKSUM in value or any(isinstance(item, str) and item.startswith(CRC) for item in value.values()):
        value = dict(value)
        if value.pop(CHECKSUM, None) != f"{CRC}{checksum(value):08x}":
            raise ValueError(
                f"{where}: expected contents that fit the line {CHECKSUM!r}, got others; "
                f"{advice}, or delete that line if you changed the file on purpose"
            )
    return value


# ── names and types ──────────────────────────────────────────────────────────────────────────────────────────────────


def check_fields(record: Any, kinds: Mapping[str, Any], where: str, optional: Sequence[str] = ()) -> None:
    """Raise ValueError unless a JSON value is an object with these fields.

    Args:
        record: the value.
        kinds: {name: type}, where a type may also be `float | None` or `dict[str, float]`. An int passes for a float.
        where: the beginning of the error.
        optional: names that may be missing. Other names may be there.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object with {', '.join(kinds)}, got {short(record)}")
    for name, kind in kinds.items():
        if name not in record and name not in optional:
            raise ValueError(f"{where}: expected {name!r}, got only {short(', '.join(record) or 'an empty object', 100)}")
        if name in record and not fits(record[name], kind):
            kind_name = getattr(kind, "__name__", "") if get_origin(kind) is None else str(kind)
            raise ValueError(f"{where}: expected {name} of type {kind_name or kind}, got {short(record[name])}")


def from_object(cls: type[T], record: Any, where: str) -> T:
    """A dataclass with the values of a JSON object.  Raises ValueError if a name is unknown or missing or has another type."""
    hints = get_type_hints(cls)
    check_fields(record, hints, where, [f.name for f in fields(cast(Any, cls)) if f.default is not f.default_factory])
    if unknown := record.keys() - hints.keys():
        raise ValueError(f"{where}: expected names among {', '.join(hints)}, got {short(sorted(unknown)[0])}")
    return cls(**record)


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type.

    >>> fits(3, float), fits(True, int), fits(None, int | None), fits({"loss": "high"}, dict[str, float])
    (True, False, True, False)
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if origin in (list, Sequence):
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    return isinstance(value, kind)
