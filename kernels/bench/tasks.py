"""The tasks of a comparison: minigrad, NumPy and PyTorch do the same work on the same shapes.

Each function takes a library's name and sizes, and returns the call to time. It runs in that library's own process
(contest.py), so PyTorch's tasks do not import our kernels, and our tasks do not import PyTorch.
"""

from collections.abc import Callable, Sequence

import numpy as np

from kernels import SETS
from kernels.bench.contest import Task
from kernels.ladders import normal

UNCACHED = 200 << 20  # bytes; more than any cache holds
ROW_OPERATIONS = ("softmax", "layernorm", "gelu", "cross_entropy")
Call = Callable[[], object]
ours = SETS["cpu"]  # imports a kernel when it is first called


def gpt_shapes(vocabulary: int, context: int, layers: int, C: int) -> list[list[int]]:
    """The shapes of a GPT's parameters, in the model's order."""
    block = [[C], [C], [3 * C, C], [3 * C], [C, C], [C], [C], [C], [4 * C, C], [4 * C], [C, 4 * C], [C]]
    return [[vocabulary, C], [context, C], *layers * block, [C], [C]]


BOOK_GPT = gpt_shapes(512, 256, 6, 384)


def pytorch():
    """PyTorch, set to as many threads as Numba."""
    import numba
    import torch

    torch.set_num_threads(vars(numba.config)["NUMBA_NUM_THREADS"])  # asking numba itself would start its threads
    return torch


def matmul(library: str, M: int, K: int, N: int, transpose_a: bool, transpose_b: bool) -> Call:
    a = normal(K, M) if transpose_a else normal(M, K)
    b = normal(N, K) if transpose_b else normal(K, N)
    c = np.empty((M, N), np.float32)
    left, right = a.T if transpose_a else a, b.T if transpose_b else b
    if library == "minigrad":
        return lambda: ours.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b, out=c)
    if library == "numpy":
        return lambda: np.matmul(left, right, out=c)
    torch = pytorch()
    left, right, c = map(torch.from_numpy, (left, right, c))
    return lambda: torch.matmul(left, right, out=c)


def one_row(library: str, rows: int, columns: int, transposed: bool) -> Task:
    """A row times several matrices in turn, so many that each has left the caches before its next product."""
    copies = -(-UNCACHED // (4 * rows * columns))
    weights = [normal(rows, columns, seed=i) for i in range(copies)]
    x, y = normal(1, columns if transposed else rows), np.empty((1, rows if transposed else columns), np.float32)
    if library == "minigrad":

        def multiply(w):
            ours.matmul(x, w, transpose_b=transposed, out=y)

    else:
        if library == "torch":
            weights, x, y = [pytorch().from_numpy(w) for w in weights], pytorch().from_numpy(x), pytorch().from_numpy(y)
        product = np.matmul if library == "numpy" else pytorch().matmul

        def multiply(w):
            product(x, w.T if transposed else w, out=y)

    def multiply_all():
        for w in weights:
            multiply(w)

    return Task(multiply_all, share=1 / copies)


def attention(library: str, B: int, H: int, T: int, D: int, backward: bool) -> Call:
    """Causal attention; q, k and v are views of one projection, as in a GPT."""
    joint = normal(B, T, 4, H, D)
    q, k, v, dout = (joint[:, :, i].transpose(0, 2, 1, 3) for i in range(4))  # (B, H, T, D) each
    if library == "minigrad":

        def attend():
            y, lse = ours.attention_forward(q, k, v, causal_offset=0)
            if backward:
                ours.attention_backward(dout, q, k, v, y, lse, causal_offset=0)

        return attend
    torch = pytorch()
    q, k, v = (torch.from_numpy(np.array(a)).requires_grad_(backward) for a in (q, k, v))
    dout = torch.from_numpy(np.array(dout))

    def attend_in_torch():
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        if backward:
            y.backward(dout)

    return attend_in_torch


def row_operation(library: str, name: str, direction: str, *shape: int) -> Call:
    """One of ROW_OPERATIONS, "forward" or "backward", into a buffer where the library allows it."""
    x, dy, out = normal(*shape), normal(*shape, seed=1), np.empty(shape, np.float32)
    C = shape[-1]
    weight, bias, targets = normal(C), normal(C), np.random.default_rng(0).integers(0, C, shape[0])
    if library == "minigrad":
        return _our_row_operation(name, direction, x, dy, out, weight, bias, targets)
    torch = pytorch()
    F = torch.nn.functional
    x, dy, out, weight, bias, targets = map(torch.from_numpy, (x, dy, out, weight, bias, targets))
    forward = {
        "softmax": lambda x: torch.softmax(x, -1),
        "layernorm": lambda x: F.layer_norm(x, (C,), weight, bias),
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "cross_entropy": lambda x: F.cross_entropy(x, targets, reduction="none"),
    }[name]
    if direction == "forward":
        return (lambda: torch.softmax(x, -1, out=out)) if name == "softmax" else lambda: forward(x)
    x.requires_grad_()
    for parameter in (weight, bias):
        parameter.requires_grad_(name == "layernorm")
    y = forward(x)
    dy = dy if y.shape == dy.shape else torch.full(y.shape, 1 / len(y))
    inputs = (x, weight, bias) if name == "layernorm" else (x,)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def _our_row_operation(name, direction, x, dy, out, weight, bias, targets):
    y = ours.softmax_forward(x) if name == "softmax" else None
    mean, rstd = ours.layernorm_forward(x, weight, bias)[1:] if name == "layernorm" else (None, None)
    lse = ours.cross_entropy_forward(x, targets)[1] if name == "cross_entropy" else None
    dlosses = np.full(len(x), 1 / len(x), np.float32)
    return {
        ("softmax", "forward"): lambda: ours.softmax_forward(x, out=out),
        ("softmax", "backward"): lambda: ours.softmax_backward(dy, y, out=out),
        ("layernorm", "forward"): lambda: ours.layernorm_forward(x, weight, bias, out=out),
        ("layernorm", "backward"): lambda: ours.layernorm_backward(dy, x, weight, mean, rstd, out=(out, None, None)),
        ("gelu", "forward"): lambda: ours.gelu_forward(x, approximate="tanh", out=out),
        ("gelu", "backward"): lambda: ours.gelu_backward(dy, x, approximate="tanh", out=out),
        ("cross_entropy", "forward"): lambda: ours.cross_entropy_forward(x, targets),
        ("cross_entropy", "backward"): lambda: ours.cross_entropy_backward(dlosses, x, targets, lse, out=out),
    }[name, direction]


def adamw(library: str, shapes: Sequence[Sequence[int]]) -> Call:
    """A step of AdamW over arrays of these shapes; PyTorch takes its fused step, the fastest."""
    params, grads = ([normal(*shape, seed=seed) for shape in shapes] for seed in (0, 1))
    settings = dict(lr=1e-3, eps=1e-8, weight_decay=0.1)
    if library == "minigrad":
        m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
        return lambda: ours.adamw_step(params, grads, m, v, step=5, beta1=0.9, beta2=0.95, **settings)
    torch = pytorch()
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    return torch.optim.AdamW(tensors, betas=(0.9, 0.95), fused=True, **settings).step


def gradient_norm(library: str, n: int) -> Call:
    grad = normal(n)
    if library == "minigrad":
        return lambda: ours.global_norm([grad])
    grad = pytorch().from_numpy(grad)
    return lambda: grad.norm()
