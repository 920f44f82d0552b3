"""What is compared, each library in a process of its own: minigrad, NumPy and PyTorch doing the same work on the same shapes.

Every library brings a pool of threads, and a pool that waits for its next task spins for a while first. In one process the
pools would hold each other's cores. So each contestant lives alone, prepares what it is asked for, and computes only when it
is told to, while the others sleep:

    with contestants("minigrad", "torch") as them:
        for one in them.values():
            one.prepare("softmax", 1024, 768)
        seconds = in_turns([one.turn for one in them.values()])

A function below makes one piece of work: given the library's name and sizes, it returns a function to be timed.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

LARGE = 200 << 20  # bytes: more than any cache holds
TURN = 0.1  # seconds: a short function is called for so long to wake the threads, and for as long again to be timed


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def matmul(library, M, K, N, transpose_a, transpose_b):
    a = normal(K, M) if transpose_a else normal(M, K)
    b = normal(N, K) if transpose_b else normal(K, N)
    c = np.empty((M, N), np.float32)
    left, right = a.T if transpose_a else a, b.T if transpose_b else b
    if library == "minigrad":
        from kernels.matmul import cpu

        return lambda: cpu.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b, out=c)
    if library == "numpy":
        return lambda: np.matmul(left, right, out=c)
    torch = _torch()
    left, right, c = map(torch.from_numpy, (left, right, c))
    return lambda: torch.matmul(left, right, out=c)


def one_row(library, rows, columns, transposed):
    """A row times several matrices, or their transposes, in turn: so many that none is still in a cache when its turn comes."""
    copies = -(-LARGE // (4 * rows * columns))
    weights = [normal(rows, columns, seed=i) for i in range(copies)]
    x, y = normal(1, columns if transposed else rows), np.empty((1, rows if transposed else columns), np.float32)
    if library == "minigrad":
        from kernels.matmul import cpu

        one = lambda w: cpu.matmul(x, w, transpose_b=transposed, out=y)  # noqa: E731
    elif library == "numpy":
        one = lambda w: np.matmul(x, w.T if transposed else w, out=y)  # noqa: E731
    else:
        torch = _torch()
        weights, x, y = [torch.from_numpy(w) for w in weights], torch.from_numpy(x), torch.from_numpy(y)
        one = lambda w: torch.matmul(x, w.T if transposed else w, out=y)  # noqa: E731

    def all_of_them():
        for w in weights:
            one(w)

    all_of_them.share = 1 / copies
    return all_of_them


def nothing_but(library, kind):
    """Multiply-adds in registers, or reading or copying LARGE bytes: the limit that others are set beside, turn by turn."""
    from kernels.bench.measure import copying, multiplying, reading

    if kind == "multiplying":
        return multiplying()
    return {"reading": reading, "copying": copying}[kind](LARGE >> 20)


def limit_rate(kind, seconds):
    """GFLOP/s or GB/s, where nothing_but(…, kind) takes so many seconds; what is copied is counted twice, read and written."""
    from kernels.bench.measure import multiply_adds

    return {"multiplying": multiply_adds(), "reading": LARGE, "copying": 2 * LARGE}[kind] / seconds / 1e9


def attention(library, B, H, T, D, backward):
    """Causal, q, k and v being views of one projection, as in a GPT."""
    joint = normal(B, T, 4, H, D)
    q, k, v, dout = (joint[:, :, i].transpose(0, 2, 1, 3) for i in range(4))  # (B, H, T, D) each
    if library == "minigrad":
        from kernels.attention import cpu

        def ours():
            y, lse = cpu.attention_forward(q, k, v, causal_offset=0)
            if backward:
                cpu.attention_backward(dout, q, k, v, y, lse, causal_offset=0)

        return ours
    torch = _torch()
    q, k, v = (torch.from_numpy(np.array(a)).requires_grad_(backward) for a in (q, k, v))
    dout = torch.from_numpy(np.array(dout))

    def theirs():
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        if backward:
            y.backward(dout)

    return theirs


def row_operation(library, name, direction, *shape):
    """softmax, layernorm, gelu or cross_entropy, "forward" or "backward", into memory that is already there where it can be."""
    x, dy, out = normal(*shape), normal(*shape, seed=1), np.empty(shape, np.float32)
    C = shape[-1]
    weight, bias, targets = normal(C), normal(C), np.random.default_rng(0).integers(0, C, shape[0])
    if library == "minigrad":
        return _our_row_operation(name, direction, x, dy, out, weight, bias, targets)
    torch = _torch()
    F = torch.nn.functional
    x, dy, out, weight, bias, targets = map(torch.from_numpy, (x, dy, out, weight, bias, targets))
    forward = {
        "softmax": lambda x: torch.softmax(x, -1),
        "layernorm": lambda x: F.layer_norm(x, (C,), weight, bias),
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "cross_entropy": lambda x: F.cross_entropy(x, targets, reduction="none"),
    }[name]
    if direction == "forward":
        in_place = {"softmax": lambda: torch.softmax(x, -1, out=out)}
        return in_place.get(name, lambda: forward(x))
    x.requires_grad_()
    for parameter in (weight, bias):
        parameter.requires_grad_(name == "layernorm")
    y = forward(x)
    dy = dy if y.shape == dy.shape else torch.full(y.shape, 1 / len(y))
    wanted = (x, weight, bias) if name == "layernorm" else (x,)
    return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)


def _our_row_operation(name, direction, x, dy, out, weight, bias, targets):
    from kernels.cross_entropy import cpu as loss
    from kernels.gelu import cpu as bend
    from kernels.layernorm import cpu as norm
    from kernels.softmax import cpu as soft

    y = soft.softmax_forward(x) if name == "softmax" else None
    mean, rstd = norm.layernorm_forward(x, weight, bias)[1:] if name == "layernorm" else (None, None)
    lse = loss.cross_entropy_forward(x, targets)[1] if name == "cross_entropy" else None
    each = np.full(len(x), 1 / len(x), np.float32)
    return {
        ("softmax", "forward"): lambda: soft.softmax_forward(x, out=out),
        ("softmax", "backward"): lambda: soft.softmax_backward(dy, y, out=out),
        ("layernorm", "forward"): lambda: norm.layernorm_forward(x, weight, bias, out=out),
        ("layernorm", "backward"): lambda: norm.layernorm_backward(dy, x, weight, mean, rstd, out=(out, None, None)),
        ("gelu", "forward"): lambda: bend.gelu_forward(x, approximate="tanh", out=out),
        ("gelu", "backward"): lambda: bend.gelu_backward(dy, x, approximate="tanh", out=out),
        ("cross_entropy", "forward"): lambda: loss.cross_entropy_forward(x, targets),
        ("cross_entropy", "backward"): lambda: loss.cross_entropy_backward(each, x, targets, lse, out=out),
    }[name, direction]


def adamw(library, shapes):
    """A step of AdamW over arrays of these shapes; PyTorch's fused one, its fastest."""
    params, grads = ([normal(*shape, seed=seed) for shape in shapes] for seed in (0, 1))
    settings = dict(lr=1e-3, eps=1e-8, weight_decay=0.1)
    if library == "minigrad":
        from kernels.adamw import cpu

        m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
        return lambda: cpu.adamw_step(params, grads, m, v, step=5, beta1=0.9, beta2=0.95, **settings)
    torch = _torch()
    params = [torch.from_numpy(p).requires_grad_() for p in params]
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.from_numpy(grad)
    return torch.optim.AdamW(params, betas=(0.9, 0.95), fused=True, **settings).step


def gradient_norm(library, n):
    grad = normal(n)
    if library == "minigrad":
        from kernels.adamw import cpu

        return lambda: cpu.global_norm([grad])
    return lambda grad=_torch().from_numpy(grad): grad.norm()


def training_step(library, preset, B, T):
    """Forward, backward, clip and AdamW of a whole GPT; the library "compiled" is PyTorch through torch.compile.

    Its turns are long, for training is long: the first steps after a rest take some percent more than those that follow.
    """
    from kernels.bench.step import our_step, prepared

    config, inputs, targets = prepared(preset, B, T)
    if library == "minigrad":
        step = our_step(config, inputs, targets)
    else:
        _torch()
        from kernels.bench.peer_gpt import peer_step

        step = peer_step(config, inputs, targets, compiled=library == "compiled")
    step.turn = 1.0
    return step


def decoding(library, other, texts=1):
    """One more token of GPT-2 124M, with a cache: ours in float32 or (other) int8; transformers' forward or generate()."""
    from kernels.bench.decode import our_decoding, their_decoding

    return our_decoding(other, texts) if library == "minigrad" else their_decoding(_torch(), other)


def fine_tuning_step(library, how):
    """A training step of GPT-2 124M: transformers', or ours with `how` little memory (see kernels/bench/gpt2_step.py)."""
    from kernels.bench.gpt2_step import our_fine_tuning, their_fine_tuning

    return our_fine_tuning(how) if library == "minigrad" else their_fine_tuning(_torch())


ALL_WORK = (
    matmul, one_row, nothing_but, attention, row_operation, adamw, gradient_norm, training_step, decoding, fine_tuning_step
)  # fmt: skip
WORK = {f.__name__: f for f in ALL_WORK}


def installed(library):
    return importlib.util.find_spec({"compiled": "torch", "limit": "numba"}.get(library, library)) is not None


def _torch():
    import numba
    import torch

    torch.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    return torch


class Contestant:
    """A library in a process of its own, which works when told to and sleeps in between."""

    def __init__(self, library):
        environment = dict(os.environ)
        environment.pop("GOMP_SPINCOUNT", None)  # our setting of OpenMP (kernels/launch.py); minigrad's process sets it again
        command = [sys.executable, "-m", "kernels.bench.peers", library]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip

    def _ask(self, request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args[-1]} ended while it worked on {request}; its own message stands above")
        return json.loads(answer)

    def prepare(self, work, *arguments):
        """Make the data, compile, and call it once."""
        self._ask([work, *arguments])

    def turn(self):
        """Seconds of one call, the mean of a turn's calls."""
        answer = self._ask(None)
        self.most_held = answer["peak"]
        return answer["seconds"]

    def peak(self):
        """MiB: the most memory that the process had held at the end of its last turn."""
        return self.most_held

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def contestants(*libraries):
    """{library: Contestant} for those that are installed."""
    them = {}
    try:
        for library in libraries:
            if installed(library):
                them[library] = Contestant(library)
        yield them
    finally:
        for contestant in them.values():
            contestant.close()


def _most_memory_held():
    """MiB. Linux's own count for this process alone; getrusage's would include that of the process that started it."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except (OSError, TypeError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def seconds_of(function):
    """Seconds of one call, the mean of as many as fill a turn: TURN seconds, or function.turn where that is said.

    The same number of calls goes before, unheeded: threads that slept are often woken on the core of the one that wakes them,
    and it takes the system some tens of milliseconds to move them apart.
    """
    calls, begin = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begin < getattr(function, "turn", TURN):
        function()
        calls += 1
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls * getattr(function, "share", 1)


def _serve(library):
    function = None
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            answer = {"seconds": seconds_of(function), "peak": _most_memory_held()}
        else:
            function = None  # frees what it held, before more is made
            function = WORK[request[0]](library, *request[1:])
            function()
            answer = {}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
