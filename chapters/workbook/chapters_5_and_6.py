"""The exercises of chapters 5 and 6: norms, activations, and the mask of a GPT with a cache."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import minigrad as mg
from chapters.workbook.exercise import Call, Exercise, Gradient, Random, call
from chapters.workbook.gradients import operation
from kernels.gelu.reference import gelu_forward
from kernels.layernorm.reference import layernorm_forward

# ── chapter 5: norms and activations ─────────────────────────────────────────────────────────────────────────────────

ROWS = (((3, 7), "float64"), ((2, 3, 5), "float64"), ((4, 6), "float32"))  # shapes and dtypes of x


def norm_inputs(rng: Random) -> Iterator[Call]:
    for shape, dtype in ROWS:
        x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in (shape, shape[-1], shape[-1]))
        yield call(3 * x + 1, weight, bias)
    yield call(np.full((2, 3), 0.01) + rng.standard_normal((2, 3)) * 1e-3)  # the variance is smaller than eps


def layernorm_gradients(rng: Random) -> Iterator[Call]:
    for shape, dtype in ROWS:
        dy, x, weight = (rng.standard_normal(s).astype(dtype) for s in (shape, shape, shape[-1]))
        _, mean, rstd = layernorm_forward(3 * x + 1, weight)
        yield call(dy, 3 * x + 1, weight, mean, rstd)


def layernorm_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    for shape in ((3, 5), (2, 2, 3)):
        inputs = [rng.standard_normal(s) for s in (shape, shape[-1:], shape[-1:])]
        yield Gradient(operation(layernorm_forward, backward, lambda given, results: (*given[:2], *results[1:])), inputs)


def gelu_gradients(rng: Random) -> Iterator[Call]:
    for (shape, dtype), form in zip(ROWS, ("none", "tanh", "tanh")):
        yield call(*(rng.standard_normal(shape).astype(dtype) for _ in range(2)), approximate=form)


def gelu_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    for form in ("none", "tanh"):
        forward, back = partial(gelu_forward, approximate=form), partial(backward, approximate=form)
        inputs = [rng.standard_normal((3, 4))]
        yield Gradient(operation(forward, back, lambda given, results: given), inputs, {"approximate": form})


def applied(definition: Any) -> Callable:
    def apply(x):
        return definition.apply(x)

    return apply


def tensors_of_rows(rng: Random) -> Iterator[Call]:
    for shape, dtype in ROWS:
        yield call(mg.as_tensor(rng.standard_normal(shape).astype(dtype)))


def activation_operations(apply: Any, rng: Random) -> Iterator[Gradient]:
    yield Gradient(apply, [2 * rng.standard_normal((4, 5))])


# ── chapter 6: which key a query sees ────────────────────────────────────────────────────────────────────────────────


def seen_keys(definition: Any) -> Callable:
    def visible(T, S, causal_offset, key_start):
        seen = definition(T, S, causal_offset, key_start)
        rows = 1 if key_start is None else len(key_start)
        try:  # (B, 1, T, S), whichever shape of those that broadcast the function chose
            return np.array(np.broadcast_to(True if seen is None else seen, (rows, 1, T, S)))
        except ValueError:
            return seen

    return visible


def masks(rng: Random) -> Iterator[Call]:
    yield call(5, 5, 0, None)
    yield call(2, 6, 4, None)  # four tokens are in the cache
    yield call(3, 4, None, [0, 2])
    yield call(3, 7, 4, np.array([0, 3, 5]))
    yield call(2, 3, None, None)


CHAPTERS_5_AND_6 = [
    Exercise(
        title="layer normalisation",
        target="kernels.layernorm.reference:layernorm_forward",
        lesson="ch05_block",
        calls=norm_inputs,
        results=("y", "mean", "rstd"),
        hints=(
            "Each row has its own mean and variance, and the variance is divided by C.",
            "eps is added to the variance, under the root. Mean and rstd lose the last axis; y keeps it.",
        ),
    ),
    Exercise(
        title="the gradient of layer normalisation",
        target="kernels.layernorm.reference:layernorm_backward",
        lesson="ch05_block",
        forward="layernorm_forward",
        calls=layernorm_gradients,
        gradients=layernorm_operations,
        results=("dx", "dweight", "dbias"),
        hints=(
            "Recompute n = (x − mean) · rstd. The gradients of weight and bias are sums over all rows, not means.",
            "x changes n in three ways: directly, through the mean, and through rstd. Two of them subtract something from dn.",
        ),
    ),
    Exercise(
        title="the gradient of GELU",
        target="kernels.gelu.reference:gelu_backward",
        lesson="ch05_block",
        forward="gelu_forward",
        calls=gelu_gradients,
        gradients=gelu_operations,
        results=("dx",),
        hints=(
            "Both forms are a product of x and a function of x, so their slope has two terms.",
            "The derivative of Φ is the normal density, exp(−x²/2) / √(2π). The derivative of tanh(u) is (1 − tanh²(u)) du/dx.",
        ),
    ),
    Exercise(
        title="an operation of your own",
        target="minigrad.ops.activations:SiLU",
        gaps=("SiLU.forward", "SiLU.backward"),
        lesson="ch05_block",
        calls=tensors_of_rows,
        gradients=activation_operations,
        play=applied,
        results=("dx",),
        note="Write both passes of SiLU, y = x σ(x). `forward` gets an array x, and hands arrays to `backward` with "
        "ctx.save(…), where they are ctx.saved. ctx.xp is NumPy.",
        hints=(
            "ctx.save(x, s) in the forward pass, x, s = ctx.saved in the backward pass.",
            "σ'(x) = σ(x) (1 − σ(x)), and SiLU is a product.",
        ),
    ),
    Exercise(
        title="which key a query sees",
        target="kernels.attention.reference:visible_keys",
        lesson="ch06_gpt",
        calls=masks,
        play=seen_keys,
        results=("visible",),
        note="Write the body of `visible_keys`. Query i sees key j if j ≤ i + causal_offset, where a cache holds the first "
        "causal_offset tokens, and if j ≥ key_start[b], where keys before it are padding of row b.",
        hints=(
            "np.arange(S) compared with a column of numbers gives a table (T, S).",
            "For key_start, the column has the shape (B, 1, 1, 1), so that the result is (B, 1, 1, S). Join both with &.",
        ),
    ),
]
