"""The sum of all ranks' gradients, computed while the backward pass still runs.

A rank does not wait for its whole backward pass before it sends. The pass begins at the last layer, so the gradients of the
last layer are complete first, and they can travel while the pass goes on towards the first layer. Small messages waste time on
their way, so the gradients of several parameters share a *bucket*, which leaves when it is full. (NCCL's exchanges wait in the
same queue as the backward pass's kernels, so on GPUs nothing overlaps yet.)

Source: Li et al. 2020, PyTorch Distributed (arXiv:2006.15704), section 3.2.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import kernels
from kernels.collectives import Pending, equal_parts
from minigrad.distributed import Sharing
from minigrad.tensor import Tensor

BUCKET = 1 << 20  # least numbers in a bucket, except the last


class Bucket:
    """Parameters whose gradients travel together, laid end to end in flat arrays.

    Attributes:
        terms: a flat array for each of this rank's summands.
        size: numbers in each array.
        missing: the parameters that the running backward pass has not reached.
        pending: the exchange, once it has begun.
    """

    def __init__(self, parameters: Sequence[Tensor], terms: int):
        self.parameters = parameters
        ends = np.cumsum([0, *(p.numel() for p in parameters)]).tolist()
        self.places = [slice(low, high) for low, high in zip(ends, ends[1:])]
        self.size: int = ends[-1]
        xp, dtype = kernels.array_module(parameters[0].array), parameters[0].dtype
        self.terms = [xp.zeros(self.size, dtype) for _ in range(terms)]
        self.missing: set[int] = set()
        self.pending: Pending | None = None

    def overlaps(self, low: int, high: int) -> Iterator[tuple[Tensor, slice, slice]]:
        """The parameters with numbers in [low, high) of the flat arrays: (parameter, where in it, where in the arrays)."""
        for p, place in zip(self.parameters, self.places):
            first, last = max(low, place.start), min(high, place.stop)
            if first < last:
                yield p, slice(first - place.start, last - place.start), slice(first, last)


def make_buckets(parameters: Sequence[Tensor], terms: int) -> list[Bucket]:
    """Buckets of at least BUCKET numbers, in the order in which a backward pass reaches the parameters: the last one first."""
    groups: list[list[Tensor]] = []
    full = True
    for p in reversed(parameters):
        if full or p.dtype != groups[-1][0].dtype:
            groups.append([])
        groups[-1].append(p)
        full = sum(q.numel() for q in groups[-1]) >= BUCKET
    return [Bucket(group, terms) for group in groups]


class GradientExchange:
    """Adds up the gradients of a step's terms, of which each has a backward pass of its own, over all ranks.

        for i, term in enumerate(exchange.own_terms):
            with exchange.collect(i):
                loss_of(term).backward()
        exchange.finish()               # now .grad is the sum of all terms of all ranks

    Args:
        parameters: those to train, in the same order on every rank.
        sharing: the group, and whether the sum keeps the order of the terms.
        terms: the number of terms of all ranks together.
        bounds_of: for a sharded optimizer: which numbers of a bucket each rank needs, as bounds. None: every rank needs all.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        sharing: Sharing,
        terms: int,
        bounds_of: Callable[[Bucket], list[int]] | None = None,
    ):
        self.group, self.in_order, self.own_terms = sharing.group, sharing.in_order, sharing.own(terms)
        size = self.group.size
        # The first rank's terms begin the sum, so that rank adds them up itself. The others must send all of theirs.
        counts = np.diff(equal_parts(terms, size)).tolist()
        self.counts = [1, *counts[1:]] if self.in_order else [1] * size
        self.buckets = make_buckets(parameters, self.counts[self.group.rank])
        self.bounds = [bounds_of(b) if bounds_of else equal_parts(b.size, size) for b in self.buckets]
        self.every_rank_needs_all = bounds_of is None
        self.where = {id(p): (b, i) for b in self.buckets for i, p in enumerate(b.parameters)}
        self.handles = [p.register_post_accumulate_grad_hook(self._take) for p in parameters]
        self.term: int | None = None  # the term whose backward pass runs
        self.started = 0  # buckets that have left
        self.used: set[int] = set()  # the places, in `where`, of the parameters that had a gradient in this step
        self.seconds_waited = 0.0  # in `finish`: what did not travel during the backward passes

    @contextmanager
    def collect(self, i: int) -> Iterator[None]:
        """Run the backward pass of this rank's term i in the with block."""
        if i == 0:
            self.started = 0
            self.used.clear()
        self.term = i
        for bucket in self.buckets:
            bucket.missing = set(range(len(bucket.parameters)))
            for p in bucket.parameters:
                p.grad = None
        try:
            yield
        except BaseException:
            self.term = None
            raise
        for bucket in self.buckets:
            for j in bucket.missing if bucket.pending is None else ():  # no gradient reached these parameters
                self._write(bucket, j, 0)
            bucket.missing = set()
        if i == len(self.own_terms) - 1:
            self._start_full_buckets()
        self.term = None

    def _take(self, p: Tensor) -> None:
        """Take over a gradient that is complete."""
        if self.term is None:
            return
        bucket, j = self.where[id(p)]
        if bucket.pending is not None:
            raise RuntimeError(
                f"collect: expected one complete gradient for each parameter, got another of shape {p.shape} after its bucket "
                "had left; run one backward pass, in which no two checkpoints share a parameter"
            )
        self._write(bucket, j, p.grad.array, again=j not in bucket.missing)
        p.grad = None
        self.used.add(id(p))
        bucket.missing.discard(j)
        if self.term == len(self.own_terms) - 1:
            self._start_full_buckets()

    def _write(self, bucket: Bucket, j: int, gradient: Any, again: bool = False) -> None:
        """Write the gradient of parameter j; add it to the terms before, or to an earlier part of the same term if `again`."""
        term, sums_up = self.term or 0, len(bucket.terms) == 1
        place = bucket.terms[0 if sums_up else term][bucket.places[j]].reshape(bucket.parameters[j].shape)
        if again or sums_up and term:
            place += gradient
        else:
            place[...] = gradient

    def _start_full_buckets(self) -> None:
        """Begin the exchange of the buckets that are full, in the same order on every rank; move the running ones on."""
        while self.started < len(self.buckets) and not self.buckets[self.started].missing:
            bucket, bounds = self.buckets[self.started], self.bounds[self.started]
            bucket.pending = self.group.start_reduce_scatter(bucket.terms, bounds, self.counts, self.in_order)
            self.started += 1
        for bucket in self.buckets[: self.started]:
            if bucket.pending is not None:
                bucket.pending.poll()

    def finish(self, note: Any = None) -> list[Any]:
        """Wait for the sums and make them the parameters' .grad; with `bounds_of`, only this rank's numbers are right.

        A parameter that had no gradient on any rank has none. Returns the notes of all ranks, any small objects.
        """
        start = time.perf_counter()
        places = [id(p) in self.used for bucket in self.buckets for p in bucket.parameters]
        notes = self.group.gather_objects((places, note))
        used = iter(np.any([theirs for theirs, _ in notes], axis=0).tolist())
        for bucket, bounds in zip(self.buckets, self.bounds):
            assert bucket.pending is not None
            total, own = bucket.terms[0], slice(*bounds[self.group.rank : self.group.rank + 2])
            total[own] = bucket.pending.wait()
            bucket.pending = self.group.start_all_gather(total, bounds) if self.every_rank_needs_all else None
        for bucket in self.buckets:
            total = bucket.pending.wait() if bucket.pending else bucket.terms[0]
            bucket.pending = None
            for p, place in zip(bucket.parameters, bucket.places):
                p.grad = Tensor(total[place].reshape(p.shape)) if next(used) else None
        self.seconds_waited += time.perf_counter() - start
        return [theirs for _, theirs in notes]

    def gather_parameters(self) -> None:
        """Give every rank the parameters that the others have changed: each sends the numbers that are its own."""
        rank, pending = self.group.rank, []
        for bucket, bounds in zip(self.buckets, self.bounds):
            flat = bucket.terms[0]
            for p, inside, place in bucket.overlaps(*bounds[rank : rank + 2]):
                flat[place] = p.array.reshape(-1)[inside]
            pending.append(self.group.start_all_gather(flat, bounds))
        for bucket, exchange in zip(self.buckets, pending):
            flat = exchange.wait()
            for p, place in zip(bucket.parameters, bucket.places):
                p.grad = None  # it was a view of `flat`
                p.array[...] = flat[place].reshape(p.shape)
                p.changed()

    def close(self) -> None:
        """Leave the parameters alone from now on."""
        for handle in self.handles:
            handle.remove()
