"""A block of a product: some rows of A times packed panels of B, tile by tile.

Each tile starts from the bias and gets its GELU while it is in the first-level cache.

If A's rows run along k, tiles can read A in place. That is fastest for a few panels of B; for more panels, packing A first is
faster. If A's rows run across k, a column of eight rows fills half a cache line. Then the tiles of the first panel pack A for
the panels that follow. (On a Zen 5, packing A beforehand kept the multiply-adds waiting for up to a tenth of the time.) Shorter
columns use less of each line, so A is packed first.
"""

from collections import namedtuple

from numba import types

from kernels.caches import second_level_cache
from kernels.gelu.cpu import gelu, gelu_tanh
from kernels.launch import inner
from kernels.simd import WIDTH, load, prefetch_for_writing, store
from kernels.tile import COLUMNS, ROWS, VECTORS, add_row, copy_row, packer, packing_tile, register_tile, tile_in_place

_F = types.float32

DEPTH = 512  # most columns of A in one step


def tallest(cache: int) -> int:
    """Most rows of A in one block, for a second-level cache of `cache` bytes.

    A packed block of A must stay in that cache while all panels of B pass by. Low et al. give it the whole cache but for a
    panel of B and a strip of C. Here it gets what a panel of B leaves of one half, because two threads of a core share the
    cache, and data on their way to memory pass through it. The block has at most 96 rows: 192 were 1 % slower (Zen 4), since
    fewer blocks are harder to share out. It has at least 24 rows, the smallest number that tiles of 4, 6 and 8 rows all divide.

    The first-level cache sets no bound here: as long as the second level delivers panels of B in time, a smaller DEPTH only
    means more passes over C (256 was 3 % slower with a panel of 98 kB on Zen 4, and no faster with 32 kB on Zen 3).

    Source: Low, Igual, Smith, Quintana-Ortí 2016, Analytical Modeling Is Enough for High-Performance BLIS
    (doi:10.1145/2925987), §4.
    """
    room = cache // 2 - 4 * DEPTH * COLUMNS  # bytes
    return min(96, max(24, room // (4 * DEPTH) // 24 * 24))


TALLEST = tallest(second_level_cache())
FEW_PANELS = 16  # most panels of B for which A is read in place
ROOM = TALLEST * DEPTH + WIDTH + ROWS * COLUMNS + WIDTH  # floats of scratch memory for block_product: packed A, an edge tile

_tile, _packing_tile = register_tile(ROWS, VECTORS), packing_tile(ROWS, VECTORS)
_tile_in_place, _tile_of_two, _tile_of_one = (tile_in_place(ROWS, n, b_row=COLUMNS) for n in (VECTORS, 2, 1))
_pack = packer(ROWS)
_add_bias, _copy = add_row(COLUMNS), copy_row(COLUMNS)


# A or B: its address, and the floats from one row and from one column to the next.
Operand = namedtuple("Operand", "address row_step column_step")
# A piece of C: its address, the floats from one row to the next, and its size.
Piece = namedtuple("Piece", "address step rows columns")
# A product's epilogue: add the bias, store the sum as `preactivation` (rows `step` floats apart), apply the activation (1 GELU,
# 2 its tanh form). Bias and preactivation are addresses. 0 means none. The tiles add the bias: their sums start from it. The
# rest follows right after each tile, while its numbers are in the first-level cache.
Epilogue = namedtuple("Epilogue", "bias preactivation step activation")


@inner
def operand_at(a, i, k):
    """The same operand from element (i, k) on."""
    return Operand(a.address + 4 * (i * a.row_step + k * a.column_step), a.row_step, a.column_step)


@inner
def epilogue_at(epilogue, i, j):
    """The epilogue of the piece of C that begins at row i, column j."""
    bias, pre, step, activation = epilogue
    return Epilogue(bias + 4 * j if bias != 0 else 0, pre + 4 * (i * step + j) if pre != 0 else 0, step, activation)


@inner
def finish(c, epilogue):
    """Apply an epilogue to a piece of C, in place."""
    bias, pre, step, activation = epilogue
    if bias == 0 and pre == 0 and activation == 0:
        return
    for r in range(c.rows):
        z, z_copy = c.address + 4 * r * c.step, pre + 4 * r * step
        for j in range(0, c.columns, COLUMNS):
            if j + COLUMNS <= c.columns:
                if bias != 0:
                    _add_bias(bias + 4 * j, z + 4 * j)
                if pre != 0:
                    _copy(z + 4 * j, z_copy + 4 * j)
            else:
                for i in range(j, c.columns):
                    store(z, i, load(z, i) + (load(bias, i) if bias != 0 else _F(0.0)))
                    if pre != 0:
                        store(z_copy, i, load(z, i))
        if activation == 1:
            for j in range(c.columns):
                store(z, j, gelu(load(z, j)))
        elif activation == 2:
            for j in range(c.columns):
                store(z, j, gelu_tanh(load(z, j)))


@inner
def _prefetch_preactivation(epilogue):
    """Prefetch a tile's preactivation: a core must own a line before it can change it."""
    if epilogue.preactivation != 0:
        for r in range(ROWS):
            prefetch_for_writing(epilogue.preactivation + 4 * r * epilogue.step, COLUMNS)


@inner
def _finish_tile(c, c_step, epilogue, tile):
    """Apply an epilogue without its bias to a whole tile of C.

    `tile` holds ROWS · COLUMNS floats side by side, because a loop over a single row is too short to vectorise well.
    """
    if epilogue.activation == 0 and epilogue.preactivation == 0:
        return
    for r in range(ROWS):
        _copy(c + 4 * r * c_step, tile + 4 * r * COLUMNS)
        if epilogue.preactivation != 0:
            _copy(c + 4 * r * c_step, epilogue.preactivation + 4 * r * epilogue.step)
    if epilogue.activation == 1:
        for i in range(ROWS * COLUMNS):
            store(tile, i, gelu(load(tile, i)))
    elif epilogue.activation == 2:
        for i in range(ROWS * COLUMNS):
            store(tile, i, gelu_tanh(load(tile, i)))
    for r in range(ROWS):
        _copy(tile + 4 * r * COLUMNS, c + 4 * r * c_step)


@inner
def _edge_product(a, b, K, c, add, epilogue, edge_tile):
    """A tile that extends beyond C: compute it whole in `edge_tile`, then copy C's part."""
    bias, pre, step, activation = epilogue
    start = bias if c.columns == COLUMNS else 0  # as in a whole tile: a row's rounding must not depend on its place
    _tile_in_place(a.address, b, edge_tile, K, COLUMNS, False, start, a.row_step, a.column_step)
    for r in range(c.rows):
        for j in range(c.columns):
            before = load(c.address, r * c.step + j) if add else _F(0.0)
            store(c.address, r * c.step + j, before + load(edge_tile, r * COLUMNS + j))
    finish(c, Epilogue(0 if start != 0 else bias, pre, step, activation))


@inner
def _panel(a, tile_step, b, K, c, add, epilogue, edge_tile):
    """Multiply whole tiles of A by a panel of B.  tile_step: the floats from one tile of A to the next, divided by ROWS."""
    bias = epilogue.bias
    for i in range(0, c.rows, ROWS):
        tile, target, here = a.address + 4 * i * tile_step, c.address + 4 * i * c.step, epilogue_at(epilogue, i, 0)
        if c.columns == COLUMNS:
            _prefetch_preactivation(here)
        if c.columns == COLUMNS and a.column_step == ROWS:
            _tile(tile, b, target, K, c.step, add, bias)
        elif c.columns == COLUMNS:
            _tile_in_place(tile, b, target, K, c.step, add, bias, a.row_step, a.column_step)
        elif c.columns == 2 * WIDTH:  # with 48 columns a panel, 128, 512 and 1024 columns end in part of a panel
            _tile_of_two(tile, b, target, K, c.step, add, bias, a.row_step, a.column_step)
        elif c.columns == WIDTH:
            _tile_of_one(tile, b, target, K, c.step, add, bias, a.row_step, a.column_step)
        else:
            _edge_product(
                Operand(tile, a.row_step, a.column_step), b, K, Piece(target, c.step, ROWS, c.columns), add, here, edge_tile
            )
            continue
        if c.columns == COLUMNS:
            _finish_tile(target, c.step, here, edge_tile)
        else:
            finish(Piece(target, c.step, ROWS, c.columns), Epilogue(0, here.preactivation, here.step, here.activation))


@inner
def block_product(a, b_packed, K, c, add, last, epilogue, room):
    """C = A B, or += if `add`, DEPTH columns of A at a time, and the epilogue if `last`.

    a: Operand (rows, K); b_packed: address of K packed rows of B; c: Piece; room: address of ROOM floats. Rows that do not fill
    a tile are packed with zeros below them.
    """
    steps = (K + DEPTH - 1) // DEPTH
    whole, edge_tile = c.rows // ROWS * ROWS, room + 4 * (TALLEST * DEPTH + WIDTH)
    in_place = a.column_step == 1 and c.columns <= FEW_PANELS * COLUMNS
    packed_by_tiles = ROWS == 8 and a.column_step != 1 and c.columns >= COLUMNS
    for step in range(steps):
        k0, k1 = K * step // steps, K * (step + 1) // steps
        depth, add_now, part = k1 - k0, add or step > 0, operand_at(a, 0, k0)
        tiles = Operand(part.address, a.row_step, 1) if in_place else Operand(room, 1, ROWS)
        tile_step = a.row_step if in_place else depth
        remainder = Operand(room + 4 * whole * depth, 1, ROWS)  # packed rows that do not fill a tile
        if not in_place and not packed_by_tiles:
            _pack(part.address, a.row_step, a.column_step, whole, depth, depth, room)
        if whole < c.rows:
            below = operand_at(part, whole, 0)
            _pack(below.address, a.row_step, a.column_step, c.rows - whole, depth, depth, remainder.address)
        for j in range(0, c.columns, COLUMNS):
            width, panel = min(COLUMNS, c.columns - j), b_packed + 4 * (j * K + k0 * COLUMNS)
            here = c.address + 4 * j
            ending = epilogue_at(epilogue, 0, j) if last and step == steps - 1 else Epilogue(0, 0, 0, 0)
            if packed_by_tiles and j == 0:
                for i in range(0, whole, ROWS):
                    a_tile, target, packed = part.address + 4 * i, here + 4 * i * c.step, room + 4 * i * depth
                    _packing_tile(a_tile, panel, target, depth, c.step, add_now, ending.bias, a.column_step, packed)
                    _finish_tile(target, c.step, epilogue_at(ending, i, 0), edge_tile)
            else:
                _panel(tiles, tile_step, panel, depth, Piece(here, c.step, whole, width), add_now, ending, edge_tile)
            if whole < c.rows:
                rest = Piece(here + 4 * whole * c.step, c.step, c.rows - whole, width)
                _edge_product(remainder, panel, depth, rest, add_now, epilogue_at(ending, whole, 0), edge_tile)
