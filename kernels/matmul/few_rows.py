"""Products C = x B with few rows: they read B once, in place, at the speed of memory.

They always read along B's contiguous axis. If that is k, an element of C is the dot product of a row of x and a column of B. If
it is n, row m of C is the sum of B's rows, weighted by row m of x.
"""

from numba import types

from kernels.launch import CACHE_GAP, inner
from kernels.matmul.block import Piece
from kernels.simd import Rows, add_rows, add_weighted_row, dot, four_dots, load, row_of, store

_F = types.float32

# A core stops prefetching at the end of a page of 4 kB, and starts anew after each jump. With a single row of x, rows of B up
# to a page long are therefore read in memory order, and longer rows four or eight at a time. If threads divided rows shorter
# than two pages among them, a core would prefetch much of another core's part. So B is cut into SLICES groups of whole rows,
# and each thread takes some of them.
PAGE, SLICES = 1024, 8  # a page in floats
SHORT, DEEP = 2048, 512  # slice B only if N ≤ SHORT and K ≥ DEEP, because adding up slices costs time

# Threads share columns of C in whole groups. A vectorised loop may sum the remainder at its end in another order, and this
# remainder must be the last columns of C, however many threads there are.
DOT_GROUP, LOOP_GROUP = 4, 64  # columns that dot_product_columns takes together; at least one round of a vectorised loop


@inner
def dot_product_columns(x, w, K, c, add):
    """C = x Wᵀ, or += if `add`.  x: address of (M, K), contiguous; w: Rows (N, K); c: Piece (M, N)."""
    n, one_by_one = 0, c.rows == 1 and w.step <= PAGE
    while n < c.columns:
        four = n + 4 <= c.columns and not one_by_one
        for m in range(c.rows):
            place, row = m * c.step + n, x + 4 * m * K
            if four:
                s = four_dots(row, row_of(w, n), w.step, K)
                for i in range(4):
                    store(c.address, place + i, s[i] + (load(c.address, place + i) if add else _F(0.0)))
            else:
                value = dot(row, row_of(w, n), K)
                store(c.address, place, value + (load(c.address, place) if add else _F(0.0)))
        n += 4 if four else 1


@inner
def weighted_rows(x, b, K, c, add):
    """C = x B, or += if `add`.  x: Rows (M, K); b: Rows (K, N); c: Piece (M, N)."""
    # A single row of x takes whole rows of B. Several rows of x take 16 rows of B in turn, while the cache holds them.
    span, deep = (16384, K) if c.rows == 1 else (1024, 16)
    for j in range(0, c.columns, span):
        n = min(span, c.columns - j)
        if not add:
            for m in range(c.rows):
                for i in range(n):
                    store(c.address, m * c.step + j + i, _F(0.0))
        if c.rows == 1 and b.step <= PAGE:
            for k in range(K):
                add_weighted_row(load(x.address, k), row_of(b, k) + 4 * j, n, c.address + 4 * j)
        else:
            for k in range(0, K, deep):
                for m in range(c.rows):
                    weights, sums = row_of(x, m) + 4 * k, c.address + 4 * (m * c.step + j)
                    add_rows(weights, row_of(b, k) + 4 * j, b.step, min(deep, K - k), n, sums)


@inner
def slice_product(s, x, b, K, c, partial_sums, add):
    """Slice s of C = x B: slice 0 is computed in C, each other slice in its own part of `partial_sums`."""
    first, last = K * s // SLICES, K * (s + 1) // SLICES
    rows, part_of_b = Rows(x + 4 * first, K), Rows(row_of(b, first), b.step)
    if s == 0:
        weighted_rows(rows, part_of_b, last, c, add)
    else:
        part = partial_sums + 4 * (s - 1) * (c.rows * c.columns + CACHE_GAP)
        weighted_rows(rows, part_of_b, last - first, Piece(part, c.columns, c.rows, c.columns), False)


@inner
def add_slices(c, partial_sums):
    """C += the partial sums of all slices but the first."""
    for s in range(SLICES - 1):
        for m in range(c.rows):
            part = partial_sums + 4 * (s * (c.rows * c.columns + CACHE_GAP) + m * c.columns)
            row = row_of(c, m)
            for j in range(c.columns):
                store(row, j, load(row, j) + load(part, j))
