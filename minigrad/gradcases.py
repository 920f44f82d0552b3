"""The cases of `python -m minigrad.gradcheck`: every differentiable operation, on small and odd shapes.

A case is a function of tensors and the shapes of its inputs, which are drawn from a seeded normal distribution. If an operation
has a kink or a pole, `prepare` moves the inputs away from it, because no derivative exists there.
"""

from typing import Any, Callable, NamedTuple

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F
from kernels.block.reference import parameter_shapes


class Case(NamedTuple):
    """A function to check.

    op: the operation, as --op names it.  label: the shapes or settings.  function: tensors -> a tensor or a tuple of them.
    shapes: the inputs' shapes.  prepare: array -> array, applied to each input.
    """

    op: str
    label: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    prepare: Callable[[np.ndarray], np.ndarray] = lambda x: x

    def inputs(self, seed: int = 0) -> list[np.ndarray]:
        """The inputs for a seed, in float64."""
        rng = np.random.default_rng(seed)
        return [self.prepare(rng.standard_normal(shape)) for shape in self.shapes]


def positive(x: np.ndarray) -> np.ndarray:
    """Numbers of at least 0.5."""
    return np.abs(x) + 0.5


def away_from_zero(x: np.ndarray) -> np.ndarray:
    """Numbers at least 0.1 away from zero."""
    return x + np.sign(x) * 0.1


def spread_out(x: np.ndarray) -> np.ndarray:
    """Numbers 0.1 apart, so that a finite difference does not change which is the largest."""
    return np.argsort(np.argsort(x.ravel())).reshape(x.shape) * 0.1


def probabilities(x: np.ndarray) -> np.ndarray:
    """Numbers between 0.05 and 0.95."""
    return 0.05 + 0.9 / (1 + np.exp(-x))


IDS = mg.tensor([[3, 0, 3], [6, 3, 1]])
TARGETS = mg.tensor([2, -100, 0, 6, -100])
COLUMNS = mg.tensor([[0, 3, 3], [2, 1, 0]])
MASK = mg.tensor([[True, False, True, True], [False, False, True, False], [True, True, False, True]])
ROW_MASK = mg.tensor([True, False, True])
STARTS = np.array([0, 3])
LATE_STARTS = np.array([9, 40])


def attention(attn_mask: Any = None, **settings: Any) -> Callable[..., mg.Tensor]:
    """Attention with these settings, as a function of q, k and v."""

    def attend(q, k, v):
        mask = None if attn_mask is None else attn_mask.to(q.device)
        return F.scaled_dot_product_attention(q, k, v, mask, **settings)

    return attend


def attention_of_views(x: mg.Tensor) -> mg.Tensor:
    """Attention on strided views of one (B, T, 3C) array, as a transformer block calls it."""
    B, T, C3 = x.shape
    q, k, v = (a.view(B, T, 3, C3 // 9).transpose(1, 2) for a in x.split(C3 // 3, dim=-1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C3 // 3)


def transformer_block(n_head: int) -> Callable[..., mg.Tensor]:
    """A transformer block as a function of its input and twelve parameters."""
    return lambda x, *parameters: F.transformer_block(x, parameters, n_head)


def smoothed_cross_entropy(logits: mg.Tensor) -> mg.Tensor:
    """Cross-entropy with label smoothing, summed."""
    return F.cross_entropy(logits, TARGETS.to(logits.device), reduction="sum", label_smoothing=0.1)


def changed_in_place(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
    """Recorded changes in place: the gradient goes through each of them."""
    y = (a * b).add_(b).masked_fill_(MASK.to(a.device), 3.0)
    y *= 0.5
    return y


def weighted_binary_cross_entropy(logits: mg.Tensor, targets: mg.Tensor, pos_weight: mg.Tensor) -> mg.Tensor:
    """Binary cross-entropy of logits, with a factor on the loss of class 1."""
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)


CASES = [
    Case("add", "(3, 1, 4) + (5, 1)", lambda a, b: a + b, ((3, 1, 4), (5, 1))),
    Case("add", "x + x, one tensor twice", lambda a: a + a, ((3, 5),)),
    Case("sub", "(3, 5) - (5,)", lambda a, b: a - b, ((3, 5), (5,))),
    Case("mul", "(3, 5) * (3, 1)", lambda a, b: a * b, ((3, 5), (3, 1))),
    Case("mul", "x * x, one tensor twice", lambda a: a * a, ((1,),)),
    Case("div", "(2, 3) / (3,)", lambda a, b: a / b, ((2, 3), (3,)), away_from_zero),
    Case("div", "2 / x", lambda a: 2 / a, ((7,),), away_from_zero),
    Case("pow", "x ** 3", lambda a: a**3, ((2, 3),)),
    Case("pow", "x ** y", lambda a, b: a**b, ((2, 3), (3,)), positive),
    Case("pow", "2 ** x", lambda a: 2.0**a, ((5,),)),
    Case("neg", "(3, 1)", lambda a: -a, ((3, 1),)),
    Case("exp", "(3, 5)", mg.exp, ((3, 5),)),
    Case("log", "(3, 5)", mg.log, ((3, 5),), positive),
    Case("sqrt", "(7,)", mg.sqrt, ((7,),), positive),
    Case("rsqrt", "(7,)", mg.rsqrt, ((7,),), positive),
    Case("abs", "(7,)", mg.abs, ((7,),), away_from_zero),
    Case("square", "(7,)", mg.square, ((7,),)),
    Case("cos", "and sin, (3, 5)", lambda a: a.cos() + (a * 2).sin(), ((3, 5),)),
    Case("remainder", "(3, 5) % (5,)", lambda a, b: a % b, ((3, 5), (5,)), lambda x: np.round(x, 1) + 0.03),
    Case("clamp", "to [-0.5, 0.7]", lambda a: a.clamp(-0.5, 0.7), ((4, 5),), lambda x: np.round(x, 1) + 0.03),
    Case("maximum", "(3, 5), (5,)", mg.maximum, ((3, 5), (5,))),
    Case("minimum", "(3, 5), (5,)", mg.minimum, ((3, 5), (5,))),
    Case("sigmoid", "(3, 5), up to ±40", lambda a: (a * 20).sigmoid(), ((3, 5),)),
    Case("logsigmoid", "(3, 5), up to ±40", lambda a: F.logsigmoid(a * 20), ((3, 5),)),
    Case("tanh", "(3, 5)", mg.tanh, ((3, 5),)),
    Case("relu", "(3, 5)", mg.relu, ((3, 5),), away_from_zero),
    Case("gelu", "exact, (3, 33)", F.gelu, ((3, 33),)),
    Case("gelu", "tanh, (1, 129)", lambda a: F.gelu(a, "tanh"), ((1, 129),)),
    Case("silu", "(3, 5), up to ±40", lambda a: F.silu(a * 20), ((3, 5),)),
    Case("sum", "all of (2, 3, 4)", lambda a: a.sum(), ((2, 3, 4),)),
    Case("sum", "dims (0, 2), keepdim", lambda a: a.sum((0, 2), keepdim=True), ((2, 3, 4),)),
    Case("mean", "dim 1", lambda a: a.mean(1), ((2, 3, 4),)),
    Case("var", "dim -1", lambda a: a.var(-1), ((2, 5),)),
    Case("std", "biased, all", lambda a: a.std(correction=0), ((2, 5),)),
    Case("norm", "dim 0", lambda a: a.norm(dim=0), ((3, 5),)),
    Case("normalize", "dim 1", F.normalize, ((3, 5),)),
    Case("max", "values along dim 1", lambda a: a.max(1).values, ((3, 5),), spread_out),
    Case("max", "all", lambda a: a.max(), ((3, 5),), spread_out),
    Case("min", "values along dim 0, keepdim", lambda a: a.min(0, keepdim=True).values, ((3, 5),), spread_out),
    Case("amax", "dims (0, 1)", lambda a: a.amax((0, 1)), ((3, 4, 2),), spread_out),
    Case("logsumexp", "dim -1", lambda a: a.logsumexp(-1), ((3, 5),)),
    Case("cumsum", "dim 1", lambda a: a.cumsum(1), ((3, 5),)),
    Case("view", "(2, 6) as (3, -1)", lambda a: a.view(3, -1), ((2, 6),)),
    Case("reshape", "of a transposed (2, 6)", lambda a: a.T.reshape(4, 3), ((2, 6),)),
    Case("flatten", "dims 1 on", lambda a: a.flatten(1), ((2, 3, 2),)),
    Case("transpose", "dims 0, 2", lambda a: a.transpose(0, 2), ((2, 3, 4),)),
    Case("permute", "(2, 0, 1)", lambda a: a.permute(2, 0, 1), ((2, 3, 4),)),
    Case("squeeze", "and unsqueeze", lambda a: a.squeeze(1).unsqueeze(0), ((2, 1, 3),)),
    Case("expand", "(3, 1) to (2, 3, 4)", lambda a: a.expand(2, 3, 4), ((3, 1),)),
    Case("repeat", "(3, 2) by (2, 1, 3)", lambda a: a.repeat(2, 1, 3), ((3, 2),)),
    Case("flip", "both of (3, 5)", lambda a: a.flip(0, 1), ((3, 5),)),
    Case("roll", "(3, 5) by 1 and -2", lambda a: a.roll((1, -2), (0, 1)), ((3, 5),)),
    Case("pad", "(2, 3), and cut", lambda a: F.pad(a, (-1, 2, 1, 0), value=3.0), ((2, 3),)),
    Case("clone", "(2, 3)", lambda a: a.clone(), ((2, 3),)),
    Case("in place", "on an interior tensor", changed_in_place, ((3, 4), (3, 4))),
    Case("cat", "(2, 3), (2, 1), (2, 3) along 1", lambda a, b, c: mg.cat([a, b, c], 1), ((2, 3), (2, 1), (2, 3))),
    Case("stack", "two, along dim 1", lambda a, b: mg.stack([a, b], 1), ((2, 3), (2, 3))),
    Case("split", "7 into 3, 3, 1", lambda a: a.split(3, 1), ((2, 7),)),
    Case("chunk", "second of three chunks", lambda a: a.chunk(3, -1)[1], ((2, 9),)),
    Case("tril", "and triu of (2, 3, 4)", lambda a: a.tril() - a.triu(1), ((2, 3, 4),)),
    Case("getitem", "[:, -1, :]", lambda a: a[:, -1, :], ((2, 3, 4),)),
    Case("getitem", "[::2, None, 1:]", lambda a: a[::2, None, 1:], ((5, 3),)),
    Case("getitem", "integer arrays, repeated", lambda a: a[mg.tensor([0, 2, 2]), mg.tensor([1, 1, 1])], ((3, 4),)),
    Case("getitem", "boolean mask", lambda a: a[ROW_MASK.to(a.device)], ((3, 4),)),
    Case("where", "(3, 4), (4,)", lambda a, b: mg.where(MASK.to(a.device), a, b), ((3, 4), (4,))),
    Case("masked_fill", "(3, 4)", lambda a: a.masked_fill(MASK.to(a.device), -7.0), ((3, 4),)),
    Case("gather", "dim 1, repeated", lambda a: a.gather(1, COLUMNS.to(a.device)), ((3, 4),)),
    Case("scatter", "dim 1, src longer", lambda a, b: a.scatter(1, COLUMNS[:, :2].to(a.device), b), ((3, 4), (3, 3))),
    Case("scatter", "one number", lambda a: a.scatter(1, COLUMNS.to(a.device), 2.0), ((3, 4),)),
    Case("index_select", "dim 1, repeated", lambda a: a.index_select(1, COLUMNS[0].to(a.device)), ((3, 4),)),
    Case("index_add", "repeated, 0.5", lambda a, b: a.index_add(1, COLUMNS[0].to(a.device), b, alpha=0.5), ((3, 4), (3, 3))),
    Case("repeat_interleave", "dim 1", lambda a: a.repeat_interleave(mg.tensor([2, 0, 1], device=a.device), 1), ((2, 3),)),
    Case("sort", "dim 0", lambda a: a.sort(0).values, ((3, 5),), spread_out),
    Case("topk", "2 smallest of 5", lambda a: a.topk(2, largest=False).values, ((3, 5),), spread_out),
    Case("embedding", "ids repeated and unused", lambda w: F.embedding(IDS.to(w.device), w), ((7, 5),)),
    Case("dropout", "p = 0.4", lambda a: F.dropout(a, 0.4, generator=mg.Generator(5)), ((5, 7),)),
    Case("matmul", "(3, 5) @ (5, 2)", mg.matmul, ((3, 5), (5, 2))),
    Case("matmul", "vector @ vector", mg.matmul, ((5,), (5,))),
    Case("matmul", "(2, 1, 3, 5) @ (4, 5, 1)", mg.matmul, ((2, 1, 3, 5), (4, 5, 1))),
    Case("matmul", "(17, 33) @ (33, 19)ᵀ view", lambda a, b: a @ b.T, ((17, 33), (19, 33))),
    Case("bmm", "(2, 3, 5) @ (2, 5, 1)", mg.bmm, ((2, 3, 5), (2, 5, 1))),
    Case("outer", "(3,) and (5,)", mg.outer, ((3,), (5,))),
    Case("einsum", "bhtd,bhsd->bths", lambda q, k: mg.einsum("bhtd,bhsd->bths", q, k), ((2, 3, 4, 5), (2, 3, 1, 5))),
    Case("einsum", "diagonals and dots", lambda a, b: mg.einsum("ii...,j->ij...", a, b), ((3, 3, 2), (5,))),
    Case("linear", "(2, 3, 5) to 7, bias", F.linear, ((2, 3, 5), (7, 5), (7,))),
    Case("linear", "(1, 5) to 1, no bias", F.linear, ((1, 5), (1, 5))),
    Case("linear", "fused exact GELU", lambda x, w, b: F.linear(x, w, b, "gelu"), ((3, 5), (9, 5), (9,))),
    Case("linear", "fused tanh GELU", lambda x, w, b: F.linear(x, w, b, "gelu_tanh"), ((33, 17), (35, 17), (35,))),
    Case("softmax", "last of (3, 7)", lambda a: F.softmax(a, -1), ((3, 7),)),
    Case("softmax", "dim 0 of (5, 2, 3)", lambda a: F.softmax(a, 0), ((5, 2, 3),)),
    Case("log_softmax", "last of (2, 33)", lambda a: F.log_softmax(a, -1), ((2, 33),)),
    Case("layer_norm", "(2, 3, 33)", lambda x, w, b: F.layer_norm(x, 33, w, b), ((2, 3, 33), (33,), (33,))),
    Case("layer_norm", "no bias, (1, 5)", lambda x, w: F.layer_norm(x, 5, w), ((1, 5), (5,))),
    Case("layer_norm", "plain, (7, 129)", lambda x: F.layer_norm(x, 129), ((7, 129),)),
    Case("rms_norm", "(2, 3, 33)", lambda x, w: F.rms_norm(x, 33, w, 1e-5), ((2, 3, 33), (33,))),
    Case("rms_norm", "plain, (7, 129)", lambda x: F.rms_norm(x, 129), ((7, 129),)),
    Case("rotary", "of a transposed (2, 3, 5, 8), from 7 on", lambda x: F.rotary(x.transpose(1, 2), 7), ((2, 3, 5, 8),)),
    Case("rotary", "one pair, base 500", lambda x: F.rotary(x, base=500.0), ((1, 1, 3, 2),)),
    Case("swiglu", "(2, 3, 34)", lambda x: F.swiglu(x * 5), ((2, 3, 34),)),
    Case("attention", "full, T = 3, S = 5", attention(), ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4))),
    Case("attention", "causal, T = 1", attention(is_causal=True), ((1, 1, 1, 3),) * 3),
    Case("attention", "causal, T = 35", attention(is_causal=True), ((1, 2, 35, 8),) * 3),
    Case("attention", "4 past keys, T = 3", attention(causal_offset=4), ((1, 2, 3, 5), (1, 2, 7, 5), (1, 2, 7, 5))),
    Case("attention", "left padding", attention(causal_offset=0, key_start=STARTS), ((2, 1, 5, 4),) * 3),
    Case("attention", "padding, T = 67", attention(causal_offset=0, key_start=LATE_STARTS), ((2, 1, 67, 5),) * 3),
    Case("attention", "scale 0.3", attention(is_causal=True, scale=0.3), ((1, 2, 6, 3),) * 3),
    Case("attention", "6 heads share 2", attention(is_causal=True, enable_gqa=True), ((2, 6, 5, 4), *((2, 2, 5, 4),) * 2)),
    Case("attention", "4 heads share 2, T = 1", attention(enable_gqa=True), ((2, 4, 1, 4), *((2, 2, 7, 4),) * 2)),
    Case("attention", "boolean mask", attention(attn_mask=MASK), ((1, 2, 3, 5), (1, 2, 4, 5), (1, 2, 4, 5))),
    Case("attention", "views of one (2, 5, 36)", attention_of_views, ((2, 5, 36),)),
    Case("transformer_block", "(2, 5, 6), 3 heads", transformer_block(3), ((2, 5, 6), *parameter_shapes(6))),
    Case("transformer_block", "(3, 18, 4), 1 head", transformer_block(1), ((3, 18, 4), *parameter_shapes(4))),
    Case("cross_entropy", "mean, two of five ignored", lambda x: F.cross_entropy(x, TARGETS.to(x.device)), ((5, 7),)),
    Case("cross_entropy", "sum, smoothed", smoothed_cross_entropy, ((5, 7),)),
    Case("cross_entropy", "none", lambda x: F.cross_entropy(x, TARGETS.to(x.device), reduction="none"), ((5, 7),)),
    Case("cross_entropy", "one row, 129 classes", lambda x: F.cross_entropy(x, mg.tensor([128], device=x.device)), ((1, 129),)),
    Case("cross_entropy", "(2, 7, 3), classes in the middle", lambda x: F.cross_entropy(x, IDS.to(x.device)), ((2, 7, 3),)),
    Case("nll_loss", "of log_softmax", lambda x: F.nll_loss(F.log_softmax(x, -1), TARGETS.to(x.device)), ((5, 7),)),
    Case("mse_loss", "(3, 5)", F.mse_loss, ((3, 5), (3, 5))),
    Case("l1_loss", "(3, 5)", F.l1_loss, ((3, 5), (3, 5))),
    Case("binary_cross_entropy", "of probabilities", F.binary_cross_entropy, ((3, 5), (3, 5)), probabilities),
    Case("binary_cross_entropy", "of logits", F.binary_cross_entropy_with_logits, ((3, 5), (3, 5))),
    Case("binary_cross_entropy", "of logits, pos_weight", weighted_binary_cross_entropy, ((3, 5), (3, 5), (5,))),
    Case("kl_div", "(3, 5)", lambda a, b: F.kl_div(a, b, reduction="batchmean"), ((3, 5), (3, 5)), positive),
    Case("kl_div", "log_target", lambda a, b: F.kl_div(a, b, reduction="sum", log_target=True), ((3, 5), (3, 5))),
]
