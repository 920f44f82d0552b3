"""DataLoader: batches of examples from a data set."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.creation import as_tensor, tensor
from minigrad.dtypes import float64
from minigrad.ops.shape import stack
from minigrad.random import Generator
from minigrad.tensor import Tensor
from minigrad.utils.data.dataset import IterableDataset
from minigrad.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler


def default_collate(batch: Sequence[Any]) -> Any:
    """Join examples into a batch.

    Tensors and arrays are stacked, numbers become a tensor, and containers are joined item by item: a list of (x, y) pairs
    becomes [all x, all y], and a list of dicts a dict. Strings stay a list. Python floats become float64, as in PyTorch.

    >>> default_collate([(1, "a"), (2, "b")])
    [tensor([1, 2]), ('a', 'b')]
    """
    if not len(batch):
        raise ValueError("default_collate: expected at least one example, got none")
    first = batch[0]
    if isinstance(first, Tensor):
        _check_kind(batch, Tensor)
        shapes = {example.shape for example in batch}
        if len(shapes) > 1:
            raise RuntimeError(
                f"default_collate: expected examples of one shape, got {' and '.join(map(str, sorted(shapes)))}; "
                "pad them in a collate_fn"
            )
        return stack(batch)
    if isinstance(first, np.ndarray | np.generic) and first.dtype.kind in "biuf":
        _check_kind(batch, (Tensor, np.ndarray, np.generic, int, float))
        return default_collate([as_tensor(example) for example in batch])
    if isinstance(first, int | float):
        _check_kind(batch, (int, float))
        return tensor(batch, dtype=float64 if isinstance(first, float) else None)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        _check_kind(batch, Mapping)
        missing = next((key for key in first if not all(key in example for example in batch)), None)
        if missing is not None:
            raise KeyError(f"default_collate: expected {missing!r} in every example, got some without; pass a collate_fn")
        joined = {key: default_collate([example[key] for example in batch]) for key in first}
        return _like(first, joined)
    if isinstance(first, Sequence):
        _check_kind(batch, Sequence)
        if any(len(example) != len(first) for example in batch):
            raise RuntimeError("default_collate: expected examples of one length, got several; pad them in a collate_fn")
        columns = [default_collate(column) for column in zip(*batch)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    raise TypeError(
        f"default_collate: expected tensors, arrays, numbers, strings, dicts or lists, got {type(first).__name__}; "
        "pass a collate_fn"
    )


def _check_kind(batch: Sequence[Any], kind: Any) -> None:
    """Raise TypeError unless every example of the batch is of the kind of the first."""
    others = [type(example).__name__ for example in batch if not isinstance(example, kind)]
    if others:
        got = f"{type(batch[0]).__name__} and {others[0]}"
        raise TypeError(f"default_collate: expected examples of one kind, got {got}; pass a collate_fn")


def default_convert(data: Any) -> Any:
    """The example with its arrays as tensors, for a loader without batches (batch_size=None)."""
    if isinstance(data, np.ndarray | np.generic) and data.dtype.kind in "biuf":
        return as_tensor(data)
    if isinstance(data, Mapping):
        return _like(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return [default_convert(value) for value in data]
    return data


def _like(original: Mapping, values: dict) -> Any:
    """The values in a mapping of the original's class, where that class can be made from a dict."""
    try:
        return type(original)(values)  # type: ignore[call-arg]
    except TypeError:
        return values


class DataLoader:
    """Iterate over a data set in batches.

        for x, y in DataLoader(dataset, batch_size=32, shuffle=True): …

    Args:
        dataset: gives example i as dataset[i], and has a length; or an IterableDataset. If it defines __getitems__(indices),
            which gives the list of a batch's examples, this is called instead.
        batch_size: examples in a batch. None passes every example on by itself.
        shuffle: visit the examples in a new random order each time. A seed gives another order than in PyTorch.
        sampler: yields the indices to visit, in place of shuffle.
        batch_sampler: yields lists of indices, in place of batch_size, shuffle, sampler and drop_last.
        num_workers: accepted, but the running process loads the examples; the batches are the same.
        collate_fn: list of examples -> batch; default_collate if None.
        pin_memory, timeout, multiprocessing_context, prefetch_factor, persistent_workers, pin_memory_device, in_order:
            accepted and without effect, since they only concern workers and copies to a GPU.
        drop_last: leave out a smaller batch at the end.
        worker_init_fn: not implemented for num_workers above 0.
        generator: the source of the random order; the default generator if None.

    >>> [len(batch) for batch in DataLoader(range(10), batch_size=4)]
    [4, 4, 2]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable | None = None,
        batch_sampler: Iterable | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ):
        if num_workers < 0:
            raise ValueError(f"DataLoader: expected num_workers of at least 0, got {num_workers}")
        if num_workers and worker_init_fn is not None:
            raise NotImplementedError("DataLoader: worker_init_fn is not implemented; there are no worker processes")
        if not isinstance(dataset, IterableDataset) and not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"DataLoader: expected a data set with __getitem__, or an IterableDataset, got {type(dataset).__name__}; "
                "pass a list of the examples"
            )
        if isinstance(dataset, IterableDataset) and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError("DataLoader: an IterableDataset has its own order; leave out shuffle, sampler and batch_sampler")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: expected sampler or shuffle, got both")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("DataLoader: batch_sampler replaces batch_size, shuffle, sampler and drop_last; leave them out")
        if batch_size is None and drop_last:
            raise ValueError("DataLoader: drop_last needs a batch_size")
        self.dataset, self.num_workers, self.generator = dataset, num_workers, generator
        self.batch_size, self.drop_last = (None, False) if batch_sampler is not None else (batch_size, drop_last)
        if sampler is None and not isinstance(dataset, IterableDataset):
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        self.sampler = dataset if sampler is None else sampler  # an IterableDataset yields the examples themselves
        if batch_sampler is None and batch_size is not None:
            batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)
        self.batch_sampler = batch_sampler
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)

    def __iter__(self) -> Iterator[Any]:
        stream = isinstance(self.dataset, IterableDataset)
        look_up = (lambda example: example) if stream else self.dataset.__getitem__
        if self.batch_sampler is None:
            return (self.collate_fn(look_up(index)) for index in self.sampler)
        look_up_all = lambda indices: [look_up(index) for index in indices]
        if not stream and hasattr(self.dataset, "__getitems__"):
            look_up_all = self.dataset.__getitems__
        return (self.collate_fn(look_up_all(indices)) for indices in self.batch_sampler)

    def __len__(self) -> int:
        sized: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        try:
            return len(sized)
        except TypeError as error:
            raise TypeError(f"DataLoader: expected a data set or sampler with a length, but {error}") from error
