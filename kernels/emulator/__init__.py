"""Runs CUDA kernels on NumPy arrays, without a GPU: g++ compiles the same .cu file, and each GPU thread becomes a fibre.

    from kernels.emulator import Emulated
    Emulated("kernels/softmax/cuda.cu").launch("softmax_plain", grid, block, arguments)

`with kernels.use("emulator"):` does this for every operation. Two settings apply to all launches inside a `with` block:

    with emulator.settings(checked=True, seed=3): ...

`seed` shuffles the order in which blocks and threads run (0 keeps the order), so a result that depends on the order changes.

`checked` compiles a slower version that watches every memory access. It finds races, barriers that some threads never reach,
accesses out of bounds or misaligned, reads of shared memory that no thread wrote, writes to const arrays, and uses of
an asynchronous copy before the wait for it. The first fault raises LaunchError and names its line. checker.inc and copies.inc
list the limits of these checks. The emulator also knows nothing of a GPU's speed, registers and caches, nor the last bit of its
exp and tanh.

Compiled files go to ~/.cache/minigrad (or $XDG_CACHE_HOME, or $MINIGRAD_CACHE), under a hash of everything that went into them.
Each ends with a checksum, and a damaged file is compiled again, with a warning.
`python -m kernels.emulator kernels/softmax/cuda.cu` is a short lesson that uses all this.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np

from kernels.cuda_file import read, signatures

HERE = Path(__file__).parent
FLAGS = "-std=gnu++17 -fPIC -fvisibility=hidden -U_FORTIFY_SOURCE -fno-strict-aliasing -fno-stack-protector".split()
WARNINGS = "-Wall -Werror -Wno-unknown-pragmas -Wno-unused-function".split()
PLAIN = "-O2 -fno-math-errno".split()
CHECKED = "-O1 -g1 -gdwarf-4 -fsanitize=thread,alignment,bounds-strict".split()
MAX_THREADS, MAX_SHARED = 1024, 227 * 1024  # limits for a block: threads, and bytes of shared memory as on sm_90

# The runtime encodes a place in the source as a code address, or as a line number with the bit AT_LINE; IN_HEADER is set too if
# the line is in the included header.
AT_LINE, IN_HEADER = 1 << 31, 1 << 20

Array: TypeAlias = np.ndarray
Arguments: TypeAlias = Sequence[Array | np.generic | None]
Size: TypeAlias = tuple[int, ...]

_settings = {"checked": 0, "seed": 0}


class LaunchError(RuntimeError):
    """A kernel does not compile, or a launch was stopped at a fault."""


class _Extent(ctypes.Structure):
    """The span of memory from an array's first byte to its last."""

    _fields_ = [("begin", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("read_only", ctypes.c_int)]


def _extent(array: np.ndarray, read_only: bool) -> _Extent:
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
    return _Extent(low, high - low, read_only)


@contextmanager
def settings(checked: bool | None = None, seed: int | None = None) -> Iterator[None]:
    """Choose, inside the with block, whether launches are checked, and the seed that shuffles blocks and threads."""
    before = dict(_settings)
    _settings.update({name: value for name, value in (("checked", checked), ("seed", seed)) if value is not None})
    try:
        yield
    finally:
        _settings.update(before)


def available() -> bool:
    """Whether g++ is installed; the emulator needs nothing else."""
    return shutil.which("g++") is not None


class Emulated:
    """One .cu file, compiled for the CPU at its first launch, in a plain and a checked version."""

    def __init__(self, path: str | Path, defines: Mapping[str, object] | None = None) -> None:
        self.path = Path(path)
        self.text = read(self.path)
        self.defines = dict(defines or {})
        self.signatures = signatures(self.text)
        self._libraries: dict[bool, ctypes.CDLL] = {}

    def launch(self, name: str, grid: Size, block: Size, args: Arguments, shared: int = 0, reach: Sequence[Array] = ()) -> None:
        """Run kernel `name` and return when it has ended. kernels.gpu.Source.launch describes and checks the arguments.

        Raises:
            LaunchError: if the kernel does not compile, the block is too large, or a fault stopped the kernel.
        """
        checked = bool(_settings["checked"])
        library = self._library(checked)
        extents = (_Extent * (len(args) + len(reach)))()
        values: list[ctypes.c_void_p | ctypes.Array] = []  # keeps the arguments' bytes alive during the launch
        for i, (arg, parameter) in enumerate(zip(args, self.signatures[name], strict=True)):
            if arg is None:
                values.append(ctypes.c_void_p(0))
            elif isinstance(arg, np.ndarray):
                extents[i] = _extent(arg, parameter.const or not arg.flags.writeable)
                values.append(ctypes.c_void_p(arg.ctypes.data))
            else:
                values.append((ctypes.c_char * arg.itemsize).from_buffer_copy(arg.tobytes()))
        for i, array in enumerate(reach, start=len(args)):
            extents[i] = _extent(array, read_only=False)
        pointers = (ctypes.c_void_p * len(args))(*map(ctypes.addressof, values))
        sizes = [(ctypes.c_uint * 3)(*size, *(1,) * (3 - len(size))) for size in (grid, block)]
        if not 0 < np.prod(block) <= MAX_THREADS or shared > MAX_SHARED:
            limits = f"up to {MAX_THREADS} threads and {MAX_SHARED} bytes of shared memory a block"
            raise LaunchError(f"{name}: expected {limits}, got {block} threads and {shared} bytes")
        error = ctypes.create_string_buffer(1024)
        entry, seed = getattr(library, f"{name}__call"), ctypes.c_uint(_settings["seed"])
        launch = (entry, pointers, *sizes, ctypes.c_size_t(shared), extents, len(extents), int(checked), seed)
        if library.emulator_launch(*launch, error, ctypes.c_size_t(len(error))):
            raise LaunchError(f"{name}: " + re.sub("<([0-9a-f]+)>", self._place, error.value.decode()))

    def _place(self, match: re.Match) -> str:
        """ "line 12", or "line 12 of common.cuh", for a place in the source as the runtime encodes it."""
        code = int(match[1], 16)
        if code & AT_LINE:
            line = code & (IN_HEADER - 1)
            return f"line {line} of the included header" if code & IN_HEADER else f"line {line}"
        if not shutil.which("addr2line"):
            return "a line that only addr2line (of binutils) can tell"
        command = ["addr2line", "-e", self._file(True), hex(code)]
        file, _, line_number = subprocess.run(command, capture_output=True, text=True).stdout.rpartition(":")
        where = f"line {line_number.split()[0]}"
        return where if Path(file).name == self.path.name else f"{where} of {Path(file).name}"

    def _library(self, checked: bool) -> ctypes.CDLL:
        if checked not in self._libraries:
            self._libraries[checked] = ctypes.CDLL(self._file(checked))
        return self._libraries[checked]

    def _file(self, checked: bool) -> str:
        """The compiled file: the .cu, an entry for every kernel, and the runtime."""
        flags = (*FLAGS, *(CHECKED if checked else PLAIN), *WARNINGS, "-I", str(HERE), "-include", "cuda.h")
        return _compile(self._unit, flags, self.path.parent.name)

    @cached_property
    def _unit(self) -> str:
        """The text for g++: the defines, the .cu file, and for each kernel an entry that unpacks its arguments."""
        unit = [f"#define {key} {value}\n" for key, value in self.defines.items()] + [self.text]
        for name, parameters in self.signatures.items():
            values = ", ".join(f"*({p.ctype}*)a[{i}]" for i, p in enumerate(parameters))
            attributes = '__attribute__((visibility("default"), no_sanitize("thread")))'
            unit.append(f'extern "C" {attributes} void {name}__call(void** a) {{ {name}({values}); }}\n')
        return "".join(unit)


@lru_cache(maxsize=None)
def _compile(unit: str, flags: tuple[str, ...], label: str) -> str:
    """The path of the shared library, compiled unless the cache has it."""
    if not available():
        raise LaunchError("the emulator compiles CUDA kernels with g++, which is not installed here")
    runtime_files = [(HERE / name).read_text() for name in ("cuda.h", "runtime.cpp", "checker.inc", "copies.inc")]
    library = _cache() / f"{label}-{_key(unit, *(f for f in flags if f != str(HERE)), *runtime_files)}.so"
    if not _whole(library):
        runtime = _cache() / f"runtime-{_key(*runtime_files, *FLAGS)}.o"
        if not _whole(runtime):
            _build(runtime, ["g++", *FLAGS, "-O2", "-Wall", "-c", str(HERE / "runtime.cpp"), "-o"])
        with tempfile.TemporaryDirectory() as folder:
            source, compiled = Path(folder, "kernel.cpp"), Path(folder, "kernel.o")
            source.write_text(unit)
            _run(["g++", *flags, "-c", str(source), "-o", str(compiled)])
            _build(library, ["g++", "-shared", str(compiled), str(runtime), "-o"])
    return str(library)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join([*parts, _compiler(), "checksum at the end"]).encode()).hexdigest()[:20]


def _whole(path: Path) -> bool:
    """Whether the file is as `_build` wrote it. Loading a damaged library could crash."""
    if not path.exists():
        return False
    content = b""
    with suppress(OSError):  # not readable, or a folder
        content = path.read_bytes()
    whole = content[-32:] == hashlib.sha256(content[:-32]).digest()
    if not whole:
        warnings.warn(f"rebuilding a damaged file in the emulator's cache: {path}", stacklevel=2)
    return whole


def _build(target: Path, command: list[str]) -> None:
    """Append a checksum to the compiler's output, write it to a temporary name and rename, so that others see it whole."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, target.name)
        _run([*command, str(output)])
        content = output.read_bytes()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content + hashlib.sha256(content).digest())
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        problem = f"expected to write {target}, got {error.strerror}; set MINIGRAD_CACHE to another folder"
        raise LaunchError(f"the emulator's cache: {problem}") from None


def _run(command: list[str]) -> None:
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise LaunchError(f"g++ could not compile the kernels:\n{process.stderr[-4000:]}")


@lru_cache(maxsize=None)
def _compiler() -> str:
    return subprocess.run(["g++", "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True).stdout


@lru_cache(maxsize=None)
def _cache() -> Path:
    folder = Path(
        os.environ.get("MINIGRAD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "minigrad")
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the home directory is read-only: every run compiles anew
        folder = Path(tempfile.mkdtemp(prefix="minigrad-"))
    return folder
