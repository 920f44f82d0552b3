"""How the CPU kernels are compiled, cached and run. All of Numba's settings are in this file.

Numba compiles a Python function to machine code at its first call. Two decorators mark such functions:

    @kernel     the outermost function, called from Python; its loops over `prange` run on all cores
    @inner      a helper that is compiled into the kernels that call it

Threads. Every parallel loop reads `for thread in prange(threads)`. Each thread computes elements that no other thread computes,
so the result has the same bytes whichever thread computed an element. NUMBA_NUM_THREADS=2 or `set_num_threads(2)` sets the
number of threads. Numba starts them with OpenMP if it finds OpenMP, else with its own thread pool. Two Python threads must not
enter that pool at once; `kernel_lock` prevents it.

Cache. Compiled code is stored on disk, in __pycache__ or NUMBA_CACHE_DIR. If neither is writable, a warning says so, and every
process compiles anew. Compiling a kernel takes seconds, so a line on stderr announces it.

Numba's own settings apply. NUMBA_CPU_FEATURES and NUMBA_CPU_NAME=generic compile for a simpler processor. NUMBA_DISABLE_JIT=1
turns the compiler off, and the reference kernels replace the kernels that need it.
"""

import ctypes
import hashlib
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any

# An idle OpenMP thread spins for 10,000 rounds, about 0.2 ms, before it sleeps. This bridges the Python code between two
# kernels: waking threads would slow the training step of a tiny GPT by 3 %. On a busy machine a spinning thread keeps a working
# thread off its core. There a step takes 9 times as long with GNU OpenMP's default of 300,000 rounds, and less than twice as
# long with 10,000. OpenMP reads this variable when Numba starts its threads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numba
import numba.extending
import numpy as np
from llvmlite.binding import Linkage, get_host_cpu_features, get_host_cpu_name
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.np.ufunc import parallel

from kernels.caches import second_level_cache

_settings: Any = numba.config
DISABLED = bool(_settings.DISABLE_JIT)
if DISABLED:
    print("NUMBA_DISABLE_JIT is set: the slower NumPy kernels replace the compiled kernels", file=sys.stderr, flush=True)


def _compile_for_this_processor() -> None:
    """Ignore the features in NUMBA_CPU_FEATURES and NUMBA_CPU_NAME that this processor lacks: their instructions would crash.

    Without NUMBA_CPU_FEATURES there is nothing to do: Numba uses the processor's features, whatever NUMBA_CPU_NAME says.
    """
    if _settings.CPU_FEATURES is None:
        return
    present = get_host_cpu_features()
    requested = [feature.strip() for feature in _settings.CPU_FEATURES.split(",") if feature.strip()]
    usable = [f for f in requested if f[0] == "-" or (f[0] == "+" and present.get(f[1:], True))]
    if usable != requested:
        ignored = ", ".join(feature for feature in requested if feature not in usable)
        problem = f"expected features of this processor, each with + or -, got {ignored}; compiling without"
        print(f"NUMBA_CPU_FEATURES: {problem}", file=sys.stderr, flush=True)
    _settings.CPU_FEATURES = ",".join(usable + [f"-{feature}" for feature in present if not present[feature]])


_compile_for_this_processor()

# The compiler may reorder sums (vector instructions need that), fuse a product with a sum, and ignore the sign of zero.
# It must not assume that NaN and infinity never occur.
SAFE = {"reassoc", "contract", "nsz"}

# "numpy": division by zero gives inf or NaN. A wrapper for callers written in C would take an eighth of the compile time.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cfunc_wrapper": True}
njit: Any = numba.njit  # Any: type checkers do not know which arguments a compiled function takes
intrinsic: Any = numba.extending.intrinsic
inner = njit(fastmath=SAFE, **_OPTIONS)
exact = njit(fastmath={"contract"}, forceinline=True, **_OPTIONS)  # keeps the order of operations: polynomials, bit tricks

kernel_lock = threading.RLock()  # held while a kernel runs, and by callers of `scratch` while they use that memory


def _reuse_freed_memory() -> None:
    """Tell the C library to keep freed arrays' memory for the next arrays.

    A training step allocates and frees the same large arrays again and again. By default the operating system supplies and
    clears their pages each time, which takes a quarter of a tiny GPT's step. Peak memory stays the same.
    GNU C library only, for arrays up to its limit of 32 MiB. MALLOC_MMAP_THRESHOLD_ in the environment takes precedence.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


_reuse_freed_memory()

# Files whose functions are compiled into the kernels of other files.
_SHARED: tuple[str, ...] = ("launch.py", "simd.py", "tile.py", "gelu/cpu.py", "layernorm/cpu.py", "attention/cpu.py")
_SHARED += ("matmul/few_rows.py", "matmul/block.py", "block/reference.py", "gelu/reference.py")


def _fingerprint() -> str:
    """A digest of the shared files: by itself, Numba's cache checks only the kernel's own file."""
    digest = hashlib.sha256()
    for name in _SHARED:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


_FINGERPRINT = _fingerprint()
_warned = False


def _warn_uncached(reason: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels cannot be cached on disk ({reason}), so every start compiles them again; "
            "set NUMBA_CACHE_DIR to a writable folder",
            stacklevel=3,
        )


def cached() -> bool:
    """Whether compiled kernels are cached on disk: True until the cache cannot be read or written."""
    return not (_warned or DISABLED)


def _digest(*values: Any) -> bytes:
    return hashlib.sha256(repr(values).encode()).digest()


class _CacheFiles(IndexDataCacheFile):
    """A file for each signature, processor, vector width and cache size: a checksum, a digest of the sources, the machine code.

    This replaces Numba's files, which have no checksums. Numba keeps an index for each function, in which two processes that
    compile different signatures at once may swap their machine code.
    """

    def _path(self, key):
        signature, processor, *_ = key  # processor: its name and all features
        wanted = _digest(signature, processor, os.environ.get("MINIGRAD_VECTOR_WIDTH", ""), second_level_cache())
        return Path(self._data_path(self._data_name(int.from_bytes(wanted[:8], "big"))))

    def _sources(self, key):
        return _digest(self._version, self._source_stamp, key, _FINGERPRINT)

    def load(self, key):
        """The data that `save` stored under this key, or None.  Raises ValueError if they are damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:  # there is no such file; if the disk has a problem, `save` reports it
            return None
        checksum, sources, data = content[:32], content[32:64], content[64:]
        if checksum != hashlib.sha256(sources + data).digest():
            raise ValueError("its checksum does not fit its contents")
        return pickle.loads(data) if sources == self._sources(key) else None

    def save(self, key, data):
        content = self._sources(key) + self._dump(data)
        with self._open_for_write(self._path(key)) as file:  # a temporary name first: others see the whole file or none
            file.write(hashlib.sha256(content).digest() + content)


class _Cache(FunctionCache):
    """Numba's disk cache on `_CacheFiles`; disk errors become one warning."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = _CacheFiles(self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # another version of a library raises whatever pickle makes of the file
            warnings.warn(f"rebuilding a damaged file in the cache of compiled kernels ({error})", stacklevel=2)
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_uncached(error)


def _cache_on_disk(dispatcher):
    """Attach the disk cache to a Numba function, if there is a writable folder."""
    if DISABLED:
        return dispatcher
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except (RuntimeError, OSError) as error:  # Numba found no writable folder
        _warn_uncached(error)
    return dispatcher


class _SelfContained(JITCodeLibrary):
    """A kernel's machine code with all its functions private, so that compiled and loaded kernels run the same code.

    Numba translates an inner function once by itself and once more inside every caller, all under the same name, and the loader
    takes the first translation that it meets. In the process that compiles, that is the stand-alone translation. In a process
    that loads the kernel, it is the kernel's own, which was optimised once more and may differ in the last bits. Two processes
    may even give the same name to different functions. A private function is visible only to its own kernel.
    """

    def _optimize_final_module(self):
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage != Linkage.external:
                function.linkage = Linkage.internal
        super()._optimize_final_module()


class _Part(JITCodeLibrary):
    """The LLVM code of a function that a kernel calls.

    Numba would optimise and translate it by itself, and once more inside each caller; that was two thirds of the compile time.
    Only the kernel's code runs, so only the kernel is optimised and translated. In the process that compiled it, Python cannot
    call the function with the same argument types (TypeError); call its .py_func.
    """

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name):
        return ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value  # it sets TypeError and returns NULL


class _Compiler(Compiler):
    def compile_extra(self, func):  # runs under Numba's compiler lock
        codegen: Any = self.state.targetctx.codegen()
        whole, set_env = codegen._library_class, codegen.set_env

        def set_env_if_translated(name, env):
            if codegen._engine.is_symbol_defined(name):
                set_env(name, env)

        codegen._library_class, codegen.set_env = _Part, set_env_if_translated
        try:
            return super().compile_extra(func)
        finally:
            codegen._library_class, codegen.set_env = whole, set_env

    def define_pipelines(self):
        self.state.library = _SelfContained(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super().define_pipelines()


class kernel:  # lower case: used as a decorator
    """Compile a function for all cores at its first call. Calls from several Python threads wait for one another.

    Related numbers travel as plain tuples (`sizes = B, H, T, S, D`), and the kernel names them: `sizes = Sizes(*numbers)`.
    Numba accepts a NamedTuple from Python as well, but takes 2 µs longer to unpack one.
    """

    def __init__(self, function: Callable):
        update_wrapper(self, function)
        if DISABLED:
            raise RuntimeError(f"{function.__module__}: expected Numba's compiler, got NUMBA_DISABLE_JIT=1; unset it")
        # No fusion: the end of a prange loop must stay a barrier. Numba might join two adjacent loops, because it cannot see
        # that the second reads addresses which the first writes.
        compiled = njit(parallel={"fusion": False}, fastmath=SAFE, pipeline_class=_Compiler, **_OPTIONS)(function)
        self.compiled = _cache_on_disk(compiled)
        _KERNELS.add(self.compiled)

    def __call__(self, *args):
        with kernel_lock:
            return self.compiled(*args)


_KERNELS: set[Any] = set()


class _Announcer(event.Listener):
    """Prints to stderr the name of each kernel that is being compiled, but not of kernels that come from the cache."""

    def on_start(self, event):
        dispatcher = event.data["dispatcher"]
        if dispatcher in _KERNELS:
            function = dispatcher.py_func
            folder, name = function.__module__.split(".")[-2], function.__name__.strip("_")
            print(f"compiling the {folder} kernel {name!r} for this processor", file=sys.stderr, flush=True)

    def on_end(self, event):
        pass


event.register("numba:compile", _Announcer())


def get_num_threads() -> int:
    """How many threads a kernel may use."""
    # numba.get_num_threads() starts the threads if necessary, under two locks. Once they run, its C library answers faster.
    library: Any = parallel
    return library._get_num_threads() if library._is_initialized else numba.get_num_threads()


def cpu_name() -> str:
    """The kind of processor that the kernels are compiled for, in LLVM's words, such as "znver4"."""
    return _settings.CPU_NAME or get_host_cpu_name()


def set_num_threads(threads: int) -> None:
    """Set how many threads this Python thread's kernels use; ValueError if Numba has fewer."""
    numba.set_num_threads(threads)


def threads_for(work: int) -> int:
    """How many threads should share `work`, counted in elements touched.

    Starting the threads takes 2 to 20 µs, in which one core touches about 32,000 elements. Less work stays on one thread.
    """
    return 1 if work < 32768 else get_num_threads()


@inner
def share(n, thread, threads):
    """The range first…last − 1 of n items that belongs to a thread; the ranges of all threads cover 0…n − 1 once."""
    return n * thread // threads, n * (thread + 1) // threads


# Floats between two memory areas that different threads keep writing: a little over a page of 4 kB. Cores exchange whole cache
# lines, and prefetch the following lines of the same page. Without the gap the threads would wait for each other, which can
# halve the speed of cores without a common cache.
CACHE_GAP = 1056


def as_rows(x: np.ndarray) -> np.ndarray:
    """x: (..., C) as a writable C-contiguous float32 array (R, C); a view if possible.

    Numba compiles a kernel anew for each combination of array layouts, so the row kernels accept only this layout.
    """
    columns = x.shape[-1] if x.ndim else 1
    rows = np.ascontiguousarray(x, np.float32).reshape(x.size // columns if columns else int(np.prod(x.shape[:-1])), columns)
    return rows if rows.flags.writeable else rows.copy()


def as_flat(x: np.ndarray) -> np.ndarray:
    """x as a writable C-contiguous float32 array of one dimension; a view if possible."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()


@_cache_on_disk
@njit
def address(array):
    """The memory address of the array's first element. The caller must keep the array alive while it uses the address.

    A training step calls this about 900 times. It takes 0.1 µs; array.ctypes.data in Python takes 1.5 µs.
    """
    return array.ctypes.data


def as_indices(indices: np.ndarray) -> np.ndarray:
    """Indices of any shape as a writable contiguous int64 array of one dimension; a view if possible."""
    flat = np.ascontiguousarray(indices, np.int64).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()


_scratch = np.empty(0, np.float32)


def scratch(floats: int) -> int:
    """The address of scratch memory for this many floats, aligned to a cache line; valid while the caller holds `kernel_lock`.

    Every call returns the same memory, because the operating system has to supply fresh memory page by page.
    """
    global _scratch
    if _scratch.size < floats + 16:
        _scratch = np.empty(floats + 16, np.float32)
    return -(-address(_scratch) // 64) * 64
