"""Data sets: anything with a length that gives example i."""

import bisect
import itertools
import math
import operator
from typing import Any, Generic, Iterable, Iterator, Sequence, TypeVar

from minigrad.ops.operands import as_float
from minigrad.random import Generator, default_generator
from minigrad.tensor import Tensor

ExampleT = TypeVar("ExampleT", covariant=True)


class Dataset(Generic[ExampleT]):
    """Base of data sets. A subclass defines __getitem__(i), which gives example i, and __len__()."""

    def __getitem__(self, index: Any) -> ExampleT:
        raise NotImplementedError(f"{type(self).__name__}: __getitem__() is not defined")

    def __add__(self, other: "Dataset[Any]") -> "ConcatDataset":
        return ConcatDataset([self, other])


class IterableDataset(Dataset[ExampleT]):
    """A data set that is read from front to back. A subclass defines __iter__()."""

    def __iter__(self) -> Iterator[ExampleT]:
        raise NotImplementedError(f"{type(self).__name__}: __iter__() is not defined")


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """The rows of tensors with equal first sizes: example i is (tensors[0][i], tensors[1][i], …)."""

    def __init__(self, *tensors: Tensor):
        if not tensors or not all(isinstance(t, Tensor) and t.ndim for t in tensors):
            got = ", ".join(f"shape {t.shape}" if isinstance(t, Tensor) else type(t).__name__ for t in tensors) or "none"
            raise TypeError(f"TensorDataset: expected tensors of at least one axis, got {got}")
        sizes = {t.shape[0] for t in tensors}
        if len(sizes) != 1:
            raise ValueError(f"TensorDataset: expected tensors of equal first size, got {', '.join(map(str, sorted(sizes)))}")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


class Subset(Dataset[ExampleT]):
    """The examples of a data set that `indices` names, in its order."""

    def __init__(self, dataset: Dataset[ExampleT], indices: Sequence[int]):
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The examples of a batch; the data set's own __getitems__ gives them if it has one."""
        dataset: Any = self.dataset
        chosen = [self.indices[i] for i in indices]
        return dataset.__getitems__(chosen) if hasattr(dataset, "__getitems__") else [dataset[i] for i in chosen]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset[ExampleT]):
    """Data sets one after the other."""

    def __init__(self, datasets: Iterable[Dataset[ExampleT]]):
        self.datasets: list[Any] = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: expected at least one data set, got none")
        if any(isinstance(dataset, IterableDataset) for dataset in self.datasets):
            raise TypeError("ConcatDataset: expected data sets with __getitem__, got an IterableDataset")
        self.cumulative_sizes = list(itertools.accumulate(map(len, self.datasets)))

    def __getitem__(self, index: int) -> Any:
        try:
            index = operator.index(index)
        except TypeError:
            got = type(index).__name__
            raise TypeError(f"ConcatDataset: expected an integer index, got {got}; use Subset for several examples") from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"ConcatDataset: index {index} is out of range for {len(self)} examples")
        index %= len(self)
        i = bisect.bisect_right(self.cumulative_sizes, index)
        return self.datasets[i][index - (self.cumulative_sizes[i - 1] if i else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


def random_split(dataset: Any, lengths: Sequence[float], generator: Generator | None = None) -> list[Subset]:
    """Divide a data set at random.

    Args:
        lengths: the sizes of the parts, or fractions that add up to 1. Examples that rounding down leaves over go to the first
            parts, one each.
        generator: the source of the order; the default generator if None. The order differs from PyTorch's for the same seed.

    >>> [len(part) for part in random_split(range(10), [0.85, 0.15])]
    [9, 1]
    """
    if not isinstance(lengths, Iterable):
        raise TypeError(f"random_split: expected a list of lengths or fractions, got {type(lengths).__name__}")
    sizes, total = list(lengths), len(dataset)
    for length in sizes:
        as_float(length, "random_split", "length")
    if math.isclose(sum(sizes), 1) and sum(sizes) <= 1:
        if not all(0 <= fraction <= 1 for fraction in sizes):
            raise ValueError(f"random_split: expected fractions between 0 and 1, got {sizes}")
        sizes = [math.floor(total * fraction) for fraction in sizes]
        for i in range(total - int(sum(sizes))):
            sizes[i % len(sizes)] += 1
    if sum(sizes) != total:
        raise ValueError(f"random_split: expected lengths that add up to {total}, the examples, got {sizes}")
    order = (generator or default_generator).numpy.permutation(total).tolist()
    ends = itertools.accumulate(int(size) for size in sizes)
    return [Subset(dataset, order[end - int(size) : end]) for size, end in zip(sizes, ends)]
