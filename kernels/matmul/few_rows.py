"""The products with few rows: B is read once, where it lies, at the rate of memory.

Either form of B is read along its rows: where these run along k, an element of C is the dot product of two rows; where they
run along n, the rows of B are weighted by x and added up.
"""

from numba import types

from kernels.launch import APART, inner
from kernels.simd import add_rows, dot, four_dots, load, store

_F = types.float32

# A processor fetches ahead of what is read, up to the end of a page of 4 kB. Were a row of B shorter than two pages shared out
# between threads, much of what is fetched would be another's: short rows are handed out whole, in SLICES of B.
SLICES = 8
SHORT, DEEP = 2048, 512  # numbers in such a row, at most; rows, at least: else adding up the slices would be no small matter

# Columns of C are shared out in whole groups. A single column, or those that a vectorised loop leaves over at its end, may be
# summed in another order than columns side by side; and those must be the last of C, however many threads there are.
FOUR, WHOLE = 4, 64  # what `transposed` takes together; as much as a vectorised loop may take in one go, or a multiple


@inner
def transposed(x, w, w_row, M, K, first, last, c, c_row, add):
    """Columns first…last of C, B being given as rows along k: each is a dot product with a row of B."""
    n = first
    while n < last:
        four = n + 4 <= last
        for m in range(M):
            place, row = m * c_row + n, x + 4 * m * K
            if four:
                s = four_dots(row, w + 4 * n * w_row, w_row, K)
                for i in range(4):
                    store(c, place + i, s[i] + (load(c, place + i) if add else _F(0.0)))
            else:
                value = dot(row, w + 4 * n * w_row, K)
                store(c, place, value + (load(c, place) if add else _F(0.0)))
        n += 4 if four else 1


@inner
def plain(x, x_row, b, b_k, M, K, first, last, c, c_row, add):
    """Columns first…last of C, B being given as rows along n: C is a weighted sum of B's rows."""
    # One row of x takes B as it comes, along whole rows; several take some rows of it each in turn, from the cache.
    span, deep = (16384, K) if M == 1 else (1024, 16)
    for j in range(first, last, span):
        n = min(span, last - j)
        if not add:
            for m in range(M):
                for i in range(n):
                    store(c, m * c_row + j + i, _F(0.0))
        for k in range(0, K, deep):
            for m in range(M):
                weights, here = x + 4 * (m * x_row + k), b + 4 * (k * b_k + j)
                add_rows(weights, here, b_k, min(deep, K - k), n, c + 4 * (m * c_row + j))


@inner
def of_slice(s, x, b, b_k, M, K, N, c, c_row, room, add):
    """Slice s's part of C: the first is computed in C, each of the others in M * N + APART numbers of `room`."""
    first, last = K * s // SLICES, K * (s + 1) // SLICES
    if s == 0:
        plain(x, K, b, b_k, M, last, 0, N, c, c_row, add)
    else:
        part = room + 4 * (s - 1) * (M * N + APART)
        plain(x + 4 * first, K, b + 4 * first * b_k, b_k, M, last - first, 0, N, part, N, False)


@inner
def add_slices(M, N, c, c_row, room):
    """C += what all slices but the first came to."""
    for s in range(SLICES - 1):
        for m in range(M):
            part, here = room + 4 * (s * (M * N + APART) + m * N), c + 4 * m * c_row
            for j in range(N):
                store(here, j, load(here, j) + load(part, j))
