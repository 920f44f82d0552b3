"""Chapter 2: the next-token dataset. A text is the exercise and, one token later, the answer.

    >>> text = "hello"
    >>> for end in range(1, len(text)):
    ...     print(f"after {text[:end]!r} comes {text[end]!r}")
    after 'h' comes 'e'
    after 'he' comes 'l'
    after 'hel' comes 'l'
    after 'hell' comes 'o'

So the targets are the inputs shifted by one: inputs = tokens[:-1], targets = tokens[1:]. A window of T tokens holds T
exercises, and a causal model does all of them in one pass.

    python -m chapters.ch02_dataset            # prints a batch and the exercise at each of its positions

Look at the two lists of each window: the targets drop the first input and add one new token at the end.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chapters.ch01_tokenizer import Tokenizer
from chapters.support.command import at_least, command
from chapters.support.readers import read_text
from minigrad.serialization import write_atomically


class NextTokenBatches:
    """Batches of windows that start at random positions in a text.

    A batch depends on (seed, step) alone, so a run that resumes at step 700 sees the same batches as an uninterrupted run.

    Args:
        tokens: (N,) token ids of any integer dtype, N > context.
        context: T, tokens in a window.
        batch_size: B, windows in a batch.
        seed: random seed of the positions.

    >>> inputs, targets = NextTokenBatches(np.arange(100), context=4, batch_size=1).batch(0)
    >>> bool((targets == inputs + 1).all())
    True
    """

    def __init__(self, tokens: np.ndarray, context: int, batch_size: int, seed: int = 0):
        if context < 1 or batch_size < 1:
            raise ValueError(f"dataset: expected context and batch_size of at least 1, got {context} and {batch_size}")
        if len(tokens) <= context:
            raise ValueError(
                f"dataset: expected at least context + 1 = {context + 1} tokens for a window, got {len(tokens)}; "
                "use a longer text or a smaller context"
            )
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch_size, seed

    def windows(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows that begin at starts, (B,): inputs and targets, (B, T) int64 each."""
        columns = np.asarray(starts)[:, None] + np.arange(self.context + 1)  # (B, T + 1)
        window = self.tokens[columns].astype(np.int64)  # (B, T + 1)
        return window[:, :-1], window[:, 1:]  # (B, T) each

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of a training step, (B, T) int64 each."""
        rng = np.random.default_rng([self.seed, step])  # no state to save: each step has a generator of its own
        return self.windows(rng.integers(0, len(self.tokens) - self.context, self.batch_size))

    @property
    def signature(self) -> str:
        """A text that identifies the data; resuming compares it, so that a run cannot continue on other data."""
        checksum = zlib.crc32(np.ascontiguousarray(self.tokens[: 1 << 20], dtype="<u4").data)
        windows = f"context {self.context}, batch {self.batch_size}, seed {self.seed}"
        return f"{len(self.tokens)} tokens ({checksum:08x}), {windows}"


class EveryTokenOnce(NextTokenBatches):
    """Windows side by side, for an exact validation loss: the first len() batches cover the text once.

    The last batch has the remaining windows; after it, batch(i) starts again. Tokens that do not fill a window are left out.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch_size: int):
        super().__init__(tokens, context, batch_size)
        count = (len(tokens) - 1) // context
        self.batch_size = min(batch_size, count)
        self.starts = np.arange(count) * context  # (count,)

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = step % len(self) * self.batch_size
        return self.windows(self.starts[first : first + self.batch_size])


def train_validation_split(tokens: np.ndarray, fraction: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Split tokens into two views: the first 1 − fraction to train on, and the rest to validate on."""
    if not 0 < fraction < 1:
        raise ValueError(f"split: expected a validation fraction between 0 and 1, got {fraction}")
    cut = int(len(tokens) * (1 - fraction))
    return tokens[:cut], tokens[cut:]


# ── tokens in a file, mapped into memory: a corpus larger than memory opens at once ──────────────────────────────────

# The file: MAGIC, item size and count (8 bytes each, little-endian), the ids, and a CRC-32 of all this (8 bytes). Files that
# begin with UNCHECKED end with the ids.
MAGIC, UNCHECKED = b"MGTOKEN2", b"MGTOKENS"


def write_tokens(path: str | Path, ids: Sequence[int] | np.ndarray) -> np.memmap:
    """Write token ids, (N,), to a file, whole or not at all: as uint16 if all fit, else as uint32.

    Returns:
        The tokens as `load_tokens` maps them.

    Raises:
        ValueError: if ids is empty, not flat or not integer, or an id is below 0 or too large.
        CheckpointError: if the disk refuses.
    """
    ids = np.asarray(ids)  # (N,)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(f"write_tokens: expected a flat, non-empty array of integers, got shape {ids.shape} of {ids.dtype}")
    if ids.min() < 0 or ids.max() >= 2**32:
        raise ValueError(f"write_tokens: expected ids from 0 to {2**32 - 1}, got {ids.min()} to {ids.max()}")
    dtype = np.dtype("<u2" if ids.max() < 2**16 else "<u4")

    def parts() -> Iterator[bytes]:
        yield MAGIC + np.array([dtype.itemsize, ids.size], "<u8").tobytes()
        for first in range(0, ids.size, 1 << 20):  # a million ids at a time, so no second copy of all ids exists
            yield ids[first : first + (1 << 20)].astype(dtype).tobytes()

    def parts_and_checksum() -> Iterator[bytes]:
        crc = 0
        for part in parts():
            crc = zlib.crc32(part, crc)
            yield part
        yield crc.to_bytes(8, "little")

    write_atomically(path, parts_and_checksum())
    return load_tokens(path)


def has_checksum(path: Path, end: int) -> bool:
    """Whether a file ends with the CRC-32 of its first `end` bytes."""
    crc = 0
    with path.open("rb") as file:
        for first in range(0, end, 1 << 20):
            crc = zlib.crc32(file.read(min(1 << 20, end - first)), crc)
        return file.read() == crc.to_bytes(8, "little")


def load_tokens(path: str | Path) -> np.memmap:
    """Map a token file: (N,) uint16 or uint32, read-only. It is read once here, for its checksum, and again in use.

    Raises:
        FileNotFoundError, ValueError: if there is no file, or it is not a whole token file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_tokens: there is no token file {path}; write one with write_tokens")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:8] not in (MAGIC, UNCHECKED):
        raise ValueError(f"load_tokens: {path} is not a token file, which begins with {MAGIC.decode()}; use write_tokens")
    itemsize, count = (int(n) for n in np.frombuffer(head[8:], "<u8"))
    end = 24 + itemsize * count
    if itemsize not in (2, 4) or count == 0 or size != end + 8 * (head[:8] == MAGIC):
        raise ValueError(
            f"load_tokens: {path} is damaged: expected {count} ids of {itemsize} bytes, got a file of {size} bytes; "
            "write it again"
        )
    if size > end and not has_checksum(path, end):
        raise ValueError(f"load_tokens: {path} is damaged: its checksum does not fit its ids; write it again")
    return np.memmap(path, dtype=f"<u{itemsize}", mode="r", offset=24, shape=(count,))  # (N,)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Cut a text into next-token exercises and print a batch of them."""

    data: Path | None = None  # UTF-8 text file; None: a sentence about texts
    context: int = 8  # tokens in a window
    batch_size: int = 2  # windows in a batch
    seed: int = 0  # random seed of the windows
    step: int = 0  # training step whose batch is printed


def main(settings: Settings) -> None:
    at_least(settings, 0, "step")
    text = read_text(settings.data) if settings.data else "The text is its own teacher: every next letter is an answer."
    tokenizer = Tokenizer.characters(text)
    tokens = np.array(tokenizer.encode(text))  # (N,)
    inputs, targets = NextTokenBatches(tokens, settings.context, settings.batch_size, settings.seed).batch(settings.step)
    for row in range(settings.batch_size):
        print(f"window {row}: inputs {inputs[row].tolist()}, targets {targets[row].tolist()}")
        for t in range(settings.context):
            prefix, target = tokenizer.decode(inputs[row, : t + 1]), tokenizer.decode(targets[row, t : t + 1])
            print(f"    after {prefix!r:>{settings.context + 2}} comes {target!r}")
    print(f"{inputs.size} exercises in a batch of {inputs.shape}; batch({settings.step}) is the same on every run")


if __name__ == "__main__":
    command(main, Settings)
