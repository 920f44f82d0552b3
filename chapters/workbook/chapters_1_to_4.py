"""The exercises of chapters 1 to 4: text into tokens, tokens into vectors, vectors that attend to one another."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import train_plainly
from chapters.workbook.exercise import Call, Exercise, Gradient, Random, call
from chapters.workbook.gradients import operation
from kernels.attention.reference import attention_forward
from kernels.embedding.reference import embedding_forward
from kernels.matmul.reference import matmul
from kernels.softmax.reference import softmax_forward

# ── chapter 1: byte-pair encoding ────────────────────────────────────────────────────────────────────────────────────

TEXT = "the baker bakes the bread, the miller mills the flour, and the flour is the baker's bread. aaaa aaabaaa"


def merges(rng: Random) -> Iterator[Call]:
    for _ in range(20):
        letters = [bytes([b]) for b in rng.choice(list(b"ab"), size=int(rng.integers(0, 9)))]
        yield call(letters, b"ab")
        yield call(letters, b"aa")
    yield call([b"aa", b"a", b"a", b"aa"], b"aaa")


def trainings(rng: Random) -> Iterator[Call]:
    yield call("aaabdaaabac", 259)
    yield call(TEXT, 290)
    yield call("ab cd ef ab cd ef", 259)  # ties
    yield call("to be", 400)  # fewer pairs than tokens to learn


def encodings(rng: Random) -> Iterator[Call]:
    ranks = train_plainly(TEXT, 300)
    yield call("", ranks)
    for _ in range(12):
        yield call("".join(rng.choice(list("the bakrlfou"), size=24)), ranks)
    yield call("naïve 日本", ranks)
    bytes_alone = {bytes([b]): b for b in range(256)}
    yield call("abcd abab bcbc", {**bytes_alone, b"bc": 256, b"ab": 257, b"cd": 258, b"abab": 259})  # bc comes before ab


# ── chapter 2: next-token batches ────────────────────────────────────────────────────────────────────────────────────


def windows_of(definition: Any) -> Callable:
    def windows(tokens, context, starts):
        return definition(tokens, context, len(starts)).windows(starts)

    return windows


def windows(rng: Random) -> Iterator[Call]:
    for dtype, context in (("uint16", 5), ("int64", 1), ("uint32", 8)):
        tokens = rng.integers(0, 900, 40).astype(dtype)  # (N,)
        yield call(tokens, context, rng.integers(0, 40 - context, 3))


# ── chapter 3: rows of a table, and sums over what was repeated ──────────────────────────────────────────────────────


def embedding_gradients(rng: Random) -> Iterator[Call]:
    for shape, dtype in (((7,), "float64"), ((3, 5), "float32"), ((2, 1, 4), "float64")):
        indices = rng.integers(0, 5, shape)  # several positions hold the same token
        yield call(rng.standard_normal((*shape, 3)).astype(dtype), indices, 6)


def embedding_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    indices = np.array([[3, 0, 3], [5, 3, 1]])
    forward = partial(embedding_forward, indices=indices)
    yield Gradient(operation(forward, backward, lambda given, results: (indices, len(given[0]))), [rng.standard_normal((6, 4))])


def broadcast_gradients(rng: Random) -> Iterator[Call]:
    for result, shape in (((2, 3), (2, 3)), ((4, 2, 3), (3,)), ((4, 2, 3), (2, 1)), ((4, 2, 3), (1, 1, 1)), ((5,), ())):
        yield call(rng.standard_normal(result), shape)
    yield call(rng.standard_normal((2, 3, 4)).astype("float32"), (1, 4))


# ── chapter 4: attention ─────────────────────────────────────────────────────────────────────────────────────────────


def softmax_inputs(rng: Random) -> Iterator[Call]:
    yield call(rng.standard_normal((3, 7)))
    yield call(rng.standard_normal((2, 1, 5)) * 1000 + 2000)  # exp of it would overflow
    yield call(rng.standard_normal((4, 3)).astype("float32"))
    yield call(rng.standard_normal(6))


def softmax_gradients(rng: Random) -> Iterator[Call]:
    for shape, dtype in (((3, 7), "float64"), ((2, 1, 5), "float64"), ((4, 3), "float32")):
        y = softmax_forward(rng.standard_normal(shape).astype(dtype))
        yield call(rng.standard_normal(shape).astype(dtype), y)


def softmax_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    yield Gradient(operation(softmax_forward, backward, lambda given, results: results), [rng.standard_normal((3, 5))])


def products(rng: Random) -> Iterator[Call]:
    for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((1, 3, 4), (6, 4, 2))):
        dy = rng.standard_normal((rng.standard_normal(a) @ rng.standard_normal(b)).shape)
        yield call(dy, rng.standard_normal(a), rng.standard_normal(b))


def product_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    for a, b in (((3, 4), (4, 2)), ((2, 3, 4), (4, 2))):
        inputs = [rng.standard_normal(a), rng.standard_normal(b)]
        yield Gradient(operation(matmul, backward, lambda given, results: given), inputs)


def heads(rng: Random) -> Iterator[Call]:
    for T, D in ((6, 4), (1, 3), (9, 16)):
        yield call(*(mg.tensor(rng.standard_normal((T, D)), dtype=mg.float64, requires_grad=True) for _ in "qkv"))


MASKS: tuple[dict[str, Any], ...] = ({}, {"causal_offset": 0}, {"causal_offset": 2, "scale": 0.3})


def attention_gradients(rng: Random) -> Iterator[Call]:
    for settings in MASKS:
        T = 3 if settings.get("causal_offset") == 2 else 5
        q, k, v = (rng.standard_normal((2, 2, rows, 4)) for rows in (T, 5, 5))
        y, logsumexp = attention_forward(q, k, v, **settings)
        yield call(rng.standard_normal(y.shape), q, k, v, y, logsumexp, **settings)


def attention_operations(backward: Any, rng: Random) -> Iterator[Gradient]:
    for settings in MASKS[:2]:
        forward, back = partial(attention_forward, **settings), partial(backward, **settings)
        inputs = [rng.standard_normal((1, 2, 4, 3)) for _ in "qkv"]
        yield Gradient(operation(forward, back, lambda given, results: (*given, *results)), inputs, settings)


CHAPTERS_1_TO_4 = [
    Exercise(
        title="one merge of byte-pair encoding",
        target="chapters.ch01_tokenizer:merge",
        lesson="ch01_tokenizer",
        calls=merges,
        hints=(
            "Walk from left to right with an index. Either the part at the index and its right neighbour spell the token, or "
            "the part is kept.",
            "After a merge the walk goes on two places further, because both parts are used up: aaa holds aa once.",
        ),
    ),
    Exercise(
        title="learning tokens",
        target="chapters.ch01_tokenizer:train_plainly",
        lesson="ch01_tokenizer",
        calls=trainings,
        hints=(
            "Begin with the 256 single bytes. Then repeat: count the pairs of all words, choose one, merge it everywhere.",
            "`split`, `pairs` and `merge` exist. A Counter over the pairs of all words counts them.",
            "For the tie, min with the key (-count, pair). A chosen pair may spell a token that exists; it keeps its rank.",
        ),
    ),
    Exercise(
        title="encoding with the merges in their order",
        target="chapters.ch01_tokenizer:encode_plainly",
        lesson="ch01_tokenizer",
        calls=encodings,
        hints=(
            "Each word is encoded alone. The pair to merge next is the known pair that was learned first.",
            "Collect (rank, place) of all known pairs of a word; the smallest is the leftmost pair of the lowest rank. Merge "
            "this single place, and look again.",
        ),
    ),
    Exercise(
        title="next-token windows",
        target="chapters.ch02_dataset:NextTokenBatches.windows",
        lesson="ch02_dataset",
        calls=windows,
        play=windows_of,
        results=("inputs", "targets"),
        hints=(
            "A window of T inputs and their T targets needs T + 1 tokens.",
            "starts[:, None] + np.arange(T + 1) indexes all windows at once. Inputs leave out the last column, targets the "
            "first.",
        ),
    ),
    Exercise(
        title="the gradient of an embedding table",
        target="kernels.embedding.reference:embedding_backward",
        lesson="ch03_embeddings",
        forward="embedding_forward",
        calls=embedding_gradients,
        gradients=embedding_operations,
        results=("dweight",),
        hints=(
            "Row v of the table was copied to every position whose index is v. What does each copy contribute?",
            "dweight[indices] += dy adds only one of several equal indices. np.add.at adds all of them.",
        ),
    ),
    Exercise(
        title="the gradient of broadcasting",
        target="kernels.arrays:unbroadcast",
        lesson="ch03_embeddings",
        calls=broadcast_gradients,
        results=("the sum",),
        hints=(
            "Adding a table of positions (T, C) to a batch (B, T, C) copies the table B times. Its gradient is a sum over B.",
            "There are two kinds of axes to sum over: axes that `shape` lacks, in front, and axes where it has a 1.",
        ),
    ),
    Exercise(
        title="softmax",
        target="kernels.softmax.reference:softmax_forward",
        lesson="ch04_attention",
        calls=softmax_inputs,
        results=("y",),
        hints=(
            "exp(1000) is infinite in float64. Subtracting the same number from all x of a row changes no probability.",
            "Divide the exponentials by their sum over the last axis, with keepdims=True.",
        ),
    ),
    Exercise(
        title="the gradient of softmax",
        target="kernels.softmax.reference:softmax_backward",
        lesson="ch04_attention",
        forward="softmax_forward",
        calls=softmax_gradients,
        gradients=softmax_operations,
        results=("dx",),
        hints=(
            "Raising one x raises its own probability and lowers all others of the row, so every dy of the row matters.",
            "The derivative of y_i by x_j is y_i (1 − y_i) for i = j, and −y_i y_j else. Sum dy_i times it over i.",
        ),
    ),
    Exercise(
        title="the gradient of a matrix product",
        target="kernels.matmul.reference:matmul_backward",
        lesson="ch04_attention",
        forward="matmul",
        calls=products,
        gradients=product_operations,
        results=("da", "db"),
        hints=(
            "Only one product of dy and b, with one of them transposed, has the shape of a. The shapes nearly decide it.",
            "da = dy bᵀ and db = aᵀ dy; swapaxes(-1, -2) transposes a batch of matrices.",
            "If a was broadcast to a batch, its gradient is the sum over the batch: `unbroadcast`, an earlier exercise.",
        ),
    ),
    Exercise(
        title="one head of causal attention",
        target="chapters.ch04_attention:attention_by_hand",
        lesson="ch04_attention",
        calls=heads,
        results=("y", "weights"),
        hints=(
            "Scores, mask, softmax, weighted mean: four lines. Row t of the scores belongs to the query at position t.",
            "The keys after t get the score −∞. np.triu(…, k=1) is True exactly above the diagonal; masked_fill takes a mask "
            "that is a tensor.",
        ),
    ),
    Exercise(
        title="the gradient of attention",
        target="kernels.attention.reference:attention_backward",
        lesson="ch04_attention",
        forward="attention_forward",
        calls=attention_gradients,
        gradients=attention_operations,
        results=("dq", "dk", "dv"),
        hints=(
            "Go back step by step: y = P v is a product, P = softmax(S) is a softmax, S = scale · q kᵀ is a product.",
            "P was not saved. exp(S − logsumexp) is P again; `_scores` gives S with the mask.",
            "In the softmax's gradient, the sum of dP · P over a row is the sum of dout · y, which is cheaper.",
        ),
    ),
]
