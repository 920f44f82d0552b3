"""A tokenizer's two files: the ranks in tiktoken's format, and a JSON file with its special tokens and pattern.

A line of the rank file holds a token's bytes in base64, a space and the token's rank. The JSON file is `<path>.json`. It
also holds a checksum of both files: another token or another pattern would cut every text differently, without an error.
"""

import base64
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chapters.support.json_files import check_fields, read_object, with_checksum
from minigrad.serialization import short, write_atomically

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
    saved = with_checksum({**extra, "ranks_crc": ranks_checksum(ranks)})
    write_atomically(sidecar(path), (json.dumps(saved, indent=1) + "\n").encode("ascii"))


def ranks_checksum(ranks: dict[bytes, int]) -> int:
    """CRC-32 of the ranks, in any order."""
    tokens = sorted(ranks, key=ranks.__getitem__)
    return zlib.crc32(b"".join(b"%d %d " % (len(token), ranks[token]) + token for token in tokens))


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
        extra |= load_sidecar(sidecar(path), path.name)
    check_ids([*ranks.values(), *extra["special_tokens"].values()])
    if extra.pop("ranks_crc", ranks_checksum(ranks)) != ranks_checksum(ranks):
        raise TokenizerError(
            f"{path.name}: expected the ranks that fit {sidecar(path).name}, got others; save the tokenizer again"
        )
    if extra["kind"] == "characters" and not is_alphabet(ranks, extra["special_tokens"]):
        raise TokenizerError(
            f"{path.name}: expected one character a line and {END_OF_TEXT} last, got others; save the tokenizer again"
        )
    return ranks, extra


SIDECAR = {"kind": str, "pattern": str, "special_tokens": dict[str, int], "drop_missing": bool, "ranks_crc": int}


def load_sidecar(path: Path, belongs_to: str) -> dict[str, Any]:
    """The JSON file's contents.  Raises TokenizerError if it is damaged."""
    try:
        saved = read_object(path, advice="copy it again")
        check_fields(saved, SIDECAR, path.name, optional=("pattern", "drop_missing", "ranks_crc"))
        if unknown := saved.keys() - SIDECAR.keys():
            raise ValueError(f"{short(sorted(unknown)[0])} is no setting of a tokenizer")
        if saved["kind"] not in ("bytes", "characters") or END_OF_TEXT not in saved["special_tokens"]:
            raise ValueError(f"kind is {short(saved['kind'])} and special_tokens {short(', '.join(saved['special_tokens']))}")
    except ValueError as error:
        raise TokenizerError(
            f"{path.name}: expected the JSON that belongs to {belongs_to}, got other contents: {error}; save it again"
        ) from None
    return saved


def is_alphabet(ranks: dict[bytes, int], special_tokens: dict[str, int]) -> bool:
    """Whether every token is a character, and "<|endoftext|>" comes after them."""
    try:
        return special_tokens == {END_OF_TEXT: len(ranks)} and all(len(token.decode("utf-8")) == 1 for token in ranks)
    except UnicodeDecodeError:
        return False


def check_ids(ids: Iterable[int]) -> None:
    """Raise TokenizerError unless the ids are 0…n-1, each once."""
    ids = list(ids)
    if sorted(ids) != list(range(len(ids))):
        raise TokenizerError(
            f"vocabulary: expected the {len(ids)} ids 0 to {len(ids) - 1}, each once, got {min(ids)} to {max(ids)} with "
            f"{len(ids) - len(set(ids))} repeated; a line was removed or changed"
        )
