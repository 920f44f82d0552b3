"""Launching a .cu file's kernels: on CuPy arrays through CuPy's RawModule, on NumPy arrays through kernels/emulator.

    source = Source(__file__)                                   # the cuda.cu beside this cuda.py
    source.launch("softmax_plain", (blocks,), (128,), x, y, i32(rows), i32(columns))

The array's type chooses (one on the device "emulator" counts as NumPy's), so grids, scalars and workspaces are the same on
both, and a test without a GPU runs them all.

A launch passes bare addresses and bytes: a float64 array where the kernel reads float32, a transposed view, or a Python float
(which CuPy hands over as a double) would be read as garbage without a word. So every argument is checked against the
kernel's own signature, which is read out of the .cu file. Launches are queued: nothing here waits for the GPU or copies.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernels.arrays import array_module, device_of
from kernels.emulator import MAX_SHARED, memory

i32, i64, f32, f64, u64 = np.int32, np.int64, np.float32, np.float64, np.uint64

_SIGNATURE = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)')
_SCALARS = {
    "float": np.float32, "double": np.float64, "int": np.int32, "unsigned": np.uint32, "long long": np.int64,
    "unsigned long long": np.uint64,
}  # fmt: skip
_NULL = np.uintp(0)
_DEFAULT_SHARED = 48 << 10  # bytes of shared memory that a block may have without asking


class Parameter:
    """One parameter of a kernel: its C type, and the NumPy type that has the same bytes."""

    def __init__(self, declaration):
        declaration = " ".join(declaration.replace("__restrict__", "").replace("*", " * ").split())
        self.ctype, _, self.name = declaration.rpartition(" ")
        self.pointer = "*" in self.ctype
        self.const = self.ctype.startswith("const ")
        base = self.ctype.replace("const ", "").replace("*", "").strip()
        if base not in _SCALARS:
            raise TypeError(f"a kernel parameter is declared {declaration!r}; known types are {', '.join(_SCALARS)}")
        self.type = _SCALARS[base]
        self.dtype = np.dtype(self.type)


def signatures(source):
    """{kernel name: [Parameter, ...]} of every `extern "C" __global__` function in the text of a .cu file."""
    source = re.sub(r"//[^\n]*", "", source)
    return {name: [Parameter(p) for p in parameters.split(",")] for name, parameters in _SIGNATURE.findall(source)}


class Strided:
    """Marks an array whose strides the kernel is told about: it may be any view whose last axis is contiguous."""

    __slots__ = ("array",)

    def __init__(self, array):
        self.array = array


class Source:
    """The kernels of one .cu file. `defines` become -D options: the file is compiled once for each set of them."""

    def __init__(self, path, **defines):
        self.path = Path(path).with_suffix(".cu")
        self.defines = defines
        self.signatures = signatures(self.path.read_text())
        self._wanted = {
            name: [(p.pointer, p.dtype if p.pointer else p.type) for p in parameters]
            for name, parameters in self.signatures.items()
        }
        self._functions = {}
        self._module = self._emulated = None

    def launch(self, name, grid, block, *args, shared=0, reach=()):
        """Run kernel `name` on a grid of blocks of threads (tuples of up to three ints), with `shared` bytes of dynamic
        shared memory.  An empty grid launches nothing.  Raises TypeError where an argument does not fit its parameter.
        reach: arrays that the kernel finds through addresses in another array; the emulator's checks have to know them."""
        xp = self._check(name, args)
        if 0 in grid:
            return
        memory.count("launches", name)
        if xp.__name__ != "cupy":
            self._emulate(name, grid, block, args, shared, reach)
            return
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._compiled(xp).get_function(name)
        if shared > _DEFAULT_SHARED and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        passed = tuple(_NULL if a is None else a.array if type(a) is Strided else a for a in args)
        function(grid, block, passed, shared_mem=shared)

    def _emulate(self, name, grid, block, args, shared, reach):
        """The launch on the CPU: of NumPy arrays, or of the emulated device's."""
        from kernels import emulator

        if self._emulated is None:
            self._emulated = emulator.Emulated(self.path, self.defines)
        plain = (a.array if type(a) is Strided else a for a in args)
        held = [getattr(a, "held", a) for a in plain]
        reach = [getattr(a, "held", a) for a in reach]
        memory.do(lambda: self._emulated.launch(name, grid, block, held, shared, reach))

    def _compiled(self, xp):
        if self._module is None:
            options = ("--std=c++17", "-lineinfo", *(f"-D{key}={value}" for key, value in self.defines.items()))
            self._module = xp.RawModule(code=self.path.read_text(), options=options)
        return self._module

    def _check(self, name, args):
        """The module (numpy or cupy) that all arrays belong to, once every argument fits the kernel's signature."""
        wanted = self._wanted[name]
        if len(args) != len(wanted):
            raise TypeError(f"kernel {name} takes {len(wanted)} arguments, got {len(args)}")
        xp = of_xp = None
        for i, arg in enumerate(args):  # a training step comes here thousands of times
            pointer, kind = wanted[i]
            given = type(arg)
            if not pointer:
                if given is not kind:
                    raise TypeError(self._why_not(name, i, arg, xp))
            elif arg is not None:
                array = arg.array if given is Strided else arg
                if xp is None:
                    xp = array_module(array)
                    of_xp = xp.ndarray
                fits = isinstance(array, of_xp) and array.dtype == kind
                if not (fits and (given is Strided or array.flags.c_contiguous)):
                    raise TypeError(self._why_not(name, i, arg, xp))
        return xp

    def _why_not(self, name, i, arg, xp):
        """What is wrong with an argument, in one sentence."""
        parameter = self.signatures[name][i]
        where, given = f"kernel {name}, {parameter.name}", type(arg).__name__
        if not parameter.pointer:
            return f"{where}: pass a {parameter.type.__name__}, not a {given} (a launch copies bytes and converts nothing)"
        array = arg.array if type(arg) is Strided else arg
        if not isinstance(array, xp.ndarray):
            return f"{where}: a {type(array).__name__} among arrays of {xp.__name__}"
        if array.dtype != parameter.dtype:
            return f"{where}: the kernel reads {parameter.dtype}, the array is {array.dtype}"
        return f"{where}: not contiguous; only its address would be passed"


@lru_cache(maxsize=None)
def source_with(path, **defines):
    """The Source for these defines, the same one each time."""
    return Source(path, **defines)


class DeviceMemoryError(MemoryError):
    """The GPU's memory is used up."""


_poison = False


def poison_new_arrays(on):
    """Fill new arrays on a GPU with NaN too, as always under the emulator: for checks, since it costs a pass over each."""
    global _poison
    _poison = on


def empty(like, shape, dtype=np.float32):
    """An array of any content, where `like` lives: from CuPy's pool on a GPU; filled with NaN under the emulator, so that an
    element that a kernel forgets to write cannot pass for a result."""
    xp = array_module(like)
    if xp is np:
        dtype = np.dtype(dtype)
        return np.full(shape, np.nan if dtype.kind == "f" else -1, dtype)
    try:
        return xp.full(shape, np.nan, dtype) if _poison and np.dtype(dtype).kind == "f" else xp.empty(shape, dtype)
    except xp.cuda.memory.OutOfMemoryError as error:
        free, total = (n / 2**20 for n in xp.cuda.runtime.memGetInfo())
        asked = np.prod(shape) * np.dtype(dtype).itemsize / 2**20
        raise DeviceMemoryError(
            f"the GPU has no room for an array of shape {shape} ({asked:,.0f} MiB): {free:,.0f} of {total:,.0f} MiB are free; "
            "lower the batch size or the context"
        ) from error


def result(like, shape, out, name):
    """A contiguous float32 buffer to compute into: `out` where it can serve, else a new array, for `deliver` to copy."""
    if out is None:
        return empty(like, shape)
    if out.shape != tuple(shape) or out.dtype != np.float32:
        raise ValueError(f"{name}: out must be float32 of shape {tuple(shape)}, got {out.dtype} of shape {out.shape}")
    return out if out.flags.c_contiguous else empty(like, shape)


def deliver(buffer, out, accumulate=False):
    """What the caller gets: the buffer, or `out` once the buffer's content was copied (or added) to it."""
    if out is None or buffer is out:
        return buffer
    if accumulate:
        out += buffer
    else:
        out[...] = buffer
    return out


def contiguous(array):
    """The array itself where it is C-contiguous, else a copy that is."""
    return array if array is None or array.flags.c_contiguous else array_module(array).ascontiguousarray(array)


def indices(array, limit, name, ignore=None):
    """Class or row numbers as a contiguous int64 array.

    On the CPU (the emulator) a number outside 0…limit−1 raises IndexError, as NumPy's indexing does. On a GPU to look would
    be to wait for it: there the kernel reads nothing for such a row and writes NaN, which the loss then shows.
    """
    array = contiguous(array if array.dtype == np.int64 else array.astype(np.int64))
    if isinstance(array, np.ndarray) and array.size:
        wrong = (array < 0) | (array >= limit)
        if ignore is not None:
            wrong &= array != ignore
        if wrong.any():
            raise IndexError(f"{name}: index {int(array[wrong].flat[0])} is out of range for {limit} rows")
    return array


def address(array):
    """Where the array begins in its memory."""
    return array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr


def vectorises(*arrays):
    """Whether all these arrays start at a multiple of 16 bytes, so that their contiguous elements can move four at a time."""
    return all(a is None or address(a) % 16 == 0 for a in arrays)


def blocks_for(n, each):
    """How many blocks of `each` cover n."""
    return -(-n // each)


def row_teams(rows, columns):
    """(grid, block) for kernels that give each row to a team of threads, 16 numbers a thread while a block has that many.

    One warp a row, four rows a block, up to 512 columns; then a block a row.
    """
    if columns <= 512:
        return (blocks_for(rows, 4),), (32, 4)
    return (rows,), (32 * min(16, blocks_for(columns + 3, 512)), 1)


class Device(NamedTuple):
    """What a launcher has to know of a GPU."""

    name: str
    capability: int  # the compute capability without its point: 75 is sm_75
    multiprocessors: int
    shared: int  # bytes of shared memory that a block may have when it asks


EMULATED = Device("the emulator", 90, 4, MAX_SHARED)  # 4 multiprocessors, so that tests take the same paths as a GPU


@lru_cache(maxsize=None)
def _gpu():
    import cupy

    gpu = cupy.cuda.Device()
    name = cupy.cuda.runtime.getDeviceProperties(gpu.id)["name"].decode()
    attributes = gpu.attributes
    shared = attributes["MaxSharedMemoryPerBlockOptin"]
    return Device(name, int(gpu.compute_capability), attributes["MultiProcessorCount"], shared)


def device(like):
    """The Device on which `like` lives."""
    return _gpu() if device_of(like) == "cuda" else EMULATED


def multiprocessors(like):
    """How many multiprocessors there are to fill."""
    return device(like).multiprocessors


# ---- Precision of matrix products ----------------------------------------------------------------------------------------
PRECISIONS = ("fp32", "tf32", "bf16")
_precision = "fp32"


def set_matmul_precision(name):
    """How matrix products on a GPU round their factors: "fp32" (not at all, the default), "tf32" (10 bits of mantissa) or
    "bf16" (7 bits; attention's keep TF32's 10), the last two through the tensor cores. Arrays stay float32, and sums are made
    in float32, in all three."""
    global _precision
    if name not in PRECISIONS:
        raise ValueError(f"the precision of matrix products is one of {', '.join(PRECISIONS)}, got {name!r}")
    _precision = name


def matmul_precision():
    return _precision


def require_tensor_cores(like, precision):
    """RuntimeError where the GPU that `like` lives on has no tensor cores for "tf32" and "bf16": they came with 8.0."""
    name, capability = device(like)[:2]
    if capability < 80:
        raise RuntimeError(
            f'{name} has compute capability {capability / 10}, and tensor cores that multiply in "{precision}" came with 8.0: '
            'on this GPU the precision has to be "fp32"'
        )
