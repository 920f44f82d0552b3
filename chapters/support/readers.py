"""Files that a user brings: plain text, labelled lines, instructions in Alpaca's format, and pairs of responses."""

import json
from pathlib import Path

from chapters.world import Instruction

KEYS = ("instruction", "chosen", "rejected")


def read_text(path):
    """The text of a file, refusing an empty or unreadable one in a sentence."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty: there is nothing to learn from")
    return text


def read_labelled(path):
    """A UTF-8 file of `label<TAB>text` lines -> [(text, label)]; empty lines are passed over, a text may hold tabs.

    Raises FileNotFoundError, or ValueError naming the first line that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give one whose lines are a label, a tab and a text.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    examples = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a text may hold other line separators
        if not line.strip():
            continue
        label, tab, words = line.rstrip("\r").partition("\t")
        if not tab or not label.strip() or not words.strip():
            raise ValueError(f"{path}, line {number}: expected a label, a tab and a text, got {line[:60]!r}.")
        examples.append((words.strip(), label.strip()))
    if not examples:
        raise ValueError(f"{path} is empty: there is nothing to learn from.")
    known = {}
    for text, label in examples:
        if known.setdefault(text, label) != label:
            raise ValueError(f"{path} gives the text {text[:60]!r} two labels, {known[text]!r} and {label!r}; choose one.")
    if len({label for _, label in examples}) < 2:
        raise ValueError(f"{path} holds one label only, {examples[0][1]!r}; a classifier needs at least two.")
    return examples


def read_instructions(path):
    """A JSON list of {"instruction", "input" (may be empty or absent), "output"}, Alpaca's format -> [Instruction].

    Raises FileNotFoundError, or ValueError that says which example is wrong and how.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give a JSON file in Alpaca's format.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        records = json.loads(text) if text.strip() else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not whole JSON: {error.msg} at line {error.lineno}, column {error.colno}; was it cut short?"
        ) from None
    if records == []:
        raise ValueError(f"{path} holds no example; give a list of objects with an instruction and an output.")
    if not isinstance(records, list):
        raise ValueError(f"{path} holds a {type(records).__name__} where a list of examples was expected.")
    return [read_record(record, f"{path}, example {number}") for number, record in enumerate(records, 1)]


def read_record(record, where):
    """One object of the file -> Instruction; `where` begins the sentence that a wrong one is refused with."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} is of type {type(record).__name__}; expected an object with an instruction and an output.")
    for key in ("instruction", "output"):
        if key not in record:
            raise ValueError(f"{where} has no {key!r}, only {sorted(record)}; Alpaca's keys are instruction, input, output.")
    values = [record["instruction"], record.get("input") or "", record["output"]]
    for key, value in zip(("instruction", "input", "output"), values, strict=True):
        if not isinstance(value, str):
            raise ValueError(f"{where}: its {key!r} is of type {type(value).__name__}; expected text.")
    if not values[0].strip() or not values[2].strip():
        raise ValueError(f"{where} has an empty instruction or output; fill it in or leave the example out.")
    return Instruction(*values, family="file", key=where)


def read_pairs(path):
    """A JSON list of {"instruction", "input" (may be empty or absent), "chosen", "rejected"}.

    Returns ([(Instruction, chosen, rejected)], how many were left out because both responses were the same: such a
    comparison says nothing).  Raises FileNotFoundError, or ValueError in one sentence: not UTF-8, not JSON, empty, an
    example without one of its sides, or no two different responses anywhere.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give a JSON list with the keys {', '.join(KEYS)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        records = json.loads(text) if text.strip() else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path} is not whole JSON: {error.msg} at {where}; was it cut short?") from None
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path} holds no comparison; give a list of objects with the keys {', '.join(KEYS)}.")
    pairs = [read_pair(record, f"{path}, comparison {number}") for number, record in enumerate(records, 1)]
    different = [pair for pair in pairs if pair[1] != pair[2]]
    if not different:
        raise ValueError(f"in {path} every chosen response equals the rejected one; there is no preference to learn.")
    return different, len(pairs) - len(different)


def read_pair(record, where):
    """One object of the file -> (Instruction, chosen, rejected); `where` begins the sentence on a wrong one."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} is of type {type(record).__name__}; expected an object with {', '.join(KEYS)}.")
    for key in KEYS:
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise ValueError(f"{where} has no {key!r}; a comparison needs an instruction and both of its responses.")
    if not isinstance(record.get("input") or "", str):
        raise ValueError(f"{where}: its 'input' is of type {type(record['input']).__name__}; expected text.")
    task = Instruction(record["instruction"], record.get("input") or "", record["chosen"], family="file", key=where)
    return task, record["chosen"].strip(), record["rejected"].strip()
