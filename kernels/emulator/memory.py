"""A GPU's memory, played on the CPU: CuPy's interface, as far as this project uses it, over NumPy.

    x = kernels.to_device(np.ones(3, np.float32), "emulator")     # or `--device emulator` on a chapter's command line

An array lies here or on the host, never in both places. What mixes the two by accident raises TypeError, as CuPy does; what
goes from one to the other on purpose is counted, and so is every kernel that a GPU would have been sent:

    with memory.counting() as traffic:
        step()
    traffic.to_host        what the CPU had to wait for: .get(), .item(), float(x), `if x:`, x[mask]
    traffic.to_device      arrays sent the other way
    traffic.launches       our kernels, by name;  traffic.elementwise: those that CuPy would have run for NumPy's functions

It cannot see: what CuPy does that NumPy does not (its own rules of promotion, its streams, its pool).
"""

from collections import Counter
from contextlib import contextmanager

import numpy as np

_counters = []


class Traffic:
    """What passed between CPU and device inside a `with counting()` block; each a Counter by name."""

    def __init__(self):
        self.to_host, self.to_device, self.launches, self.elementwise = Counter(), Counter(), Counter(), Counter()


@contextmanager
def counting():
    """Yields a Traffic that counts what happens inside the with block."""
    traffic = Traffic()
    _counters.append(traffic)
    try:
        yield traffic
    finally:
        _counters.remove(traffic)


def count(kind, name):
    if _recorded is not None:  # what is only recorded is not done
        if kind in ("to_host", "to_device"):
            raise NotRecorded(f"{name}: what is recorded in a graph can neither wait for the GPU nor send an array there")
        return
    for traffic in _counters:
        getattr(traffic, kind)[name] += 1


# ---- recording: kernels/graph.py ------------------------------------------------------------------------------------------
_recorded = None  # while a graph is being recorded: the list of its work


class NotRecorded(RuntimeError):
    """Work that a graph cannot hold."""


@contextmanager
def recording():
    """Yields the list of functions that do, in order, what the with block would have done. Arrays that come into being in it
    have their shapes and some content that means nothing: a GPU, too, does nothing yet."""
    global _recorded
    _recorded = []
    try:
        with np.errstate(all="ignore"):
            yield _recorded
    finally:
        _recorded = None


def do(work):
    """Call work(), or only note it where a graph is being recorded."""
    if _recorded is None:
        work()
    else:
        _recorded.append(work)


def _make(compute, name, *parents):
    """compute() as an array on the device, to be computed again into the same memory where that is recorded."""
    made = _up(compute(), name, *parents)
    if _recorded is not None:
        if not isinstance(made, ndarray):
            raise NotRecorded(f"{name}: the emulated device records only functions whose result is one array")
        if made.base is None:
            _recorded.append(lambda: np.copyto(made.held, compute()))
    return made


class _Pointer:
    def __init__(self, array):
        self.ptr = array.__array_interface__["data"][0]


class ndarray:  # noqa: N801  (CuPy's name)
    """An array on the device. `held` is where it really lies; only this package and kernels/gpu.py may look there."""

    __slots__ = ("held", "base", "__weakref__")
    __array_ufunc__ = None  # NumPy's functions and operators do not take it for one of theirs
    __hash__ = None

    def __init__(self, held, base=None):
        self.held, self.base = held, base

    shape = property(lambda self: self.held.shape)
    dtype = property(lambda self: self.held.dtype)
    ndim = property(lambda self: self.held.ndim)
    size = property(lambda self: self.held.size)
    itemsize = property(lambda self: self.held.itemsize)
    nbytes = property(lambda self: self.held.nbytes)
    strides = property(lambda self: self.held.strides)
    flags = property(lambda self: self.held.flags)
    data = property(lambda self: _Pointer(self.held))
    T = property(lambda self: _up(self.held.T, "transpose", self))

    def __repr__(self):
        return f"<{self.dtype} of shape {self.shape} on the emulated device>"

    def __len__(self):
        return len(self.held)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype=None, copy=None):
        raise TypeError("an array on the device does not become one of NumPy's by itself; .get() copies it")

    # to the host: the CPU waits until all work that was queued is done

    def get(self):
        count("to_host", "get")
        return self.held.copy()

    def item(self):
        count("to_host", "item")
        return self.held.item()

    def tolist(self):
        count("to_host", "tolist")
        return self.held.tolist()

    def __bool__(self):
        return bool(self.item())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    __index__ = __int__

    # on the device

    def __getitem__(self, index):
        index = _down(index)
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, np.ndarray) and part.dtype.kind == "b" for part in parts):
            count("to_host", "x[mask]")  # how many there are decides the result's shape
        return _make(lambda: self.held[index], "index", self)

    def __setitem__(self, index, value):
        count("elementwise", "setitem")
        index, value = _down(index), _down(value)
        do(lambda: self.held.__setitem__(index, value))

    def fill(self, value):
        count("elementwise", "fill")
        do(lambda: self.held.fill(_down(value)))

    def __getattr__(self, name):  # the other methods: sum, reshape, astype, …
        method = getattr(self.held, name)
        if not callable(method):
            raise AttributeError(f"an array on the device has no {name!r}")
        return lambda *args, **kwargs: _make(lambda: method(*_down(args), **_down(kwargs)), name, self)


def _down(value):
    """The same with what really lies on the device, for NumPy to work on; TypeError for an array of the host's."""
    if isinstance(value, ndarray):
        return value.held
    if isinstance(value, np.ndarray):
        raise TypeError(f"an array of the host's, of shape {value.shape}, among arrays on the device: move it there first")
    if isinstance(value, (tuple, list)):
        return type(value)(_down(v) for v in value)
    return {k: _down(v) for k, v in value.items()} if isinstance(value, dict) else value


def _up(result, name, *parents):
    """NumPy's result as an array on the device; a view knows whose it is, and anything else has cost a kernel."""
    if isinstance(result, (tuple, list)):
        return type(result)(_up(r, name, *parents) for r in result)
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    result = np.asarray(result)
    for parent in parents:
        if isinstance(parent, ndarray) and (result is parent.held or np.may_share_memory(result, parent.held)):
            return ndarray(result, parent if parent.base is None else parent.base)
    count("elementwise", name)
    return ndarray(result if result.base is None else result.copy())


def _operator(name):
    def forward(self, *others):
        if name.startswith("__i") and name != "__invert__":  # in place
            count("elementwise", name)
            do(lambda: getattr(self.held, name)(*_down(others)))
            return self
        return _make(lambda: getattr(self.held, name)(*_down(others)), name)

    return forward


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    for _kind in ("", "r", "i"):
        setattr(ndarray, f"__{_kind}{_name}__", _operator(f"__{_kind}{_name}__"))
for _name in ("neg", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


# ---- the module's functions ----------------------------------------------------------------------------------------------
def asarray(values, dtype=None):
    """The array itself where it is on the device; anything else is sent there."""
    if isinstance(values, ndarray):
        return values if dtype is None or values.dtype == dtype else values.astype(dtype)
    count("to_device", "asarray")
    return ndarray(np.array(values, dtype))


def empty(shape, dtype=np.float32):
    """Filled with NaN, so that an element that a kernel forgets to write cannot pass for a result."""
    dtype = np.dtype(dtype)
    return ndarray(np.full(shape, np.nan if dtype.kind == "f" else -1, dtype))  # as cudaMalloc, no kernel


def empty_like(array):
    return empty(array.shape, array.dtype)


class _Function:
    """One of NumPy's functions, on the device."""

    def __init__(self, name):
        self.name, self.numpy = name, getattr(np, name)

    def __call__(self, *args, **kwargs):
        if self.name in ("concatenate", "stack") and _recorded is not None:
            raise NotRecorded(f"{self.name}: CuPy sends the arrays' addresses to the GPU, which cannot be recorded in a graph")
        if self.name in ("nonzero", "flatnonzero", "argwhere", "unique"):
            count("to_host", self.name)  # how many there are decides the result's shape
        return _make(lambda: self.numpy(*_down(args), **_down(kwargs)), self.name, *args)

    def at(self, array, index, values):  # xp.add.at
        count("elementwise", f"{self.name}.at")
        do(lambda: self.numpy.at(array.held, _down(index), _down(values)))


def may_share_memory(a, b):
    return np.may_share_memory(a.held, b.held)


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    found = getattr(np, name)  # AttributeError where NumPy has none either
    if isinstance(found, type) or not callable(found):
        return found  # a dtype or a constant
    globals()[name] = _Function(name)
    return globals()[name]
