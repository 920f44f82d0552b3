"""A block of a product: some rows of A against packed panels of B, tile by tile, and what follows while C is in the cache.

An A whose rows lie along k is read where it is, if only by a few panels: a tile's rows are then as many streams of memory. More
panels are faster with a packed one. Where the rows lie across, so that a tile's column is a small piece of a line, the tiles of
the first panel pack it for the others. (Packed before, it kept the multiply-adds waiting for up to a tenth of the time.)
"""

from numba import types

from kernels.gelu.cpu import gelu, gelu_tanh
from kernels.launch import inner
from kernels.simd import WIDTH, load, store
from kernels.tile import COLUMNS, ROWS, VECTORS, add_row, copy_row, packer, packing_tile, register_tile, tile_in_place

_F = types.float32

DEEPEST = 512  # of K in one piece
TALLEST = 96  # rows of A in one piece
FEW_PANELS = 16  # of B, that read A where it is
ROOM = TALLEST * DEEPEST + WIDTH + ROWS * COLUMNS + WIDTH  # floats that block_of needs: a packed piece of A, and an edge tile

_tile, _packing_tile = register_tile(ROWS, VECTORS), packing_tile(ROWS, VECTORS)
_tile_of_three, _tile_of_two, _tile_of_one = (tile_in_place(ROWS, n, b_row=COLUMNS) for n in (VECTORS, 2, 1))
_pack = packer(ROWS)
_add_bias, _keep = add_row(COLUMNS), copy_row(COLUMNS)


@inner
def finish(z, z_row, rows, columns, bias, pre, pre_row, activation):
    """Add the bias (unless 0), keep a copy in `pre` (unless 0), apply the activation: to a piece of C, in place."""
    for r in range(rows):
        here, kept = z + 4 * r * z_row, pre + 4 * r * pre_row
        for c in range(0, columns, COLUMNS):
            if c + COLUMNS <= columns:
                if bias != 0:
                    _add_bias(bias + 4 * c, here + 4 * c)
                if pre != 0:
                    _keep(here + 4 * c, kept + 4 * c)
            else:
                for i in range(c, columns):
                    store(here, i, load(here, i) + (load(bias, i) if bias != 0 else _F(0.0)))
                    if pre != 0:
                        store(kept, i, load(here, i))
        if activation == 1:
            for c in range(columns):
                store(here, c, gelu(load(here, c)))
        elif activation == 2:
            for c in range(columns):
                store(here, c, gelu_tanh(load(here, c)))


@inner
def _rim(a, a_i, a_k, b, K, c, c_row, rows, columns, add, edge):
    """A tile that hangs over the rim of C: computed whole, aside; then what belongs to C is copied."""
    _tile_of_three(a, b, edge, K, COLUMNS, False, a_i, a_k)
    for r in range(rows):
        for j in range(columns):
            before = load(c, r * c_row + j) if add else _F(0.0)
            store(c, r * c_row + j, before + load(edge, r * COLUMNS + j))


@inner
def _packing_panel(a, a_k, packed, b, K, c, c_row, rows, add):
    """A panel of B against whole tiles of an A whose rows lie across, which is packed on the way for the panels to come."""
    for i in range(0, rows, ROWS):
        _packing_tile(a + 4 * i, b, c + 4 * i * c_row, K, c_row, add, a_k, packed + 4 * i * K)


@inner
def _panel(a, a_i, a_k, a_tile, b, K, c, c_row, rows, columns, add, edge):
    """A panel of B against whole tiles of A, into `rows` by `columns` of C; the tile from row i on begins at a + i · a_tile."""
    for i in range(0, rows, ROWS):
        tile, here = a + 4 * i * a_tile, c + 4 * i * c_row
        if columns == COLUMNS and a_k == ROWS:
            _tile(tile, b, here, K, c_row, add)
        elif columns == COLUMNS:
            _tile_of_three(tile, b, here, K, c_row, add, a_i, a_k)
        elif columns == 2 * WIDTH:  # 128, 512, 1024 columns end in a panel that is only partly filled
            _tile_of_two(tile, b, here, K, c_row, add, a_i, a_k)
        elif columns == WIDTH:
            _tile_of_one(tile, b, here, K, c_row, add, a_i, a_k)
        else:
            _rim(tile, a_i, a_k, b, K, here, c_row, ROWS, columns, add, edge)


@inner
def block_of(a, a_i, a_k, b_packed, K, c, c_row, rows, columns, add, last, bias, pre, pre_row, activation, room):
    """rows by columns of C from K columns of A and K packed rows of B, a piece of K at a time; finished if `last`.

    Rows that do not fill a tile are packed, with zeros below them.
    """
    pieces = (K + DEEPEST - 1) // DEEPEST
    whole, edge = rows // ROWS * ROWS, room + 4 * (TALLEST * DEEPEST + WIDTH)
    in_place = a_k == 1 and columns <= FEW_PANELS * COLUMNS
    on_the_way = a_k != 1 and columns >= COLUMNS
    for piece in range(pieces):
        k0, k1 = K * piece // pieces, K * (piece + 1) // pieces
        depth, here, sum_up = k1 - k0, a + 4 * k0 * a_k, add or piece > 0
        tiles, step_i, step_k, a_tile = (here, a_i, 1, a_i) if in_place else (room, 1, ROWS, depth)
        rim = room + 4 * whole * depth
        if not in_place and not on_the_way:
            _pack(here, a_i, a_k, whole, depth, depth, room)
        if whole < rows:
            _pack(here + 4 * whole * a_i, a_i, a_k, rows - whole, depth, depth, rim)
        for j in range(0, columns, COLUMNS):
            width, panel, z = min(COLUMNS, columns - j), b_packed + 4 * (j * K + k0 * COLUMNS), c + 4 * j
            if on_the_way and j == 0:
                _packing_panel(here, a_k, room, panel, depth, z, c_row, whole, sum_up)
            else:
                _panel(tiles, step_i, step_k, a_tile, panel, depth, z, c_row, whole, width, sum_up, edge)
            if whole < rows:
                _rim(rim, 1, ROWS, panel, depth, z + 4 * whole * c_row, c_row, rows - whole, width, sum_up, edge)
            if last and piece == pieces - 1:
                bias_j, pre_j = bias + 4 * j if bias != 0 else 0, pre + 4 * j if pre != 0 else 0
                if width == COLUMNS:  # a number the compiler knows: no loop remainders
                    finish(z, c_row, rows, COLUMNS, bias_j, pre_j, pre_row, activation)
                else:
                    finish(z, c_row, rows, width, bias_j, pre_j, pre_row, activation)
