"""Read the files that a user brings: plain text, labelled lines, instructions in Alpaca's format, and response pairs.

Each reader raises FileNotFoundError if there is no file, and ValueError with the place and the reason if it cannot use it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chapters.world import Instruction
from minigrad.checked_json import parse_json
from minigrad.serialization import short


class ResponsePair(NamedTuple):
    """Two responses to one instruction, of which a labeller preferred the first."""

    task: Instruction
    chosen: str
    rejected: str


def read_utf8(path: str | Path, expected: str = "a UTF-8 text file", encoding: str = "utf-8-sig") -> str:
    """Read a UTF-8 file.

    Args:
        path: the file.
        expected: a noun phrase for the kind of file, which ends the error about a missing file.
        encoding: "utf-8-sig" removes a byte order mark, "utf-8" keeps it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected {expected}")
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise ValueError(f"{path} is not UTF-8 text ({byte}); save it as UTF-8") from None


def read_json_list(path: str | Path, item: str, expected: str) -> list[Any]:
    """Read a non-empty JSON list.  item: noun for an element in errors; expected: noun phrase for the list."""
    text = read_utf8(path, expected)
    try:
        records = parse_json(text) if text.strip() else []
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON: {error}; was it cut short?") from None
    if not records:
        raise ValueError(f"{path} holds no {item}; expected {expected}")
    if not isinstance(records, list):
        raise ValueError(f"{path} holds a {type(records).__name__} where a list was expected; give {expected}")
    return mended(records)


def valid_unicode(text: str) -> str:
    """The text with U+FFFD in place of half surrogate pairs, which text cut in the middle of an emoji leaves."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mended(value: Any) -> Any:
    """A JSON value whose texts are all valid Unicode.

    >>> mended(["\\ud83d!"])
    ['\ufffd!']
    """
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, list):
        return [mended(item) for item in value]
    return {mended(key): mended(item) for key, item in value.items()} if isinstance(value, dict) else value


def read_text(path: str | Path) -> str:
    """Read a text to train on, a non-empty UTF-8 file."""
    text = read_utf8(path, encoding="utf-8")
    if not text.strip():
        raise ValueError(f"{path} is empty; expected a text to train on")
    return text


def read_labelled(path: str | Path) -> list[tuple[str, str]]:
    """Read `label<TAB>text` lines as (text, label) pairs. Empty lines are skipped; a text may contain tabs."""
    examples = []
    lines = read_utf8(path, "a file whose lines are a label, a tab and a text").split("\n")
    for number, line in enumerate(lines, 1):  # not splitlines: a text may contain other line separators
        if not line.strip():
            continue
        label, tab, text = line.rstrip("\r").partition("\t")
        if not tab or not label.strip() or not text.strip():
            raise ValueError(f"{path}, line {number}: expected a label, a tab and a text, got {line[:60]!r}")
        examples.append((text.strip(), label.strip()))
    if not examples:
        raise ValueError(f"{path} is empty; expected lines of a label, a tab and a text")
    labels: dict[str, str] = {}
    for text, label in examples:
        if labels.setdefault(text, label) != label:
            raise ValueError(f"{path} gives the text {text[:60]!r} two labels, {labels[text]!r} and {label!r}; choose one")
    if len(set(labels.values())) < 2:
        raise ValueError(f"{path} holds one label only, {examples[0][1]!r}; a classifier needs at least two")
    return examples


def read_instructions(path: str | Path) -> list[Instruction]:
    """Read a JSON list in Alpaca's format: objects with "instruction", "output" and, optionally, "input"."""
    keys = ("instruction", "output")
    tasks = []
    for number, record in enumerate(read_json_list(path, "example", "a JSON list in Alpaca's format"), 1):
        where = f"{path}, example {number}"
        fields = read_fields(record, keys, where)
        tasks.append(Instruction(fields["instruction"], fields["input"], fields["output"], family="file", key=where))
    return tasks


def read_pairs(path: str | Path) -> tuple[list[ResponsePair], int]:
    """Read a JSON list of objects with "instruction", "chosen", "rejected" and, optionally, "input" and "output".

    Returns:
        The pairs whose responses differ, and the number of pairs left out because their responses are equal: such a
        pair expresses no preference. The task's good response is "output", or "chosen" if there is none.
    """
    keys = ("instruction", "chosen", "rejected")
    pairs = []
    records = read_json_list(path, "comparison", f"a JSON list of objects with the keys {', '.join(keys)}")
    for number, record in enumerate(records, 1):
        where = f"{path}, comparison {number}"
        fields = read_fields(record, keys, where, optional=("input", "output"))
        good = fields["output"] or fields["chosen"]
        task = Instruction(fields["instruction"], fields["input"], good, family="file", key=where)
        pairs.append(ResponsePair(task, fields["chosen"].strip(), fields["rejected"].strip()))
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
    if not different:
        raise ValueError(f"in {path} every chosen response equals the rejected one; a comparison needs two responses")
    return different, len(pairs) - len(different)


def read_fields(record: Any, keys: Sequence[str], where: str, optional: Sequence[str] = ("input",)) -> dict[str, str]:
    """Check an object of a JSON list; returns the text of each key, never empty, and of the optional keys, "" if absent.

    where: the file and the object's number, for errors.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is of type {type(record).__name__}; expected an object with {', '.join(keys)}")
    names = short(sorted(record), 100)
    for key in keys:
        if key not in record:
            raise ValueError(f"{where} has no {key!r}, only {names}; expected {', '.join(keys)} and perhaps input")
    fields = {key: record[key] for key in keys} | {key: record.get(key) or "" for key in optional}
    for key, value in fields.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: its {key!r} is of type {type(value).__name__}; expected text")
    for key in keys:
        if not fields[key].strip():
            raise ValueError(f"{where} has no {key!r}: an empty {' or '.join(keys)} teaches nothing; fill it in or drop it")
    return fields
