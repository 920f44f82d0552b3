"""Chapter 10: a file of chosen and rejected responses, as others publish their comparisons."""

import json
from pathlib import Path

from chapters.world import Instruction

KEYS = ("instruction", "chosen", "rejected")


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
