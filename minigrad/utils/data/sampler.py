"""Samplers: the order in which a loader visits a data set.

Random samplers draw from minigrad's generators, so a seed gives another order than in PyTorch.
"""

from typing import Any, Generic, Iterable, Iterator, Sequence, Sized, TypeVar

import numpy as np

from minigrad.random import Generator, default_generator

IndexT = TypeVar("IndexT", covariant=True)


class Sampler(Generic[IndexT]):
    """Base of samplers. A subclass defines __iter__(), which yields indices, and usually __len__()."""

    def __iter__(self) -> Iterator[IndexT]:
        raise NotImplementedError(f"{type(self).__name__}: __iter__() is not defined")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, …"""

    def __init__(self, data_source: Sized):
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Every index once in random order, or with replacement=True independent draws.

    Args:
        data_source: the data set.
        replacement: draw each index from all.
        num_samples: the number of indices; the size of the data set if None. Without replacement, a new order begins
            whenever all indices have been used.
        generator: the source of randomness; the default generator if None.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ):
        if num_samples is not None and (not isinstance(num_samples, int) or num_samples <= 0):
            raise ValueError(f"RandomSampler: expected num_samples of at least 1, got {num_samples!r}")
        self.data_source, self.replacement, self.generator = data_source, replacement, generator
        self._num_samples = num_samples

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        rng, size, left = (self.generator or default_generator).numpy, len(self.data_source), self.num_samples
        while left > 0 and size > 0:  # chunk by chunk, since num_samples may be far more than a run uses
            chunk = rng.integers(size, size=min(left, 32)) if self.replacement else rng.permutation(size)[:left]
            yield from chunk.tolist()
            left -= len(chunk)

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The indices of a list, each once, in random order."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None):
        self.indices, self.generator = indices, generator

    def __iter__(self) -> Iterator[int]:
        order = (self.generator or default_generator).numpy.permutation(len(self.indices))
        return (self.indices[i] for i in order.tolist())

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """num_samples indices, index i with a probability proportional to weights[i]."""

    def __init__(
        self, weights: Sequence[float], num_samples: int, replacement: bool = True, generator: Generator | None = None
    ):
        self.weights = np.asarray(weights, np.float64)
        if self.weights.ndim != 1 or not (self.weights >= 0).all() or not 0 < self.weights.sum() < np.inf:
            raise ValueError("WeightedRandomSampler: expected a list of weights of at least 0, not all of them 0")
        possible = np.count_nonzero(self.weights)
        if num_samples <= 0 or not replacement and num_samples > possible:
            raise ValueError(f"WeightedRandomSampler: cannot draw {num_samples} from {possible} indices of positive weight")
        self.num_samples, self.replacement, self.generator = num_samples, replacement, generator

    def __iter__(self) -> Iterator[int]:
        rng, shares = (self.generator or default_generator).numpy, self.weights / self.weights.sum()
        return iter(rng.choice(len(shares), self.num_samples, replace=self.replacement, p=shares).tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of batch_size indices from another sampler; drop_last leaves out a shorter list at the end."""

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool):
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"BatchSampler: expected a batch_size of at least 1, got {batch_size!r}")
        if not isinstance(drop_last, bool):
            raise ValueError(f"BatchSampler: expected True or False as drop_last, got {drop_last!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        size: Any = self.sampler
        return len(size) // self.batch_size if self.drop_last else -(-len(size) // self.batch_size)
