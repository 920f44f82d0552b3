"""What both halves of chapter 10's first bend need: rows of unequal length, in batches, padded on the right.

Padding on the right is harmless to a causal model: a real token never looks to its right. It costs time, though, and so
rows of like length travel together.
"""

import zlib
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """What the training loop of chapter 7 reads its data from.

    An implementation may also have `signature`, a text that tells its data from other data; resuming compares it.
    """

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The arrays of one batch, the same for the same step."""
        ...


IGNORE_INDEX = -100  # F.cross_entropy passes over positions with this target, as PyTorch's does by default
POOL = 16  # batches whose rows are sorted by length together: larger wastes less padding, smaller mixes better


def pad_right(rows, fill):
    """[[int]] -> (B, T) int64, T the longest row's length (at least 1), `fill` to the right of the shorter ones."""
    T = max(1, max(len(row) for row in rows))
    padded = np.full((len(rows), T), fill, np.int64)  # (B, T)
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
    return padded


def by_length(rows, batch_size, pad_id):
    """Every row once, shortest first: yields (places, inputs), the rows' numbers (B,) and their tokens (B, T)."""
    order = np.argsort([len(row) for row in rows], kind="stable")  # (N,)
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]  # (B,)
        yield places, pad_right([rows[i] for i in places], pad_id)


class RaggedBatches:
    """batch(step) -> inputs (B, T) int64 and targets, a pure function of (seed, step) like every batches of this book.

    rows: N lists of token ids.  targets: (N,) ints, one a row, giving (B,); or N lists as long as their rows, giving
    (B, T) with IGNORE_INDEX over the padding.  Every epoch is a new order; the rows that do not fill a last batch wait.
    """

    def __init__(self, rows, targets, batch_size, pad_id, seed=0):
        if not len(rows):
            raise ValueError("there is no example to train on.")
        if len(rows) != len(targets):
            raise ValueError(f"{len(rows)} rows of tokens need as many targets, got {len(targets)}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.rows, self.targets, self.pad_id, self.seed = rows, targets, pad_id, seed
        self.batch_size = min(batch_size, len(rows))
        self.lengths = np.array([len(row) for row in rows])  # (N,)
        self.batches_an_epoch = len(rows) // self.batch_size
        self.known = (None, None)  # the latest epoch's number and its order

    def order(self, epoch):
        """The epoch's batches, (batches_an_epoch, B) row numbers: shuffled, then sorted by length within each pool."""
        rng = np.random.default_rng([self.seed, epoch])
        kept = rng.permutation(len(self.rows))[: self.batches_an_epoch * self.batch_size]
        pool = POOL * self.batch_size
        for first in range(0, len(kept), pool):
            part = kept[first : first + pool]
            kept[first : first + pool] = part[np.argsort(self.lengths[part], kind="stable")]
        return rng.permutation(kept.reshape(self.batches_an_epoch, self.batch_size))  # whole batches change places

    def batch(self, step):
        epoch, place = divmod(step, self.batches_an_epoch)
        if self.known[0] != epoch:
            self.known = (epoch, self.order(epoch))
        chosen = self.known[1][place]  # (B,)
        inputs = pad_right([self.rows[i] for i in chosen], self.pad_id)  # (B, T)
        if np.ndim(self.targets[0]) == 0:
            return inputs, np.array([self.targets[i] for i in chosen], np.int64)  # (B, T), (B,)
        return inputs, pad_right([self.targets[i] for i in chosen], IGNORE_INDEX)  # (B, T), (B, T)

    @property
    def signature(self):
        """What tells this data from other data; chapter 7 compares it before it resumes a run."""
        everything = np.concatenate([np.ravel(part) for part in (*self.rows, *self.targets)])
        sample = zlib.crc32(np.ascontiguousarray(everything, dtype="<i8"))
        return f"{len(self.rows)} rows ({sample:08x}), batch {self.batch_size}, seed {self.seed}"
