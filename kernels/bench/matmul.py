"""The ladder of the matrix product: what loop order, registers, cache blocks, packing and threads each buy.

All rungs but the last run on one thread and want sizes that are multiples of the tile; the last is the kernel of the engine.
"""

import numba
import numpy as np

from kernels.bench.measure import in_turns, ladder, torch_or_none
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
        ("NumPy", "its BLAS", lambda: np.matmul(a, b, out=c)),
    ]
    torch = torch_or_none()
    if torch is not None:
        ta, tb, tc = (torch.from_numpy(x) for x in (a, b, c))
        rungs.append(("PyTorch", torch.__version__, filled(lambda: torch.matmul(ta, tb, out=tc))))
    exact = a.astype(np.float64) @ b
    title = f"matmul ({n}, {n}) @ ({n}, {n}), float32"
    figures = ladder(title, rungs, 2 * n**3, "GFLOP/s", limits.gflops, exact, 1e-5)
    _steps_shapes(limits, torch)
    return figures, "GFLOP/s", limits.gflops


def _steps_shapes(limits, torch):
    print("\nshapes of the book step (B = 8, T = 256) and the gpt2 step (B = 4, T = 256): GFLOP/s")
    print(f"  {'M':>6} {'K':>6} {'N':>6}  form     kernel   NumPy PyTorch   limit")
    ratios = {"NumPy": [], "PyTorch": []}
    for R, C in ((2048, 384), (1024, 768)):
        for inputs, outputs in ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)):
            for M, K, N, ta, tb in (
                (R, inputs, outputs, False, True), (R, outputs, inputs, False, False), (outputs, R, inputs, True, False)
            ):  # fmt: skip
                rates = _one_shape(M, K, N, ta, tb, torch)
                for name, rate in zip(ratios, rates[1:], strict=False):
                    ratios[name].append(rates[0] / rate)
                form = ("aT " if ta else "a ") + ("bT" if tb else "b")
                shown = "".join(f"{rate:8.0f}" for rate in rates) + " " * 8 * (3 - len(rates))
                print(f"  {M:6} {K:6} {N:6}  {form:<6}{shown}{100 * rates[0] / limits.gflops:7.0f}%", flush=True)
    for name, values in ratios.items():
        if values:
            mean = float(np.exp(np.mean(np.log(values))))
            print(f"  against {name}: geometric mean {mean:.2f}x, worst {min(values):.2f}x, best {max(values):.2f}x")
    _one_row(limits)


def _one_shape(M, K, N, ta, tb, torch):
    """GFLOP/s of the kernel, NumPy and PyTorch for one product, run in turns."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((K, M) if ta else (M, K)).astype(np.float32)
    b = rng.standard_normal((N, K) if tb else (K, N)).astype(np.float32)
    c = np.empty((M, N), np.float32)
    left, right = a.T if ta else a, b.T if tb else b
    functions = [
        lambda: cpu.matmul(a, b, transpose_a=ta, transpose_b=tb, out=c), lambda: np.matmul(left, right, out=c)
    ]  # fmt: skip
    if torch is not None:
        tl, tr, tc = torch.from_numpy(left), torch.from_numpy(right), torch.from_numpy(c)
        functions.append(lambda: torch.matmul(tl, tr, out=tc))
    return [2 * M * N * K / seconds / 1e9 for seconds in in_turns(functions, 0.5)]


def _one_row(limits):
    print("\none row against a (N, 768) or (768, N) matrix, as in generation: GB/s of the matrix read")
    rng = np.random.default_rng(0)
    for N in (3072, 50257):
        for transposed in (True, False):
            copies = 1 if N > 10000 else 24  # different matrices in turn, so that none is still in a cache
            weights = [rng.standard_normal((N, 768) if transposed else (768, N)).astype(np.float32) for _ in range(copies)]
            x, y = rng.standard_normal((1, 768)).astype(np.float32), np.empty((1, N), np.float32)

            def ours(weights=weights, x=x, y=y, transposed=transposed):
                for w in weights:
                    cpu.matmul(x, w, transpose_b=transposed, out=y)

            def numpys(weights=weights, x=x, y=y, transposed=transposed):
                for w in weights:
                    np.matmul(x, w.T if transposed else w, out=y)

            size = copies * weights[0].nbytes
            mine, theirs = (size / seconds / 1e9 for seconds in in_turns([ours, numpys], 1.0))
            shape = f"({N}, 768)" if transposed else f"(768, {N})"
            print(f"  {shape:<14}{mine:6.1f}  NumPy {theirs:6.1f}  {100 * mine / limits.read:4.0f}% of the reading limit")
