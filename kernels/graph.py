"""CUDA graphs: GPU work recorded once, and repeated by a single launch.

Every launch costs the CPU about ten microseconds, whatever it computes. A small model's step has more than a hundred, and the
GPU waits for the CPU. A graph records the launches with all their arguments, addresses included:

    graph = Graph(array_module(x))
    with graph.capture():
        y = f(x)             # recorded, not computed
    graph.replay()           # now y holds f(x); after x was overwritten, the next replay computes f of its new content

The recorded work must be the same every time: the same shapes, and no transfer between CPU and GPU. A graph has its own
memory pool, because a replay writes to all the arrays of the recording, even to those that Python has dropped; CuPy's usual
pool would give their memory to other arrays. The pool lives as long as the graph and every array made in it.

Source: NVIDIA, "CUDA C++ Programming Guide", section on CUDA Graphs (stream capture); cupy.cuda.Stream.begin_capture.
The emulated device (kernels/emulator/memory.py) records and replays too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kernels.arrays import Array
from kernels.emulator import memory

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation

_capturing = False


class GraphError(RuntimeError):
    """A graph cannot contain this work."""


def capturing() -> bool:
    """Whether a graph is being recorded at the moment."""
    return _capturing


def concatenate(xp: Any, arrays: Sequence[Array], axis: int) -> Array:
    """xp.concatenate, but piece by piece inside a graph, since CuPy's version sends the pieces' addresses to the GPU."""
    if not _capturing:
        return xp.concatenate(arrays, axis=axis)
    shape, axis, end = list(arrays[0].shape), axis % arrays[0].ndim, 0
    shape[axis] = sum(a.shape[axis] for a in arrays)
    result = xp.empty(shape, arrays[0].dtype)
    for a in arrays:
        begin, end = end, end + a.shape[axis]
        result[(slice(None),) * axis + (slice(begin, end),)] = a
    return result


class Graph:
    """Recorded work on arrays of the module xp, cupy or kernels.emulator.memory."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._work: list[Callable[[], object]] | None = None
        self._pool: Any = None

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Inside the with block, GPU work is recorded and not done, and new arrays have no content.

        The same work must have run once before: a kernel's first launch compiles it, and a graph cannot record that.

        Raises:
            GraphError: if the work waits for the GPU or sends an array there, or if this graph cannot record now.
        """
        global _capturing
        if _capturing or self._work is not None:
            raise GraphError("graph: capture() works once per graph, and not inside another capture")
        _capturing = True
        try:
            with self._capture_stream() if self._xp.__name__ == "cupy" else memory.recording() as work:
                yield
            self._work = work
        except RuntimeError as error:  # CuPy raises a plain RuntimeError
            if isinstance(error, GraphError) or getattr(error, "status", None) == OUT_OF_MEMORY:
                raise
            raise GraphError(str(error)) from error
        finally:
            _capturing = False

    @contextmanager
    def _capture_stream(self) -> Iterator[list[Callable[[], object]]]:
        """Capture through CuPy. Yields a list that contains the graph's launch after the with block."""
        cuda, stream = self._xp.cuda, self._xp.cuda.Stream(non_blocking=True)
        work: list[Callable[[], object]] = []
        self._xp.get_default_memory_pool().free_all_blocks()  # room for the graph's own pool
        with cuda.using_allocator(self._allocator()), stream:
            stream.begin_capture()
            try:
                yield work
            except BaseException:
                with suppress(cuda.runtime.CUDARuntimeError):  # a consequence of the error that is raised below
                    stream.end_capture()
                raise
            work.append(stream.end_capture().launch)

    def _allocator(self) -> Callable[[int], Any]:
        """CuPy's allocator during the capture: a memory pool that lives as long as the graph."""
        cuda, blocks = self._xp.cuda, []

        def permanent_block(size: int) -> Any:
            # A pool that is short of memory frees unused blocks. The graph may write to them, so `blocks` keeps them alive.
            blocks.append(cuda.Memory(size))
            return cuda.MemoryPointer(blocks[-1], 0)

        def malloc(size: int) -> Any:
            # The loss and the gradients may outlive the graph, so each array's memory keeps the pool alive.
            part = pool.malloc(size).mem
            return cuda.MemoryPointer(cuda.UnownedMemory(part.ptr, part.size, (part, pool), part.device_id), 0)

        self._pool = pool = cuda.MemoryPool(permanent_block)
        return malloc

    def replay(self) -> None:
        """Queue the recorded work with one launch.

        Raises:
            GraphError: if nothing was recorded.
        """
        if self._work is None:
            raise GraphError("graph: nothing is recorded; use `with graph.capture():` first")
        memory.count("launches", "graph")
        for work in self._work:
            work()
