"""Chapter 2: the next-token dataset. A text is its own exercise and its own answer sheet, shifted by one.

    python -m chapters.ch02_dataset            # prints a batch, and what each position is asked to predict

Tokens lie in one file that the operating system maps into memory, so that a corpus larger than memory costs nothing to
open. A batch is drawn by (seed, step) alone: whoever resumes at step 700 gets the batch that an uninterrupted run had.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chapters.support.command import command
from chapters.support.readers import read_text

MAGIC = b"MGTOKENS"  # then the item size and the count, 8 bytes each, little-endian; then the ids


def write_tokens(path, ids):
    """Write token ids, (N,) ints, to `path` as uint16 where they all fit, else as uint32.  Returns load_tokens(path).

    The file appears under its name only once it is complete.  Raises ValueError for an empty text or an id below 0.
    """
    ids = np.asarray(ids)  # (N,)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(f"expected a flat, non-empty sequence of token ids, got shape {ids.shape} of {ids.dtype}")
    if ids.min() < 0 or ids.max() >= 2**32:
        raise ValueError(f"token ids must lie in 0..{2**32 - 1}, got {ids.min()}..{ids.max()}")
    ids = ids.astype("<u2" if ids.max() < 2**16 else "<u4")  # (N,)
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "wb") as file:
            file.write(MAGIC + np.array([ids.itemsize, ids.size], "<u8").tobytes())
            file.write(ids.tobytes())
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(f"the tokens could not be written to {path} ({error.strerror})") from error
    return load_tokens(path)


def load_tokens(path):
    """Map the tokens at `path`: (N,) uint16 or uint32, read-only, nothing read until it is touched."""
    path = Path(path)
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise FileNotFoundError(f"there is no token file {path}: write one with write_tokens")
    head = path.open("rb").read(24)
    if len(head) < 24 or head[:8] != MAGIC:
        raise ValueError(f"{path} is not a token file (it does not begin with {MAGIC.decode()}): write it with write_tokens")
    itemsize, count = (int(n) for n in np.frombuffer(head[8:], "<u8"))
    if itemsize not in (2, 4) or size != 24 + itemsize * count:
        raise ValueError(f"{path} is damaged: its head promises {count} ids of {itemsize} bytes, the file has {size} bytes")
    return np.memmap(path, dtype=f"<u{itemsize}", mode="r", offset=24, shape=(count,))  # (N,)


def train_validation_split(tokens, fraction=0.1):
    """The first 1 − fraction of the tokens to train on, the rest to validate on: two views of (N,)."""
    if not 0 < fraction < 1:
        raise ValueError(f"the validation fraction must lie between 0 and 1, got {fraction}")
    cut = int(len(tokens) * (1 - fraction))
    return tokens[:cut], tokens[cut:]


class NextTokenBatches:
    """Windows from random places: batch(step) -> inputs, targets, (B, T) int64 each, targets[b, t] = inputs[b, t + 1].

    tokens: (N,) of any integer dtype, N > context.
    """

    def __init__(self, tokens, context, batch_size, seed=0):
        if context < 1 or batch_size < 1:
            raise ValueError(f"context and batch_size must be at least 1, got {context} and {batch_size}")
        if len(tokens) <= context:
            raise ValueError(
                f"the text has {len(tokens)} tokens, but a window needs context + 1 = {context + 1}: "
                "give a longer text or a smaller context"
            )
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch_size, seed

    def windows(self, starts):
        """starts: (B,) -> inputs, targets: (B, T) int64."""
        columns = np.asarray(starts)[:, None] + np.arange(self.context + 1)  # (B, T + 1)
        window = self.tokens[columns].astype(np.int64)  # (B, T + 1)
        return window[:, :-1], window[:, 1:]  # (B, T) each

    def batch(self, step):
        rng = np.random.default_rng([self.seed, step])  # (seed, step) is all there is: no state to save or to lose
        return self.windows(rng.integers(0, len(self.tokens) - self.context, self.batch_size))

    @property
    def signature(self):
        """What tells this data from other data; resuming compares it, so that a run cannot continue on another text."""
        sample = zlib.crc32(np.ascontiguousarray(self.tokens[: 1 << 20], dtype="<u4"))
        windows = f"context {self.context}, batch {self.batch_size}, seed {self.seed}"
        return f"{len(self.tokens)} tokens ({sample:08x}), {windows}"


class EveryTokenOnce(NextTokenBatches):
    """Windows side by side, for an exact validation loss: len() batches cover the text once, and batch(i) wraps around.

    The tail that does not fill a window is left out, and so is a last batch that would be smaller than the others.
    """

    def __init__(self, tokens, context, batch_size):
        super().__init__(tokens, context, batch_size)
        count = (len(tokens) - 1) // context
        self.batch_size = min(batch_size, count)
        self.starts = np.arange(count) * context  # (count,)

    def __len__(self):
        return len(self.starts) // self.batch_size

    def batch(self, step):
        first = step % len(self) * self.batch_size
        return self.windows(self.starts[first : first + self.batch_size])


@dataclass
class Settings:
    """Cut a text into next-token exercises and print some of them."""

    data: Path | None = None  # a UTF-8 text file; a sentence of our own where none is given
    context: int = 8  # tokens in a window
    batch_size: int = 2  # windows in a batch
    seed: int = 0  # which windows
    step: int = 0  # the batch of this training step
    quick: bool = False  # accepted as in every chapter; this one is quick already


def main(settings):
    from chapters.ch01_tokenizer import Tokenizer

    text = read_text(settings.data) if settings.data else "The text is its own teacher: every next letter is an answer."
    tokenizer = Tokenizer.characters(text)
    tokens = np.array(tokenizer.encode(text))  # (N,)
    inputs, targets = NextTokenBatches(tokens, settings.context, settings.batch_size, settings.seed).batch(settings.step)
    for row in range(settings.batch_size):
        print(f"window {row}: inputs {inputs[row].tolist()}, targets {targets[row].tolist()}")
        for t in range(settings.context):
            seen, asked = tokenizer.decode(inputs[row, : t + 1]), tokenizer.decode(targets[row, t : t + 1])
            print(f"    after {seen!r:>{settings.context + 2}} comes {asked!r}")
    print(f"{inputs.size} exercises in a batch of {inputs.shape}; batch({settings.step}) is the same on every run")


if __name__ == "__main__":
    command(main, Settings)
