"""Threads, MPI processes and NCCL's ranks exchange the same bytes, and a sum's bytes do not depend on the number of ranks.

`python test_collectives.py FOLDER`, under mpiexec, writes this rank's results of `every_operation` into the folder.
"""

import ctypes
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kernels.arrays import DeviceError
from kernels.collectives import Alone, equal_parts, nccl, reference
from kernels.emulator import memory
from tests.mpi import OPEN_MPI, mpiexec

ROOT = Path(__file__).parents[2]
N = 101
DTYPES = ("float16", "float32", "float64", "int32", "int64")
SIZES = (1, 2, 3)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def numbers(dtype, *seed):
    """N numbers whose float sums depend on the order of the terms."""
    return (np.random.default_rng(seed).standard_normal(N) * 100).astype(dtype)


def left_to_right(terms):
    """The specification of every sum."""
    total = np.zeros_like(terms[0])
    for i in range(len(total)):
        total[i] = terms[0][i]
        for term in terms[1:]:
            total[i] = total[i] + term[i]
    return total


def ragged_bounds(size):
    """Bounds of parts that differ in length; from two ranks on, rank 1's part is empty."""
    return [0, *(50 + 7 * max(0, r - 1) for r in range(size - 1)), N]


def ragged_counts(size):
    return [1 + (2 * r + 1) % 3 for r in range(size)]


def terms_of(rank, size, dtype):
    return [numbers(dtype, rank, i) for i in range(ragged_counts(size)[rank])]


def all_terms(size, dtype):
    return [term for rank in range(size) for term in terms_of(rank, size, dtype)]


def every_operation(group, asarray=np.asarray):
    """Call all methods of a rank's group; returns the results by name, as NumPy arrays.

    asarray: makes an array of the group's device from a NumPy array.
    """
    results = {}
    for dtype in DTYPES:
        terms = [asarray(term) for term in terms_of(group.rank, group.size, dtype)]
        counts = ragged_counts(group.size)
        for name, bounds in (("equal", equal_parts(N, group.size)), ("ragged", ragged_bounds(group.size))):
            results[f"all_gather, {name} {dtype}"] = group.all_gather(asarray(numbers(dtype, group.rank)), bounds)
            results[f"reduce_scatter, {name} {dtype}"] = group.reduce_scatter(terms, bounds, counts)
            results[f"free order, {name} {dtype}"] = group.reduce_scatter(terms, bounds, counts, in_order=False)
            pending = group.start_reduce_scatter(terms, bounds, counts)
            while not pending.poll():
                time.sleep(1e-4)
            results[f"polled, {name} {dtype}"] = pending.wait()
        results[f"terms afterwards {dtype}"] = terms[0]
        results[f"broadcast {dtype}"] = group.broadcast(asarray(numbers(dtype, group.rank)), root=group.size - 1)
        results[f"all_reduce {dtype}"] = group.all_reduce(asarray(numbers(dtype, group.rank)))
        results[f"broadcast, empty {dtype}"] = group.broadcast(asarray(np.zeros(0, dtype)))
    group.barrier()
    texts = group.gather_objects("x" * 3000 * (group.rank + 1))  # too long for a message of fixed size
    results["long_objects"] = np.array([len(text) for text in texts])
    results["gather_objects"] = np.array([f"{value}" for value in group.gather_objects({"rank": group.rank})])
    return {name: array if isinstance(array, np.ndarray) else array.get() for name, array in results.items()}


def differences(results, expected):
    """The names of the results, of all ranks, whose dtype, shape or bytes are not the expected ones."""
    different = set()
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            equal = (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
            if not (equal and array.tobytes() == theirs[name].tobytes()):
                different.add(name)
    return different


def assert_equal_to_threads(results):
    """Check the results of all ranks: sums in a free order to rounding, everything else to the byte."""
    expected = reference.run(len(results), every_operation)
    assert {name for name in differences(results, expected) if "free order" not in name} == set()
    for ours, theirs in zip(results, expected):
        for name in ours:
            if "free order" in name:
                tolerance = {"float16": 1.0, "float32": 1e-3, "float64": 1e-10}.get(name.split()[-1], 0)
                np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=tolerance)


# ── threads: the specification ───────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("size", [*SIZES, 4])
def test_threads_against_closed_forms(size):
    results = reference.run(size, every_operation)
    for dtype in DTYPES:
        total = left_to_right(all_terms(size, dtype))
        sum_of_firsts = left_to_right([numbers(dtype, r) for r in range(size)])
        for name, bounds in (("equal", equal_parts(N, size)), ("ragged", ragged_bounds(size))):
            parts = [slice(low, high) for low, high in zip(bounds, bounds[1:])]
            gathered = np.concatenate([numbers(dtype, r)[part] for r, part in enumerate(parts)])
            for r, part in enumerate(parts):
                assert results[r][f"all_gather, {name} {dtype}"].tobytes() == gathered.tobytes()
                for way in ("reduce_scatter", "polled"):
                    assert results[r][f"{way}, {name} {dtype}"].tobytes() == total[part].tobytes()
        for r in range(size):
            assert results[r][f"broadcast {dtype}"].tobytes() == numbers(dtype, size - 1).tobytes()
            assert results[r][f"all_reduce {dtype}"].tobytes() == sum_of_firsts.tobytes()
            assert results[r][f"terms afterwards {dtype}"].tobytes() == numbers(dtype, r, 0).tobytes()
    assert all(list(result["long_objects"]) == [3000 * (r + 1) for r in range(size)] for result in results)
    assert all(list(result["gather_objects"]) == [f"{{'rank': {r}}}" for r in range(size)] for result in results)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_ragged_parts_include_an_empty_one_and_the_counts_differ(size):
    assert 0 in np.diff(ragged_bounds(size)) or size == 2
    assert len(set(ragged_counts(size))) > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bytes_of_a_sum_do_not_depend_on_the_ranks(dtype):
    terms = [numbers(dtype, i) for i in range(4)]

    def spread_over_ranks(counts):
        def own_part(group):
            first = sum(counts[: group.rank])
            return group.reduce_scatter(terms[first : first + counts[group.rank]], ragged_bounds(group.size), counts)

        return np.concatenate(reference.run(len(counts), own_part)).tobytes()

    expected = left_to_right(terms).tobytes()
    for counts in ([4], [2, 2], [1, 1, 1, 1], [1, 2, 1], [2, 1, 1], [3, 1]):
        assert spread_over_ranks(counts) == expected, counts
    assert Alone().reduce_scatter(terms, [0, N]).tobytes() == expected
    if "float" in dtype:
        pairs = (terms[0] + terms[1]) + (terms[2] + terms[3])
        assert pairs.tobytes() != expected, "these numbers do not show the order of a sum"


def test_a_group_of_one_rank_equals_a_thread_of_one():
    assert_equal_to_threads([every_operation(Alone())])


def test_a_result_is_a_new_array():
    term = numbers("float32", 0)
    for result in (Alone().reduce_scatter([term], [0, N]), *reference.run(1, lambda g: g.reduce_scatter([term], [0, N]))):
        assert not np.may_share_memory(result, term)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────
ones = np.ones(4, np.float32)
MISTAKES = {
    "too few bounds": (
        lambda group: group.reduce_scatter([ones], [0]),
        r"reduce_scatter: expected \d rising bounds from 0 to 4, got \[0\]",
    ),
    "bounds beyond the end": (
        lambda group: group.all_gather(ones.copy(), [0] * group.size + [5]),
        r"all_gather: expected \d rising bounds from 0 to 4, got \[.*5\]",
    ),
    "falling bounds": (
        lambda group: group.reduce_scatter([ones], [0, *[5] * (group.size - 1), 4] if group.size > 1 else [1, 4]),
        r"reduce_scatter: expected \d rising bounds from 0 to 4, got",
    ),
    "not flat": (
        lambda group: group.reduce_scatter([ones.reshape(2, 2)], equal_parts(4, group.size)),
        r"expected a flat, contiguous array, got shape \(2, 2\); pass array.reshape\(-1\)",
    ),
    "not contiguous": (
        lambda group: group.reduce_scatter([ones[::2]], equal_parts(2, group.size)),
        r"expected a flat, contiguous array, got shape \(2,\)",
    ),
    "two dtypes": (
        lambda group: group.reduce_scatter([ones, ones.astype(np.float64)], equal_parts(4, group.size), [2] * group.size),
        r"expected terms of one shape and dtype, float32 \(4,\), got float64 \(4,\)",
    ),
    "two lengths": (
        lambda group: group.reduce_scatter([ones, ones[:3]], equal_parts(4, group.size), [2] * group.size),
        r"expected terms of one shape and dtype, float32 \(4,\), got float32 \(3,\)",
    ),
    "no term": (
        lambda group: group.reduce_scatter([], equal_parts(4, group.size)),
        r"expected at least one term on each of \d ranks, got 0 on rank \d",
    ),
    "wrong counts": (
        lambda group: group.reduce_scatter([ones], equal_parts(4, group.size), [2] * group.size),
        r"expected at least one term on each of \d ranks, got 1 on rank \d and the counts \[2",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_mistake_is_named(mistake, size):
    """size 0 is a group Alone."""
    function, sentence = MISTAKES[mistake]
    with pytest.raises(ValueError, match=sentence):
        function(Alone()) if size == 0 else reference.run(size, function)


@pytest.mark.timeout(30, method="thread")  # a hanging run would also block an exception
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_on_one_rank_ends_the_others(failing):
    def fail_on_one(group):
        group.barrier()
        if group.rank == failing:
            raise KeyError(f"rank {failing}")
        group.all_reduce(ones.copy())

    with pytest.raises(KeyError, match=f"rank {failing}"):
        reference.run(3, fail_on_one)


@pytest.mark.timeout(30, method="thread")  # a hanging run would also block an exception
@pytest.mark.parametrize("on_devices", [False, True])
def test_abort_ends_the_others_with_its_status(on_devices):
    def abort_on_one(threads):
        group = device_group(threads, Cuda(Nccl())) if on_devices else threads
        group.abort(3) if group.rank == 1 else group.barrier()

    for abort in (lambda: reference.run(3, abort_on_one), lambda: Alone().abort(3)):
        with pytest.raises(SystemExit, match="3"):
            abort()


# ── processes: MPI ───────────────────────────────────────────────────────────────────────────────────────────────────
def in_processes(size, *command):
    """Run a Python command in `size` processes; skips the test where MPI is missing."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | OPEN_MPI
    whole = [mpiexec(), "-n", str(size), sys.executable, "-m", "mpi4py", *map(str, command)]  # -m mpi4py: an error ends all
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("size", SIZES)
def test_processes_against_threads(size, tmp_path):
    done = in_processes(size, __file__, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(tmp_path.iterdir())
    assert len(files) == size, "mpiexec and mpi4py belong to different MPI libraries"
    results = []
    for path in files:
        with np.load(path) as arrays:
            results.append(dict(arrays))
    assert [int(result.pop("local rank")) for result in results] == list(range(size))
    assert_equal_to_threads(results)


def test_an_error_in_one_process_ends_the_others():
    code = "from mpi4py import MPI\nif MPI.COMM_WORLD.Get_rank() == 1: raise KeyError('rank 1')\nMPI.COMM_WORLD.Barrier()"
    done = in_processes(2, "-c", code)
    assert done.returncode != 0 and "KeyError: 'rank 1'" in done.stderr
    code = (
        "from mpi4py import MPI\nfrom kernels.collectives.mpi import ProcessGroup\n"
        "group = ProcessGroup(MPI.COMM_WORLD)\ngroup.abort(3) if group.rank == 1 else group.barrier()"
    )
    assert in_processes(2, "-c", code).returncode == 3


# ── devices: NCCL ────────────────────────────────────────────────────────────────────────────────────────────────────
STREAM = 1234  # the address of the stand-in's only stream


class Event:
    """A CUDA event that is done when it is asked for the second time."""

    asked = False

    @property
    def done(self):
        self.asked, before = True, self.asked
        return before


class Cuda:
    """A stand-in for cupy.cuda, shared by ranks that are threads. Its NCCL copies host memory between addresses."""

    def __init__(self, nccl_module, gpus=8):
        self.nccl = nccl_module
        self.runtime = SimpleNamespace(getDeviceCount=lambda: gpus)
        self.used = threading.local()

    def Device(self, number):
        return SimpleNamespace(use=lambda: setattr(self.used, "number", number))

    def get_current_stream(self):
        return SimpleNamespace(ptr=STREAM, record=Event)


class Nccl:
    """A stand-in for the module cupy.cuda.nccl: names, values and order of arguments as in CuPy 14.

    A call posts messages and receives messages. A group posts the messages of all its calls before it receives any. Messages
    between two ranks arrive in order. A send or recv outside a group fails here, where NCCL could wait forever.
    """

    NCCL_SUM, NCCL_INT32, NCCL_INT64, NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = 0, 2, 4, 6, 7, 8

    def __init__(self):
        self.mailboxes = {}  # (kind, sender, receiver) -> queue
        self.group = threading.local()

    def get_unique_id(self):
        return b"the id"

    def NcclCommunicator(self, size, unique_id, rank):
        assert unique_id == b"the id"
        return Communicator(self, size, rank)

    def groupStart(self):
        self.group.posts, self.group.receipts = [], []

    def groupEnd(self):
        posts, receipts = self.group.posts, self.group.receipts
        del self.group.posts, self.group.receipts
        for call in posts + receipts:
            call()

    def do(self, post, receive, alone=True):
        """Run a call, or add it to the thread's group.  alone: whether it may run outside a group."""
        assert alone or hasattr(self.group, "posts"), "send and recv belong between groupStart and groupEnd"
        if hasattr(self.group, "posts"):
            self.group.posts.append(post)
            self.group.receipts.append(receive)
        else:
            post()
            receive()

    def mailbox(self, *key):
        return self.mailboxes.setdefault(key, queue.Queue())


class Communicator:
    def __init__(self, module, size, rank):
        self.module, self.size, self.rank = module, size, rank

    def post(self, kind, receiver, memory_):
        self.module.mailbox(kind, self.rank, receiver).put(memory_.copy())

    def receive(self, kind, sender, memory_):
        """The next message, which must have this memory's length and dtype."""
        message = self.module.mailbox(kind, sender, self.rank).get(timeout=20)
        assert (message.shape, message.dtype) == (memory_.shape, memory_.dtype)
        return message

    def send(self, sendbuf, count, datatype, peer, stream):
        source = memory_at(sendbuf, count, datatype, stream)
        self.module.do(lambda: self.post("send", peer, source), lambda: None, alone=False)

    def recv(self, recvbuf, count, datatype, peer, stream):
        target = memory_at(recvbuf, count, datatype, stream)
        self.module.do(lambda: None, lambda: np.copyto(target, self.receive("send", peer, target)), alone=False)

    def broadcast(self, sendbuff, recvbuff, count, datatype, root, stream):
        source, target = (memory_at(address, count, datatype, stream) for address in (sendbuff, recvbuff))

        def post():
            for r in range(self.size) if self.rank == root else ():
                self.post("broadcast", r, source)

        self.module.do(post, lambda: np.copyto(target, self.receive("broadcast", root, target)))

    def reduce(self, sendbuf, recvbuf, count, datatype, op, root, stream):
        assert op == Nccl.NCCL_SUM
        source = memory_at(sendbuf, count, datatype, stream)

        def receive():
            if self.rank == root:
                messages = [self.receive("reduce", r, source) for r in reversed(range(self.size))]
                np.copyto(memory_at(recvbuf, count, datatype, stream), left_to_right(messages))

        self.module.do(lambda: self.post("reduce", root, source), receive)


def memory_at(address, count, datatype, stream):
    """`count` numbers of host memory as a NumPy array. Their owner must keep them."""
    assert count > 0 and stream == STREAM
    dtype = np.dtype({2: "i4", 4: "i8", 6: "f2", 7: "f4", 8: "f8"}[datatype])
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype)


def device_group(threads, cuda):
    """A DeviceGroup of the ThreadGroup's ranks."""
    threads.local_rank = lambda: threads.rank
    return nccl.DeviceGroup(threads, cuda)


def run_on_devices(size, nccl_module):
    cuda = Cuda(nccl_module)
    return reference.run(size, lambda threads: every_operation(device_group(threads, cuda), memory.asarray))


@pytest.mark.parametrize("size", [*SIZES, 4])
def test_devices_against_threads(size):
    module = Nccl()
    assert_equal_to_threads(run_on_devices(size, module))
    assert all(mailbox.empty() for mailbox in module.mailboxes.values()), "a rank sent a message that no rank received"


class LastMessageFirst(Nccl):
    """A fault: a group's messages to a rank arrive in the wrong order."""

    def groupEnd(self):
        self.group.posts.reverse()
        super().groupEnd()


def test_the_comparison_notices_messages_in_the_wrong_order():
    different = differences(run_on_devices(3, LastMessageFirst()), reference.run(3, every_operation))
    assert {"reduce_scatter, ragged float32", "polled, equal float64", "reduce_scatter, equal float16"} <= different
    assert not any("int" in name for name in different)


def test_the_comparison_notices_a_sum_in_the_wrong_order(monkeypatch):
    monkeypatch.setattr(nccl, "sum_in_order", lambda terms: left_to_right_on_device(list(reversed(terms))))
    different = differences(run_on_devices(2, Nccl()), reference.run(2, every_operation))
    assert {"reduce_scatter, ragged float32", "reduce_scatter, equal float64", "reduce_scatter, equal float16"} <= different


def left_to_right_on_device(terms):
    return memory.asarray(left_to_right([term.get() for term in terms]))


class NoBroadcast(Nccl):
    """A fault: every broadcast leaves the array as it was."""

    def NcclCommunicator(self, *args):
        communicator = super().NcclCommunicator(*args)
        communicator.broadcast = lambda *args: None
        return communicator


def test_the_comparison_notices_a_missing_broadcast():
    different = differences(run_on_devices(2, NoBroadcast()), reference.run(2, every_operation))
    assert {"broadcast int32", "all_gather, ragged float32", "all_reduce int64"} <= different


def test_a_pending_exchange_is_done_once_its_event_is():
    def ask_twice(threads):
        group = device_group(threads, cuda)
        pending = group.start_reduce_scatter([memory.asarray(ones)], [0, 1, 4])
        return pending.poll(), pending.poll(), pending.wait().tolist(), pending.wait().tolist()

    cuda = Cuda(Nccl())
    assert reference.run(2, ask_twice) == [(False, True, [2.0], [2.0]), (False, True, [2.0] * 3, [2.0] * 3)]


def test_each_rank_of_a_machine_takes_a_gpu_of_its_own():
    def number_of_gpu(threads):
        device_group(threads, cuda)
        return cuda.used.number

    cuda = Cuda(Nccl(), gpus=2)
    assert reference.run(2, number_of_gpu) == [0, 1]
    with pytest.raises(DeviceError, match="expected a GPU for each process, got more than 2 on a machine of 2; start fewer"):
        reference.run(3, number_of_gpu)


def test_nccl_refuses_a_dtype_by_name():
    def broadcast_booleans(threads):
        device_group(threads, Cuda(Nccl())).broadcast(memory.asarray(np.ones(3, bool)))

    with pytest.raises(TypeError, match="NCCL: expected an array of float16, .*, int64, got bool"):
        reference.run(1, broadcast_booleans)


def test_without_a_gpu_the_message_says_so():
    try:
        import cupy

        if cupy.cuda.is_available():
            pytest.skip("this machine has a GPU")
    except ImportError:
        pass
    with pytest.raises(DeviceError, match="device 'cuda'"):
        nccl.cuda_with_nccl()


if __name__ == "__main__":
    from mpi4py import MPI

    from kernels.collectives.mpi import ProcessGroup

    processes = ProcessGroup(MPI.COMM_WORLD)
    own_results = {**every_operation(processes), "local rank": np.array(processes.local_rank())}
    np.savez(Path(sys.argv[1]) / f"{processes.rank}.npz", **own_results)
