"""The ladder of the matrix product: what loop order, registers, cache blocks, packing and threads each buy.

All rungs but the last run on one thread and need sizes that are multiples of the tile.
"""

import numba
import numpy as np

from kernels.ladders import Ladder, normal
from kernels.launch import SAFE
from kernels.matmul import cpu
from kernels.tile import COLUMNS, ROWS, VECTORS, packer, register_tile

compiled = numba.njit(fastmath=SAFE, error_model="numpy")
DEEP = 256  # columns of a in a piece
TALL = 96  # rows of a that are packed at a time


@compiled
def plain(a, b, c):
    """row times column; a column's elements lie far apart in memory"""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@compiled
def loop_order(a, b, c):
    """k before j: the inner loop runs along rows, in vector registers"""
    for i in range(a.shape[0]):
        c[i] = 0
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                c[i, j] += a[i, k] * b[k, j]


@compiled
def four_rows(a, b, c):
    """four rows of c at once: a number of b is loaded once and used four times"""
    for i in range(0, a.shape[0], 4):
        c[i : i + 4] = 0
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                c[i, j] += a[i, k] * b[k, j]
                c[i + 1, j] += a[i + 1, k] * b[k, j]
                c[i + 2, j] += a[i + 2, k] * b[k, j]
                c[i + 3, j] += a[i + 3, k] * b[k, j]


# The tiles below take addresses: element (i, j) of a C-contiguous float32 array with N columns lies 4 (i N + j) bytes after
# the first element.


def tiled(K, N):
    """The rungs register_tiles and cache_blocks. K and N: the number of columns of a and of b."""
    tile = register_tile(ROWS, VECTORS, a_row=K, a_column=1, b_row=N)

    @compiled
    def multiply(a, b, c, deep):
        a_0, b_0, c_0 = a.ctypes.data, b.ctypes.data, c.ctypes.data
        for k in range(0, K, deep):
            for j in range(0, N, COLUMNS):
                for i in range(0, len(a), ROWS):
                    a_tile, b_tile = a_0 + 4 * (i * K + k), b_0 + 4 * (k * N + j)
                    tile(a_tile, b_tile, c_0 + 4 * (i * N + j), min(deep, K - k), N, k > 0, 0)

    def register_tiles(a, b, c):
        """a tile of c stays in registers while k runs"""
        multiply(a, b, c, K)

    def cache_blocks(a, b, c):
        """k in pieces: b's columns stay in the nearest cache between rows of tiles"""
        multiply(a, b, c, DEEP)

    return register_tiles, cache_blocks


def packed(K, N):
    """The rung `packing`. K and N: the number of columns of a and of b."""
    tile, pack_a, pack_b = register_tile(ROWS, VECTORS), packer(ROWS), packer(COLUMNS)

    @compiled
    def pack_and_multiply(a, b, c, a_pieces, b_pieces):
        a_0, b_0, c_0 = a.ctypes.data, b.ctypes.data, c.ctypes.data
        a_packed, b_packed = a_pieces.ctypes.data, b_pieces.ctypes.data
        for k in range(0, K, DEEP):
            deep = min(DEEP, K - k)
            pack_b(b_0 + 4 * k * N, 1, N, N, deep, deep, b_packed)
            for top in range(0, len(a), TALL):
                rows = min(TALL, len(a) - top)
                pack_a(a_0 + 4 * (top * K + k), K, 1, rows, deep, deep, a_packed)
                for j in range(0, N, COLUMNS):
                    for i in range(0, rows, ROWS):
                        c_tile = c_0 + 4 * ((top + i) * N + j)
                        tile(a_packed + 4 * i * deep, b_packed + 4 * j * deep, c_tile, deep, N, k > 0, 0)

    a_pieces, b_pieces = np.empty(DEEP * DEEP, np.float32), np.empty(DEEP * N, np.float32)

    def packing(a, b, c):
        """copies of pieces in the order in which the tile reads them"""
        pack_and_multiply(a, b, c, a_pieces, b_pieces)

    return packing


def threads(a, b, c):
    """all cores: the engine's kernel"""
    return cpu.matmul(a, b, out=c)


def ladders(size: int | None = None) -> list[Ladder]:
    """A square product, 768 numbers a side by default; other sizes are rounded up to a multiple of 96."""
    n = -(-(size or 768) // 96) * 96
    a, b = normal(n, n), normal(n, n, seed=1)
    rungs = (plain, loop_order, four_rows, *tiled(n, n), packed(n, n), threads)
    return [Ladder("matmul", "forward", (n, n, n), rungs, (a, b, np.empty_like(a)), 2 * n**3, "multiplying", 1e-5)]
