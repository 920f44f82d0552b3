"""Batches for the training loop, with padding for rows of unequal length.

Padding on the right is harmless to a causal model, because a real token never looks to its right. It does cost time, so
rows of similar length share a batch.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

Example = TypeVar("Example")


class Batches(Protocol):
    """The data of chapter 7's training loop.

    An implementation may also have `signature`, a text that identifies its data; resuming compares it.
    """

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The arrays of one batch; they depend on the step alone."""
        ...


IGNORE_INDEX = -100  # F.cross_entropy skips positions with this target, like PyTorch's default
POOL = 16  # batches whose rows are sorted by length together: a larger pool wastes less padding, a smaller one mixes better


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """Rows of token ids as one (B, T) int64 array; T is the length of the longest row, at least 1.

    >>> pad_right([[1, 2], [3]], fill=0).tolist()
    [[1, 2], [3, 0]]
    """
    T = max(1, max(len(row) for row in rows))
    padded = np.full((len(rows), T), fill, np.int64)  # (B, T)
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
    return padded


def shortest_first(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[np.ndarray]:
    """Yield the number of every row once, shortest row first, in batches (B,)."""
    order = np.argsort([len(row) for row in rows], kind="stable")  # (N,)
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


def by_length(rows: Sequence[Sequence[int]], batch_size: int, pad_id: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every row once, shortest first, as batches of (row numbers (B,), token ids (B, T))."""
    for places in shortest_first(rows, batch_size):
        yield places, pad_right([rows[i] for i in places], pad_id)


def random_split(examples: Sequence[Example], held_out: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Split at random into the examples to train on and `held_out` others."""
    order = np.random.default_rng(seed).permutation(len(examples))  # (N,)
    return [examples[i] for i in order[held_out:]], [examples[i] for i in order[:held_out]]


def held_out_count(examples: Sequence[Any], source: object) -> int:
    """A tenth of the examples, at least one.  Raises ValueError if none would be left to train on."""
    if len(examples) < 2:
        raise ValueError(f"{source}: expected at least 2 examples, one of them to be held out, got {len(examples)}")
    return max(1, len(examples) // 10)


class RaggedBatches:
    """Batches of rows of unequal length: batch(step) depends on (seed, step) alone.

    Every epoch has a new order; rows that do not fill a last batch are left out of that epoch.

    Args:
        rows: N lists of token ids.
        targets: N ints, giving targets (B,); or N lists as long as their rows, giving targets (B, T) with IGNORE_INDEX
            over the padding.

    Raises:
        ValueError: if there are no rows, the numbers of rows and targets differ, or batch_size is below 1.
    """

    def __init__(self, rows: Sequence[Sequence[int]], targets: Any, batch_size: int, pad_id: int, seed: int = 0) -> None:
        if not len(rows):
            raise ValueError("batches: there is no example to train on")
        if len(rows) != len(targets):
            raise ValueError(f"batches: {len(rows)} rows need as many targets, got {len(targets)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.rows, self.targets, self.pad_id, self.seed = rows, targets, pad_id, seed
        self.batch_size = min(batch_size, len(rows))
        self.lengths = np.array([len(row) for row in rows])  # (N,)
        self.batches_an_epoch = len(rows) // self.batch_size
        self.latest = -1, np.empty((0, 0), np.int64)  # the latest epoch's number and its order

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's batches as row numbers, (batches_an_epoch, B): shuffled, then sorted by length within each pool."""
        rng = np.random.default_rng([self.seed, epoch])
        places = rng.permutation(len(self.rows))[: self.batches_an_epoch * self.batch_size]
        pool = POOL * self.batch_size
        for first in range(0, len(places), pool):
            part = places[first : first + pool]
            places[first : first + pool] = part[np.argsort(self.lengths[part], kind="stable")]
        return rng.permutation(places.reshape(self.batches_an_epoch, self.batch_size))  # shuffles whole batches

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(step, self.batches_an_epoch)
        if self.latest[0] != epoch:
            self.latest = epoch, self.order(epoch)
        places = self.latest[1][place]  # (B,)
        inputs = pad_right([self.rows[i] for i in places], self.pad_id)  # (B, T)
        if np.ndim(self.targets[0]) == 0:
            return inputs, np.array([self.targets[i] for i in places], np.int64)  # (B, T), (B,)
        return inputs, pad_right([self.targets[i] for i in places], IGNORE_INDEX)  # (B, T), (B, T)

    @property
    def signature(self) -> str:
        """A text that identifies this data; chapter 7 compares it before it resumes a run."""
        everything = np.concatenate([np.ravel(part) for part in (*self.rows, *self.targets)])
        checksum = zlib.crc32(everything.astype("<i8").tobytes())
        return f"{len(self.rows)} rows ({checksum:08x}), batch {self.batch_size}, seed {self.seed}"
