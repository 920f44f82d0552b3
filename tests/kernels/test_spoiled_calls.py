"""Calls whose arguments do not fit: every kernel set refuses them with the same sentence, or gives the reference's value.

    python -m tests.kernels.test_spoiled_calls 10000

makes as many calls in processes of their own, with every array at the edge of a protected page. A kernel that leaves an array
ends such a process with a signal, and the signal is counted. The last line is the figure.
"""

import ctypes
import dataclasses
import inspect
import json
import mmap
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import kernels
from kernels import cases, emulator
from kernels.decode.reference import Layer, Matrix, Norm

SETS = ["reference", "cpu", *(["emulator"] if emulator.available() else [])]
MARGIN = 64  # numbers before and behind an array that must stay as they are
LARGEST = 3000  # numbers in the arrays of a call, so that the emulator is quick
TOLERANCE = 5e-4  # of the largest number of the reference's result in float32
SENTENCE = re.compile(r"[\w.]+: .*(expected .*, got|needs an `out`|activation must be)", re.DOTALL)
FLOAT32_ONLY = "the only dtype of these kernels"


class Heap:
    """Places arrays where an access outside them shows: between margins of NaN."""

    def __init__(self) -> None:
        self.margins: list[np.ndarray] = []

    def place(self, array: np.ndarray) -> np.ndarray:
        """A contiguous copy of the array."""
        extra = MARGIN * array.itemsize
        memory = np.full(array.nbytes + 2 * extra, 0xFF, np.uint8)  # bytes of ones: NaN, or −1
        self.margins += [memory[:extra], memory[extra + array.nbytes :]]
        copy = memory[extra : extra + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def intact(self) -> bool:
        return all((margin == 0xFF).all() for margin in self.margins)


class PagedHeap(Heap):
    """Places arrays at the beginning or the end of readable pages between two protected ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng, self.maps = rng, list[mmap.mmap]()

    def place(self, array: np.ndarray) -> np.ndarray:
        page = mmap.PAGESIZE
        inner = -(-max(array.nbytes, 1) // page) * page
        self.maps.append(mmap.mmap(-1, inner + 2 * page))
        whole = np.frombuffer(self.maps[-1], np.uint8)
        for guard in (0, page + inner):
            if _libc().mprotect(ctypes.c_void_p(whole.ctypes.data + guard), ctypes.c_size_t(page), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        first = page if self.rng.integers(2) else page + inner - array.nbytes
        copy = whole[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass
class Call:
    """A call of a kernel. `places` are the arguments that hold arrays: a name, and an index into a list or tuple, or None."""

    function: str
    arguments: dict[str, Any]
    places: list[tuple[str, int | None]]

    def get(self, place: tuple[str, int | None]) -> Any:
        value = self.arguments[place[0]]
        return value if place[1] is None else value[place[1]]

    def put(self, place: tuple[str, int | None], value: Any) -> None:
        name, i = place
        if i is None:
            self.arguments[name] = value
        else:
            whole = list(self.arguments[name])
            whole[i] = value
            self.arguments[name] = type(self.arguments[name])(whole)


# ---- The calls, before they are spoiled ----------------------------------------------------------------------------------
class Sample(NamedTuple):
    """The arguments of a right call by name, and the buffers that fit its `out`."""

    arguments: dict[str, Any]
    out: Any


def _contract(function: str) -> Any:
    specification: Any = cases.reference(function)
    return specification.contract


@cache
def samples() -> dict[str, list[Sample]]:
    """Right calls of every kernel, small ones from kernels/cases.py."""
    found: dict[str, list[Sample]] = {}
    for case in cases.cases(np.random.default_rng(0), small=True):
        specification = cases.reference(case.function)
        names = list(inspect.signature(specification).parameters)
        arguments = {**dict(zip(names, case.args)), **case.kw}
        arrays = [a for value in arguments.values() for a in (value if isinstance(value, list) else [value])]
        if sum(getattr(a, "size", 0) for a in arrays) <= LARGEST:
            results = specification(*case.args, **case.kw)
            several = len(_contract(case.function).arguments[-1].shapes) > 1 if "out" in names else False
            out = results if several or not isinstance(results, tuple) else results[0]
            found.setdefault(case.function, []).append(Sample(arguments, out if "out" in names else None))
    rng = np.random.default_rng(1)
    lists = [[rng.random(shape, np.float32) for shape in ((3,), (4, 5), (70,))] for _ in range(4)]
    settings = dict(step=2, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    names = ["params", "grads", "exp_avgs", "exp_avg_sqs"]
    found["adamw_step"] = [Sample({**dict(zip(names, lists)), **settings}, None)]
    found["scale_arrays"] = [Sample({"arrays": lists[0], "factor": 0.5}, None)]
    found["quantize_rows"] = [Sample({"weight": rng.random((5, 7), np.float32)}, None)]
    found["Decoder.step"] = [Sample(_decoder_arguments(rng, rotate), None) for rotate in (False, True)]
    return found


C, H, G, F, V, CONTEXT = 8, 2, 1, 6, 5, 4  # of the Decoder's model


def _decoder_arguments(rng: np.random.Generator, rotate: bool) -> dict[str, Any]:
    D, texts = C // H, 2
    caches = [rng.random((1, G, CONTEXT, D), np.float32) for _ in range(2 * texts)]
    turn = [rng.random((texts, D // 2), np.float32) for _ in range(2)] if rotate else []
    return {"x": rng.random((texts, C), np.float32), "caches": caches, "lengths": np.array([0, 2]), "turn": turn}


@cache
def _decoder(name: str) -> Any:
    rng = np.random.default_rng(2)
    norm, wide = Norm(rng.random(C, np.float32)), C + 2 * G * (C // H)
    matrices = [Matrix(rng.random(shape, np.float32)) for shape in ((wide, C), (C, C), (2 * F, C), (C, F), (V, C))]
    qkv, merge, widen, narrow, head = matrices
    layer = Layer(norm, qkv, merge, norm, widen, narrow)
    return kernels.SETS[name].Decoder([layer], norm, head, n_head=H, n_kv_head=G, eps=1e-5, rms=True, gated=True)


def build(number: int, heap: Heap) -> Call:
    """Call `number`, the same every time, with its arrays on the heap."""
    rng = np.random.default_rng(number)
    functions = sorted(samples())
    function = functions[number % len(functions)]
    choices = samples()[function]
    sample = choices[rng.integers(len(choices))]
    arguments = cases.moved(dict(sample.arguments), heap.place)
    if sample.out is not None and rng.integers(2):
        arguments["out"] = cases.moved(sample.out, heap.place)
    places: list[tuple[str, int | None]] = []
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            places.append((name, None))
        elif isinstance(value, (list, tuple)):
            places += [(name, i) for i, part in enumerate(value) if isinstance(part, np.ndarray)]
    call = Call(function, arguments, places)
    _spoil(call, rng, heap)
    return call


# ---- What is wrong with them ---------------------------------------------------------------------------------------------
def _resized(array: np.ndarray, axis: Any, n: Any) -> np.ndarray:
    return (
        np.take(array, np.arange(n) % array.shape[axis], axis=axis) if array.size else np.zeros((n,) * array.ndim, array.dtype)
    )


def _shifted(array: np.ndarray, by: int) -> np.ndarray:
    return array + by if array.dtype.kind == "i" else array


def _spread(array: np.ndarray, heap: Heap) -> np.ndarray:
    wide = heap.place(np.repeat(array, 2, axis=-1))
    return wide[..., ::2]


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


Spoil = Callable[[np.ndarray, np.random.Generator, Heap], Any]
SPOILS: dict[str, Spoil] = {
    "shorter": lambda a, rng, heap: heap.place(_resized(a, axis := rng.integers(a.ndim), max(0, a.shape[axis] - 1))),
    "longer": lambda a, rng, heap: heap.place(_resized(a, axis := rng.integers(a.ndim), a.shape[axis] + rng.integers(1, 4))),
    "one number": lambda a, rng, heap: heap.place(_resized(a, rng.integers(a.ndim), 1)),
    "no rows": lambda a, rng, heap: heap.place(_resized(a, rng.integers(a.ndim), 0)),
    "an axis less": lambda a, rng, heap: heap.place(a.sum(axis=rng.integers(a.ndim), dtype=a.dtype)),
    "an axis more": lambda a, rng, heap: heap.place(a[None] if rng.integers(2) else a[..., None]),
    "transposed": lambda a, rng, heap: a.T,
    "flat": lambda a, rng, heap: a.reshape(-1),
    "float64": lambda a, rng, heap: heap.place(a.astype(np.float64)),
    "float16": lambda a, rng, heap: heap.place(a.astype(np.float16)),
    "integers": lambda a, rng, heap: heap.place(a.astype(np.int64)),
    "uint64": lambda a, rng, heap: heap.place(a.astype(np.int64).astype(np.uint64)),
    "booleans": lambda a, rng, heap: heap.place(a.astype(bool)),
    "too large": lambda a, rng, heap: heap.place(_shifted(a, rng.choice([7, 1000, 2**40]))),
    "negative": lambda a, rng, heap: heap.place(_shifted(a, -1000)),
    "spread out": lambda a, rng, heap: _spread(a, heap),
    "backwards": lambda a, rng, heap: heap.place(a[::-1])[::-1],
    "read-only": lambda a, rng, heap: _read_only(a),
    "repeated": lambda a, rng, heap: np.lib.stride_tricks.as_strided(a, a.shape, (0, *a.strides[1:])),
    "a list": lambda a, rng, heap: a.tolist(),
    "none": lambda a, rng, heap: None,
}
NEED_AN_AXIS = ("shorter", "longer", "one number", "no rows", "an axis less", "repeated", "spread out", "backwards")


def _spoil(call: Call, rng: np.random.Generator, heap: Heap) -> None:
    """Change one argument of the call."""
    place = call.places[rng.integers(len(call.places))]
    array = call.get(place)
    others = [call.get(other) for other in call.places if other != place]
    kind = rng.choice([*SPOILS, "another argument", "overlapping", "fewer"])
    if kind == "another argument" and others:
        call.put(place, others[rng.integers(len(others))])
    elif kind == "overlapping" and others:  # both lie in one piece of memory, at a distance of one number
        other_place = next(other for other in call.places if other != place)
        other = call.get(other_place)
        both = heap.place(np.zeros(max(other.nbytes, array.nbytes) + 8, np.uint8))
        for where, old, shift in ((other_place, other, 0), (place, array, 8)):
            new = both[shift : shift + old.nbytes].view(old.dtype).reshape(old.shape)
            new[...] = old
            call.put(where, new)
        for new in (call.get(other_place), call.get(place)):
            if new.dtype.kind == "f":
                new[~np.isfinite(new)] = 0  # of the other's bytes; kernels differ in which infinite numbers they skip
    elif kind == "fewer" and place[1] is not None:
        call.arguments[place[0]] = call.arguments[place[0]][:-1]
    elif place[0] == "key_start" and kind in ("too large", "negative"):
        return  # right, but for backward passes the logsumexp would belong to another mask
    elif kind in SPOILS and (array.ndim or kind not in NEED_AN_AXIS):
        with np.errstate(all="ignore"):
            call.put(place, SPOILS[kind](array, rng, heap))


# ---- What comes of them --------------------------------------------------------------------------------------------------
def _arrays(value: Any) -> Iterator[np.ndarray]:
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(part, (np.ndarray, np.generic)):
            yield np.asarray(part)


def outcome(name: str, number: int, paged: bool) -> Any:
    """(exception, sentence), or a list of all arrays after the call: those returned, and those passed."""
    heap = PagedHeap(np.random.default_rng(number)) if paged else Heap()
    call = build(number, heap)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if call.function == "Decoder.step":
                result = _step(name, **call.arguments)
            else:
                result = getattr(kernels.SETS[name], call.function)(**call.arguments)
    except (TypeError, ValueError, IndexError) as error:
        result = (type(error).__name__, str(error))
    if not heap.intact():
        return ("memory", "wrote outside an array")
    if isinstance(result, tuple) and isinstance(result[0], str):
        return result
    return [*_arrays(result), *(a for value in call.arguments.values() for a in _arrays(value))]


def _step(name: str, x: Any, caches: list, lengths: Any, turn: list) -> Any:
    pairs = [[tuple(caches[i : i + 2])] for i in range(0, len(caches), 2)]
    return _decoder(name).step(x, pairs, lengths, tuple(turn) if turn else None)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool((a == b).all())
    finite = np.abs(b[np.isfinite(b)], dtype=np.float64)
    return np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * max(1e-2, finite.max(initial=0)), equal_nan=True)


def verdict(number: int, paged: bool = False) -> str:
    """ "refused", "agreed", or what is wrong with the answers to call `number`."""
    expected = outcome("reference", number, paged)
    refused = isinstance(expected, tuple)
    if refused and not SENTENCE.match(expected[1]):
        return f"reference: {expected}"
    function = sorted(samples())[number % len(samples())]
    for name in SETS[1:]:
        if name == "emulator" and function in ("Decoder.step", "quantize_rows"):
            continue  # they run on the CPU only
        got = outcome(name, number, paged)
        if isinstance(got, tuple):
            if not (got == expected if refused else FLOAT32_ONLY in got[1]):
                return f"{name}: {got}, reference: {expected if refused else 'a value'}"
        elif refused:
            return f"{name}: a value, reference: {expected}"
        elif len(got) != len(expected) or not all(map(_same, got, expected)):
            return f"{name}: another value"
    return "refused" if refused else "agreed"


def test_a_spoiled_call_is_refused_or_right():
    verdicts = {number: verdict(number) for number in range(420)}
    counts = Counter(verdicts.values())
    wrong = {number: text for number, text in verdicts.items() if text not in ("refused", "agreed")}
    assert not wrong
    assert counts["refused"] > 150 and counts["agreed"] > 80


def test_a_missing_rule_shows(monkeypatch):
    contract = _contract("layernorm_forward")
    monkeypatch.setattr(contract, "arguments", tuple(a for a in contract.arguments if a.name not in ("weight", "bias")))
    monkeypatch.setattr(contract, "fitting", set())
    x, weight = np.random.default_rng(0).random((2, 2, 9), np.float32)  # (2, 9) each
    short = Heap().place(weight[0, :5])  # NaN lies behind it
    with pytest.raises(ValueError, match="broadcast"):
        kernels.SETS["reference"].layernorm_forward(x, short)
    assert np.isnan(kernels.SETS["cpu"].layernorm_forward(x, short)[0]).any()
    monkeypatch.undo()
    for name in SETS:
        with pytest.raises(ValueError, match=r"layernorm_forward: expected weight of shape \(9,\), got \(5,\)"):
            kernels.SETS[name].layernorm_forward(x, short)


@pytest.mark.parametrize("name", SETS)
def test_one_sentence_for_indices(name):
    logits, table = np.zeros((2, 5), np.float32), np.arange(10, dtype=np.float32).reshape(5, 2)
    for wrong in (2**64 - 100, 2**63, 5):
        targets = np.array([0, wrong], np.uint64)
        with pytest.raises(IndexError, match=f"cross_entropy_forward: expected indices in 0…4, got {wrong}$"):
            kernels.SETS[name].cross_entropy_forward(logits, targets)
        with pytest.raises(IndexError, match=f"embedding_forward: expected indices in 0…4, got {wrong}$"):
            kernels.SETS[name].embedding_forward(table, targets)
    assert kernels.SETS[name].embedding_forward(table, np.array(3)).tolist() == [6, 7]
    assert kernels.SETS[name].embedding_backward(table[1], np.array(3), 5)[3].tolist() == [2, 3]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("size", [1e18, 1e19, 1e20, 5e20, 1e21, 1e30, 3e38])
def test_adamw_overflows_where_pytorch_does(name, size):
    torch = pytest.importorskip("torch")
    settings = dict(lr=1e-2, eps=1e-8, weight_decay=0.1)
    parameter = torch.nn.Parameter(torch.ones(40))
    optimizer = torch.optim.AdamW([parameter], betas=(0.9, 0.999), **settings)
    arrays = [np.ones(40, np.float32), np.zeros(40, np.float32), np.zeros(40, np.float32)]
    for step in (1, 2):
        grad = np.full(40, size if step == 1 else 1, np.float32)
        parameter.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        with np.errstate(over="ignore"):
            p, m, v = ([array] for array in arrays)
            kernels.SETS[name].adamw_step(p, [grad], m, v, step=step, beta1=0.9, beta2=0.999, **settings)
    state = optimizer.state[parameter]
    for array, tensor in zip(arrays, (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=2e-5)


# ---- The long form -------------------------------------------------------------------------------------------------------
def _batch(first: int, last: int) -> None:
    """Print a line of JSON for every call, before it and after it."""
    for number in range(first, last):
        print(json.dumps([number, None]), flush=True)
        print(json.dumps([number, verdict(number, paged=True)]), flush=True)


def _run_batch(first: int, last: int) -> Iterator[tuple[int, str]]:
    """(number, verdict) of each call, in processes that continue behind a call that ended one of them."""
    while first < last:
        command = [sys.executable, "-m", __spec__.name, "--batch", str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        yield from ((number, text) for number, text in lines if text is not None)
        first = lines[-1][0] + 1 if lines else last
        if done.returncode < 0:
            yield first - 1, f"signal {-done.returncode}"
        elif done.returncode:
            raise SystemExit(done.stderr)


def main(calls: int) -> None:
    """Make the calls and print the figure; the exit status is 1 if any went wrong."""
    if sys.platform not in ("linux", "darwin"):
        raise SystemExit("test_spoiled_calls: expected Linux or macOS, which can protect pages of memory; run it there")
    counts = Counter[str]()
    for first in range(0, calls, 500):
        for number, text in _run_batch(first, min(calls, first + 500)):
            kind = text if text in ("refused", "agreed") else "signals" if text.startswith("signal ") else "wrong"
            counts[kind] += 1
            if kind in ("wrong", "signals"):
                print(f"call {number}, {build(number, Heap()).function}: {text}", flush=True)
    total = ", ".join(f"{counts[kind]} {text}" for kind, text in KINDS.items())
    print(f"{calls} spoiled calls of {', '.join(SETS)}: {total}")
    raise SystemExit(counts["wrong"] + counts["signals"] > 0)


KINDS = {"refused": "refused", "agreed": "agreed with the reference", "wrong": "wrong values", "signals": "signals"}

if __name__ == "__main__":
    if sys.argv[1] == "--batch":
        _batch(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]))
