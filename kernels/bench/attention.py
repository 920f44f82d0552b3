"""The ladder of causal attention, and its cost and memory as T grows: what never making the (T, T) matrix buys."""

import math
import tracemalloc

import numba
import numpy as np

from kernels.attention import cpu, reference
from kernels.bench.measure import in_turns, ladder
from kernels.bench.peers import attention, contestants
from kernels.launch import SAFE
from kernels.simd import exp
from kernels.softmax.cpu import row_maximum


@numba.njit(error_model="numpy")
def plain(q, k, v, y):
    """A query at a time, keys up to its own only; libm's exp, sums in the order written."""
    H, T, D = q.shape
    scores = np.empty(T, np.float32)
    scale = np.float32(1 / math.sqrt(D))
    for h in range(H):
        for t in range(T):
            top = np.float32(-np.inf)
            for s in range(t + 1):
                score = np.float32(0)
                for d in range(D):
                    score += q[h, t, d] * k[h, s, d]
                scores[s] = score * scale
                top = max(top, scores[s])
            total = np.float32(0)
            y[h, t] = 0
            for s in range(t + 1):
                weight = np.float32(math.exp(scores[s] - top))
                total += weight
                for d in range(D):
                    y[h, t, d] += weight * v[h, s, d]
            for d in range(D):
                y[h, t, d] /= total


@numba.njit(error_model="numpy", fastmath=SAFE)
def vectors(q, k, v, y):
    """The same with sums in vector registers and exp as a polynomial."""
    H, T, D = q.shape
    scores = np.empty(T, np.float32)
    scale = np.float32(1 / math.sqrt(D))
    for h in range(H):
        for t in range(T):
            for s in range(t + 1):
                score = np.float32(0)
                for d in range(D):
                    score += q[h, t, d] * k[h, s, d]
                scores[s] = score * scale
            top, total = row_maximum(scores[: t + 1]), np.float32(0)
            for s in range(t + 1):
                scores[s] = exp(scores[s] - top)
                total += scores[s]
            y[h, t] = 0
            for s in range(t + 1):
                for d in range(D):
                    y[h, t, d] += scores[s] * v[h, s, d]
            for d in range(D):
                y[h, t, d] /= total


def blocks(q, k, v, y):
    """The engine's kernel, on one thread."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        cpu.attention_forward(q[None], k[None], v[None], causal_offset=0, out=y[None])
    finally:
        numba.set_num_threads(before)


def run(limits, size=None):
    rng = np.random.default_rng(0)
    H, T, D = 6, 512, 64
    q, k, v = (rng.standard_normal((H, T, D)).astype(np.float32) for _ in range(3))
    y = np.empty_like(q)

    def filled(function):
        def call():
            function(q, k, v, y)
            return y

        return call

    def threads(q, k, v, y):
        cpu.attention_forward(q[None], k[None], v[None], causal_offset=0, out=y[None])

    rungs = [
        ("whole matrix", "NumPy, every score in memory", lambda: reference.attention_forward(q, k, v, causal_offset=0)[0]),
        ("plain", "a query at a time, no matrix, libm's exp", filled(plain)),
        ("vectors", "sums and exp in vector registers", filled(vectors)),
        ("blocks", "blocks of scores by register tiles", filled(blocks)),
        ("threads", "all cores: the engine's kernel", filled(threads)),
    ]
    exact = reference.attention_forward(*(a.astype(np.float64) for a in (q, k, v)), causal_offset=0)[0]
    operations = 2 * H * T * (T + 1) * D  # two products over the keys that are seen
    title = f"causal attention, forward, {H} heads, T = {T}, D = {D}"
    work = {"torch": ("attention", 1, H, T, D, False)}
    figures = ladder(title, rungs, operations, "GFLOP/s", limits.gflops, exact, work=work)
    with contestants("minigrad", "torch") as them:
        _as_T_grows(limits, them, size or 4096)
    return figures, "GFLOP/s", limits.gflops


def _as_T_grows(limits, them, longest):
    print("\ncausal attention, forward and backward, 6 heads, D = 64, as T grows")
    print("       T   kernel ms  PyTorch ms  ratio   limit   memory of the kernel  of one (T, T) matrix a head")
    T = 256
    while T <= longest:
        batch, heads, D = max(1, 2048 // T), 6, 64
        for one in them.values():
            one.prepare("attention", batch, heads, T, D, True)
        times = in_turns([one.turn for one in them.values()], 2.0)
        memory = _memory(batch, heads, T, D)
        rate = 7 * batch * heads * T * (T + 1) * D / times[0] / 1e9  # seven products: two forward, five backward
        peer = f"{1e3 * times[1]:10.1f}  {times[1] / times[0]:5.2f}" if len(times) > 1 else " " * 17
        share, matrix = 100 * rate / limits.gflops, batch * heads * T * T * 4 / 2**20
        print(f"  {T:6}  {1e3 * times[0]:10.1f}  {peer}  {share:5.0f}%  {memory:12.1f} MiB  {matrix:18.1f} MiB", flush=True)
        T *= 4


def _memory(B, H, T, D):
    """MiB that a forward and a backward pass allocate, results included, at most at one time."""
    step = attention("minigrad", B, H, T, D, True)
    step()
    tracemalloc.start()
    step()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20
