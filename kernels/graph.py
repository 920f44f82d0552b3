"""CUDA graphs: work for a GPU recorded once, and sent again by one launch.

A launch costs the CPU some ten microseconds, whatever it computes; a small model's step has some hundred of them, and the GPU
waits for the CPU. A graph keeps them with all their arguments, addresses included:

    graph = Graph(array_module(x))
    with graph.capture():
        y = f(x)             # recorded, not computed
    graph.replay()           # now y holds f(x); and again, after x was overwritten: y[...] is f of what is there now

What is recorded must be the same each time: the same shapes, no number that the CPU reads or decides about, and no array that
is sent to the GPU anew. The memory that it works in belongs to the graph: CuPy's usual pool would hand it to somebody else as
soon as the arrays are gone, and the next replay would write there all the same. It lasts as long as the graph, and as any
array that was made in it.

Source: NVIDIA, "CUDA C++ Programming Guide", section on CUDA Graphs (stream capture); cupy.cuda.Stream.begin_capture.
The emulated device (kernels/emulator/memory.py) records and replays too.
"""

from contextlib import contextmanager

from kernels.emulator import memory

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation

_capturing = False


class GraphError(RuntimeError):
    """Work that a graph cannot hold."""


def capturing():
    """Whether a graph is being recorded just now."""
    return _capturing


def concatenate(xp, arrays, axis):
    """xp.concatenate; piece by piece inside a graph, since CuPy's own sends the pieces' addresses to the GPU."""
    if not _capturing:
        return xp.concatenate(arrays, axis=axis)
    shape, axis, end = list(arrays[0].shape), axis % arrays[0].ndim, 0
    shape[axis] = sum(a.shape[axis] for a in arrays)
    whole = xp.empty(shape, arrays[0].dtype)
    for a in arrays:
        begin, end = end, end + a.shape[axis]
        whole[(slice(None),) * axis + (slice(begin, end),)] = a
    return whole


class Graph:
    """Recorded work. xp: the module of its arrays, cupy or the emulated device's."""

    def __init__(self, xp):
        self._xp, self._recorded, self._pool = xp, None, None

    @contextmanager
    def capture(self):
        """Inside the with block, what would be sent to the GPU is recorded; new arrays are there, without content.

        Everything in it should have run once before: the first time a kernel runs it is compiled, which cannot be recorded.
        Raises GraphError where the work waits for the GPU, or sends an array there (CuPy says so by a plain RuntimeError).
        """
        global _capturing
        if _capturing or self._recorded is not None:
            raise GraphError("a graph records once, and not inside another")
        _capturing = True
        try:
            with self._recording() if self._xp.__name__ == "cupy" else memory.recording() as recorded:
                yield
            self._recorded = recorded
        except RuntimeError as error:
            if isinstance(error, GraphError) or getattr(error, "status", None) == OUT_OF_MEMORY:
                raise
            raise GraphError(str(error)) from error
        finally:
            _capturing = False

    @contextmanager
    def _recording(self):
        """CuPy's side of it. Yields a list, which holds the graph's launch once the block is left."""
        cuda, launch, stream = self._xp.cuda, [], self._xp.cuda.Stream(non_blocking=True)
        self._xp.get_default_memory_pool().free_all_blocks()  # room for a pool of the graph's own
        with cuda.using_allocator(self._allocator()), stream:
            stream.begin_capture()
            try:
                yield launch
            except BaseException:
                try:
                    stream.end_capture()
                except cuda.runtime.CUDARuntimeError:  # the capture is broken, which is what the first error is about
                    pass
                raise
            launch.append(stream.end_capture().launch)

    def _allocator(self):
        """What allocates for CuPy while it records: out of a pool that lives as long as the graph."""
        cuda, blocks = self._xp.cuda, []

        def kept(size):
            # Where memory is short a pool gives unused blocks back; their addresses may be recorded already, so they stay.
            blocks.append(cuda.Memory(size))
            return cuda.MemoryPointer(blocks[-1], 0)

        def malloc(size):
            # An array of a pool's does not keep the pool alive; the loss and the gradients may outlive the graph.
            own = pool.malloc(size).mem
            return cuda.MemoryPointer(cuda.UnownedMemory(own.ptr, own.size, (own, pool), own.device_id), 0)

        self._pool = pool = cuda.MemoryPool(kept)
        return malloc

    def replay(self):
        """Do what was recorded, by one launch; it is queued behind what was sent before."""
        if self._recorded is None:
            raise GraphError("nothing was recorded in this graph: use `with graph.capture():` first")
        memory.count("launches", "graph")
        for work in self._recorded:
            work()
