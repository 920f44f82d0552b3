"""The ladder of the matrix product: what loop order, registers, cache blocks, packing and threads each buy.

All rungs but the last run on one thread and want sizes that are multiples of the tile; the last is the kernel of the engine.
"""

import numba
import numpy as np

from kernels.bench.measure import in_turns, ladder
from kernels.bench.peers import contestants
from kernels.launch import SAFE, address
from kernels.matmul import cpu
from kernels.tile import COLUMNS, ROWS, VECTORS, packer, register_tile

compiled = numba.njit(fastmath=SAFE, error_model="numpy")


@compiled
def plain(a, b, c):
    """The definition: each element is a row times a column. The column's elements lie far apart in memory."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@compiled
def loop_order(a, b, c):
    """k before j: the innermost loop now runs along rows of b and c, and the compiler puts it into vector registers."""
    for i in range(a.shape[0]):
        c[i] = 0
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                c[i, j] += a[i, k] * b[k, j]


@compiled
def four_rows(a, b, c):
    """Four rows of c at once: each row of b that was loaded serves four times."""
    for i in range(0, a.shape[0], 4):
        c[i : i + 4] = 0
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                c[i, j] += a[i, k] * b[k, j]
                c[i + 1, j] += a[i + 1, k] * b[k, j]
                c[i + 2, j] += a[i + 2, k] * b[k, j]
                c[i + 3, j] += a[i + 3, k] * b[k, j]


def tiled(K, N):
    """A tile of c stays in registers while k runs: c is no longer loaded and stored for every k."""
    tile = register_tile(ROWS, VECTORS, a_row=K, a_column=1, b_row=N)

    @compiled
    def register_tiles(a, b, c, M):
        for j in range(0, N, COLUMNS):
            for i in range(0, M, ROWS):
                tile(a + 4 * i * K, b + 4 * j, c + 4 * (i * N + j), K, N, False)

    return register_tiles


def blocked(K, N, deep=256):
    """k in pieces: the columns of b that a row of tiles reads stay in the nearest cache until the next row needs them."""
    tile = register_tile(ROWS, VECTORS, a_row=K, a_column=1, b_row=N)

    @compiled
    def cache_blocks(a, b, c, M):
        for k in range(0, K, deep):
            for j in range(0, N, COLUMNS):
                for i in range(0, M, ROWS):
                    tile(a + 4 * (i * K + k), b + 4 * (k * N + j), c + 4 * (i * N + j), min(deep, K - k), N, k > 0)

    return cache_blocks


def packed(K, N, deep=256, tall=96):
    """The pieces are copied into the order in which the tile reads them: no page or cache line is touched for a few bytes."""
    tile, pack_a, pack_b = register_tile(ROWS, VECTORS), packer(ROWS), packer(COLUMNS)

    @compiled
    def packing(a, b, c, M, a_packed, b_packed):
        for k in range(0, K, deep):
            piece = min(deep, K - k)
            pack_b(b + 4 * k * N, 1, N, N, piece, piece, b_packed)
            for i0 in range(0, M, tall):
                rows = min(tall, M - i0)
                pack_a(a + 4 * (i0 * K + k), K, 1, rows, piece, piece, a_packed)
                for j in range(0, N, COLUMNS):
                    for i in range(0, rows, ROWS):
                        place = c + 4 * ((i0 + i) * N + j)
                        tile(a_packed + 4 * i * piece, b_packed + 4 * j * piece, place, piece, N, k > 0)

    return packing


def run(limits, size=None):
    """The ladder on one square product, then the shapes of real training steps in all their transpose forms."""
    n = size or 768
    n = -(-n // 96) * 96
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n)).astype(np.float32) for _ in range(2))
    c, room = np.empty((n, n), np.float32), np.empty(n * n + 256 * 256, np.float32)
    A, B, C, R = address(a), address(b), address(c), address(room)
    tiles, blocks, packs = tiled(n, n), blocked(n, n), packed(n, n)

    def filled(function, *args):
        def call():
            function(*args)
            return c

        return call

    rungs = [
        ("plain", "row times column", filled(plain, a, b, c)),
        ("loop order", "the inner loop runs along memory", filled(loop_order, a, b, c)),
        ("four rows", "a loaded number is used four times", filled(four_rows, a, b, c)),
        ("register tile", f"{ROWS} rows by {VECTORS} vectors stay in registers", filled(tiles, A, B, C, n)),
        ("cache blocks", "b is used again before it leaves the cache", filled(blocks, A, B, C, n)),
        ("packing", "operands in the order of use", filled(packs, A, B, C, n, R, R + 4 * 256 * 256)),
        ("threads", "all cores: the engine's kernel", lambda: cpu.matmul(a, b, out=c)),
    ]
    exact = a.astype(np.float64) @ b
    work = dict.fromkeys(("numpy", "torch"), ("matmul", n, n, n, False, False))
    title = f"matmul ({n}, {n}) @ ({n}, {n}), float32"
    figures = ladder(title, rungs, 2 * n**3, "GFLOP/s", limits.gflops, exact, 1e-5, work)
    with contestants("minigrad", "numpy", "torch") as them:
        _shapes_of_steps(limits, them)
    return figures, "GFLOP/s", limits.gflops


def _shapes_of_steps(limits, them):
    print("\nshapes of the book step (B = 8, T = 256) and the gpt2 step (B = 4, T = 256): GFLOP/s")
    print(f"  {'M':>6} {'K':>6} {'N':>6}  form   " + "".join(f"{name:>9}" for name in them) + "   limit")
    ratios = {name: [] for name in them if name != "minigrad"}
    for R, C in ((2048, 384), (1024, 768)):
        for inputs, outputs in ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)):
            for M, K, N, ta, tb in (
                (R, inputs, outputs, False, True), (R, outputs, inputs, False, False), (outputs, R, inputs, True, False)
            ):  # fmt: skip
                for one in them.values():
                    one.prepare("matmul", M, K, N, ta, tb)
                seconds = dict(zip(them, in_turns([one.turn for one in them.values()], 5.0), strict=True))
                rates = {name: 2 * M * N * K / value / 1e9 for name, value in seconds.items()}
                for name, values in ratios.items():
                    values.append(rates["minigrad"] / rates[name])
                form = ("aT " if ta else "a ") + ("bT" if tb else "b")
                shown = "".join(f"{rate:9.0f}" for rate in rates.values())
                print(f"  {M:6} {K:6} {N:6}  {form:<6} {shown}{100 * rates['minigrad'] / limits.gflops:7.0f}%", flush=True)
    for name, values in ratios.items():
        mean = float(np.exp(np.mean(np.log(values))))
        print(f"  against {name}: geometric mean {mean:.2f}x, worst {min(values):.2f}x, best {max(values):.2f}x")
