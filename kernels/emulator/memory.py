"""A device without a GPU: arrays with the part of CuPy's interface that this project uses, on top of NumPy.

    x = kernels.to_device(np.ones(3, np.float32), "emulator")     # or `--device emulator` on a chapter's command line

An array is either on the device or on the host. Mixing the two raises TypeError, as in CuPy. Transfers and kernel launches are
counted:

    with memory.counting() as traffic:
        step()
    traffic.to_host        waits for the GPU: .get(), .item(), float(x), `if x:`, x[mask]
    traffic.to_device      arrays sent to the GPU
    traffic.launches       our kernels, by name
    traffic.elementwise    kernels that CuPy would run for NumPy's functions

The emulated device cannot show where CuPy differs from NumPy: its type promotion, its streams, its memory pool.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# ---- Counting ------------------------------------------------------------------------------------------------------------
_counters: list["Traffic"] = []


class Traffic:
    """Transfers and launches inside a `with counting()` block, by name."""

    def __init__(self) -> None:
        self.to_host: Counter[str] = Counter()
        self.to_device: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.elementwise: Counter[str] = Counter()


@contextmanager
def counting() -> Iterator[Traffic]:
    """Yields a Traffic that counts the work inside the with block."""
    traffic = Traffic()
    _counters.append(traffic)
    try:
        yield traffic
    finally:
        _counters.remove(traffic)


def count(kind: str, name: str) -> None:
    """Add 1 to `name` in the counter `kind` of every Traffic. While a graph records, nothing runs or counts."""
    if _recorded is not None:
        if kind in ("to_host", "to_device"):
            raise NotRecorded(f"{name}: a graph cannot record a transfer between CPU and GPU")
        return
    for traffic in _counters:
        getattr(traffic, kind)[name] += 1


# ---- Recording, for kernels/graph.py -------------------------------------------------------------------------------------
_recorded: list[Callable[[], object]] | None = None  # the work of the graph that is being recorded


class NotRecorded(RuntimeError):
    """A replay could not repeat this work."""


@contextmanager
def recording() -> Iterator[list[Callable[[], object]]]:
    """Yields the list that receives the with block's work, in order.

    Arrays made in the block have the right shapes and meaningless content, as on a GPU.
    """
    global _recorded
    _recorded = []
    try:
        with np.errstate(all="ignore"):
            yield _recorded
    finally:
        _recorded = None


def do(work: Callable[[], object]) -> None:
    """Call work(), or append it to the graph that is being recorded."""
    if _recorded is None:
        work()
    else:
        _recorded.append(work)


def _compute(function: Callable[[], Any], name: str, *parents: Any) -> Any:
    """function() as an array on the device. If a graph is recording, every replay computes it again into the same memory."""
    result = _wrap(function(), name, *parents)
    if _recorded is not None:
        if not isinstance(result, ndarray):
            raise NotRecorded(f"{name}: the emulated device records only functions whose result is one array")
        if result.base is None:
            _recorded.append(lambda: np.copyto(result.storage, function()))
    return result


# ---- Arrays --------------------------------------------------------------------------------------------------------------
def _operator(name: str) -> Callable[..., Any]:
    def in_place(self, other):
        count("elementwise", name)
        do(lambda: getattr(self.storage, name)(_unwrap(other)))
        return self

    def new_array(self, *others):
        return _compute(lambda: getattr(self.storage, name)(*_unwrap(others)), name)

    return in_place if name.startswith("__i") and name != "__invert__" else new_array


class _Pointer:
    def __init__(self, array: np.ndarray) -> None:
        self.ptr = array.__array_interface__["data"][0]


class ndarray:
    """An array on the device. Only this package and kernels/gpu.py may touch `storage`, the NumPy array behind it."""

    __slots__ = ("storage", "base", "__weakref__")
    __array_ufunc__ = None  # NumPy's functions and operators refuse this type
    __eq__ = _operator("__eq__")  # a class that defines == is not hashable, like CuPy's arrays

    def __init__(self, storage: np.ndarray, base: "ndarray | None" = None) -> None:
        self.storage, self.base = storage, base

    shape = property(lambda self: self.storage.shape)
    dtype = property(lambda self: self.storage.dtype)
    ndim = property(lambda self: self.storage.ndim)
    size = property(lambda self: self.storage.size)
    itemsize = property(lambda self: self.storage.itemsize)
    nbytes = property(lambda self: self.storage.nbytes)
    strides = property(lambda self: self.storage.strides)
    flags = property(lambda self: self.storage.flags)
    data = property(lambda self: _Pointer(self.storage))
    T = property(lambda self: _wrap(self.storage.T, "transpose", self))

    def __repr__(self) -> str:
        return f"<{self.dtype} of shape {self.shape} on the emulated device>"

    def __len__(self) -> int:
        return len(self.storage)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype=None, copy=None):
        raise TypeError("NumPy: expected an array on the host, got one on the device; copy it with .get()")

    # Transfers to the host, for which the CPU waits until the GPU has done all queued work

    def get(self) -> np.ndarray:
        count("to_host", "get")
        return self.storage.copy()

    def item(self) -> Any:
        count("to_host", "item")
        return self.storage.item()

    def tolist(self) -> Any:
        count("to_host", "tolist")
        return self.storage.tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    __index__ = __int__

    # Work on the device

    def __getitem__(self, index: Any) -> Any:
        index = _unwrap(index)
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, np.ndarray) and part.dtype.kind == "b" for part in parts):
            count("to_host", "x[mask]")  # the number of True elements decides the result's shape
        return _compute(lambda: self.storage[index], "index", self)

    def __setitem__(self, index: Any, value: Any) -> None:
        count("elementwise", "setitem")
        index, value = _unwrap(index), _unwrap(value)
        do(lambda: self.storage.__setitem__(index, value))

    def fill(self, value: Any) -> None:
        count("elementwise", "fill")
        do(lambda: self.storage.fill(_unwrap(value)))

    def __getattr__(self, name: str) -> Any:  # NumPy's other methods: sum, reshape, astype, …
        method = getattr(self.storage, name)
        if not callable(method):
            raise AttributeError(f"an array on the device has no {name!r}")
        return lambda *args, **kwargs: _compute(lambda: method(*_unwrap(args), **_unwrap(kwargs)), name, self)


def _unwrap(value: Any) -> Any:
    """The value with NumPy arrays in place of the device's; TypeError for an array on the host."""
    if isinstance(value, ndarray):
        return value.storage
    if isinstance(value, np.ndarray):
        raise TypeError(f"expected arrays on the device, got one of shape {value.shape} on the host; move it there first")
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(v) for v in value)
    return {k: _unwrap(v) for k, v in value.items()} if isinstance(value, dict) else value


def _wrap(result: Any, name: str, *parents: Any) -> Any:
    """NumPy's result as an array on the device. A view remembers its base; any other result counts as a kernel launch."""
    if isinstance(result, (tuple, list)):
        return type(result)(_wrap(r, name, *parents) for r in result)
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    array = np.asarray(result)
    for parent in parents:
        if isinstance(parent, ndarray) and (array is parent.storage or np.may_share_memory(array, parent.storage)):
            return ndarray(array, parent if parent.base is None else parent.base)
    count("elementwise", name)
    return ndarray(array if array.base is None else array.copy())


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    for _kind in ("", "r", "i"):
        setattr(ndarray, f"__{_kind}{_name}__", _operator(f"__{_kind}{_name}__"))
for _name in ("neg", "abs", "invert", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


# ---- The module's functions ----------------------------------------------------------------------------------------------
def asarray(values: Any, dtype: Any = None) -> ndarray:
    """The array itself if it is on the device; anything else is sent there."""
    if isinstance(values, ndarray):
        return values if dtype is None or values.dtype == dtype else values.astype(dtype)
    count("to_device", "asarray")
    return ndarray(np.array(values, dtype))


def empty(shape: Any, dtype: Any = np.float32) -> ndarray:
    """An array filled with NaN, so that an element that a kernel forgets to write shows in the result."""
    dtype = np.dtype(dtype)
    return ndarray(np.full(shape, np.nan if dtype.kind == "f" else -1, dtype))  # CuPy launches no kernel for it


def empty_like(array: ndarray) -> ndarray:
    return empty(array.shape, array.dtype)


def may_share_memory(a: ndarray, b: ndarray) -> bool:
    return np.may_share_memory(a.storage, b.storage)


class _Function:
    """A NumPy function, applied on the device."""

    def __init__(self, name: str) -> None:
        self.name, self.numpy = name, getattr(np, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name in ("concatenate", "stack") and _recorded is not None:
            raise NotRecorded(f"{self.name}: a graph cannot record it, since CuPy sends the arrays' addresses to the GPU")
        if self.name in ("nonzero", "flatnonzero", "argwhere", "unique"):
            count("to_host", self.name)  # the content decides the result's shape
        return _compute(lambda: self.numpy(*_unwrap(args), **_unwrap(kwargs)), self.name, *args)

    def at(self, array: ndarray, index: Any, values: Any) -> None:  # xp.add.at
        count("elementwise", f"{self.name}.at")
        do(lambda: self.numpy.at(array.storage, _unwrap(index), _unwrap(values)))


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    value = getattr(np, name)  # AttributeError if NumPy has no such name
    if isinstance(value, type) or not callable(value):
        return value  # a dtype or a constant
    globals()[name] = _Function(name)
    return globals()[name]
