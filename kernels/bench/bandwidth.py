"""What is bound by memory: bytes a second of each row operation, forward and backward, beside PyTorch and the machine's limit.

The bytes counted are those that must be moved: every array read once and written once.
"""

from kernels.bench.measure import in_turns
from kernels.bench.peers import contestants

ROWS, WIDE, VOCABULARY = 16384, 768, 50257
WEIGHTS = 30_000_000  # of AdamW: 480 MB in four arrays

# name, what is prepared, arrays read, arrays written (of the shape's size)
WORK = [
    ("softmax forward", ("row_operation", "softmax", "forward", ROWS, 1024), 1, 1),
    ("softmax backward", ("row_operation", "softmax", "backward", ROWS, 1024), 2, 1),
    ("layernorm forward", ("row_operation", "layernorm", "forward", ROWS, WIDE), 1, 1),
    ("layernorm backward", ("row_operation", "layernorm", "backward", ROWS, WIDE), 2, 1),
    ("gelu forward", ("row_operation", "gelu", "forward", ROWS, WIDE), 1, 1),
    ("gelu backward", ("row_operation", "gelu", "backward", ROWS, WIDE), 2, 1),
    ("cross-entropy forward", ("row_operation", "cross_entropy", "forward", 1024, VOCABULARY), 1, 0),
    ("cross-entropy backward", ("row_operation", "cross_entropy", "backward", 1024, VOCABULARY), 1, 1),
    ("AdamW", ("adamw", WEIGHTS), 4, 3),
    ("gradient norm", ("gradient_norm", WEIGHTS), 1, 0),
]


def run(limits, size=None):
    """A line for each operation; what only reads is held against reading, the others against copying, in turns with them."""
    figures = []
    print(f"\n{'GB/s':24}{'minigrad':>9}{'limit':>9}{'share':>7}{'PyTorch':>9}{'ratio':>7}")
    with contestants("minigrad", "limit", "torch") as them:
        for name, work, read, written in WORK:
            if size and work[0] == "row_operation":
                work = (*work[:3], size, work[4])
            for library, one in them.items():
                one.prepare(*(work if library != "limit" else ("memory", "copying" if written else "reading")))
            elements = work[-1] * (work[-2] if work[0] == "row_operation" else 1)
            ours, bare, *peers = in_turns([one.turn for one in them.values()], 2.0)
            ours = 4 * elements * (read + written) / ours / 1e9
            bare = (200 << 20) * (2 if written else 1) / bare / 1e9
            theirs = [4 * elements * (read + written) / seconds / 1e9 for seconds in peers]
            peer = "".join(f"{rate:9.1f}{ours / rate:6.2f}x" for rate in theirs)
            print(f"{name:<24}{ours:9.1f}{bare:9.1f}{100 * ours / bare:6.0f}%{peer}", flush=True)
            figures.append((name, ours))
    return figures, "GB/s", limits.copy
