"""Launching the kernels of a .cu file: through CuPy on a GPU's arrays, through kernels/emulator on NumPy's.

    source = Source(__file__)                                   # the cuda.cu beside this cuda.py
    source.launch("softmax_plain", (blocks,), (128,), x, y, i32(rows), i32(columns))

The type of the arrays decides. Grids, scalars and workspaces are the same either way, so tests without a GPU cover them all.

A launch passes addresses and bytes and converts nothing. The kernel would read a float64 array, a transposed view or a Python
float as garbage, so every argument is checked against the signature in the .cu file. Launches are queued: nothing in this file
waits for the GPU.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from kernels.arrays import Array, address, array_module, device_of
from kernels.cuda_file import Parameter, read, signatures
from kernels.emulator import MAX_SHARED, Emulated, memory

i32, i64, f32, f64, u64 = np.int32, np.int64, np.float32, np.float64, np.uint64

_NULL = np.uintp(0)
_DEFAULT_SHARED = 48 << 10  # bytes of dynamic shared memory that a block gets without asking


class Strided(NamedTuple):
    """An array whose strides are passed to the kernel too: any view whose last axis is contiguous."""

    array: Array


Argument: TypeAlias = Array | Strided | np.generic | None
Size: TypeAlias = tuple[int, ...]
OptionalArray = TypeVar("OptionalArray", bound=Array | None)


class Source:
    """The kernels of one .cu file, compiled once with these `defines` (-D options)."""

    def __init__(self, path: str | Path, **defines: int) -> None:
        self.path = Path(path).with_suffix(".cu")
        self.defines = defines
        self.text = read(self.path)
        self.signatures = signatures(self.text)
        self._expected = {
            name: [(p.pointer, p.dtype if p.pointer else p.type) for p in parameters]
            for name, parameters in self.signatures.items()
        }
        self._functions: dict[str, Any] = {}
        self._module: Any = None
        self._emulated: Emulated | None = None

    def launch(self, name: str, grid: Size, block: Size, *args: Argument, shared: int = 0, reach: Sequence[Array] = ()) -> None:
        """Queue kernel `name`.

        Args:
            name: the kernel's name in the .cu file.
            grid, block: up to three sizes, in blocks and in threads. An empty grid launches nothing.
            args: one argument for each of the kernel's parameters; None is a null pointer.
            shared: bytes of dynamic shared memory for each block.
            reach: arrays whose addresses the kernel finds in another array; the emulator checks accesses to them.

        Raises:
            TypeError: if an argument does not fit its parameter.
        """
        xp = self._check(name, args)
        if 0 in grid:
            return
        memory.count("launches", name)
        arrays = [a.array if type(a) is Strided else a for a in args]
        if xp.__name__ != "cupy":
            self._emulate(name, grid, block, arrays, shared, reach)
            return
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._compiled(xp).get_function(name)
        if shared > _DEFAULT_SHARED and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        function(grid, block, tuple(_NULL if a is None else a for a in arrays), shared_mem=shared)

    def _emulate(self, name, grid, block, args, shared, reach) -> None:
        if self._emulated is None:
            self._emulated = Emulated(self.path, self.defines)
        emulated = self._emulated
        args, reach = ([getattr(a, "storage", a) for a in arrays] for arrays in (args, reach))
        memory.do(lambda: emulated.launch(name, grid, block, args, shared, reach))

    def _compiled(self, xp):
        if self._module is None:
            options = ("--std=c++17", "-lineinfo", *(f"-D{key}={value}" for key, value in self.defines.items()))
            self._module = xp.RawModule(code=self.text, options=options)
        return self._module

    def _check(self, name: str, args: tuple[Argument, ...]) -> Any:
        """Check every argument against the kernel's signature, and return the module of the arrays."""
        expected = self._expected[name]
        if len(args) != len(expected):
            raise TypeError(f"kernel {name}: expected {len(expected)} arguments, got {len(args)}")
        xp, array_type = None, np.ndarray
        for i, arg in enumerate(args):  # a training step comes here thousands of times
            pointer, kind = expected[i]
            if not pointer:
                if type(arg) is not kind:
                    raise TypeError(_mismatch(name, self.signatures[name][i], arg, xp))
            elif arg is not None:
                strided = isinstance(arg, Strided)
                array: Any = arg.array if isinstance(arg, Strided) else arg
                if xp is None:
                    xp = array_module(array)
                    array_type = xp.ndarray
                fits = isinstance(array, array_type) and array.dtype == kind
                if not (fits and (strided or array.flags.c_contiguous)):
                    raise TypeError(_mismatch(name, self.signatures[name][i], array, xp))
        return xp


def _mismatch(kernel: str, parameter: Parameter, arg: Any, xp: Any) -> str:
    """The message for an argument that does not fit its parameter."""
    where = f"kernel {kernel}, {parameter.name}"
    if not parameter.pointer:
        expected, actual = f"np.{parameter.type.__name__}", type(arg).__name__
        return f"{where}: expected {expected}, got {actual}: kernel launches do not convert arguments"
    if not isinstance(arg, xp.ndarray):
        return f"{where}: expected an array of {xp.__name__} like the arguments before it, got {type(arg).__name__}"
    if arg.dtype != parameter.dtype:
        return f"{where}: expected elements of {parameter.dtype}, got {arg.dtype}"
    return f"{where}: expected a contiguous array, got strides {arg.strides}: a launch passes only the address"


@lru_cache(maxsize=None)
def source_with(path: Path, **defines: int) -> Source:
    """The Source for these defines; equal arguments return the same object."""
    return Source(path, **defines)


# ---- Buffers and arguments -----------------------------------------------------------------------------------------------
class DeviceMemoryError(MemoryError):
    """The GPU's memory is used up."""


_poison = False


def poison_new_arrays(on: bool) -> None:
    """Choose whether new arrays on a GPU hold NaN, as the emulator's always do. It costs a pass over each array."""
    global _poison
    _poison = on


def empty(like: Array, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised array on the device of `like`.

    The emulator fills it with NaN, so that an element that a kernel forgets to write shows in the result.

    Raises:
        DeviceMemoryError: if the GPU's memory is used up.
    """
    xp, dtype = array_module(like), np.dtype(dtype)
    if xp is np:
        return np.full(shape, np.nan if dtype.kind == "f" else -1, dtype)
    try:
        return xp.full(shape, np.nan, dtype) if _poison and dtype.kind == "f" else xp.empty(shape, dtype)
    except xp.cuda.memory.OutOfMemoryError as error:
        free, total = (n / 2**20 for n in xp.cuda.runtime.memGetInfo())
        size = np.prod(shape) * dtype.itemsize / 2**20
        raise DeviceMemoryError(
            f"GPU memory: no room for an array of shape {shape} ({size:,.0f} MiB): {free:,.0f} of {total:,.0f} MiB are free; "
            "lower the batch size or the context"
        ) from error


def output_buffer(like: Array, shape: tuple[int, ...], out: Array | None) -> Array:
    """A contiguous float32 array for a kernel to write: `out` itself if it is contiguous, else a new array.

    `finish_output` hands the result to the caller.
    """
    if out is None:
        return empty(like, shape)
    return out if out.flags.c_contiguous else empty(like, shape)


def finish_output(buffer: Array, out: Array | None, accumulate: bool = False) -> Array:
    """The operation's result: `buffer`, or `out` if there is one, to which it copies (or adds) the buffer."""
    if out is None or buffer is out:
        return buffer
    if accumulate:
        out += buffer
    else:
        out[...] = buffer
    return out


def contiguous(array: OptionalArray) -> OptionalArray:
    """The array itself if it is C-contiguous (or None), else a contiguous copy."""
    return array if array is None or array.flags.c_contiguous else array_module(array).ascontiguousarray(array)


def int64_indices(indices: Array) -> Array:
    """Class or row numbers as a contiguous int64 array.

    The contract has checked those on the CPU. On a GPU nothing is checked, because that would wait for the GPU. There a kernel
    reads nothing for an index out of range and writes NaN, which shows in the loss.
    """
    return contiguous(indices if indices.dtype == np.int64 else indices.astype(np.int64))


def aligned(*arrays: Array | None) -> np.int32:
    """1 if every array starts at a multiple of 16 bytes, so that a kernel may move four float32 at a time; else 0."""
    return i32(all(a is None or address(a) % 16 == 0 for a in arrays))


# ---- Grids ---------------------------------------------------------------------------------------------------------------
def blocks_for(n: int, each: int) -> int:
    """The number of blocks that cover n items, with `each` items per block."""
    return -(-n // each)


def elementwise(n: int, per_thread: int = 1) -> tuple[tuple[int], tuple[int]]:
    """(grid, block) for kernels in which each thread owns `per_thread` neighbouring elements out of n."""
    return (blocks_for(n, 256 * per_thread),), (256,)


def row_teams(rows: int, columns: int) -> tuple[tuple[int], tuple[int, int]]:
    """(grid, block) for kernels that give each row to a team of threads, about 16 numbers a thread.

    Up to 512 columns a team is a warp and a block holds four rows. Longer rows get a block each, of up to 16 warps.
    """
    if columns <= 512:
        return (blocks_for(rows, 4),), (32, 4)
    return (rows,), (32 * min(16, blocks_for(columns + 3, 512)), 1)


def row_strips(rows: int, most: int) -> tuple[int, int]:
    """(number of strips, rows of a strip): at most `most` strips, of at least 32 rows each.

    >>> row_strips(1000, 4), row_strips(100, 64)
    ((4, 250), (4, 32))
    """
    rows_of_strip = max(32, blocks_for(rows, most))
    return max(1, blocks_for(rows, rows_of_strip)), rows_of_strip


# ---- The GPU's properties ------------------------------------------------------------------------------------------------
class Device(NamedTuple):
    name: str
    capability: int  # the compute capability without its point: 75 is sm_75
    multiprocessors: int
    shared: int  # bytes of shared memory that a block may have when it asks


EMULATED = Device("the emulator", 90, 4, MAX_SHARED)  # only 4 multiprocessors, which small tests can fill


@lru_cache(maxsize=None)
def _gpu() -> Device:
    import cupy

    gpu = cupy.cuda.Device()
    name = cupy.cuda.runtime.getDeviceProperties(gpu.id)["name"].decode()
    attributes = gpu.attributes
    shared = attributes["MaxSharedMemoryPerBlockOptin"]
    return Device(name, int(gpu.compute_capability), attributes["MultiProcessorCount"], shared)


def device(like: Array) -> Device:
    """The Device that `like` lives on."""
    return _gpu() if device_of(like) == "cuda" else EMULATED


# ---- Precision of matrix products ----------------------------------------------------------------------------------------
PRECISIONS = ("fp32", "tf32", "bf16")
_precision = "fp32"


def set_matmul_precision(name: str) -> None:
    """How matrix products on a GPU round their factors. Arrays and sums stay float32 in any case.

    Args:
        name: "fp32" does not round (the default); "tf32" keeps 10 bits of mantissa and "bf16" keeps 7, both on the tensor
            cores. Attention rounds to TF32 in "bf16" too.
    """
    global _precision
    if name not in PRECISIONS:
        raise ValueError(f"matmul precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")
    _precision = name


def matmul_precision() -> str:
    return _precision


def require_tensor_cores(like: Array, precision: str) -> None:
    """Check that the GPU of `like` has tensor cores for "tf32" and "bf16", which came with compute capability 8.0.

    Raises:
        RuntimeError: if it has none.
    """
    name, capability = device(like)[:2]
    if capability < 80:
        raise RuntimeError(
            f'{name} has compute capability {capability / 10}, and tensor cores that multiply in "{precision}" came with 8.0; '
            'use the precision "fp32" on this GPU'
        )
