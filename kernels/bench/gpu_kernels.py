"""The speed of the CUDA kernels, by the GPU's own clock.

Matrix products and attention are in TFLOP/s, beside cuBLAS and PyTorch on the same card. All other kernels are in GB/s, beside
a plain copy; every input counts as read once, every output as written once. The data are random: a GPU is faster on zeros.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from kernels.adamw import cuda as adamw
from kernels.attention import cuda as attention
from kernels.cross_entropy import cuda as cross_entropy
from kernels.gelu import cuda as gelu
from kernels.layernorm import cuda as layernorm
from kernels.matmul import cuda as matmul
from kernels.softmax import cuda as softmax

Call = Callable[[], Any]
Row = tuple[str, dict[str, float]]  # a label, and its figures


def milliseconds(xp, call: Call, repeats: int = 10) -> float:
    """The median time of a call; under the emulator (xp is NumPy) the time of a single call, by the wall clock."""
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


def normal(xp, *shape: int):
    if xp is np:
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return xp.random.default_rng(0).standard_normal(shape, dtype=xp.float32)


def torch_on_gpu():
    """PyTorch if it is installed and sees a GPU, else None."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


def on_default_stream(torch, call: Call) -> Call:
    """The call on the default stream, where CuPy's clock sees it."""

    def run():
        with torch.cuda.stream(torch.cuda.default_stream()):
            call()

    return run


def products(xp, n: int) -> Iterator[Row]:
    """TFLOP/s of a square product: each rung of the ladder, our kernels, and cuBLAS."""
    a, b = normal(xp, n, n), normal(xp, n, n)
    c = xp.empty_like(a)
    ours = partial(matmul.matmul, a, b, out=c)
    calls: dict[str, Call] = {f"our {rung}": partial(matmul.matmul_rung, rung, a, b) for rung in matmul.LADDER}
    calls |= {f"our {kernel}": partial(ours, kernel=kernel) for kernel in matmul.TILES}
    for kernel in ("matmul_fp32", "matmul_tf32"):
        calls[f"our {kernel}, x W^T"] = partial(ours, kernel=kernel, transpose_b=True)
        calls[f"our {kernel}, dy^T x"] = partial(ours, kernel=kernel, transpose_a=True)
    if xp is not np:
        calls["cuBLAS fp32"] = lambda: xp.matmul(a, b, out=c)
        calls |= _torch_products(n)
    for label, call in calls.items():
        slow = label in ("our matmul_naive", "our matmul_coalesced")
        ms = milliseconds(xp, call, 3 if slow else 10)
        yield f"{label}, {n}", {"ms": ms, "tflops": 2 * n**3 / ms / 1e9}


def _torch_products(n: int) -> dict[str, Call]:
    torch = torch_on_gpu()
    if torch is None:
        return {}
    x, y = (torch.randn(n, n, device="cuda") for _ in range(2))
    x_16, y_16 = x.bfloat16(), y.bfloat16()

    def tf32():
        torch.backends.cuda.matmul.allow_tf32 = True
        x @ y
        torch.backends.cuda.matmul.allow_tf32 = False

    calls = {"fp32 (PyTorch)": lambda: x @ y, "tf32 (PyTorch)": tf32, "bf16, bf16 arrays (PyTorch)": lambda: x_16 @ y_16}
    return {f"cuBLAS {label}": on_default_stream(torch, call) for label, call in calls.items()}


def attentions(xp, B: int, H: int, T: int, D: int) -> Iterator[Row]:
    """TFLOP/s of causal attention, forward and backward."""
    qkv = normal(xp, B, T, 3, H, D)
    q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))  # views of one projection, as in the engine
    dout = normal(xp, B, H, T, D)
    y, lse = attention.attention_forward(q, k, v, causal_offset=0)
    operations = 4 * B * H * T * T * D / 2  # two products; the mask hides half of each
    calls: dict[str, Call] = {
        "our attention forward": lambda: attention.attention_forward(q, k, v, causal_offset=0),
        "our attention backward": lambda: attention.attention_backward(dout, q, k, v, y, lse, causal_offset=0),
    }
    if xp is not np:
        calls |= _torch_attention(B, H, T, D)
    for label, call in calls.items():
        ms = milliseconds(xp, call)
        products = 2.5 if "backward" in label else 1  # pairs of products
        yield f"{label}, {B}x{H}x{T}x{D}", {"ms": ms, "tflops": products * operations / ms / 1e9}


def _torch_attention(B: int, H: int, T: int, D: int) -> dict[str, Call]:
    torch = torch_on_gpu()
    if torch is None:
        return {}
    q, k, v = (torch.randn(B, H, T, D, device="cuda", requires_grad=True) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    y = attend(q, k, v, is_causal=True)
    dout = torch.randn_like(y)

    def forward():
        with torch.no_grad():
            attend(q, k, v, is_causal=True)

    def backward():
        torch.autograd.grad(y, (q, k, v), dout, retain_graph=True)

    return {
        "PyTorch attention forward, fp32": on_default_stream(torch, forward),
        "PyTorch attention backward, fp32": on_default_stream(torch, backward),
    }


def memory_bound(xp, rows: int, columns: int, classes: int) -> Iterator[Row]:
    """GB/s of the kernels that memory limits, and the ratio to the GB/s of a copy."""
    x, dy, w, b = normal(xp, rows, columns), normal(xp, rows, columns), normal(xp, columns), normal(xp, columns)
    out, n = xp.empty_like(x), x.nbytes
    ms = milliseconds(xp, lambda: xp.copyto(out, x))
    copy = 2 * n / ms / 1e6
    yield f"device copy, {rows}x{columns}", {"ms": ms, "gb_per_s": copy, "of_copy": 1.0}

    def timed(calls: Mapping[str, tuple[int, Call]], shape: str) -> Iterator[Row]:
        for label, (size, call) in calls.items():
            ms = milliseconds(xp, call)
            yield f"{label}, {shape}", {"ms": ms, "gb_per_s": size / ms / 1e6, "of_copy": size / ms / 1e6 / copy}

    y = softmax.softmax_forward(x)
    _, mean, rstd = layernorm.layernorm_forward(x, w, b)
    params = [normal(xp, rows, columns) for _ in range(4)]
    params[3] = xp.abs(params[3])
    adam: dict[str, Any] = dict(step=3, lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    dx_only = (out, None, None)
    calls: dict[str, tuple[int, Call]] = {
        "softmax_plain": (2 * n, lambda: softmax.softmax_plain(x)),
        "softmax_forward": (2 * n, lambda: softmax.softmax_forward(x, out=out)),
        "softmax_backward": (3 * n, lambda: softmax.softmax_backward(dy, y, out=out)),
        "layernorm_plain": (2 * n, lambda: layernorm.layernorm_plain(x, w, b)),
        "layernorm_forward": (2 * n, lambda: layernorm.layernorm_forward(x, w, b, out=out)),
        "layernorm_backward": (3 * n, lambda: layernorm.layernorm_backward(dy, x, w, mean, rstd, out=dx_only)),
        "gelu_forward, tanh": (2 * n, lambda: gelu.gelu_forward(x, approximate="tanh", out=out)),
        "gelu_backward, tanh": (3 * n, lambda: gelu.gelu_backward(dy, x, approximate="tanh", out=out)),
        "adamw_plain": (7 * n, lambda: adamw.adamw_plain(*params, **adam)),
        "adamw_step": (7 * n, lambda: adamw.adamw_step(*([p] for p in params), **adam)),
        "global_norm": (n, lambda: adamw.global_norm([params[1]])),
    }
    yield from timed(calls, f"{rows}x{columns}")

    rows = max(2, rows // 8)
    logits, targets, dlosses = normal(xp, rows, classes), xp.arange(rows) % classes, normal(xp, rows)
    _, lse = cross_entropy.cross_entropy_forward(logits, targets)
    dlogits, n = xp.empty_like(logits), logits.nbytes
    backward = partial(cross_entropy.cross_entropy_backward, dlosses, logits, targets, lse, out=dlogits)
    calls = {
        "cross_entropy_plain": (n, lambda: cross_entropy.cross_entropy_plain(logits, targets)),
        "cross_entropy_forward": (n, lambda: cross_entropy.cross_entropy_forward(logits, targets)),
        "cross_entropy_backward": (2 * n, backward),
    }
    yield from timed(calls, f"{rows}x{classes}")


def tables(xp) -> Iterator[tuple[str, str, dict[str, float]]]:
    """All tables, as (section, label, figures); small shapes under the emulator."""
    small = xp is np
    for n in [48] if small else [1024, 4096]:
        yield from (("matmul", *row) for row in products(xp, n))
    for shape in [(1, 2, 20, 16)] if small else [(8, 12, 1024, 64), (32, 6, 256, 64)]:
        yield from (("attention", *row) for row in attentions(xp, *shape))
    yield from (("memory", *row) for row in memory_bound(xp, *((16, 40, 90) if small else (65536, 1024, 50257))))
