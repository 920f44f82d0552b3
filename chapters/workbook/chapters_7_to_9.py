"""The exercises of chapters 7 to 9: training, sampling, and the parts of newer models."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import minigrad as mg
from chapters.workbook.chapters_5_and_6 import ROWS
from chapters.workbook.exercise import Call, Exercise, Gradient, Random, call
from chapters.workbook.gradients import operation
from kernels.cross_entropy.reference import cross_entropy_forward
from kernels.rms_norm.reference import rms_norm_forward
from kernels.rotary.reference import rotary
from minigrad.engine import Edge

# ── chapter 7: the loss, the walk back, the optimizer ────────────────────────────────────────────────────────────────


def scores(rng: Random) -> Iterator[Call]:
    for rows, classes, scale, dtype in ((5, 7, 1, "float64"), (4, 3, 3000, "float64"), (6, 9, 2, "float32")):
        targets = rng.integers(0, classes, rows)
        targets[1] = -100
        yield call((scale * rng.standard_normal((rows, classes))).astype(dtype), targets)


def score_gradients(rng: Random) -> Iterator[Call]:
    for logits, targets in (arguments for arguments, _ in scores(rng)):
        _, logsumexp = cross_entropy_forward(logits, targets)
        yield call(rng.standard_normal(len(logits)).astype(logits.dtype), logits, targets, logsumexp)


def score_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    targets = np.array([2, -100, 0, 4])
    forward = partial(cross_entropy_forward, targets=targets)
    yield Gradient(
        operation(forward, backward, lambda given, results: (*given, targets, results[1])), [rng.standard_normal((4, 5))]
    )


def walked(definition: Any) -> Callable:
    """Whether an order of the nodes is right: many orders are, so they cannot be compared with ours."""

    def walk(graph):
        loss = GRAPHS[graph]()
        order = definition([loss])
        place = {node: i for i, node in enumerate(order)}
        edges = [(node, edge.node) for node in order for edge in node.inputs if isinstance(edge, Edge)]
        nodes = {loss.node, *(behind for _, behind in edges)}
        return {
            "number of nodes": len(order),
            "each node is there once": set(order) == nodes and len(place) == len(order),
            "each node stands before the nodes behind it": all(place.get(a, -1) < place.get(b, -1) for a, b in edges),
        }

    return walk


def shared_value() -> mg.Tensor:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    return (y * y + y.sin() * (y + x)).sum()


def long_chain() -> mg.Tensor:
    x = mg.tensor(1.0, requires_grad=True)
    for _ in range(3000):
        x = x * 1.001
    return x


GRAPHS = {"a value that is used four times": shared_value, "a chain of 3000 nodes": long_chain}


def graphs(rng: Random) -> Iterator[Call]:
    yield from (call(name) for name in GRAPHS)


def updates(rng: Random) -> Iterator[Call]:
    for step, decay, scale in ((1, 0.1, 1.0), (7, 0.0, 0.5), (100, 0.3, 1.0)):
        shapes = ((3, 4), (5,))
        lists = [[rng.standard_normal(shape) for shape in shapes] for _ in range(3)]
        squares = [rng.standard_normal(shape) ** 2 * 1e-3 for shape in shapes]
        settings = dict(lr=0.01, beta1=0.9, beta2=0.99, eps=1e-3, weight_decay=decay, grad_scale=scale)
        yield call(*lists, squares, step=step, **settings)


def schedules(rng: Random) -> Iterator[Call]:
    for step in (0, 3, 9, 10, 11, 40, 98, 99, 150):
        yield call(step, lr=3e-4, min_lr=3e-5, warmup_steps=10, total_steps=100)
    yield call(0, lr=1.0, total_steps=5)
    yield call(4, lr=1.0, total_steps=5)


def clipped(definition: Any) -> Callable:
    def clip(gradients, max_norm):
        parameters = [mg.as_tensor(np.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = mg.as_tensor(gradient.copy())
        norm = definition(parameters, max_norm)
        return norm, [parameter.grad for parameter in parameters]

    return clip


def long_gradients(rng: Random) -> Iterator[Call]:
    for max_norm in (1.0, 100.0, 0.1):
        yield call([rng.standard_normal((3, 4)), 5 * rng.standard_normal(6)], max_norm)


# ── chapter 8: sampling ──────────────────────────────────────────────────────────────────────────────────────────────


def choices(rng: Random) -> Iterator[Call]:
    settings: list[dict[str, Any]] = [{}, *({"temperature": temperature} for temperature in (0.5, 2.0, 0.0))]
    settings += [{"top_k": 3}, {"top_k": 1}, {"top_p": 0.6}, {"top_p": 0.01}, {"temperature": 0.7, "top_k": 5, "top_p": 0.8}]
    for setting in settings:
        for uniform in (0.0, *rng.random(6), 0.999):
            yield call(2 * rng.standard_normal(8), float(uniform), **setting)
    for uniform in (0.2, 0.6, 0.95):  # the second token crosses the nucleus exactly
        yield call(np.log([0.5, 0.25, 0.125, 0.125]), uniform, top_p=0.75)


# ── chapter 9: the parts of newer models ─────────────────────────────────────────────────────────────────────────────


def rotations(rng: Random) -> Iterator[Call]:
    for shape, inverse in (((1, 2, 5, 6), False), ((2, 1, 3, 2), True), ((2, 3, 4, 8), True)):
        angles = rng.standard_normal((shape[2], shape[3] // 2))
        yield call(rng.standard_normal(shape), np.cos(angles), np.sin(angles), inverse=inverse)


def rotary_operations(rotate: Any, rng: Random) -> Iterator[Gradient]:
    angles = rng.standard_normal((3, 2))
    cos, sin = np.cos(angles), np.sin(angles)
    forward, back = partial(rotary, cos=cos, sin=sin), partial(rotate, cos=cos, sin=sin, inverse=True)
    yield Gradient(operation(forward, back, lambda given, results: ()), [rng.standard_normal((1, 2, 3, 4))])


def rms_norm_gradients(rng: Random) -> Iterator[Call]:
    for shape, dtype in ROWS:
        dy, x, weight = (rng.standard_normal(s).astype(dtype) for s in (shape, shape, shape[-1]))
        yield call(dy, x, weight, rms_norm_forward(x, weight)[1])


def rms_norm_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    inputs = [rng.standard_normal((3, 5)), rng.standard_normal(5)]
    yield Gradient(operation(rms_norm_forward, backward, lambda given, results: (*given, results[1])), inputs)


CHAPTERS_7_TO_9 = [
    Exercise(
        title="cross-entropy",
        target="kernels.cross_entropy.reference:cross_entropy_forward",
        lesson="ch07_train",
        calls=scores,
        results=("losses", "logsumexp"),
        hints=(
            "log softmax of the target is its logit less the log of the sum of exponentials. Subtract the row's largest logit "
            "before exp, and add it again after log.",
            "Rows with ignore_index keep 0 in both results; the targets of the other rows can index their logits.",
        ),
    ),
    Exercise(
        title="the gradient of cross-entropy",
        target="kernels.cross_entropy.reference:cross_entropy_backward",
        lesson="ch07_train",
        forward="cross_entropy_forward",
        calls=score_gradients,
        gradients=score_operations,
        results=("dlogits",),
        hints=(
            "Softmax and the logarithm together have a simple gradient: the probabilities, less 1 at the target.",
            "exp(logits − logsumexp) are the probabilities. Ignored rows get zeros, and dlosses scales each row.",
        ),
    ),
    Exercise(
        title="the order in which backward visits the graph",
        target="minigrad.engine:topological_order",
        lesson="ch07_train",
        calls=graphs,
        play=walked,
        results=("order",),
        note="Write the body of `topological_order`. A root's node is root.node, or None if the root is a leaf. node.inputs "
        "holds an Edge for each input that an operation computed; edge.node is this operation's node. Its other entries, "
        "leaves and None, have no node behind them.",
        hints=(
            "A node can pass its gradient on only when the gradients of all its uses have arrived.",
            "Walk depth first, and put a node into a list after everything behind it; the reversed list is the order. A set "
            "of seen nodes keeps a shared node from coming twice.",
            "Python stops a recursion after about 1000 calls. Use a stack of (node, whether everything behind it is done).",
        ),
    ),
    Exercise(
        title="a step of AdamW",
        target="kernels.adamw.reference:adamw_step",
        lesson="ch07_train",
        calls=updates,
        writes=("params", "exp_avgs", "exp_avg_sqs"),
        hints=(
            "Write with *=, += and -=, so that the caller's arrays change.",
            "Both moments start at zero and are too small at first. Dividing by 1 − βᵗ corrects that.",
        ),
    ),
    Exercise(
        title="a learning rate that warms up and decays",
        target="minigrad.optim.schedule:warmup_cosine",
        lesson="ch07_train",
        calls=schedules,
        results=("the learning rate",),
        hints=(
            "Three cases: warming up, going down, and after the end. Step 0 has lr / warmup_steps.",
            "With progress from 0 to 1, (1 + cos(π · progress)) / 2 falls from 1 to 0. The last step is total_steps − 1.",
        ),
    ),
    Exercise(
        title="gradient clipping",
        target="minigrad.optim.clipping:clip_grad_norm_",
        lesson="ch07_train",
        calls=long_gradients,
        play=clipped,
        results=("the norm", "the gradients"),
        note="Write the body of `clip_grad_norm_`. The parameters' gradients are p.grad, and p.grad.array is NumPy's; the "
        "check passes a list of parameters and max_norm. Divide by the norm plus 1e-6, as PyTorch does.",
        hints=(
            "One norm for all parameters together: the root of the sum of all squares.",
            "The factor is max_norm / (norm + 1e-6), but never more than 1. Return the norm from before, as a tensor.",
        ),
    ),
    Exercise(
        title="temperature, top-k and nucleus",
        target="chapters.ch08_sample:choose_plainly",
        lesson="ch08_sample",
        calls=choices,
        results=("the token",),
        note="Write the body of `choose_plainly`. Divide the logits by the temperature; temperature 0 takes the likeliest "
        "token. Of the probabilities, top_k keeps the largest k, and top_p the fewest of the likeliest whose sum reaches "
        "top_p; after each, the rest is divided by its sum. The token is the first, in the order of the vocabulary, at which "
        "the cumulative probability exceeds `uniform`.",
        hints=(
            "Set the probability of a dropped token to 0, and leave the array in the order of the vocabulary. np.argsort(-p) "
            "lists the tokens by probability, likeliest first.",
            "The nucleus drops a token if all likelier tokens together already reach top_p. So the token that crosses top_p "
            "stays.",
            "np.cumsum(p) rises to 1. The chosen token is as far from the beginning as there are sums of at most `uniform`.",
        ),
    ),
    Exercise(
        title="rotary positions",
        target="kernels.rotary.reference:rotary",
        lesson="ch09.smollm2",
        calls=rotations,
        gradients=rotary_operations,
        results=("y",),
        hints=(
            "A point (a, b) rotated by an angle is (a cos − b sin, b cos + a sin). Rotating back changes the sign of sin.",
            "The pairs are half a head apart: np.split(x, 2, axis=-1) gives all a and all b.",
        ),
    ),
    Exercise(
        title="the gradient of RMSNorm",
        target="kernels.rms_norm.reference:rms_norm_backward",
        lesson="ch09.smollm2",
        forward="rms_norm_forward",
        calls=rms_norm_gradients,
        gradients=rms_norm_operations,
        results=("dx", "dweight"),
        hints=(
            "It is layer normalisation without the mean, so a row is stretched but not shifted.",
            "n = x · rstd and dn = dy · weight. Remove from dn the part that points along n.",
        ),
    ),
]
