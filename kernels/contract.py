"""Contracts: the rules for each kernel's shapes, dtypes and memory, checked in every kernel set before the kernel runs.

    @contract("x, out?: (..., C); weight?, bias?: (C,)", in_place="x")
    def layernorm_forward(x, weight=None, bias=None, *, eps=1e-5, out=None): ...        # reference.py

    @follows(reference.layernorm_forward)
    def layernorm_forward(x, weight=None, bias=None, *, eps=1e-5, out=None): ...        # cpu.py and cuda.py

A compiled kernel takes an array's address and counts from there. If `weight` were too short it would read whatever lies behind,
and if `out` were too short it would write there. The text of a contract reads like a docstring:

    x: (..., C)            an array whose last axis is C; a name means the same size, and `...` the same axes, in the whole call
    weight?: (C,)          an array or None
    x: (..., 2F)           an axis of even length
    a: (A..., M, K) or (A..., K, M) if transpose_a                      the argument transpose_a chooses the second shape
    out?: (A×B..., M, N)   leading axes A and B, broadcast
    out: [(..., C), (C,)]  a tuple of two arrays, each of which may be None
    targets: (R,) below V or ignore_index                               integers in 0…V−1, or equal to the argument ignore_index
    key_start?: (B,) integers                                           an array or a sequence
    out?: (num_embeddings, C)                                           the argument num_embeddings is a size

All other arrays must have the first array's dtype and live on its device. Arrays that a kernel writes (`out`, unless `writes`
names others) must be writable, and share no memory with another array of the call; only an `out` that is exactly an argument
named by `in_place` may overwrite it.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kernels.arrays import Array, address, array_module, same_memory

Function = TypeVar("Function", bound=Callable)
Arguments = dict[str, Any]
Check = Callable[[Arguments], None]
Sizes = dict[str, Any]  # the number of each named axis, and the tuple of each named group of leading axes


class _Shape(NamedTuple):
    """One shape of a contract: "(A..., 2F)" has the leading axes "A..." and the axis (2, "F")."""

    text: str
    leading: str | None
    axes: tuple[tuple[int, str], ...]

    def fits(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """Whether an array's shape agrees with the sizes so far; sizes that it names for the first time are added."""
        first = len(shape) - len(self.axes)
        if first < 0 or first and self.leading is None:
            return False
        if self.leading is not None and sizes.setdefault(self.leading, shape[:first]) != shape[:first]:
            return False
        for (factor, name), n in zip(self.axes, shape[first:]):
            if n % factor or sizes.setdefault(name, n // factor) != n // factor:
                return False
        return True

    def expected(self, sizes: Sizes) -> str:
        """The shape in which the sizes that are known are numbers: "(2, 3, 2F)"."""
        parts = []
        if self.leading is not None:
            parts += [f"{n}" for n in sizes[self.leading]] if self.leading in sizes else [self.leading]
        for factor, name in self.axes:
            parts.append(f"{factor * sizes[name]}" if name in sizes else f"{factor if factor > 1 else ''}{name}")
        return f"({parts[0]},)" if len(parts) == 1 and parts[0] != self.leading else f"({', '.join(parts)})"


class _Argument(NamedTuple):
    """What a contract says of one argument."""

    name: str
    shapes: tuple[_Shape, ...]  # several for a tuple of arrays
    optional: bool
    other_shape: _Shape | None  # the shape if the argument `switch` is true
    switch: str
    integers: bool
    below: str  # the size that every integer is below; "" if there is none
    ignore: str  # the argument whose value is allowed too; "" if there is none


# One term: names, a shape or several, a second shape with its switch, and for integers their range.
_SHAPE = r"\([^()]*\)"
_TERM = re.compile(
    rf"(?P<names>[\w, ?]+): (?P<shapes>{_SHAPE}|\[.*\])(?: or (?P<other>{_SHAPE}) if (?P<switch>\w+))?"
    r"(?P<integers> integers| below (?P<below>\w+)(?: or (?P<ignore>\w+))?)?"
)


def _shape(text: str) -> _Shape:
    axes = [axis.strip() for axis in text.strip("()").split(",") if axis.strip()]
    leading = axes.pop(0) if axes and axes[0].endswith("...") else None
    factors = [re.fullmatch(r"(\d*)(\w+)", axis) for axis in axes]
    return _Shape(text, leading, tuple((int(match[1] or 1), match[2]) for match in factors if match))


def _parse(text: str) -> Iterator[_Argument]:
    for term in text.split("; "):
        match = _TERM.fullmatch(term)
        if not match:
            raise SyntaxError(f"contract: cannot read {term!r} in {text!r}")
        shapes = tuple(map(_shape, re.findall(_SHAPE, match["shapes"])))
        other = _shape(match["other"]) if match["other"] else None
        kind = other, match["switch"] or "", bool(match["integers"]), match["below"] or "", match["ignore"] or ""
        for name in match["names"].split(", "):
            yield _Argument(name.rstrip("?"), shapes, name.endswith("?"), *kind)


def is_array(value: Any) -> bool:
    """Whether the value is an array, or a NumPy scalar, which counts as an array of no axes."""
    try:
        array_module(value)
    except TypeError:
        return False
    return True


def _bounds(array: Array) -> tuple[int, int]:
    """The addresses of the array's first byte and of the byte behind its last."""
    begin = address(array)
    if array.flags.c_contiguous or not array.size:
        return begin, begin + array.nbytes
    end = begin + array.itemsize
    for step, n in zip(array.strides, array.shape):
        if step > 0:
            end += step * (n - 1)
        else:
            begin += step * (n - 1)
    return begin, end


def _overlap(a: Array, b: Array) -> bool:
    """Whether an element of one array lies in the memory of the other."""
    if not a.size or not b.size:
        return False
    a, b = _addresses(a), _addresses(b)
    return np.may_share_memory(a, b) and np.shares_memory(a, b)


def _owner(array: Array) -> int:
    """The identity of the NumPy array whose memory this is or is a view of; 0 if only addresses can tell."""
    owner = array if array.base is None else array.base
    return id(owner) if type(owner) is np.ndarray and owner.base is None else 0


class _View:
    """The address and strides of a device's array, so that NumPy can test for overlap without reading the memory."""

    def __init__(self, array: Array):
        place = dict(shape=array.shape, strides=array.strides, typestr=array.dtype.str, version=3)
        self.__array_interface__ = {"data": (address(array), True), **place}


def _addresses(array: Array) -> np.ndarray:
    return np.asarray(array if isinstance(array, (np.ndarray, np.generic)) else _View(array))


def _repeats_an_element(array: Array) -> bool:
    """Whether two indices of the array may name the same memory."""
    if not array.size:
        return False
    reach = 0  # bytes from the first element to the last along the axes so far
    for step, n in sorted((abs(step), n) for step, n in zip(array.strides, array.shape) if n > 1):
        if step < reach + array.itemsize:
            return True
        reach += step * (n - 1)
    return False


class Contract:
    """The checks of one operation. Each raises an error that begins with its name."""

    def __init__(
        self, function: Callable, text: str, *, writes: Sequence[str], in_place: Sequence[str], floats: bool, also: Check | None
    ):
        self.floats = floats
        self.operation, self.text, self.writes, self.in_place, self.also = function.__name__, text, writes, in_place, also
        parameters = inspect.signature(function).parameters
        self.parameters = tuple(parameters)
        self.defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        self.arguments = tuple(_parse(text))
        named = {name for argument in self.arguments for shape in argument.shapes for _, name in shape.axes}
        self.numbers = tuple(name for name in parameters if name in named)  # arguments that are sizes
        self.broadcast = "×" in text
        self.options = (*self.numbers, *{argument.switch for argument in self.arguments if argument.switch})
        self.integers = tuple(argument.name for argument in self.arguments if argument.integers)
        self.names = tuple(argument.name for argument in self.arguments if not argument.integers)
        self.fitting: set[tuple] = set()  # forms of calls that fit: a model makes the same calls in every step

    def check(self, args: tuple, kw: Arguments, only: np.dtype | None = None) -> None:
        """Raise TypeError, ValueError or IndexError unless the arguments fit one another.

        Args:
            only: the one dtype that this set of kernels computes in, if there is one.
        """
        arguments = dict(zip(self.parameters, args))
        arguments.update(kw)
        form = self._form(arguments, only)
        if form is None or form not in self.fitting:
            self._check_form({**self.defaults, **arguments}, only)
            if form is not None:
                self.fitting.add(form)
        if self.also is not None:
            self.also(arguments)
        for name in self.writes:
            out = arguments.get(name)
            if any(part is not None for part in out) if isinstance(out, tuple) else out is not None:
                self._check_outputs(name, arguments)

    def _form(self, arguments: Arguments, only: np.dtype | None) -> tuple | None:
        """All that decides whether shapes and dtypes fit, or None if there are integers, whose content matters too."""
        get = arguments.get
        for name in self.integers:
            if get(name) is not None:
                return None
        form: list[Any] = [only]
        for name in self.options:
            form.append(get(name))
        for name in self.names:
            value = get(name)
            for array in value if isinstance(value, tuple) else (value,):
                if array is not None:
                    try:
                        form += type(array), array.shape, array.dtype
                    except AttributeError:
                        return None  # not an array
                else:
                    form.append(None)
        return tuple(form)

    def _check_form(self, arguments: Arguments, only: np.dtype | None) -> None:
        """Check all but the outputs' memory."""
        sizes: Sizes = {name: arguments[name] for name in self.numbers if name in arguments}
        arrays: list[tuple[str, Array]] = []  # every array of the call
        for argument in self.arguments:
            if argument.name not in arguments:
                continue  # the call itself will say that it is missing
            for shape, value in self._values(argument, arguments):
                array = self._integers(argument, value) if argument.integers else self._array(argument.name, value, arrays)
                if not shape.fits(array.shape, sizes):
                    raise self._error(ValueError, f"{argument.name} of shape {shape.expected(sizes)}", array.shape)
                if argument.below:
                    check_range(self.operation, array, sizes[argument.below], arguments.get(argument.ignore))
                arrays.append((argument.name, array))
        if self.broadcast and "A..." in sizes and "B..." in sizes:
            self._check_broadcast(sizes)
        if only is not None and arrays and arrays[0][1].dtype != only:
            raise self._error(TypeError, f"{only}, the only dtype of these kernels", arrays[0][1].dtype)

    def _error(self, kind: type[Exception], expected: str, got: object) -> Exception:
        return kind(f"{self.operation}: expected {expected}, got {got}; pass {self.text}")

    def _values(self, argument: _Argument, arguments: Arguments) -> list[tuple[_Shape, Any]]:
        """The argument's arrays, each with its shape in the contract, without those that are None."""
        name, value = argument.name, arguments[argument.name]
        if len(argument.shapes) > 1:
            if not isinstance(value, (tuple, list)) or len(value) != len(argument.shapes):
                got = f"{len(value)} of them" if isinstance(value, (tuple, list)) else type(value).__name__
                raise self._error(TypeError, f"{len(argument.shapes)} buffers, each an array or None, for {name}", got)
            return [(shape, part) for shape, part in zip(argument.shapes, value) if part is not None]
        if value is None:
            if not argument.optional:
                raise self._error(TypeError, f"an array for {name}", "None")
            return []
        if argument.other_shape is not None and arguments[argument.switch]:
            return [(argument.other_shape, value)]
        return [(argument.shapes[0], value)]

    def _array(self, name: str, value: Any, arrays: Sequence[tuple[str, Array]]) -> Array:
        """The value, after a check that it is an array like the first of the call."""
        if arrays and type(value) is type(arrays[0][1]) and value.dtype == arrays[0][1].dtype:
            return value
        if not is_array(value):
            raise self._error(TypeError, f"an array for {name}", type(value).__name__)
        if not arrays:
            if self.floats and value.dtype.kind != "f":
                raise self._error(TypeError, f"floats for {name}", value.dtype)
        else:
            first_name, first = arrays[0]
            if array_module(value) is not array_module(first):
                raise self._error(TypeError, f"{name} on the device of {first_name}", f"an array of {type(value).__module__}")
            if value.dtype != first.dtype:
                raise self._error(TypeError, f"{name} in {first.dtype} like {first_name}", value.dtype)
        return value

    def _integers(self, argument: _Argument, value: Any) -> Array:
        """The value as an array, after a check that it holds integers."""
        if not argument.below and isinstance(value, (tuple, list, range)):
            value = np.asarray(value, None if len(value) else np.int64)
        if not is_array(value) or value.dtype.kind not in "iu":
            got = value.dtype if is_array(value) else type(value).__name__
            raise self._error(TypeError, f"an array of integers for {argument.name}", got)
        return value

    def _check_broadcast(self, sizes: Sizes) -> None:
        try:
            both = np.broadcast_shapes(sizes["A..."], sizes["B..."])
        except ValueError:
            both = None
        if both is None or sizes.get("A×B...", both) != both:
            raise self._error(ValueError, "leading axes A and B that broadcast to A×B", sizes)

    def _check_outputs(self, name: str, arguments: Arguments) -> None:
        """Check that the kernel may write to this argument, or to each of its buffers."""
        arrays = []  # of the call: (name, array, its owner)
        for argument in self.arguments:
            value = arguments.get(argument.name)
            for array in value if isinstance(value, tuple) else (value,):
                if hasattr(array, "dtype"):
                    arrays.append((argument.name, array, _owner(array)))
        for i, (own_name, out, owner) in enumerate(arrays):
            if own_name != name:
                continue
            check_writable(self.operation, name, out)
            for j, (other_name, other, other_owner) in enumerate(arrays):
                if j == i or owner and other_owner and owner != other_owner or not _overlap(out, other):
                    continue
                if not (other_name in self.in_place and same_memory(out, other)):
                    expected = f"{name} with memory of its own, got an array that overlaps {other_name}"
                    raise ValueError(f"{self.operation}: expected {expected}; pass another buffer")


class ListContract:
    """The checks of an operation over parallel lists of arrays: item i of every list has the same shape and dtype."""

    def __init__(self, function: Callable, lists: Sequence[str], writes: Sequence[str]):
        self.operation, self.lists, self.writes = function.__name__, lists, writes
        self.columns = [(name, name in writes) for name in lists]
        self.parameters = tuple(inspect.signature(function).parameters)

    def check(self, args: tuple, kw: Arguments, only: np.dtype | None = None) -> None:
        """As Contract.check."""
        arguments = {**dict(zip(self.parameters, args)), **kw}
        lists = [arguments[name] for name in self.lists if name in arguments]
        lengths = [len(arrays) for arrays in lists]
        if len(set(lengths)) > 1:
            raise ValueError(f"{self.operation}: expected lists of one length for {', '.join(self.lists)}, got {lengths}")
        for i, arrays in enumerate(zip(*lists)):
            first = arrays[0]
            for (name, writes), array in zip(self.columns, arrays):
                if type(array) is not np.ndarray and not is_array(array):
                    raise TypeError(f"{self.operation}: expected an array for {name}[{i}], got {type(array).__name__}")
                if array.shape != first.shape:
                    expected = f"{name}[{i}] of shape {first.shape} like {self.lists[0]}[{i}]"
                    raise ValueError(
                        f"{self.operation}: expected {expected}, got {array.shape}; pass arrays that fit one another"
                    )
                if array.dtype != first.dtype or array.dtype.kind != "f":
                    expected = f"{name}[{i}] in floats, of one dtype in all lists"
                    raise TypeError(f"{self.operation}: expected {expected}, got {array.dtype}; convert it first")
                if writes and not (type(array) is np.ndarray and array.flags.carray):
                    check_writable(self.operation, f"{name}[{i}]", array)
            if only is not None and first.dtype != only:
                expected = f"{self.lists[0]}[{i}] in {only}, the only dtype of these kernels"
                raise TypeError(f"{self.operation}: expected {expected}, got {first.dtype}; convert it first")
        reads = [array for name, arrays in zip(self.lists, lists) if name not in self.writes for array in arrays]
        written = [array for name, arrays in zip(self.lists, lists) if name in self.writes for array in arrays]
        if written:
            check_apart(self.operation, written, reads)


def check_apart(operation: str, written: Sequence[Array], reads: Sequence[Array] = ()) -> None:
    """Raise ValueError if an array that is written overlaps another."""
    if _owners_differ(written, reads):
        return
    spans = [(*_bounds(array), True, array) for array in written] + [(*_bounds(array), False, array) for array in reads]
    spans.sort(key=itemgetter(0))
    if all(span[1] <= following[0] for span, following in pairwise(spans)):
        return
    for i, (_, end, writes, array) in enumerate(spans):
        for begin, _, other_writes, other in spans[i + 1 :]:
            if begin >= end:
                break
            if (writes or other_writes) and _overlap(array, other):
                raise ValueError(f"{operation}: expected arrays that share no memory, got two that overlap; pass copies")


def _owners_differ(written: Sequence[Array], reads: Sequence[Array]) -> bool:
    """Whether every array that is written is the only one in its owner's memory; False if that takes a look at addresses."""
    writers, others = list(map(_owner, written)), set(map(_owner, reads))
    return 0 not in writers and 0 not in others and len({*writers, *others}) == len(writers) + len(others)


def check_writable(operation: str, name: str, array: Array) -> None:
    """Raise ValueError if the array is read-only, or if two of its elements lie at one address."""
    flags = array.flags
    if isinstance(array, np.generic) or not getattr(flags, "writeable", True):
        raise ValueError(f"{operation}: expected {name} to be writable, got a read-only array; pass a copy")
    if not flags.c_contiguous and _repeats_an_element(array):
        raise ValueError(
            f"{operation}: expected {name} with memory for every element, got strides {array.strides} for shape "
            f"{array.shape}, where elements share memory; pass a copy"
        )


def check_range(operation: str, indices: Array, n: int, ignore_index: int | None = None) -> None:
    """Check indices on the CPU. On a GPU nothing is checked, because that would wait for the GPU (see gpu.int64_indices).

    Raises:
        IndexError: if an index is outside 0…n−1 and is not `ignore_index`.
    """
    if isinstance(indices, (np.ndarray, np.generic)) and indices.size:
        wrong = (indices < 0) | (indices >= n)
        if ignore_index is not None:
            wrong &= indices != ignore_index
        if wrong.any():
            raise IndexError(f"{operation}: expected indices in 0…{n - 1}, got {np.extract(wrong, indices)[0]}")


def check_shape(operation: str, name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raise TypeError if it is not an array, and ValueError if it has another shape."""
    if not is_array(array):
        raise TypeError(f"{operation}: expected an array for {name}, got {type(array).__name__}")
    if array.shape != shape:
        raise ValueError(f"{operation}: expected {name} of shape {shape}, got {array.shape}; pass arrays that fit one another")


def contract(
    text: str,
    *,
    writes: Sequence[str] = ("out",),
    in_place: str | Sequence[str] = (),
    floats: bool = True,
    also: Check | None = None,
) -> Callable[[Function], Function]:
    """Decorate a specification in a reference.py with its contract.

    Args:
        text: the contract, in the language above.
        writes: the arguments that the kernel writes.
        in_place: arguments that `out` may be.
        floats: whether the arrays must hold floats.
        also: checks what the text cannot say, from all the arguments by name.
    """
    names = (in_place,) if isinstance(in_place, str) else in_place
    return lambda function: _checked(
        function, Contract(function, text, writes=writes, in_place=names, floats=floats, also=also)
    )


def list_contract(*lists: str, writes: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Decorate a specification over parallel lists of arrays; `writes` names the lists whose arrays it updates."""
    return lambda function: _checked(function, ListContract(function, lists, writes))


def follows(specification: Any) -> Callable[[Function], Function]:
    """Decorate a fast kernel, which computes in float32 only, with the contract of its specification."""
    return lambda function: _checked(function, specification.contract, np.dtype(np.float32))


def unchecked(function: Any) -> Any:
    """The function without its check, for callers that have made it."""
    return function.__wrapped__


def _checked(function: Any, rules: Contract | ListContract, only: np.dtype | None = None) -> Any:
    @wraps(function)
    def checked(*args, **kw):
        rules.check(args, kw, only)
        return function(*args, **kw)

    checked.contract = rules  # type: ignore[attr-defined]
    return checked
