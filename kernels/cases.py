"""Every kernel against float64 NumPy: the cases, which the tests and kernels/check.py share, and the comparison.

A case runs as float32 on the device, and as float64 through reference.py. New arrays are filled with NaN first, so an
element that a kernel forgets to write shows in the result.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

import kernels
from kernels import gpu
from kernels.arrays import array_module
from kernels.emulator import memory

# Largest error, relative to the largest number of the exact result. float32 sums round once per term: errors grow like √length.
TOLERANCE = {"fp32": 4e-6, "tf32": 4e-3, "bf16": 3e-2}
OPERATION_OF = {function: operation for operation, functions in kernels.OPERATIONS.items() for function in functions}

Put = Callable[[np.ndarray], Any]  # moves a NumPy array to the device


class Case(NamedTuple):
    """A call of one kernel."""

    operation: str
    function: str
    args: tuple
    kw: dict[str, Any]


class Result(NamedTuple):
    """How far a kernel was off in one case."""

    label: str
    error: float
    tolerance: float


class Draw:
    """Random float32 arrays and sizes."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def about(self, n: int) -> int:
        """A size close to n, where a kernel switches its algorithm."""
        return int(self.rng.integers(max(1, n - 4), n + 5))


def case(function: str, *args, **kw) -> Case:
    return Case(OPERATION_OF[function], function, args, kw)


def cases(rng: np.random.Generator, small: bool = False) -> Iterator[Case]:
    """All cases, with shapes drawn from rng; `small` leaves out the largest."""
    draw = Draw(rng)
    about = draw.about
    lengths = [1, about(6), about(33), 64, about(130), about(512), 772]
    lengths += [about(2060)] if small else [about(4096), about(9000)]
    for C in lengths:
        yield from _rows(draw, C)
    yield from _elements(draw)
    yield from _products(draw, small)
    yield from _attentions(draw, small)
    yield from _blocks(draw, small)


def _rows(draw: Draw, C: int) -> Iterator[Case]:
    """Kernels that work on rows of C numbers."""
    normal, about, rng = draw.normal, draw.about, draw.rng
    rows = (about(5), about(3)) if C < 200 else (about(7),)
    x, dy = normal(*rows, C) * 3, normal(*rows, C)
    yield case("softmax_forward", x)
    yield case("softmax_backward", dy, _exact("softmax_forward", x))
    yield case("log_softmax_forward", x)
    yield case("log_softmax_backward", dy, _exact("log_softmax_forward", x))
    w, b = normal(C), normal(C)
    _, mean, rstd = _exact("layernorm_forward", x)
    yield case("layernorm_forward", x, w, b)
    yield case("layernorm_forward", x, eps=1e-3)
    if C > 3:  # in shorter rows the gradient can be zero, and rstd, up to 1/√eps, magnifies its rounding error
        yield case("layernorm_backward", dy, x, w, mean, rstd)
        yield case("layernorm_backward", dy, x, w, mean, rstd, plus=normal(*rows, C))
        yield case("layernorm_backward", dy, x, None, mean, rstd, plus=normal(*rows, C), needs=(True, False, False))
    yield case("layernorm_backward", dy, x, w, mean, rstd, needs=(False, True, True))
    _, rstd = _exact("rms_norm_forward", x)
    yield case("rms_norm_forward", x, w, eps=1e-6)
    yield case("rms_norm_forward", x)
    if C > 3:
        yield case("rms_norm_backward", dy, x, w, rstd)
        yield case("rms_norm_backward", dy, x, None, rstd, needs=(True, False))
    logits, targets = x.reshape(-1, C), rng.integers(0, C, x.size // C)
    targets[0] = -100
    for smoothing in (0.0, 0.1) if C > 1 else ():
        _, lse = _exact("cross_entropy_forward", logits, targets)
        yield case("cross_entropy_forward", logits, targets, label_smoothing=smoothing)
        dlosses = normal(len(logits))
        yield case("cross_entropy_backward", dlosses, logits, targets, lse, label_smoothing=smoothing)


def _elements(draw: Draw) -> Iterator[Case]:
    """Kernels that work on single numbers, on pairs, or on rows of a table."""
    normal, about, rng = draw.normal, draw.about, draw.rng
    for shape in [(3,), (about(1030),), (about(4), about(60))]:
        for form in ("none", "tanh"):
            yield case("gelu_forward", normal(*shape) * 3, approximate=form)
            yield case("gelu_backward", normal(*shape), normal(*shape) * 3, approximate=form)
        yield case("dropout", normal(*shape), 0.3, int(rng.integers(2**63)))
    ids: tuple[int, ...]
    for V, C, ids in [(7, 5, (3, 4)), (5, 33, (70,)), (300, about(130), (2, 50)), (9, 4, (0,))]:
        indices = rng.integers(0, V, ids)
        yield case("embedding_forward", normal(V, C), indices)
        yield case("embedding_backward", normal(*ids, C), indices, V)
    yield case("global_norm", [normal(3), normal(about(5000)), normal(4, 64)])
    yield case("square_sums", [normal(3), normal(70_000), normal(4, 64), normal(0)])
    for B, H, T, half in [(1, 1, 1, 1), (2, 3, about(9), 16), (1, 2, about(70), about(20))]:
        x, angles = normal(B, T, H, 2 * half).swapaxes(1, 2), normal(T, half) * 3
        for inverse in (False, True):
            yield case("rotary", x, np.cos(angles), np.sin(angles), inverse=inverse)
        yield case("swiglu_forward", normal(B, T, 2 * half) * 3)
        yield case("swiglu_backward", normal(B, T, half), normal(B, T, 2 * half) * 3)


def _products(draw: Draw, small: bool) -> Iterator[Case]:
    normal, about = draw.normal, draw.about
    sizes = [(1, 70, 33), (about(6), about(7), about(5)), (about(130), about(66), about(257)), (128, 132, 64)]
    sizes += [(100, 96, 4 * about(200))]  # few results and a long sum: the blocks share the sum
    if not small:
        sizes += [(about(300), about(400), about(2100)), (65, 1000, about(700))]
    for M, N, K in sizes:
        for ta in (False, True):
            for tb in (False, True):
                a, b = normal(*((K, M) if ta else (M, K))), normal(*((N, K) if tb else (K, N)))
                yield case("matmul", a, b, transpose_a=ta, transpose_b=tb)
        x, w, dy = normal(M, K), normal(N, K), normal(M, N)
        for activation in (None, "gelu", "gelu_tanh"):
            yield case("linear_forward", x, w, normal(N), activation=activation)
            z = None if activation is None else normal(M, N)
            yield case("linear_backward", dy, x, w, z, activation=activation)
    yield case("matmul", normal(3, 2, 5, 7), normal(2, 7, 4))
    yield case("matmul", normal(3, 2, 5, 7), normal(7, 4), bias=normal(4), activation="gelu")
    yield case("matmul", normal(7, 5).T, normal(9, 7)[::2].T)
    yield case("matmul_backward", normal(3, 2, 5, 4), normal(3, 2, 5, 7), normal(2, 7, 4))
    yield case("matmul_backward", normal(3, 5, 4), normal(3, 5, 7), normal(7, 4))


def _attentions(draw: Draw, small: bool) -> Iterator[Case]:
    normal, about = draw.normal, draw.about
    shapes = [(1, 2, 5, 5, 3), (2, 2, about(70), about(70), 16), (1, 2, 130, 130, 64), (2, 1, 3, 90, 33), (1, 2, 20, 85, 80)]
    if not small:
        shapes += [(2, 3, about(200), about(200), 64), (1, 1, about(90), about(90), 128)]
    for B, H, T, S, D in shapes:
        q, k, v, dout = normal(B, T, H, D).swapaxes(1, 2), normal(B, H, S, D), normal(B, H, S, D), normal(B, H, T, D)
        for offset, start in [(None, None), (0, None), (S - T, draw.rng.integers(0, S // 2 + 1, B))]:
            kw = {"causal_offset": offset, "key_start": start}
            y, lse = _exact("attention_forward", q, k, v, **kw)
            yield case("attention_forward", q, k, v, **kw)
            yield case("attention_backward", dout, q, k, v, y, lse, **kw)


def _blocks(draw: Draw, small: bool) -> Iterator[Case]:
    normal, about = draw.normal, draw.about
    # Widths at which no norm magnifies rounding. With a cache, up to eight rows take other kernels than more rows.
    shapes = [(5, 1, 3, 4), (12, 1, 3, 4), (9, 3, 2, 5), (3, about(5), 3, 4), (2, about(33), 2, 9)]
    if not small:
        shapes += [(5, about(130), 4, 24), (17, 40, 1, 8), (2, 300, 2, 8)]
    for B, T, H, D in shapes:
        C = H * D
        matrices = [
            (normal(O, I) / np.float32(math.sqrt(I)), normal(O)) for O, I in ((3 * C, C), (C, C), (4 * C, C), (C, 4 * C))
        ]
        norms = [(normal(C) + 1, normal(C)) for _ in range(2)]
        parameters = (*norms[0], *matrices[0], *matrices[1], *norms[1], *matrices[2], *matrices[3])
        x, dy = normal(B, T, C), normal(B, T, C)
        _, saved = _exact("block_forward", x, parameters, n_head=H)
        yield case("block_forward", x, parameters, n_head=H)
        for seen, start in ((0, None), (about(9), draw.rng.integers(0, 4, B))):
            cache = normal(B, H, seen + T + 3, D), normal(B, H, seen + T + 3, D)
            yield case("block_with_cache", x, parameters, *cache, n_head=H, seen=seen, key_start=start)
        yield case("block_backward", dy, x, parameters, saved, n_head=H)


def reference(function: str) -> Callable:
    """The specification: the function in its operation's reference.py."""
    return getattr(kernels.SETS["reference"], function)


def _exact(function: str, *args, **kw):
    """The reference's results in float32, as a forward pass saves them for its backward pass."""
    results = reference(function)(*double(args), **kw)
    return moved(results, lambda result: result.astype(np.float32))


def moved(value: Any, put: Put) -> Any:
    """The same structure with put(array) in place of every array; a named tuple becomes a plain one."""
    if isinstance(value, dict):
        return {name: moved(v, put) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(moved(v, put) for v in value) if isinstance(value, tuple) else [moved(v, put) for v in value]
    return put(value) if isinstance(value, np.ndarray) else value


def double(value: Any) -> Any:
    """The same structure with every float32 array converted to float64."""
    return moved(value, lambda array: array.astype(np.float64) if array.dtype == np.float32 else array)


def on_host(array: Any) -> np.ndarray:
    """An array of any device as a float64 NumPy array."""
    return np.asarray(array if array_module(array) is np else array.get(), np.float64)


def error(result: Any, exact: Any) -> float:
    """The largest difference, relative to the largest finite number of `exact`; infinite if NaN or infinity is misplaced."""
    if exact is None:
        return 0.0 if result is None else math.inf
    if isinstance(exact, tuple):
        return max(map(error, result, exact)) if len(result) == len(exact) else math.inf
    result, exact = on_host(result), np.asarray(exact, np.float64)
    finite = np.isfinite(exact)
    if result.shape != exact.shape or not np.array_equal(result[~finite], exact[~finite]):
        return math.inf
    if not np.isfinite(result[finite]).all():
        return math.inf
    return float(np.abs(result[finite] - exact[finite]).max(initial=0) / max(np.abs(exact[finite]).max(initial=0), 1e-6))


def describe(function: str, args: tuple, kw: dict) -> str:
    """The call in short: "softmax_forward([3, 4])"."""

    def short(value):
        if isinstance(value, np.ndarray):
            return str(list(value.shape))
        return "(...)" if isinstance(value, (tuple, list)) else repr(value)

    named = [f"{name}={short(value)}" for name, value in kw.items() if value is not None]
    return f"{function}({', '.join([*map(short, args), *named])})"


def run(kernel_set: kernels.KernelSet, put: Put, case: Case) -> Any:
    """The result of the case's kernel, on arrays that `put` moves to the device."""
    return getattr(kernel_set, case.function)(*moved(case.args, put), **moved(case.kw, put))


def covering(kernel_set: kernels.KernelSet, put: Put, seed: int, times: int = 2) -> list[int]:
    """The numbers of a few small cases that together launch every kernel, if possible `times` times; for slow tools."""
    launches, numbers = Counter[tuple[str, str]](), set()
    for precision in gpu.PRECISIONS:
        gpu.set_matmul_precision(precision)
        for i, case in enumerate(cases(np.random.default_rng(seed), small=True)):
            if not _concerns(precision, case):
                continue
            with memory.counting() as traffic:
                run(kernel_set, put, case)
            compiled = precision if case.operation == "attention" else ""  # attention compiles each kernel once per precision
            launched_kernels = {(kernel, compiled) for kernel in traffic.launches}
            if any(launches[kernel] < times for kernel in launched_kernels):
                launches.update(launched_kernels)
                numbers.add(i)
    gpu.set_matmul_precision("fp32")
    return sorted(numbers)


def _concerns(precision: str, case: Case) -> bool:
    """Whether to run the case in this precision of matrix products.

    Attention rounds to TF32 in "bf16" too, so "tf32" covers both. It is compiled for each head width, and two widths suffice.
    """
    if case.operation == "attention":
        return precision == "fp32" or precision == "tf32" and case.args[0].shape[-1] in (16, 64)
    return precision == "fp32" or case.operation == "matmul"


def check_cases(
    kernel_set: kernels.KernelSet,
    put: Put,
    rng: np.random.Generator,
    small: bool = False,
    precision: str = "fp32",
    only: Collection[int] | None = None,
) -> Iterator[Result]:
    """Compare every case with float64.

    Args:
        kernel_set: the kernels to check.
        put: moves a NumPy array to their device.
        rng: draws the shapes and numbers.
        small: leave out the largest shapes.
        precision: the precision of matrix products that the caller has set.
        only: numbers of the cases to run; all if None.
    """
    for i, case in enumerate(cases(rng, small)):
        if not _concerns(precision, case) or only is not None and i not in only:
            continue
        exact = reference(case.function)(*double(case.args), **double(case.kw))
        longest = max((max(a.shape, default=1) for a in case.args if isinstance(a, np.ndarray)), default=1)
        tolerance = TOLERANCE[precision] * max(1.0, math.sqrt(longest / 64))
        if precision != "fp32" and case.operation == "attention":
            tolerance *= 2  # products of rounded products
        yield Result(describe(case.function, case.args, case.kw), error(run(kernel_set, put, case), exact), tolerance)
    if precision == "fp32":
        yield from _in_place(kernel_set, put, Draw(rng))


def _in_place(kernel_set: kernels.KernelSet, put: Put, draw: Draw) -> Iterator[Result]:
    """Kernels that update their arguments, or write or add to buffers."""
    exact_set, normal = kernels.SETS["reference"], draw.normal
    lists = [[normal(3), normal(1027), normal(4, 64)] for _ in range(4)]
    lists[3] = [v * v for v in lists[3]]
    exact_lists, device_lists = double(lists), moved(lists, lambda array: put(array.copy()))
    kw = dict(step=3, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_scale=0.7)
    for each_set, arrays in ((kernel_set, device_lists), (exact_set, exact_lists)):
        each_set.adamw_step(*arrays, **kw)
        each_set.scale_arrays(arrays[0], 0.3)
    worst = max(error(tuple(d), tuple(e)) for d, e in zip(device_lists, exact_lists))
    yield Result("adamw_step and scale_arrays", worst, TOLERANCE["fp32"])

    a, b, c = normal(50, 70), normal(70, 30), normal(50, 30)
    out = put(c.copy())
    same = kernel_set.matmul(put(a), put(b), out=out, accumulate=True) is out
    worst = error(out, c + double(a) @ b) if same else math.inf
    yield Result("matmul into a buffer, accumulating", worst, 2 * TOLERANCE["fp32"])

    x, dy, w = normal(9, 33), normal(9, 33), normal(33)
    _, mean, rstd = _exact("layernorm_forward", x)
    buffers = tuple(put(normal(*shape)) for shape in ((9, 33), (33,), (33,)))
    before = [on_host(buffer) for buffer in buffers]
    results = kernel_set.layernorm_backward(*moved((dy, x, w, mean, rstd), put), out=buffers, accumulate=True)
    dx, dw, db = exact_set.layernorm_backward(*double((dy, x, w, mean, rstd)))
    same = all(result is buffer for result, buffer in zip(results, buffers))
    worst = error(results, (dx, dw + before[1], db + before[2])) if same else math.inf
    yield Result("layernorm_backward into buffers, accumulating", worst, 2 * TOLERANCE["fp32"])


def check_gradients(kernel_set: kernels.KernelSet, put: Put, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """Compare backward kernels with differences of their forward kernels, on the device, in float32. Yields (name, error).

    Along one random direction u:  Σ dx u  against  (L(x + h u) − L(x − h u)) / 2h  with  L = Σ dy f(x)  summed in float64. In
    float32 the difference itself is good to about 1e-3; a wrong formula is wrong by far more.
    """

    def normal(*shape):
        return put(rng.standard_normal(shape).astype(np.float32))

    targets, w, b = put(rng.integers(0, 40, 12)), normal(40), normal(40)
    rows, *qkv = normal(12, 40), normal(2, 2, 20, 16), normal(2, 2, 20, 16), normal(2, 2, 20, 16)
    s = kernel_set
    # name: a forward pass that returns y and the saved arrays, and the backward pass from dy, x, y and the saved arrays
    checks: dict[str, tuple[Callable, Callable]] = {
        "softmax": (lambda x: [s.softmax_forward(x)], lambda dy, x, y: s.softmax_backward(dy, y)),
        "log_softmax": (lambda x: [s.log_softmax_forward(x)], lambda dy, x, y: s.log_softmax_backward(dy, y)),
        "layernorm": (
            lambda x: s.layernorm_forward(x, w, b),
            lambda dy, x, y, mean, rstd: s.layernorm_backward(dy, x, w, mean, rstd)[0],
        ),
        "cross_entropy": (
            lambda x: s.cross_entropy_forward(x, targets),
            lambda dy, x, losses, lse: s.cross_entropy_backward(dy, x, targets, lse),
        ),
        "rms_norm": (lambda x: s.rms_norm_forward(x, w), lambda dy, x, y, rstd: s.rms_norm_backward(dy, x, w, rstd)[0]),
        "swiglu": (lambda x: [s.swiglu_forward(x)], lambda dy, x, y: s.swiglu_backward(dy, x)),
        "gelu": (lambda x: [s.gelu_forward(x)], lambda dy, x, y: s.gelu_backward(dy, x)),
        "matmul": (
            lambda x: [s.matmul(x, rows, transpose_b=True)],
            lambda dy, x, y: s.matmul_backward(dy, x, rows, transpose_b=True, needs=(True, False))[0],
        ),
    }
    points = dict.fromkeys(checks, rows)
    for i, name in enumerate(["attention, q", "attention, k", "attention, v"]):
        points[name] = qkv[i]
        checks[name] = (
            lambda x, i=i: s.attention_forward(*qkv[:i], x, *qkv[i + 1 :], causal_offset=0),
            lambda dy, x, *saved, i=i: s.attention_backward(dy, *qkv[:i], x, *qkv[i + 1 :], *saved, causal_offset=0)[i],
        )
    h = np.float32(1e-2)
    for name, (forward, backward) in checks.items():
        x = points[name]
        y, *saved = forward(x)
        dy, u = normal(*y.shape), normal(*x.shape)
        numeric = float(((forward(x + h * u)[0] - forward(x - h * u)[0]).astype(np.float64) * dy).sum()) / (2 * float(h))
        products = backward(dy, x, y, *saved).astype(np.float64) * u
        size = float(np.sqrt(float((products * products).sum())))  # the sum's size if the signs of its terms were random
        yield name, abs(numeric - float(products.sum())) / max(size, 1e-6)
