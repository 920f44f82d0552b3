"""Data sets, samplers and the loader that makes batches, under PyTorch's names."""

# isort: off
import typing as _typing

from minigrad.utils.data.dataloader import DataLoader, default_collate, default_convert
from minigrad.utils.data.dataset import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from minigrad.utils.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler
from minigrad.utils.data.sampler import WeightedRandomSampler

__all__ = ["BatchSampler", "ConcatDataset", "DataLoader", "Dataset", "IterableDataset", "RandomSampler", "Sampler"]
__all__ += ["SequentialSampler", "Subset", "SubsetRandomSampler", "TensorDataset", "WeightedRandomSampler"]
__all__ += ["default_collate", "default_convert", "random_split"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.utils.data has no {name!r}; it has {', '.join(__all__)}")
