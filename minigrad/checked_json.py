"""JSON that is checked before it is believed, and a checksum that tells a value from a changed one.

Python's `json` accepts more than it should: a name that occurs twice (the last one wins without a word), 1e999 (it becomes
infinity), and a thousand brackets inside each other (a later step then exceeds Python's recursion limit).
"""

import json
import math
import zlib
from collections import Counter
from typing import Any

MOST_LEVELS = 32  # lists and objects inside each other; our own files need seven
MOST_DIGITS = 40  # digits of a whole number; the state of a generator has 39


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; bytes must be UTF-8.

    Raises:
        ValueError: in one line without the file's name. It also covers repeated names, deep nesting and numbers too large.

    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the name 'a' occurs twice
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=without_repeats, parse_int=whole_number, parse_float=finite_number)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"more than {MOST_LEVELS} levels of nesting") from None
    check_levels(value, MOST_LEVELS)
    return value


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these (name, value) pairs.  Raises ValueError if a name occurs twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {repeated[:40]!r} occurs twice")
    return value


def whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits, more than {MOST_DIGITS}")
    return int(digits)


def finite_number(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"the number {digits[:20]} is too large")
    return float(digits)


def check_levels(value: Any, levels: int) -> None:
    """Raise ValueError if lists and objects are nested more than `levels` deep."""
    if isinstance(value, list | dict):
        if not levels:
            raise ValueError(f"more than {MOST_LEVELS} levels of nesting")
        for item in value.values() if isinstance(value, dict) else value:
            check_levels(item, levels - 1)


def checksum(value: Any) -> int:
    """CRC-32 of a JSON value. White space in its file does not count; the order of an object's names does."""
    return zlib.crc32(json.dumps(value, separators=(",", ":")).encode())
