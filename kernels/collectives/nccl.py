"""Collectives between processes with a GPU each, over NCCL, with CuPy arrays.

    group = DeviceGroup(ProcessGroup(MPI.COMM_WORLD))

The methods equal kernels/collectives/reference.py. NCCL moves the numbers from GPU to GPU, inside a machine and over the
network. MPI carries the rest: the unique id by which NCCL's ranks find each other, Python objects, and barriers.

An exchange is work on CuPy's current stream, like a kernel. It reads what earlier work on the stream has written, and later
work on the stream finds its result, so the CPU does not wait for it. A group's calls must all come from one stream.

NCCL's calls between groupStart and groupEnd proceed together. Outside a group, two ranks that both send before they receive
would wait for each other forever. Messages from one rank to another arrive in the order in which they were sent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from kernels import gpu
from kernels.arrays import Array, Arrays, DeviceError, address, require
from kernels.collectives import Done, Group, Pending, check_bounds, check_flat, check_terms, sum_in_order

DTYPES = ("float16", "float32", "float64", "int32", "int64")


class Queued(Done):
    """An exchange on a stream. `wait` returns the result at once; work on the same stream finds it complete.

    Args:
        result: the array that the exchange writes.
        event: a CUDA event behind the exchange on the stream.
    """

    def __init__(self, result: Array, event: Any):
        super().__init__(result)
        self.event = event

    def poll(self) -> bool:
        return self.event.done


class DeviceGroup(Group):
    """A rank that is a process with a GPU, which it makes CuPy's current device.

    Args:
        processes: the ProcessGroup of the same ranks.
        cuda: the module cupy.cuda, unless a test has a stand-in.

    Raises:
        DeviceError: if this machine lacks CuPy, a GPU or NCCL.
    """

    def __init__(self, processes: Any, cuda: Any = None):
        self.processes, self.rank, self.size = processes, processes.rank, processes.size
        self.cuda = cuda or cuda_with_nccl()
        self.nccl = self.cuda.nccl
        use_own_gpu(processes.local_rank(), self.cuda)
        ids = processes.gather_objects(self.nccl.get_unique_id() if self.rank == 0 else None)
        self.communicator = self.nccl.NcclCommunicator(self.size, ids[0], self.rank)

    def barrier(self) -> None:
        self.processes.barrier()

    def gather_objects(self, value: Any) -> list[Any]:
        return self.processes.gather_objects(value)

    def abort(self, status: int) -> None:
        self.processes.abort(status)

    def broadcast(self, array: Array, root: int = 0) -> Array:
        check_flat("broadcast", array)
        self._broadcast(array, root)
        return array

    def start_all_gather(self, array: Array, bounds: Sequence[int]) -> Pending:
        check_flat("all_gather", array)
        check_bounds("all_gather", len(array), bounds, self.size)
        with self._together():
            for r, part in enumerate(cut(array, bounds)):
                self._broadcast(part, r)
        return Queued(array, self.cuda.get_current_stream().record())

    def start_reduce_scatter(
        self, terms: Arrays, bounds: Sequence[int], counts: Sequence[int] | None = None, in_order: bool = True
    ) -> Pending:
        counts = check_terms(self, terms, bounds, counts)
        total = self._exchanged_sum(terms, bounds, counts) if in_order else self._reduced_sum(sum_in_order(terms), bounds)
        return Queued(total, self.cuda.get_current_stream().record())

    def _exchanged_sum(self, terms: Arrays, bounds: Sequence[int], counts: Sequence[int]) -> Array:
        """Send every other rank its part of each term, receive this rank's part of theirs, and add in order."""
        parts = list(zip(*(cut(term, bounds) for term in terms)))  # parts[r]: each term's part r
        own = parts[self.rank]
        by_rank = [[gpu.empty(own[0], len(own[0]), own[0].dtype) for _ in range(count)] for count in counts]
        by_rank[self.rank] = list(own)
        with self._together():
            for r in range(self.size):
                if r != self.rank:
                    for part in parts[r]:
                        self._send(part, r)
                    for part in by_rank[r]:
                        self._receive(part, r)
        return sum_in_order([part for rank_parts in by_rank for part in rank_parts])

    def _reduced_sum(self, array: Array, bounds: Sequence[int]) -> Array:
        """This rank's part of the sum of all ranks' arrays, which NCCL adds in an order of its own."""
        parts = cut(array, bounds)
        total = gpu.empty(array, len(parts[self.rank]), array.dtype)
        with self._together():
            for r, part in enumerate(parts):
                self._reduce(part, total, r)
        return total

    # ── NCCL's calls, on CuPy's current stream. All ranks skip the same empty arrays, because all have the same bounds. ──

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Let the calls in the with block begin as one, at its end."""
        self.nccl.groupStart()
        try:
            yield
        finally:
            self.nccl.groupEnd()

    def _send(self, array: Array, rank: int) -> None:
        if len(array):
            self.communicator.send(address(array), len(array), self._dtype(array), rank, self._stream())

    def _receive(self, array: Array, rank: int) -> None:
        if len(array):
            self.communicator.recv(address(array), len(array), self._dtype(array), rank, self._stream())

    def _broadcast(self, array: Array, root: int) -> None:
        if len(array):
            place = address(array)  # to read from on the root, to write to on the others
            self.communicator.broadcast(place, place, len(array), self._dtype(array), root, self._stream())

    def _reduce(self, array: Array, total: Array, root: int) -> None:
        """Write the sum of all ranks' arrays into `total` on the root; the other ranks' totals stay as they are."""
        if len(array):
            source, target, add = address(array), address(total), self.nccl.NCCL_SUM
            self.communicator.reduce(source, target, len(array), self._dtype(array), add, root, self._stream())

    def _dtype(self, array: Array) -> int:
        """NCCL's constant for the array's dtype."""
        if array.dtype.name not in DTYPES:
            raise TypeError(f"NCCL: expected an array of {', '.join(DTYPES)}, got {array.dtype}; convert it with .astype()")
        return getattr(self.nccl, f"NCCL_{array.dtype.name.upper()}")

    def _stream(self) -> int:
        """The address of the current stream."""
        return self.cuda.get_current_stream().ptr


def cut(array: Array, bounds: Sequence[int]) -> list[Array]:
    """The parts array[bounds[r]:bounds[r + 1]] for all ranks r, as views."""
    return [array[low:high] for low, high in zip(bounds, bounds[1:])]


def use_own_gpu(local_rank: int, cuda: Any) -> None:
    """Make a rank's GPU the current device.

    Args:
        local_rank: the rank's number among those of its machine.
        cuda: the module cupy.cuda.

    Raises:
        DeviceError: if the machine has fewer GPUs than ranks; NCCL refuses two ranks on one GPU.
    """
    gpus = cuda.runtime.getDeviceCount()
    if local_rank >= gpus:
        raise DeviceError(f"mpiexec: expected a GPU for each process, got more than {gpus} on a machine of {gpus}; start fewer")
    cuda.Device(local_rank).use()


def cuda_with_nccl() -> Any:
    """The module cupy.cuda, with its submodule nccl.

    Raises:
        DeviceError: if this machine lacks CuPy, a GPU or NCCL.
    """
    cuda = require("cuda").cuda
    if not import_module("cupy.cuda.nccl").available:  # the import also makes it an attribute of cupy.cuda
        raise DeviceError("collectives between GPUs need NCCL, which CuPy did not find: pip install nvidia-nccl-cu13")
    return cuda
