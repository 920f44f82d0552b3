"""Collectives between threads of one process: the specification.

Each thread plays a rank. An exchange is the same every time: put an array where the others see it, wait for them, read theirs,
and wait again before it is taken away.

>>> import numpy as np
>>> run(3, lambda group: group.all_reduce(np.arange(4.0) * 10**group.rank).tolist())
[[0.0, 111.0, 222.0, 333.0], [0.0, 111.0, 222.0, 333.0], [0.0, 111.0, 222.0, 333.0]]
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kernels.arrays import Array, Arrays
from kernels.collectives import Done, Group, Pending, check_bounds, check_flat, check_terms, sum_in_order

Result = TypeVar("Result")


class ThreadGroup(Group):
    """A rank that is a thread; `run` makes the ranks of a group."""

    def __init__(self, rank: int, places: list[Any], turnstile: threading.Barrier):
        self.rank, self.size = rank, len(places)
        self.places, self.turnstile = places, turnstile  # shared by all ranks

    def barrier(self) -> None:
        self.turnstile.wait()

    def gather_objects(self, value: Any) -> list[Any]:
        self.places[self.rank] = value
        self.barrier()
        values = list(self.places)
        self.barrier()
        return values

    def abort(self, status: int) -> None:
        raise SystemExit(status)  # `run` ends the other ranks and raises this error

    def broadcast(self, array: Array, root: int = 0) -> Array:
        check_flat("broadcast", array)
        source = self.gather_objects(array)[root]
        if source is not array:
            array[...] = source
        self.barrier()  # the root may change its array only when all have read it
        return array

    def start_all_gather(self, array: Array, bounds: Sequence[int]) -> Pending:
        check_flat("all_gather", array)
        check_bounds("all_gather", len(array), bounds, self.size)
        for r, theirs in enumerate(self.gather_objects(array)):
            if r != self.rank:
                part = slice(bounds[r], bounds[r + 1])
                array[part] = theirs[part]
        self.barrier()
        return Done(array)

    def start_reduce_scatter(
        self, terms: Arrays, bounds: Sequence[int], counts: Sequence[int] | None = None, in_order: bool = True
    ) -> Pending:
        check_terms(self, terms, bounds, counts)
        part = slice(*bounds[self.rank : self.rank + 2])
        every = [term for theirs in self.gather_objects(list(terms)) for term in theirs]  # from rank 0 to the last
        total = sum_in_order([term[part] for term in every])
        self.barrier()
        return Done(total)


def run(size: int, function: Callable[[Group], Result]) -> list[Result]:
    """Call the function with the group of each rank, in threads of this process; returns the results by rank.

    If it fails on one rank, the others stop waiting for it, and its error is raised.
    """
    places, turnstile = [None] * size, threading.Barrier(size)

    def play(rank: int) -> Result:
        try:
            return function(ThreadGroup(rank, places, turnstile))
        except BaseException:
            turnstile.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        results = [threads.submit(play, rank) for rank in range(size)]
    errors = [result.exception() for result in results]
    first = next((e for e in errors if e and not isinstance(e, threading.BrokenBarrierError)), None)
    if first:
        raise first
    return [result.result() for result in results]
