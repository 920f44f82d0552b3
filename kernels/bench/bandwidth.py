"""What is bound by memory: bytes a second of each row operation, forward and backward, beside PyTorch and the machine's limit.

The bytes counted are those that must be moved: every array read once and written once. The limit for what writes is a copy,
which pays for a third movement that is not counted: a core reads a line before it changes a part of it. Who writes over what
it has just read, as AdamW does, is spared that, and can be above 100 %.
"""

from math import prod

from kernels.bench.measure import in_turns
from kernels.bench.peers import contestants, limit_rate
from kernels.bench.step import parameter_shapes

WEIGHTS = 30_000_000  # 480 MB in AdamW's four arrays


def _rows(name, direction, rows, columns, read, written):
    work = "row_operation", name.replace("-", "_"), direction, rows, columns
    return f"{name} {direction}", work, rows * columns, read, written


def _adamw(whose, shapes):
    return f"AdamW, {whose}", ("adamw", shapes), sum(map(prod, shapes)), 4, 3


def _work(rows, few_rows):
    """name, what is prepared, numbers in an array, arrays read, arrays written"""
    return [
        _rows("softmax", "forward", rows, 1024, 1, 1),
        _rows("softmax", "backward", rows, 1024, 2, 1),
        _rows("layernorm", "forward", rows, 768, 1, 1),
        _rows("layernorm", "backward", rows, 768, 2, 1),
        _rows("gelu", "forward", rows, 768, 1, 1),
        _rows("gelu", "backward", rows, 768, 2, 1),
        _rows("cross-entropy", "forward", few_rows, 50257, 1, 0),
        _rows("cross-entropy", "backward", few_rows, 50257, 1, 1),
        _adamw("one array", [[WEIGHTS]]),
        _adamw("the book's GPT", parameter_shapes("book")),
        ("gradient norm", ("gradient_norm", WEIGHTS), WEIGHTS, 1, 0),
    ]


def run(limits, size=None):
    """A line for each operation; what only reads is held against reading, the others against copying, in turns with them."""
    figures = []
    print(f"\n{'GB/s':24}{'minigrad':>9}{'limit':>9}{'share':>7}{'PyTorch':>9}{'ratio':>7}")
    with contestants("minigrad", "limit", "torch") as them:
        for name, work, numbers, read, written in _work(size or 16384, size or 1024):
            kind = "copying" if written else "reading"
            for library, one in them.items():
                one.prepare(*(work if library != "limit" else ("nothing_but", kind)))
            ours, bare, *peers = in_turns([one.turn for one in them.values()], 6.0)
            ours = 4 * numbers * (read + written) / ours / 1e9
            bare = limit_rate(kind, bare)
            theirs = [4 * numbers * (read + written) / seconds / 1e9 for seconds in peers]
            peer = "".join(f"{rate:9.1f}{ours / rate:6.2f}x" for rate in theirs)
            print(f"{name:<24}{ours:9.1f}{bare:9.1f}{100 * ours / bare:6.0f}%{peer}", flush=True)
            figures.append((name, ours))
    return figures, "GB/s", limits.copy
