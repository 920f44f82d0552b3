"""How the CPU kernels are compiled, cached and run: the one place for Numba's settings.

A kernel is a Python function that Numba turns into machine code the first time it is called:

    @inner                            a piece of a kernel, compiled into its callers
    @kernel                           the outermost function, called from Python; its loops over `prange` run on all cores

Threads. A parallel loop is always `for worker in prange(workers)`; each worker takes a task by its number, computes elements
that belong to that task alone, and takes the next. Which worker computed an element therefore never changes its value: the
results have the same bytes from run to run. `NUMBA_NUM_THREADS=2 python …` or numba.set_num_threads(2) sets the number.
The threads are OpenMP's where Numba finds it, else Numba's own pool, which must not be entered from two Python threads at
once: the lock `running` sees to that.

Compiled code is cached on disk (in __pycache__, or in NUMBA_CACHE_DIR). Where nothing can be written, kernels are compiled
in memory, with one warning. What is compiled says so once on stderr, because the first run of a kernel takes about a second.
"""

import ctypes
import hashlib
import os
import sys
import threading
import warnings
from functools import update_wrapper
from pathlib import Path

# A thread with nothing to do looks out for work for a while, some 0.2 ms, before it sleeps. That bridges the Python between two
# kernels: to be woken takes longer, and a step of a tiny GPT 3 % more. But on a machine busy with something else, a thread
# that looks out keeps the one it waits for from running: GNU OpenMP's own 300,000 rounds make a step take 9 times as long
# there, these 10,000 less than twice. (Read when Numba first starts its threads.)
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numba  # noqa: E402
import numpy as np  # noqa: E402
from llvmlite.binding import Linkage  # noqa: E402
from numba.core import event  # noqa: E402
from numba.core.caching import FunctionCache  # noqa: E402
from numba.core.codegen import JITCodeLibrary  # noqa: E402
from numba.core.compiler import Compiler  # noqa: E402
from numba.np.ufunc import parallel  # noqa: E402

# What the compiler may do to floating-point arithmetic: reorder sums (that is what lets a sum use the vector unit), fuse a
# product and a sum, ignore the sign of zero. It may not assume that there is no NaN and no infinity.
SAFE = {"reassoc", "contract", "nsz"}


def _keep_freed_memory():
    """Ask the C library to keep the memory of freed arrays for the next ones, in place of returning it to the system.

    A training step makes and frees the same large arrays again and again. By default each new one is fetched from the system,
    which clears it, page by page, at first touch: of a tiny GPT's step that is a quarter of the time. Peak memory is the same.
    (GNU C library only, whose limit for this is 32 MiB an array; MALLOC_MMAP_THRESHOLD_ in the environment takes precedence.)
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


_keep_freed_memory()
running = threading.RLock()

# Of the options: a division by zero gives inf or NaN, as in NumPy; and no entry for callers in C, which nobody asks for (it
# would be an eighth of the compiling).
_OPTIONS = {"error_model": "numpy", "no_cfunc_wrapper": True}
inner = numba.njit(fastmath=SAFE, **_OPTIONS)
# Arithmetic whose order matters (the polynomials, the bit tricks): products and sums may be fused, nothing is reordered.
exact = numba.njit(fastmath={"contract"}, forceinline=True, **_OPTIONS)


# The files whose functions are compiled into the kernels of other files.
_SHARED = ("launch.py", "simd.py", "tile.py", "gelu/cpu.py", "matmul/few_rows.py", "matmul/block.py")


def _fingerprint():
    """A digest of the shared files and of the setting that changes what they mean.

    Numba's cache looks only at the file of the outermost function; a change in a function compiled into it would go unseen.
    """
    digest = hashlib.sha256(os.environ.get("MINIGRAD_VECTOR_WIDTH", "").encode())
    for name in _SHARED:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


_FINGERPRINT = _fingerprint()
_warned = False


def _warn_uncached(reason):
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels cannot be cached on disk ({reason}), so every start compiles them again; "
            "set NUMBA_CACHE_DIR to a folder that can be written",
            stacklevel=3,
        )


def cached():
    """Whether what is compiled is kept on disk, as far as is known."""
    return not _warned


class _Cache(FunctionCache):
    """Numba's cache on disk, which also notices changes in other files, and does without the disk where it fails."""

    def _index_key(self, sig, codegen):
        return (*super()._index_key(sig, codegen), _FINGERPRINT)

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except OSError as error:
            return _warn_uncached(error)

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_uncached(error)


def _kept_on_disk(compiled):
    """Keep on disk what Numba compiles of this function, where that can be done."""
    try:
        compiled._cache = _Cache(compiled.py_func)
    except (RuntimeError, OSError) as error:  # Numba found no folder that it may write to
        _warn_uncached(error)
    return compiled


class _SelfContained(JITCodeLibrary):
    """A kernel's machine code, all of it private: what is kept on disk is the very code that runs, here and wherever loaded.

    Numba translates each inner function by itself, then once more in every function that uses it, and gives all translations
    the same name. Of several with one name, the loader takes the first that it met: in the process that compiles a kernel a
    piece from along the way, in one that loads it the kernel's own, optimised once more, whose last bits may differ. (And two
    processes may give one name to two different functions.) A private function is seen by its own kernel only.
    """

    def _optimize_final_module(self):
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage != Linkage.external:
                function.linkage = Linkage.internal
        super()._optimize_final_module()


class _Compiler(Compiler):
    def define_pipelines(self):
        self.state.library = _SelfContained(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super().define_pipelines()


class kernel:  # noqa: N801  (it is used as a decorator)
    """Compile a function for all cores, when it is first called; calls from several Python threads wait for one another."""

    def __init__(self, function):
        update_wrapper(self, function)
        # Numba may join two parallel loops that follow one another, but of what is done by address it sees no dependence: the
        # end of a loop over prange has to stay the place where all workers wait for one another.
        made = numba.njit(parallel={"fusion": False}, fastmath=SAFE, pipeline_class=_Compiler, **_OPTIONS)(function)
        self.compiled = _kept_on_disk(made)
        _OUTERMOST.add(self.compiled)

    def __call__(self, *args):
        with running:
            return self.compiled(*args)


_OUTERMOST = set()


class _Announce(event.Listener):
    """Says on stderr what is being compiled; a kernel loaded from the cache is not mentioned."""

    def on_start(self, happening):
        dispatcher = happening.data["dispatcher"]
        if dispatcher in _OUTERMOST:
            function = dispatcher.py_func
            folder, name = function.__module__.split(".")[1], function.__name__.strip("_")
            print(f"compiling the {folder} kernel {name!r} for this processor", file=sys.stderr, flush=True)

    def on_end(self, happening):
        pass


event.register("numba:compile", _Announce())


def get_num_threads():
    """How many threads a kernel may use."""
    # Asking Numba's C library itself: numba.get_num_threads() takes two locks first, in case the threads are not there yet.
    return parallel._get_num_threads() if parallel._is_initialized else numba.get_num_threads()


def set_num_threads(threads):
    """Let kernels that are called from this Python thread use so many; ValueError unless there are so many."""
    numba.set_num_threads(threads)


# Floats, a little over a page of 4 kB, to leave between what two threads write again and again. Cores hand each other whole
# cache lines, and a core fetches lines ahead of those it reads, though not beyond the page: were the other's numbers among
# them, the two would wait for each other all the time. (Where the cores have no cache in common, that can halve the speed.)
APART = 1056


def workers(work):
    """How many threads to share `work` among, counted in elements touched.

    Starting the threads costs 2 to 20 µs, in which one core touches some 32,000 elements: smaller work stays on one thread.
    """
    return 1 if work < 32768 else get_num_threads()


def as_rows(x):
    """x: (..., C) as a C-contiguous, writable float32 array (R, C): the one layout that the row kernels are compiled for.

    A view wherever x allows it. (Numba compiles a kernel again for every combination of layouts; one is enough.)
    """
    columns = x.shape[-1] if x.ndim else 1
    rows = np.ascontiguousarray(x, np.float32).reshape(x.size // columns if columns else int(np.prod(x.shape[:-1])), columns)
    return rows if rows.flags.writeable else rows.copy()


def as_flat(x):
    """x as a C-contiguous, writable float32 array of one dimension, a view wherever x allows it."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()


def result(out, shape):
    """A C-contiguous float32 array of this shape to compute into: `out` itself if it is one, else a new one."""
    if out is not None and out.shape != tuple(shape):
        raise ValueError(f"out has shape {out.shape} but the result has shape {tuple(shape)}")
    if out is not None and out.dtype == np.float32 and out.flags.c_contiguous:
        return out
    return np.empty(shape, np.float32)


def delivered(y, out):
    """y, or `out` after y was copied into it, where `out` was given and could not be computed into directly."""
    if out is None or out is y:
        return y
    out[...] = y
    return out


@_kept_on_disk
@numba.njit
def address(array):
    """Where the array's first element lies in memory. Keep the array alive for as long as the number is used.

    (Compiled, it answers in 0.1 µs; NumPy's own two ways take 1.5 µs, and a training step asks some 900 times.)
    """
    return array.ctypes.data


def check_indices(indices, n, what, ignore_index=None):
    """indices as a contiguous int64 array; IndexError if one of them is outside 0…n−1 (and is not ignore_index)."""
    indices = np.ascontiguousarray(indices, np.int64)
    wrong = (indices < 0) | (indices >= n)
    if ignore_index is not None:
        wrong &= indices != ignore_index
    if wrong.any():
        raise IndexError(f"{what}: index {indices[wrong].flat[0]} is out of range; it must be in 0…{n - 1}")
    return indices if indices.flags.writeable else indices.copy()


_scratch = np.empty(0, np.float32)


def scratch(floats):
    """The address of room for this many floats, on a cache line's boundary; valid while the caller holds `running`.

    It is the same memory each time: fresh memory would have to be fetched from the operating system, page by page.
    """
    global _scratch
    if _scratch.size < floats + 16:
        _scratch = np.empty(floats + 16, np.float32)
    return -(-address(_scratch) // 64) * 64
