"""How fast the kernels are: times by the GPU's own clock, each beside what it could at best be.

Arithmetic (matmul, attention) is given in TFLOP/s beside cuBLAS, or PyTorch, on the same card; everything else in GB/s,
counting each input read once and each output written once, beside a plain copy. Data are random: zeros are faster than
anything real.
"""

import time

import numpy as np

from kernels.adamw import cuda as adamw
from kernels.attention import cuda as attention
from kernels.cross_entropy import cuda as cross_entropy
from kernels.gelu import cuda as gelu
from kernels.layernorm import cuda as layernorm
from kernels.matmul import cuda as matmul
from kernels.softmax import cuda as softmax


def milliseconds(xp, call, repeats=10):
    """The median time of a call; under the emulator, of a single one, by the wall clock."""
    if xp is np:
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3
    for _ in range(2):
        call()
    marks = [xp.cuda.Event() for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return float(np.median([xp.cuda.get_elapsed_time(a, b) for a, b in zip(marks, marks[1:])]))


def normal(xp, *shape):
    if xp is np:
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return xp.random.default_rng(0).standard_normal(shape, dtype=xp.float32)


def torch_on_gpu():
    """PyTorch, where it is installed with a GPU, else None: it stands beside, nothing here needs it."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


def matmul_table(xp, sizes):
    """Yields (label, {"ms", "tflops"}) for each rung of the ladder, and for cuBLAS."""
    for n in sizes:
        yield from _products(xp, n)


def _products(xp, n):
    a, b = normal(xp, n, n), normal(xp, n, n)
    c = xp.empty_like(a)
    calls = {f"our {rung}": lambda rung=rung: matmul.matmul_rung(rung, a, b) for rung in matmul.LADDER}
    calls |= {f"our {kernel}": lambda kernel=kernel: matmul.matmul(a, b, out=c, kernel=kernel) for kernel in matmul.TILES}
    calls["our matmul_fp32, x W^T"] = lambda: matmul.matmul(a, b, out=c, kernel="matmul_fp32", transpose_b=True)
    calls["our matmul_fp32, dy^T x"] = lambda: matmul.matmul(a, b, out=c, kernel="matmul_fp32", transpose_a=True)
    calls["our matmul_tf32, x W^T"] = lambda: matmul.matmul(a, b, out=c, kernel="matmul_tf32", transpose_b=True)
    calls["our matmul_tf32, dy^T x"] = lambda: matmul.matmul(a, b, out=c, kernel="matmul_tf32", transpose_a=True)
    if xp is not np:
        calls["cuBLAS fp32"] = lambda: xp.matmul(a, b, out=c)
        calls |= _torch_products(n)
    for label, call in calls.items():
        slow = label in ("our matmul_naive", "our matmul_coalesced")
        ms = milliseconds(xp, call, 3 if slow else 10)
        yield f"{label}, {n}", {"ms": ms, "tflops": 2 * n**3 / ms / 1e9}


def _torch_products(n):
    torch = torch_on_gpu()
    if torch is None:
        return {}
    x, y = (torch.randn(n, n, device="cuda") for _ in range(2))
    h, g = x.bfloat16(), y.bfloat16()

    def tf32():
        torch.backends.cuda.matmul.allow_tf32 = True
        x @ y
        torch.backends.cuda.matmul.allow_tf32 = False

    stream = _torch_stream(torch)
    return {
        "cuBLAS fp32 (PyTorch)": stream(lambda: x @ y),
        "cuBLAS tf32 (PyTorch)": stream(tf32),
        "cuBLAS bf16, bf16 arrays (PyTorch)": stream(lambda: h @ g),
    }


def _torch_stream(torch):
    """CuPy's clock must see PyTorch's work: both run on the default stream."""
    default = torch.cuda.default_stream()

    def wrap(call):
        def run():
            with torch.cuda.stream(default):
                call()

        return run

    return wrap


def attention_table(xp, shapes):
    """Yields (label, {"ms", "tflops"}) of causal attention, forward and backward."""
    for shape in shapes:
        yield from _attention(xp, *shape)


def _attention(xp, B, H, T, D):
    qkv = normal(xp, B, T, 3, H, D)
    q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))  # as the engine's one projection leaves them
    dout = normal(xp, B, H, T, D)
    y, lse = attention.attention_forward(q, k, v, causal_offset=0)
    flops = 4 * B * H * T * T * D / 2  # two products, half of each hidden by the mask
    calls = {
        "our attention forward": (1, lambda: attention.attention_forward(q, k, v, causal_offset=0)),
        "our attention backward": (2.5, lambda: attention.attention_backward(dout, q, k, v, y, lse, causal_offset=0)),
    }
    if xp is not np:
        calls |= _torch_attention(B, H, T, D)
    for label, (factor, call) in calls.items():
        ms = milliseconds(xp, call)
        yield f"{label}, {B}x{H}x{T}x{D}", {"ms": ms, "tflops": factor * flops / ms / 1e9}


def _torch_attention(B, H, T, D):
    torch = torch_on_gpu()
    if torch is None:
        return {}
    q, k, v = (torch.randn(B, H, T, D, device="cuda", requires_grad=True) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    y, stream = attend(q, k, v, is_causal=True), _torch_stream(torch)
    dout = torch.randn_like(y)

    def forward():
        with torch.no_grad():
            attend(q, k, v, is_causal=True)

    backward = stream(lambda: torch.autograd.grad(y, (q, k, v), dout, retain_graph=True))
    return {
        "PyTorch attention forward, fp32": (1, stream(forward)),
        "PyTorch attention backward, fp32": (2.5, backward),
    }


def memory_table(xp, shapes):
    """Yields (label, {"ms", "gb_per_s", "of_copy"}): kernels whose time is that of moving their data."""
    rows, columns, classes = shapes
    x, dy, w, b = normal(xp, rows, columns), normal(xp, rows, columns), normal(xp, columns), normal(xp, columns)
    out = xp.empty_like(x)
    copy = x.nbytes * 2 / milliseconds(xp, lambda: xp.copyto(out, x)) / 1e6
    yield f"device copy, {rows}x{columns}", {"ms": x.nbytes * 2 / copy / 1e6, "gb_per_s": copy, "of_copy": 1.0}
    y = softmax.softmax_forward(x)
    _, mean, rstd = layernorm.layernorm_forward(x, w, b)
    n = x.nbytes
    calls = {
        "softmax_plain": (2 * n, lambda: softmax.softmax_plain(x)),
        "softmax_forward": (2 * n, lambda: softmax.softmax_forward(x, out=out)),
        "softmax_backward": (3 * n, lambda: softmax.softmax_backward(dy, y, out=out)),
        "layernorm_plain": (2 * n, lambda: layernorm.layernorm_plain(x, w, b)),
        "layernorm_forward": (2 * n, lambda: layernorm.layernorm_forward(x, w, b, out=out)),
        "layernorm_backward": (
            3 * n,
            lambda: layernorm.layernorm_backward(dy, x, w, mean, rstd, out=(out, None, None)),
        ),
        "gelu_forward, tanh": (2 * n, lambda: gelu.gelu_forward(x, approximate="tanh", out=out)),
        "gelu_backward, tanh": (3 * n, lambda: gelu.gelu_backward(dy, x, approximate="tanh", out=out)),
    }
    yield from _timed(xp, calls, copy, f"{rows}x{columns}")
    yield from _optimiser(xp, rows, columns, copy)
    yield from _losses(xp, max(2, rows // 8), classes, copy)


def _optimiser(xp, rows, columns, copy):
    n = 4 * rows * columns
    params = [normal(xp, rows, columns) for _ in range(4)]
    params[3] = xp.abs(params[3])
    kw = dict(step=3, lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    calls = {
        "adamw_plain": (7 * n, lambda: adamw.adamw_plain(*params, **kw)),
        "adamw_step": (7 * n, lambda: adamw.adamw_step(*([p] for p in params), **kw)),
        "global_norm": (n, lambda: adamw.global_norm([params[1]])),
    }
    yield from _timed(xp, calls, copy, f"{rows}x{columns}")


def _losses(xp, rows, classes, copy):
    logits, targets = normal(xp, rows, classes), xp.arange(rows) % classes
    dlosses = normal(xp, rows)
    losses, lse = cross_entropy.cross_entropy_forward(logits, targets)
    dlogits = xp.empty_like(logits)
    n = logits.nbytes
    calls = {
        "cross_entropy_plain": (n, lambda: cross_entropy.cross_entropy_plain(logits, targets)),
        "cross_entropy_forward": (n, lambda: cross_entropy.cross_entropy_forward(logits, targets)),
        "cross_entropy_backward": (
            2 * n,
            lambda: cross_entropy.cross_entropy_backward(dlosses, logits, targets, lse, out=dlogits),
        ),
    }
    yield from _timed(xp, calls, copy, f"{rows}x{classes}")


def _timed(xp, calls, copy, shape):
    for label, (size, call) in calls.items():
        ms = milliseconds(xp, call)
        yield f"{label}, {shape}", {"ms": ms, "gb_per_s": size / ms / 1e6, "of_copy": size / ms / 1e6 / copy}


def tables(xp):
    """All of them, as (section, label, figures); small where nothing is measured."""
    small = xp is np
    for label, row in matmul_table(xp, [48] if small else [1024, 4096]):
        yield "matmul", label, row
    for label, row in attention_table(xp, [(1, 2, 20, 16)] if small else [(8, 12, 1024, 64), (32, 6, 256, 64)]):
        yield "attention", label, row
    for label, row in memory_table(xp, (16, 40, 90) if small else (65536, 1024, 50257)):
        yield "memory", label, row
