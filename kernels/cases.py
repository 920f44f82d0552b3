"""Every kernel against float64 NumPy: the cases, which the tests share, and the comparison.

A case is (operation, function, arguments, keyword arguments). It runs as float32 on the device and as float64 through
reference.py; new arrays are filled with NaN first, so that what a kernel forgets to write shows.
"""

import math
from collections import Counter
from importlib import import_module

import numpy as np

from kernels import gpu
from kernels.arrays import array_module
from kernels.emulator import memory

# Largest difference, over the largest number of the exact result. Sums of float32 round once a term: errors grow like √length.
TOLERANCE = {"fp32": 4e-6, "tf32": 4e-3, "bf16": 3e-2}


def cases(rng, small=False):
    """Yields the cases, with shapes drawn from rng: row lengths around the places where kernels change their way of working."""

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def about(n):
        return int(rng.integers(max(1, n - 4), n + 5))

    lengths = [1, about(6), about(33), 64, about(130), about(512), 772]
    lengths += [about(2060)] if small else [about(4096), about(9000)]
    for C in lengths:
        rows = (about(5), about(3)) if C < 200 else (about(7),)
        x, dy = normal(*rows, C) * 3, normal(*rows, C)
        y = _exact("softmax", "softmax_forward", x)
        yield "softmax", "softmax_forward", (x,), {}
        yield "softmax", "softmax_backward", (dy, y), {}
        yield "softmax", "log_softmax_forward", (x,), {}
        yield "softmax", "log_softmax_backward", (dy, _exact("softmax", "log_softmax_forward", x)), {}
        w, b = normal(C), normal(C)
        _, mean, rstd = _exact("layernorm", "layernorm_forward", x)
        yield "layernorm", "layernorm_forward", (x, w, b), {}
        yield "layernorm", "layernorm_forward", (x,), {"eps": 1e-3}
        if C > 3:  # a row of one or two numbers has no slope: 300 times what rounding leaves of zero
            yield "layernorm", "layernorm_backward", (dy, x, w, mean, rstd), {}
            yield "layernorm", "layernorm_backward", (dy, x, w, mean, rstd), {"plus": normal(*rows, C)}
            without = {"plus": normal(*rows, C), "needs": (True, False, False)}
            yield "layernorm", "layernorm_backward", (dy, x, None, mean, rstd), without
        yield "layernorm", "layernorm_backward", (dy, x, w, mean, rstd), {"needs": (False, True, True)}
        _, rstd = _exact("rms_norm", "rms_norm_forward", x)
        yield "rms_norm", "rms_norm_forward", (x, w), {"eps": 1e-6}
        yield "rms_norm", "rms_norm_forward", (x,), {}
        if C > 3:
            yield "rms_norm", "rms_norm_backward", (dy, x, w, rstd), {}
            yield "rms_norm", "rms_norm_backward", (dy, x, None, rstd), {"needs": (True, False)}
        logits, targets = x.reshape(-1, C), rng.integers(0, C, x.size // C)
        targets[0] = -100
        for smoothing in (0.0, 0.1) if C > 1 else ():
            _, lse = _exact("cross_entropy", "cross_entropy_forward", logits, targets)
            kw = {"label_smoothing": smoothing}
            yield "cross_entropy", "cross_entropy_forward", (logits, targets), kw
            yield "cross_entropy", "cross_entropy_backward", (normal(len(logits)), logits, targets, lse), kw
    for shape in [(3,), (about(1030),), (about(4), about(60))]:
        for form in ("none", "tanh"):
            yield "gelu", "gelu_forward", (normal(*shape) * 3,), {"approximate": form}
            yield "gelu", "gelu_backward", (normal(*shape), normal(*shape) * 3), {"approximate": form}
        yield "dropout", "dropout", (normal(*shape), 0.3, int(rng.integers(2**63))), {}
    for V, C, shape in [(7, 5, (3, 4)), (5, 33, (70,)), (300, about(130), (2, 50)), (9, 4, (0,))]:
        ids = rng.integers(0, V, shape)
        yield "embedding", "embedding_forward", (normal(V, C), ids), {}
        yield "embedding", "embedding_backward", (normal(*shape, C), ids, V), {}
    yield "adamw", "global_norm", ([normal(3), normal(about(5000)), normal(4, 64)],), {}
    for B, H, T, half in [(1, 1, 1, 1), (2, 3, about(9), 16), (1, 2, about(70), about(20))]:
        x, angles = normal(B, T, H, 2 * half).swapaxes(1, 2), normal(T, half) * 3
        for inverse in (False, True):
            yield "rotary", "rotary", (x, np.cos(angles), np.sin(angles)), {"inverse": inverse}
        yield "swiglu", "swiglu_forward", (normal(B, T, 2 * half) * 3,), {}
        yield "swiglu", "swiglu_backward", (normal(B, T, half), normal(B, T, 2 * half) * 3), {}
    yield from _products(normal, about, small)
    yield from _attentions(normal, about, rng, small)


def _products(normal, about, small):
    sizes = [(1, 70, 33), (about(6), about(7), about(5)), (about(130), about(66), about(257)), (128, 132, 64)]
    sizes += [(100, 96, 4 * about(200))]  # few results and a long sum: the sum is shared among blocks
    if not small:
        sizes += [(about(300), about(400), about(2100)), (65, 1000, about(700))]
    for M, N, K in sizes:
        for ta in (False, True):
            for tb in (False, True):
                a, b = normal(*((K, M) if ta else (M, K))), normal(*((N, K) if tb else (K, N)))
                yield "matmul", "matmul", (a, b), {"transpose_a": ta, "transpose_b": tb}
        x, w, dy = normal(M, K), normal(N, K), normal(M, N)
        for act in (None, "gelu", "gelu_tanh"):
            yield "matmul", "linear_forward", (x, w, normal(N)), {"activation": act}
            z = None if act is None else normal(M, N)
            yield "matmul", "linear_backward", (dy, x, w, z), {"activation": act}
    yield "matmul", "matmul", (normal(3, 2, 5, 7), normal(2, 7, 4)), {}
    yield "matmul", "matmul", (normal(3, 2, 5, 7), normal(7, 4)), {"bias": normal(4), "activation": "gelu"}
    yield "matmul", "matmul", (normal(7, 5).T, normal(9, 7)[::2].T), {}
    yield "matmul", "matmul_backward", (normal(3, 2, 5, 4), normal(3, 2, 5, 7), normal(2, 7, 4)), {}
    yield "matmul", "matmul_backward", (normal(3, 5, 4), normal(3, 5, 7), normal(7, 4)), {}


def _attentions(normal, about, rng, small):
    shapes = [
        (1, 2, 5, 5, 3),
        (2, 2, about(70), about(70), 16),
        (1, 2, 130, 130, 64),
        (2, 1, 3, 90, 33),
        (1, 2, 20, 85, 80),
    ]
    if not small:
        shapes += [(2, 3, about(200), about(200), 64), (1, 1, about(90), about(90), 128)]
    for B, H, T, S, D in shapes:
        q, k, v, dout = normal(B, T, H, D).swapaxes(1, 2), normal(B, H, S, D), normal(B, H, S, D), normal(B, H, T, D)
        for offset, start in [(None, None), (0, None), (S - T, rng.integers(0, S // 2 + 1, B))]:
            kw = {"causal_offset": offset, "key_start": start}
            y, lse = _exact("attention", "attention_forward", q, k, v, **kw)
            yield "attention", "attention_forward", (q, k, v), kw
            yield "attention", "attention_backward", (dout, q, k, v, y, lse), kw


def _exact(operation, function, *args, **kw):
    """reference.py on float32 arguments, rounded to float32: what a forward pass would have saved for its backward."""
    results = reference(operation, function)(*double(args), **kw)
    round_off = [r.astype(np.float32) for r in (results if isinstance(results, tuple) else (results,))]
    return tuple(round_off) if isinstance(results, tuple) else round_off[0]


def reference(operation, function):
    return getattr(import_module(f"kernels.{operation}.reference"), function)


def double(value):
    """The same structure with every float32 array as float64."""
    if isinstance(value, (tuple, list)):
        return type(value)(double(v) for v in value)
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def moved(value, put):
    """The same structure with put(array) for every array."""
    if isinstance(value, (tuple, list)):
        return type(value)(moved(v, put) for v in value)
    return put(value) if isinstance(value, np.ndarray) else value


def error(got, want):
    """The largest difference over the largest finite number wanted; NaN or infinity in the wrong place is infinitely wrong."""
    if want is None:
        return 0.0 if got is None else math.inf
    if isinstance(want, tuple):
        return max(error(g, w) for g, w in zip(got, want, strict=True)) if len(got) == len(want) else math.inf
    got = np.asarray(got if array_module(got) is np else got.get(), np.float64)
    want = np.asarray(want, np.float64)
    finite = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(got[~finite], want[~finite]) or not np.isfinite(got[finite]).all():
        return math.inf
    return float(np.abs(got[finite] - want[finite]).max(initial=0) / max(np.abs(want[finite]).max(initial=0), 1e-6))


def describe(function, args, kw):
    def short(v):
        return str(list(v.shape)) if isinstance(v, np.ndarray) else "(...)" if isinstance(v, (tuple, list)) else repr(v)

    given = [short(a) for a in args] + [f"{k}={short(v)}" for k, v in kw.items() if v is not None]
    return f"{function}({', '.join(given)})"


def covering(served, put, seed, times=2):
    """Numbers of small cases that launch every kernel, each kernel in `times` of them where it can be: for slow tools."""
    often, chosen = Counter(), set()
    for precision in gpu.PRECISIONS:
        gpu.set_matmul_precision(precision)
        for i, (operation, function, args, kw) in enumerate(cases(np.random.default_rng(seed), small=True)):
            if not _concerns(precision, operation, args):
                continue
            with memory.counting() as traffic:
                getattr(served, function)(*moved(args, put), **{k: moved(v, put) for k, v in kw.items()})
            compiled = precision if operation == "attention" else ""  # the same names, other kernels
            launched = {(kernel, compiled) for kernel in traffic.launches}
            if any(often[kernel] < times for kernel in launched):
                often.update(launched)
                chosen.add(i)
    gpu.set_matmul_precision("fp32")
    return sorted(chosen)


def _concerns(precision, operation, args):
    """Whether this precision of matrix products changes what the case computes. Attention is compiled anew for each width of a
    head, and its "bf16" is its "tf32": two widths are enough."""
    if operation == "attention":
        return precision == "fp32" or precision == "tf32" and args[0].shape[-1] in (16, 64)
    return precision == "fp32" or operation == "matmul"


def check_cases(served, put, rng, small=False, precision="fp32", only=None):
    """Yields (description, error, tolerance) for every case, run through the kernel set `served` on arrays put(array).

    only: the numbers of the cases to run, all of them where None."""
    for i, (operation, function, args, kw) in enumerate(cases(rng, small)):
        if not _concerns(precision, operation, args) or only is not None and i not in only:
            continue
        want = reference(operation, function)(*double(args), **double_values(kw))
        got = getattr(served, function)(*moved(args, put), **{k: moved(v, put) for k, v in kw.items()})
        # A few cancelling sums (gradients of rows of one element, of nearly equal terms) are compared to nothing but zero.
        twice = 2 if precision != "fp32" and operation == "attention" else 1  # products of rounded products
        yield describe(function, args, kw), error(got, want), twice * TOLERANCE[precision] * _length_factor(args)
    if precision == "fp32":
        yield from _in_place(served, put, rng)


def double_values(kw):
    return {k: double(v) for k, v in kw.items()}


def _length_factor(args):
    longest = max((max(a.shape, default=1) for a in args if isinstance(a, np.ndarray)), default=1)
    return max(1.0, math.sqrt(longest / 64))


def _in_place(served, put, rng):
    """AdamW and scaling write to their arguments; buffers that are given are written to or added to."""
    shapes = [(3,), (1027,), (4, 64)]
    lists = [[rng.standard_normal(s).astype(np.float32) for s in shapes] for _ in range(4)]
    lists[3] = [v * v for v in lists[3]]
    exact = [double(list(x)) for x in lists]
    device = [moved(list(x), lambda a: put(a.copy())) for x in lists]
    kw = dict(step=3, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_scale=0.7)
    served.adamw_step(*device, **kw)
    reference("adamw", "adamw_step")(*exact, **kw)
    served.scale_arrays(device[0], 0.3)
    reference("adamw", "scale_arrays")(exact[0], 0.3)
    yield (
        "adamw_step and scale_arrays",
        max(error(tuple(d), tuple(e)) for d, e in zip(device, exact)),
        TOLERANCE["fp32"],
    )

    a, b, c = (rng.standard_normal(s).astype(np.float32) for s in ((50, 70), (70, 30), (50, 30)))
    out = put(c.copy())
    same = served.matmul(put(a), put(b), out=out, accumulate=True) is out
    yield (
        "matmul into a buffer, accumulating",
        error(out, c + double(a) @ b) if same else math.inf,
        2 * TOLERANCE["fp32"],
    )

    x, dy, w = (rng.standard_normal(s).astype(np.float32) for s in ((9, 33), (9, 33), (33,)))
    _, mean, rstd = _exact("layernorm", "layernorm_forward", x)
    buffers = tuple(put(rng.standard_normal(s).astype(np.float32)) for s in ((9, 33), (33,), (33,)))
    before = [np.asarray(g if array_module(g) is np else g.get(), np.float64) for g in buffers]
    got = served.layernorm_backward(*moved((dy, x, w, mean, rstd), put), out=buffers, accumulate=True)
    want = reference("layernorm", "layernorm_backward")(*double((dy, x, w, mean, rstd)))
    want = (want[0], want[1] + before[1], want[2] + before[2])
    same = all(g is o for g, o in zip(got, buffers))
    yield "layernorm_backward into buffers, accumulating", error(got, want) if same else math.inf, 2 * TOLERANCE["fp32"]


def check_gradients(served, put, rng):
    """Yields (function, error): each backward kernel against differences of its forward kernel, on the device, in float32.

    Along one random direction u:  Σ dx u  against  (L(x + h u) − L(x − h u)) / 2h  with  L = Σ dy f(x)  summed in float64. The
    difference itself is good to about 1e-3 in float32; a wrong formula is wrong by far more.
    """

    def normal(*shape):
        return put(rng.standard_normal(shape).astype(np.float32))

    targets, w, b = put(rng.integers(0, 40, 12)), normal(40), normal(40)
    rows, q, k, v = normal(12, 40), normal(2, 2, 20, 16), normal(2, 2, 20, 16), normal(2, 2, 20, 16)
    kw = {"causal_offset": 0}
    pairs = {
        "softmax": (rows, lambda x: served.softmax_forward(x), lambda dy, x, y: served.softmax_backward(dy, y)),
        "log_softmax": (
            rows,
            lambda x: served.log_softmax_forward(x),
            lambda dy, x, y: served.log_softmax_backward(dy, y),
        ),
        "layernorm": (
            rows,
            lambda x: served.layernorm_forward(x, w, b)[0],
            lambda dy, x, y: served.layernorm_backward(dy, x, w, *served.layernorm_forward(x, w, b)[1:])[0],
        ),
        "cross_entropy": (
            rows,
            lambda x: served.cross_entropy_forward(x, targets)[0],
            lambda dy, x, y: served.cross_entropy_backward(dy, x, targets, served.cross_entropy_forward(x, targets)[1]),
        ),
        "rms_norm": (
            rows,
            lambda x: served.rms_norm_forward(x, w)[0],
            lambda dy, x, y: served.rms_norm_backward(dy, x, w, served.rms_norm_forward(x, w)[1])[0],
        ),
        "swiglu": (rows, lambda x: served.swiglu_forward(x), lambda dy, x, y: served.swiglu_backward(dy, x)),
        "gelu": (rows, lambda x: served.gelu_forward(x), lambda dy, x, y: served.gelu_backward(dy, x)),
        "matmul": (
            rows,
            lambda x: served.matmul(x, rows, transpose_b=True),
            lambda dy, x, y: served.matmul_backward(dy, x, rows, transpose_b=True, needs=(True, False))[0],
        ),
    }
    for i, name in enumerate("qkv"):

        def forward(x, i=i):
            return served.attention_forward(*[x if j == i else a for j, a in enumerate((q, k, v))], **kw)

        def backward(dy, x, y, i=i, forward=forward):
            operands = [x if j == i else a for j, a in enumerate((q, k, v))]
            return served.attention_backward(dy, *operands, *forward(x), **kw)[i]

        pairs[f"attention, {name}"] = ((q, k, v)[i], lambda x, forward=forward: forward(x)[0], backward)
    h = np.float32(1e-2)
    for name, (x, forward, backward) in pairs.items():
        y = forward(x)
        dy, u = normal(*y.shape), normal(*x.shape)
        numeric = float(((forward(x + h * u) - forward(x - h * u)).astype(np.float64) * dy).sum()) / (2 * float(h))
        products = backward(dy, x, y).astype(np.float64) * u
        size = float(np.sqrt(float((products * products).sum())))  # what the sum would be if its terms' signs were chance
        yield name, abs(numeric - float(products.sum())) / max(size, 1e-6)
