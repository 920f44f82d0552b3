"""What is bound by memory: bytes a second of each row operation, forward and backward, beside PyTorch and the machine's limit.

The bytes counted are those that must be moved: every array read once and written once.
"""

from math import prod

from kernels.bench.measure import in_turns
from kernels.bench.peers import contestants
from kernels.bench.step import prepared

ROWS, WIDE, VOCABULARY = 16384, 768, 50257
MANY = 30_000_000  # of AdamW: 480 MB in four arrays

# name, what is prepared, arrays read, arrays written
WORK = [
    ("softmax forward", ("row_operation", "softmax", "forward", ROWS, 1024), 1, 1),
    ("softmax backward", ("row_operation", "softmax", "backward", ROWS, 1024), 2, 1),
    ("layernorm forward", ("row_operation", "layernorm", "forward", ROWS, WIDE), 1, 1),
    ("layernorm backward", ("row_operation", "layernorm", "backward", ROWS, WIDE), 2, 1),
    ("gelu forward", ("row_operation", "gelu", "forward", ROWS, WIDE), 1, 1),
    ("gelu backward", ("row_operation", "gelu", "backward", ROWS, WIDE), 2, 1),
    ("cross-entropy forward", ("row_operation", "cross_entropy", "forward", 1024, VOCABULARY), 1, 0),
    ("cross-entropy backward", ("row_operation", "cross_entropy", "backward", 1024, VOCABULARY), 1, 1),
    ("AdamW, one array", ("adamw", [[MANY]]), 4, 3),
    ("AdamW, the book's GPT", ("adamw", "book"), 4, 3),  # the shapes of its parameters
    ("gradient norm", ("gradient_norm", MANY), 1, 0),
]


def _spelled_out(kind, *rest, size):
    """(what is prepared, elements of each array): with `size` rows where that was asked for, a preset as its model's shapes."""
    if kind == "adamw":
        shapes = _parameter_shapes(rest[0]) if isinstance(rest[0], str) else rest[0]
        return (kind, shapes), sum(map(prod, shapes))
    if kind == "row_operation":
        rest = (*rest[:2], size or rest[2], rest[3])
    return (kind, *rest), prod(n for n in rest if isinstance(n, int))


def _parameter_shapes(preset):
    from chapters.ch06_gpt import GPT

    return [parameter.shape for parameter in GPT(prepared(preset, 1, 1)[0]).parameters()]


def run(limits, size=None):
    """A line for each operation; what only reads is held against reading, the others against copying, in turns with them."""
    figures = []
    print(f"\n{'GB/s':24}{'minigrad':>9}{'limit':>9}{'share':>7}{'PyTorch':>9}{'ratio':>7}")
    with contestants("minigrad", "limit", "torch") as them:
        for name, work, read, written in WORK:
            work, elements = _spelled_out(*work, size=size)
            for library, one in them.items():
                one.prepare(*(work if library != "limit" else ("limit", "copying" if written else "reading")))
            ours, bare, *peers = in_turns([one.turn for one in them.values()])
            ours = 4 * elements * (read + written) / ours / 1e9
            bare = (200 << 20) * (2 if written else 1) / bare / 1e9
            theirs = [4 * elements * (read + written) / seconds / 1e9 for seconds in peers]
            peer = "".join(f"{rate:9.1f}{ours / rate:6.2f}x" for rate in theirs)
            print(f"{name:<24}{ours:9.1f}{bare:9.1f}{100 * ours / bare:6.0f}%{peer}", flush=True)
            figures.append((name, ours))
    return figures, "GB/s", limits.copy
