"""Data parallelism: several processes train one model, each on its share of every batch.

    mpiexec -n 2 python -m chapters.ch07_train

Every process, a *rank*, holds the whole model. A batch is cut into *shards*, and each rank runs forward and backward pass on
its own. The ranks add up the shards' gradients (kernels/collectives), so all of them take the same step and stay equal.

The result depends on the number of shards and not on the number of ranks: a gradient is the sum over the shards from the first
to the last, whoever computed them. One rank with four shards, two ranks with two each and four ranks with one each compute the
same bytes, on equal processors with equally many threads.

gradients.py adds up the gradients while the backward pass still runs; sharded.py gives each rank a part of the optimizer.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from kernels.collectives import Alone, Group, equal_parts
from minigrad.random import Generator

Item = TypeVar("Item")
Result = TypeVar("Result")

# ── who takes part ───────────────────────────────────────────────────────────────────────────────────────────────────

# What mpiexec tells the processes that it starts: their rank, and how many there are.
LAUNCHERS = {"PMI_RANK": "PMI_SIZE", "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE", "PMIX_RANK": "SLURM_NTASKS"}


class RankError(RuntimeError):
    """The ranks cannot work together."""


def launched() -> bool:
    """Whether mpiexec has started this process as one of several."""
    return any(rank in os.environ and os.environ.get(size, "1") != "1" for rank, size in LAUNCHERS.items())


def launched_rank() -> int:
    """This process's rank as mpiexec has told it, before any process has joined the group; 0 without mpiexec."""
    return next((int(os.environ[rank]) for rank in LAUNCHERS if rank in os.environ), 0)


def join() -> Group:
    """The group of the processes that one mpiexec has started; without mpiexec, a group of this process alone.

    Raises:
        RankError: if mpi4py or its MPI library is missing.
    """
    if not launched():
        return Alone()
    advice = "install both with pip install -e '.[mpi]', or mpi4py for your cluster's MPI"
    try:
        from mpi4py import MPI
    except ImportError:
        raise RankError(f"mpiexec: expected the package mpi4py, and it is missing; {advice}") from None
    except RuntimeError as error:
        raise RankError(f"mpiexec: mpi4py found no MPI library ({str(error).splitlines()[0]}); {advice}") from None
    from kernels.collectives.mpi import ProcessGroup

    return ProcessGroup(MPI.COMM_WORLD)


def on_gpus(processes: Group) -> Group:
    """The group of the same ranks whose arrays are on GPUs, one for each rank; NCCL carries them.

    Raises:
        DeviceError: if this rank's machine lacks CuPy, NCCL or a GPU for the rank.
    """
    from kernels.collectives.nccl import DeviceGroup

    return DeviceGroup(processes)


class Sharing(NamedTuple):
    """How the work is shared out: the group of ranks, and the number of shards, at least one for each rank."""

    group: Group = Alone()
    shards: int = 1
    in_order: bool = True  # whether gradients are added from the first shard to the last, whatever that costs

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that writes files and prints."""
        return self.group.rank == 0

    def own(self, n: int) -> range:
        """The numbers, from 0 to n − 1, of the things that this rank takes."""
        return range(*equal_parts(n, self.group.size)[self.group.rank : self.group.rank + 2])

    def true_on_any(self, value: bool) -> bool:
        """Whether the value is true on any rank."""
        return any(self.group.gather_objects(value)) if self.group.size > 1 else value

    def map_shards(self, function: Callable[..., Result], items: Sequence[Item], generator: Any = None) -> list[Result]:
        """[function(shard) for every shard of the items], in order; the ranks share the calls out.

        generator: if there is one, the calls are function(shard, generator), and each shard gets a Generator of its own, so
            that its numbers do not depend on the ranks. With one shard the function gets this generator itself.
        """
        if self.shards == 1:
            return [function(items) if generator is None else function(items, generator)]
        bounds = equal_parts(len(items), min(self.shards, max(1, len(items))))
        calls: list[tuple] = [(items[low:high],) for low, high in zip(bounds, bounds[1:])]
        if generator is not None:
            calls = [(shard, Generator(generator.draw_seed())) for (shard,) in calls]
        computed = [function(*calls[i]) for i in self.own(len(calls))]
        return [result for results in self.group.gather_objects(computed) for result in results]


_current = Sharing()


def current() -> Sharing:
    """How the work is shared out at present."""
    return _current


@contextmanager
def sharing(group: Group, shards: int = 0, in_order: bool = True) -> Iterator[Sharing]:
    """Share the work out to the group inside the with block.  shards: 0 means one for each rank.

    Raises RankError if there are fewer shards than ranks.
    """
    global _current
    if shards and shards < group.size:
        advice = f"give {group.size} or more, or 0 for one each"
        raise RankError(f"shards: expected at least one for each of {group.size} processes, got {shards}; {advice}")
    before, _current = _current, Sharing(group, shards or group.size, in_order)
    try:
        yield _current
    finally:
        _current = before
