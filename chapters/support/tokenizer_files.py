"""A tokenizer on disk: tiktoken's rank format, and beside it a small JSON file: special tokens, pattern."""

import base64
import json
import os
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"


class TokenizerError(ValueError):
    """A text, an id or a file that the tokenizer cannot use; the message is one sentence."""


def save_files(path, ranks, extra):
    path = Path(path)
    by_rank = sorted(ranks.items(), key=lambda item: item[1])
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in by_rank]
    for target, content in ((path, "".join(lines)), (sidecar(path), json.dumps(extra, indent=1) + "\n")):
        half_written = target.with_name(target.name + ".tmp")
        try:
            half_written.write_text(content, encoding="ascii", newline="\n")
            os.replace(half_written, target)
        except OSError as error:
            raise OSError(f"the tokenizer could not be written to {target} ({error.strerror})") from error


def sidecar(path):
    return Path(path).with_name(Path(path).name + ".json")


def load_files(path):
    path = Path(path)
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            token, rank = base64.b64decode(token, validate=True), int(rank)
        except ValueError:
            raise TokenizerError(
                f"line {number} of {path.name} is not a token in base64, a space and a rank; the file is damaged, or "
                "not one that a tokenizer saved."
            ) from None
        if token in ranks:
            raise TokenizerError(f"line {number} of {path.name} gives the token {token!r} a second rank, {rank}.")
        ranks[token] = rank
    if not ranks:
        raise TokenizerError(f"{path.name} holds no tokens; save the tokenizer again.")
    ranks = dict(sorted(ranks.items(), key=lambda r: r[1]))
    extra = {"kind": "bytes", "special_tokens": {END_OF_TEXT: len(ranks)}}
    if sidecar(path).exists():
        try:
            saved = json.loads(sidecar(path).read_bytes())
        except ValueError:
            saved = None
        if not is_sidecar(saved):
            raise TokenizerError(
                f"{sidecar(path).name} is not the JSON that a tokenizer saves beside {path.name}; save it again."
            )
        extra.update(saved)
    check_ids([*ranks.values(), *extra["special_tokens"].values()])
    return ranks, extra


def is_sidecar(saved):
    return (
        isinstance(saved, dict)
        and saved.get("kind") in ("bytes", "characters")
        and isinstance(saved.get("pattern", ""), str)
        and isinstance(saved.get("special_tokens"), dict)
        and END_OF_TEXT in saved["special_tokens"]
        and all(isinstance(i, int) for i in saved["special_tokens"].values())
    )


def check_ids(ids):
    if sorted(ids) != list(range(len(ids))):
        raise TokenizerError(
            f"the {len(ids)} ids of the vocabulary should be 0 to {len(ids) - 1}, each once, but reach from {min(ids)} "
            f"to {max(ids)} with {len(ids) - len(set(ids))} repeated; a line is missing or was changed."
        )
