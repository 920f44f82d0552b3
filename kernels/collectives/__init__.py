"""Collectives: the operations by which several processes share their arrays.

    kernels/collectives/reference.py   threads of one process: for reading, and for tests
    kernels/collectives/mpi.py         processes, on one machine or many, with NumPy arrays
    kernels/collectives/nccl.py        processes with a GPU each, with CuPy arrays

Each file has a Group, and the three have the same methods. A *rank* is a process's number in its group. Every rank calls the
same methods in the same order; a call returns once the ranks that it needs have called it too. With three ranks that hold
a, b and c, each of three parts (a = a₀ a₁ a₂):

                      rank 0          rank 1          rank 2
    broadcast         a               a               a
    all_gather        a₀ b₁ c₂        a₀ b₁ c₂        a₀ b₁ c₂
    reduce_scatter    a₀ + b₀ + c₀    a₁ + b₁ + c₁    a₂ + b₂ + c₂
    all_reduce        a + b + c       a + b + c       a + b + c

An all_reduce is a reduce_scatter, after which each rank has a part of the sum, and an all_gather, which collects the parts.

Floating-point sums depend on their order. Here a sum runs from rank 0 to the last rank, each rank's own terms from left to
right. So two ranks with two terms each compute the same bytes as one rank with all four, or four ranks with one each. The
price: a rank sends all its terms and not their sum. `in_order=False` adds a rank's own terms first, and then as the library
likes.

Source: Thakur, Rabenseifner, Gropp 2005, Optimization of Collective Communication Operations in MPICH (IJHPCA 19), sections 3
and 4.
"""

from collections.abc import Sequence
from typing import Any

from kernels.arrays import Array, Arrays


class Pending:
    """An exchange that has begun, so that a rank can compute while others send."""

    def poll(self) -> bool:
        """Whether everything has arrived. Asking also moves the exchange on, so ask now and then."""
        return True

    def wait(self) -> Array:
        """Wait for the other ranks, and return the result."""
        raise NotImplementedError


class Group:
    """The ranks that compute together.  Arrays are flat and contiguous, and equally long on every rank.

    Attributes:
        rank: this process's number, from 0.
        size: the number of ranks.
    """

    rank, size = 0, 1

    def barrier(self) -> None:
        """Wait until every rank is here."""
        raise NotImplementedError

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Overwrite the array on every rank with the array of rank `root`, and return it."""
        raise NotImplementedError

    def start_all_gather(self, array: Array, bounds: Sequence[int]) -> Pending:
        """Begin an all_gather; the caller must leave the array alone before wait() has returned it.

        bounds: (size + 1,) places, from 0 to the array's length. A part may be empty.
        """
        raise NotImplementedError

    def start_reduce_scatter(
        self, terms: Arrays, bounds: Sequence[int], counts: Sequence[int] | None = None, in_order: bool = True
    ) -> Pending:
        """Begin a reduce_scatter; the caller must not change the terms before wait() has returned.

        Args:
            terms: this rank's summands, arrays (N,).
            bounds: (size + 1,) places, from 0 to N: rank r receives part r of the sum.
            counts: the number of terms of every rank, at least 1; None means that each has as many as this rank.
            in_order: add from left to right, by rank. Otherwise the order is free.
        """
        raise NotImplementedError

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks: small Python objects, such as losses or texts."""
        raise NotImplementedError

    def abort(self, status: int) -> None:
        """End all ranks at once; their launcher exits with the status."""
        raise NotImplementedError

    # ── made of the others ──

    def all_gather(self, array: Array, bounds: Sequence[int]) -> Array:
        """Fill the array on every rank: part r, array[bounds[r]:bounds[r + 1]], with rank r's own part r. Returns the array."""
        return self.start_all_gather(array, bounds).wait()

    def reduce_scatter(
        self, terms: Arrays, bounds: Sequence[int], counts: Sequence[int] | None = None, in_order: bool = True
    ) -> Array:
        """This rank's part of the sum of all ranks' terms, a new array; see `start_reduce_scatter`."""
        return self.start_reduce_scatter(terms, bounds, counts, in_order).wait()

    def all_reduce(self, array: Array, in_order: bool = True) -> Array:
        """Overwrite the array, on every rank, with the sum of all ranks' arrays, and return it."""
        bounds = equal_parts(len(array), self.size)
        own = slice(*bounds[self.rank : self.rank + 2])
        array[own] = self.reduce_scatter([array], bounds, in_order=in_order)
        return self.all_gather(array, bounds)


def equal_parts(n: int, parts: int) -> list[int]:
    """The bounds of `parts` parts of n things; the first n % parts have one more than the others.

    >>> equal_parts(8, 3)
    [0, 3, 6, 8]
    """
    return [i * (n // parts) + min(i, n % parts) for i in range(parts + 1)]


def check_bounds(name: str, n: int, bounds: Sequence[int], size: int) -> None:
    """Raise ValueError unless the bounds cut n numbers into `size` parts."""
    rising = all(low <= high for low, high in zip(bounds, bounds[1:]))
    if len(bounds) != size + 1 or bounds[0] != 0 or bounds[-1] != n or not rising:
        raise ValueError(f"{name}: expected {size + 1} rising bounds from 0 to {n}, got {list(bounds)}")


def check_flat(name: str, *arrays: Array) -> None:
    """Raise ValueError unless the arrays are flat, contiguous and of one length and dtype."""
    for array in arrays:
        if array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"{name}: expected a flat, contiguous array, got shape {array.shape}; pass array.reshape(-1)")
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            expected = f"{arrays[0].dtype} {arrays[0].shape}"
            raise ValueError(f"{name}: expected terms of one shape and dtype, {expected}, got {array.dtype} {array.shape}")


def check_terms(group: Group, terms: Arrays, bounds: Sequence[int], counts: Sequence[int] | None) -> list[int]:
    """Raise ValueError unless these arguments of start_reduce_scatter fit; returns the number of terms of every rank."""
    counts = [len(terms)] * group.size if counts is None else list(counts)
    if not terms or len(counts) != group.size or counts[group.rank] != len(terms) or min(counts) < 1:
        expected = f"at least one term on each of {group.size} ranks"
        raise ValueError(f"reduce_scatter: expected {expected}, got {len(terms)} on rank {group.rank} and the counts {counts}")
    check_flat("reduce_scatter", *terms)
    check_bounds("reduce_scatter", len(terms[0]), bounds, group.size)
    return counts


def sum_in_order(terms: Arrays) -> Array:
    """The sum of the arrays from left to right, a new array."""
    total = terms[0].copy()
    for term in terms[1:]:
        total += term
    return total


class Alone(Group):
    """A group of one rank, which computes without any others."""

    def barrier(self) -> None:
        pass

    def broadcast(self, array: Array, root: int = 0) -> Array:
        return array

    def start_all_gather(self, array: Array, bounds: Sequence[int]) -> Pending:
        check_bounds("all_gather", len(array), bounds, 1)
        return Done(array)

    def start_reduce_scatter(
        self, terms: Arrays, bounds: Sequence[int], counts: Sequence[int] | None = None, in_order: bool = True
    ) -> Pending:
        check_terms(self, terms, bounds, counts)
        return Done(sum_in_order(terms))

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def abort(self, status: int) -> None:
        raise SystemExit(status)


class Done(Pending):
    """An exchange that has ended."""

    def __init__(self, result: Array):
        self.result = result

    def wait(self) -> Array:
        return self.result
