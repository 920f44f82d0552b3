"""What a model writes while it trains: generations.jsonl in its run folder, one line for each recorded step."""

import json
from typing import Any

from chapters.support.json_files import check_fields
from chapters.support.run_folder import Run, RunError
from minigrad.checked_json import parse_json
from minigrad.serialization import write_atomically


def record_generations(run: Run, step: int, generations: dict[str, str]) -> None:
    """Write the line of a step, {prompt: the model's continuation}, after the lines of earlier steps.

    A resumed run replaces the lines that it repeats, so it ends with the bytes of an uninterrupted run.
    """
    earlier = [record for record in read_generations(run) if record["step"] < step]
    lines = [json.dumps(record) + "\n" for record in (*earlier, {"step": step, "generations": generations})]
    write_atomically(run / "generations.jsonl", "".join(lines).encode())


def read_generations(run: Run) -> list[dict[str, Any]]:
    """The recorded steps, {"step": …, "generations": {prompt: continuation}} each; [] if the run recorded none.

    Raises RunError, with the line's number, at a damaged line.
    """
    path = run / "generations.jsonl"
    records = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        try:
            record = parse_json(line)
            check_fields(record, {"step": int, "generations": dict[str, str]}, "generations")
        except ValueError as error:
            raise RunError(f"{path}, line {number} is damaged ({error}); start afresh") from None
        records.append(record)
    return records
