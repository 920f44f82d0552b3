"""A tokenizer's two files: the ranks in tiktoken's format, and a JSON file with its special tokens and pattern.

A line of the rank file holds a token's bytes in base64, a space and the token's rank. The JSON file is `<path>.json`.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minigrad.serialization import write_atomically

END_OF_TEXT = "<|endoftext|>"


class TokenizerError(ValueError):
    """A text, an id or a file that a tokenizer cannot use."""


def sidecar(path: str | Path) -> Path:
    """Path of the JSON file that belongs to a rank file."""
    return Path(path).with_name(Path(path).name + ".json")


def save_files(path: str | Path, ranks: dict[bytes, int], extra: dict[str, Any]) -> None:
    """Write both files, each whole or not at all.  Raises CheckpointError if the disk refuses."""
    by_rank = sorted(ranks.items(), key=lambda item: item[1])
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in by_rank)
    write_atomically(path, "".join(lines).encode("ascii"))
    write_atomically(sidecar(path), (json.dumps(extra, indent=1) + "\n").encode("ascii"))


def load_files(path: str | Path) -> tuple[dict[bytes, int], dict[str, Any]]:
    """Read both files: ({token: rank}, the JSON file's contents, or its defaults if there is no such file).

    Raises:
        TokenizerError: if a file is damaged.
        FileNotFoundError: if there is no rank file.
    """
    path = Path(path)
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            encoded, digits = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(digits)
        except ValueError:
            raise TokenizerError(
                f"{where}: expected a token in base64, a space and a rank, got {line[:40]!r}; save the tokenizer again"
            ) from None
        if token in ranks:
            raise TokenizerError(f"{where}: expected each token once, got a second rank, {rank}, for {token!r}")
        ranks[token] = rank
    if not ranks:
        raise TokenizerError(f"{path.name}: expected a line for each token, got an empty file; save the tokenizer again")
    ranks = dict(sorted(ranks.items(), key=lambda item: item[1]))
    extra: dict[str, Any] = {"kind": "bytes", "special_tokens": {END_OF_TEXT: len(ranks)}}
    if sidecar(path).exists():
        try:
            saved = json.loads(sidecar(path).read_bytes())
        except ValueError:
            saved = None
        if not is_sidecar(saved):
            raise TokenizerError(
                f"{sidecar(path).name}: expected the JSON that belongs to {path.name}, got other contents; "
                "save the tokenizer again"
            )
        extra.update(saved)
    check_ids([*ranks.values(), *extra["special_tokens"].values()])
    return ranks, extra


def is_sidecar(saved: Any) -> bool:
    """Whether parsed JSON has the keys and types that a tokenizer saves."""
    return (
        isinstance(saved, dict)
        and saved.get("kind") in ("bytes", "characters")
        and isinstance(saved.get("pattern", ""), str)
        and isinstance(saved.get("special_tokens"), dict)
        and END_OF_TEXT in saved["special_tokens"]
        and all(isinstance(i, int) for i in saved["special_tokens"].values())
    )


def check_ids(ids: Iterable[int]) -> None:
    """Raise TokenizerError unless the ids are 0…n-1, each once."""
    ids = list(ids)
    if sorted(ids) != list(range(len(ids))):
        raise TokenizerError(
            f"vocabulary: expected the {len(ids)} ids 0 to {len(ids) - 1}, each once, got {min(ids)} to {max(ids)} with "
            f"{len(ids) - len(set(ids))} repeated; a line was removed or changed"
        )
