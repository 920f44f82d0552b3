"""Runs CUDA kernels on NumPy arrays, without a GPU: the same .cu file, compiled by g++, a fibre a GPU thread.

    from kernels.emulator import Emulated
    Emulated("kernels/softmax/cuda.cu").launch("softmax_plain", grid, block, arguments)

`with kernels.use("emulator"):` does it for every operation. Two settings apply to all launches inside a `with` block:

    with emulator.settings(checked=True, seed=3): ...

`seed` draws the order in which blocks and threads run (0: in order), so that a result that depends on the order shows.
`checked` compiles a second, slower version that watches every access: races, missing barriers, accesses out of bounds or
misaligned, reads of shared memory that nobody wrote, writes to const arrays, barriers that not all threads reach, copies in the
background that nobody waited for. The first fault raises LaunchError and names its line. What the check cannot see is listed at
the head of checker.inc, what is told of those copies at the head of copies.inc; nor does the
emulator know a GPU's speed, its registers, its caches, or the last bit of its exp and tanh: those need the machine itself.

Compiled files are kept in ~/.cache/minigrad (or $XDG_CACHE_HOME, or $MINIGRAD_CACHE), under a hash of all that went into them.
`python -m kernels.emulator kernels/softmax/cuda.cu` is a short lesson that uses all this.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FLAGS = [
    "-std=gnu++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-U_FORTIFY_SOURCE",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
]
WARNINGS = ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
PLAIN = ["-O2", "-fno-math-errno"]
CHECKED = ["-O1", "-g1", "-gdwarf-4", "-fsanitize=thread,alignment,bounds-strict"]
MAX_THREADS, MAX_SHARED = 1024, 227 * 1024  # of a block; shared memory as on sm_90

_settings = {"checked": False, "seed": 0}


class LaunchError(RuntimeError):
    """A kernel that the emulator could not compile or had to stop."""


class _Array(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("read_only", ctypes.c_int)]


def _extent(array, read_only):
    """The bytes from an array's first to its last."""
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
    return _Array(low, high - low, read_only)


@contextmanager
def settings(checked=None, seed=None):
    """Inside the with block, launches are checked or not, and run threads and blocks in the order drawn from `seed`."""
    before = dict(_settings)
    _settings.update({k: v for k, v in (("checked", checked), ("seed", seed)) if v is not None})
    try:
        yield
    finally:
        _settings.update(before)


def available():
    """Whether g++ is here, which is all that the emulator needs."""
    return shutil.which("g++") is not None


class Emulated:
    """One .cu file, compiled for the CPU when first launched: plain and checked versions on demand."""

    def __init__(self, path, defines=()):
        from kernels.gpu import signatures

        self.path = Path(path)
        self.source = self.path.read_text()
        self.defines = dict(defines)
        self.signatures = signatures(self.source)
        self._libraries = {}

    def launch(self, name, grid, block, args, shared=0, reach=()):
        """Run kernel `name`. args: one NumPy array, Strided, NumPy scalar or None for each parameter, already checked.
        reach: arrays besides, that the kernel may read and write through addresses it finds in its arguments."""
        library = self._library(_settings["checked"])
        entry = getattr(library, name + "__call")
        keep, arrays = [], (_Array * (len(args) + len(reach)))()
        for i, (arg, parameter) in enumerate(zip(args, self.signatures[name], strict=True)):
            array = getattr(arg, "array", arg)
            if array is None:
                keep.append(ctypes.c_void_p(0))
            elif parameter.pointer:
                arrays[i] = _extent(array, parameter.const or not array.flags.writeable)
                keep.append(ctypes.c_void_p(array.ctypes.data))
            else:
                keep.append((ctypes.c_char * arg.itemsize).from_buffer_copy(arg.tobytes()))
        for i, array in enumerate(reach):
            arrays[len(args) + i] = _extent(array, read_only=False)
        pointers = (ctypes.c_void_p * len(args))(*[ctypes.addressof(k) for k in keep])
        grid, block = ((ctypes.c_uint * 3)(*d, *(1,) * (3 - len(d))) for d in (grid, block))
        if not 0 < np.prod(list(block)) <= MAX_THREADS or shared > MAX_SHARED:
            raise LaunchError(f"{name}: a block of {list(block)} threads with {shared} bytes of shared memory is too large")
        error = ctypes.create_string_buffer(1024)
        failed = library.emulator_launch(
            entry, pointers, grid, block, ctypes.c_size_t(shared), arrays, len(arrays), int(_settings["checked"]),
            ctypes.c_uint(_settings["seed"]), error, ctypes.c_size_t(1024),
        )  # fmt: skip
        if failed:
            raise LaunchError(f"{name}: " + re.sub("<([0-9a-f]+)>", self._line, error.value.decode()))

    def _line(self, match):
        code = int(match[1], 16)
        if code >> 31:
            return f"line {code & 0x7FFFFFFF}"
        if not shutil.which("addr2line"):
            return "a line that only addr2line (of binutils) can tell"
        found = subprocess.run(["addr2line", "-e", self._file(True), hex(code)], capture_output=True, text=True).stdout
        return "line " + found.strip().rpartition(":")[2].split()[0]

    def _library(self, checked):
        if checked not in self._libraries:
            self._libraries[checked] = ctypes.CDLL(self._file(checked))
        return self._libraries[checked]

    @lru_cache(maxsize=None)  # noqa: B019  a handful of these live as long as the program
    def _file(self, checked):
        """The compiled file: the .cu, an entry for every kernel, and the runtime."""
        flags = [*FLAGS, *(CHECKED if checked else PLAIN)]
        unit = [f"#define {key} {value}" for key, value in self.defines.items()]
        unit += [f'#line 1 "{self.path.name}"', self.source]
        for name, parameters in self.signatures.items():
            values = ", ".join(f"*({p.ctype}*)a[{i}]" for i, p in enumerate(parameters))
            attributes = '__attribute__((visibility("default"), no_sanitize("thread")))'
            unit.append(f'extern "C" {attributes} void {name}__call(void** a) {{ {name}({values}); }}')
        return _compile(
            "\n".join(unit) + "\n", (*flags, *WARNINGS, "-I", str(HERE), "-include", "cuda.h"), self.path.parent.name
        )


@lru_cache(maxsize=None)
def _compile(unit, flags, label):
    if not available():
        raise LaunchError("the emulator compiles CUDA kernels with g++, which is not installed here")
    own = [(HERE / name).read_text() for name in ("cuda.h", "runtime.cpp", "checker.inc", "copies.inc")]
    parts = [unit, *[f for f in flags if f != str(HERE)], *own]
    key = hashlib.sha256("\0".join([*parts, _compiler()]).encode()).hexdigest()[:20]
    target = _cache() / f"{label}-{key}.so"
    if not target.exists():
        runtime_key = hashlib.sha256("\0".join([*own, *FLAGS, _compiler()]).encode()).hexdigest()[:20]
        runtime = _cache() / f"runtime-{runtime_key}.o"
        if not runtime.exists():
            _build(runtime, ["g++", *FLAGS, "-O2", "-Wall", "-c", str(HERE / "runtime.cpp"), "-o"])
        with tempfile.TemporaryDirectory() as folder:
            source, compiled = Path(folder, "kernel.cpp"), Path(folder, "kernel.o")
            source.write_text(unit)
            _run(["g++", *flags, "-c", str(source), "-o", str(compiled)])
            _build(target, ["g++", "-shared", str(compiled), str(runtime), "-o"])
    return str(target)


def _build(target, command):
    """Write to a name of our own and rename: another process sees the whole file or none."""
    mine = target.with_name(f".{target.name}.{os.getpid()}")
    _run([*command, str(mine)])
    os.replace(mine, target)


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LaunchError(f"g++ could not compile the kernels:\n{done.stderr[-4000:]}")


@lru_cache(maxsize=None)
def _compiler():
    return subprocess.run(["g++", "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True).stdout


@lru_cache(maxsize=None)
def _cache():
    base = os.environ.get("MINIGRAD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "minigrad")
    try:
        Path(base).mkdir(parents=True, exist_ok=True)
        return Path(base)
    except OSError:  # a home that cannot be written to: compile anew in every run
        return Path(tempfile.mkdtemp(prefix="minigrad-"))
