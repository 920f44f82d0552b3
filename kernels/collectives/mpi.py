"""Collectives between processes, over MPI, with NumPy arrays.

    mpiexec -n 2 python -m chapters.ch07_train        # two processes; mpi4py and an MPI library: pip install -e '.[mpi]'

A process that fails must end the others with `abort`, or they wait forever. The chapters see to that; for a program of your
own, `python -m mpi4py program.py` does.

The methods equal kernels/collectives/reference.py. MPI moves the numbers, through memory inside a machine and over the network
between machines. All exchanges are of MPI's non-blocking kind, so that a rank can compute meanwhile, and so that a rank with
nothing to do can leave its core to others: MPI's own blocking calls spin, which on a shared core delays the rank that is waited
for.
"""

import os
import pickle
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from kernels.arrays import Array, Arrays
from kernels.collectives import Group, Pending, check_bounds, check_flat, check_terms, sum_in_order

POLLING_SECONDS = (
    0.05  # seconds in which a waiting rank polls without pause, which takes any exchange of some 100 MB to its end
)
SHORT_MESSAGE = 1024  # bytes
SLEEP_SECONDS = 50e-6  # seconds that it sleeps between polls afterwards
yield_core = getattr(os, "sched_yield", lambda: None)  # lets another rank have the core, where the system can do that


class Exchange(Pending):
    """MPI's requests, and the numbers that they bring."""

    def __init__(self, requests: list[Any], terms: Arrays, sent: Arrays = ()):
        self.requests, self.terms, self.sent = requests, terms, sent  # `sent` must outlive the requests

    def poll(self) -> bool:
        return MPI.Request.Testall(self.requests)

    def wait(self) -> Array:
        wait_for(self.requests)
        return self.terms[0] if len(self.terms) == 1 else sum_in_order(self.terms)


def wait_for(requests: Sequence[Any]) -> None:
    """Wait until the requests are done.

    Every poll moves a piece of the message on, so a rank that sleeps slows it down: 64 MB between two ranks take 35 ms with
    polls alone and 540 ms with naps from the start. While it polls, it offers its core to others at each turn.
    """
    begin = time.perf_counter()
    while not MPI.Request.Testall(requests):
        if time.perf_counter() - begin < POLLING_SECONDS:
            yield_core()
        else:
            time.sleep(SLEEP_SECONDS)


class ProcessGroup(Group):
    """A rank that is a process.  comm: an mpi4py communicator."""

    def __init__(self, comm: Any):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def local_rank(self) -> int:
        """This rank's number among the ranks of its machine, from 0."""
        comm = self.comm.Split_type(MPI.COMM_TYPE_SHARED)  # the processes that can share memory
        local_rank = comm.Get_rank()
        comm.Free()
        return local_rank

    def barrier(self) -> None:
        wait_for([self.comm.Ibarrier()])

    def gather_objects(self, value: Any) -> list[Any]:
        # One message if all values are short: SHORT_MESSAGE bytes from each rank, which begin with the number of bytes in all.
        content = np.frombuffer(pickle.dumps(value), np.uint8)
        messages = np.zeros((self.size, SHORT_MESSAGE), np.uint8)
        mine = np.concatenate([np.frombuffer(len(content).to_bytes(8, "little"), np.uint8), content])[:SHORT_MESSAGE]
        messages[self.rank, : len(mine)] = mine
        self.all_gather(messages.reshape(-1), [SHORT_MESSAGE * r for r in range(self.size + 1)])
        lengths = [int.from_bytes(message[:8].tobytes(), "little") for message in messages]
        if max(lengths) <= SHORT_MESSAGE - 8:
            return [pickle.loads(message[8 : 8 + n].tobytes()) for message, n in zip(messages, lengths)]
        ends = np.cumsum([0, *lengths]).tolist()
        contents = np.empty(ends[-1], np.uint8)
        contents[ends[self.rank] : ends[self.rank + 1]] = content
        self.all_gather(contents, ends)
        return [pickle.loads(contents[low:high].tobytes()) for low, high in zip(ends, ends[1:])]

    def abort(self, status: int) -> None:
        self.comm.Abort(status)

    def broadcast(self, array: Array, root: int = 0) -> Array:
        check_flat("broadcast", array)
        wait_for([self.comm.Ibcast(array, root)])
        return array

    def start_all_gather(self, array: Array, bounds: Sequence[int]) -> Pending:
        check_flat("all_gather", array)
        check_bounds("all_gather", len(array), bounds, self.size)
        lengths = np.diff(bounds)
        kind = MPI.Datatype.fromcode(array.dtype.char)
        return Exchange([self.comm.Iallgatherv(MPI.IN_PLACE, [array, lengths, list(bounds[:-1]), kind])], [array])

    def start_reduce_scatter(
        self, terms: Arrays, bounds: Sequence[int], counts: Sequence[int] | None = None, in_order: bool = True
    ) -> Pending:
        counts = check_terms(self, terms, bounds, counts)
        lengths, starts, n = np.diff(bounds), list(bounds[:-1]), bounds[self.rank + 1] - bounds[self.rank]
        kind = MPI.Datatype.fromcode(terms[0].dtype.char)
        if not in_order:
            mine, total = sum_in_order(terms), np.empty(n, terms[0].dtype)
            return Exchange([self.comm.Ireduce_scatter(mine, total, lengths, MPI.SUM)], [total], [mine])
        received = np.empty((sum(counts), n), terms[0].dtype)  # a row for each term of each rank, in order
        rows = np.cumsum([0, *counts])  # (size + 1,) each rank's first row
        requests = []
        for t in range(max(counts)):  # term t of every rank that has one
            send = [terms[t], lengths, starts, kind] if t < len(terms) else [terms[0], 0 * lengths, starts, kind]
            into = [n if t < count else 0 for count in counts]
            requests.append(self.comm.Ialltoallv(send, [received, into, (rows[:-1] + t) * n, kind]))
        return Exchange(requests, list(received), terms)
