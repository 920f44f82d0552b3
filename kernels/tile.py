"""The register tile, the small matrix product inside all large ones, and the packing that feeds it.

A multiply-add needs two numbers and a place for the sum. If all came from memory, memory would set the pace. So the innermost
loop holds a tile of C in vector registers, `rows` by `vectors`. For each k it reads a column of A and a row of B: that is
rows + vectors loads for rows · vectors multiply-adds, each on WIDTH numbers. A larger tile needs fewer loads for each
multiply-add, until the registers run out: AVX-512 and NEON have 32, AVX2 and SSE 16.

The tile equals this loop:

    for k in range(K):
        for r in range(rows):
            for c in range(vectors * WIDTH):
                C[r, c] += A[r, k] * B[k, c]

Packing copies blocks of A and B into the order in which the tile reads them: no strides, no half-used cache lines, no page
touched twice. A transposed operand is transposed here too, with vector shuffles, so it is never copied whole. A block is packed
once and used many times.

    A: panels of `rows` rows, stored column after column       a[k · rows + r]
    B: panels of `columns` columns, stored row after row       b[k · columns + c]
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils

from kernels.launch import inner
from kernels.simd import FLOAT, FLOAT_POINTER, INT, LONG, VECTOR, WIDTH, emit_prefetch, instruction, load, prefetch, store

_32_REGISTERS = WIDTH == 16 or (WIDTH == 4 and platform.machine().lower() in ("arm64", "aarch64"))

# The sums take rows · vectors registers, and the operands a few more. A multiply-add takes about four cycles, and a core starts
# two in each cycle, so a tile needs at least eight sums to keep it busy. With AVX2, 6 by 2 and 4 by 3 both hold twelve sums.
# 4 by 3 loads less, but 6 by 2 is 5 % faster on the products of a small GPT (Zen 3): their widths are multiples of 16, not of
# 24, and a last panel of one vector runs at half speed. Packing transposes squares of WIDTH numbers, so ROWS is below WIDTH or
# a multiple of it.
ROWS, VECTORS = (8, 3) if _32_REGISTERS else (6, 2) if WIDTH == 8 else (4, 3)
COLUMNS = VECTORS * WIDTH

# Packing mostly waits for memory: it reads too few bytes from one place for the processor to guess what comes next. So it
# prefetches the rows that it will read a little later.
LINE = 16  # floats in a cache line
AHEAD = 16  # rows to prefetch ahead
# Packing fills this many panels at a time. Equal places in neighbouring panels often map to the same set of the first-level
# cache, and a set holds eight lines or more.
PANELS = 8

_I = types.int64
_TILE_ARGUMENTS = [types.void, *[_I] * 5, types.boolean, _I]  # no result; the addresses of A, B and C; K, c_row, add, bias
_VECTOR_POINTER, _ZEROS = VECTOR.as_pointer(), ir.Constant(VECTOR, [0.0] * WIDTH)


def register_tile(rows, vectors, a_row=1, a_column=None, b_row=None):
    """Make a tile product:  C (rows, vectors · WIDTH)  =  A (rows, K)  @  B (K, vectors · WIDTH) + bias,  or += if `add`.

    Element (r, k) of A is at a[r · a_row + k · a_column], row k of B at b[k · b_row]; by default both are packed.

    Returns:
        A function of (addresses of A, B and C, K ≥ 1, floats from one row of C to the next, add, address of a bias or 0).
    """
    steps = LONG(a_row), LONG(rows if a_column is None else a_column)

    @instruction(*_TILE_ARGUMENTS)
    def tile(builder, a, b, c, K, c_row, add, bias):
        _emit_tile(builder, rows, vectors, b_row, (a, b, c, K, c_row, add, bias), *steps)

    return tile


def tile_in_place(rows, vectors, b_row=None):
    """Make a register tile that reads A in place. The function takes a_row and a_column as its last two arguments."""

    @instruction(*_TILE_ARGUMENTS, _I, _I)
    def tile(builder, a, b, c, K, c_row, add, bias, a_row, a_column):
        _emit_tile(builder, rows, vectors, b_row, (a, b, c, K, c_row, add, bias), a_row, a_column)

    return tile


def packing_tile(rows, vectors):
    """Make a register tile that packs A for later tiles while it multiplies. The rows of A run across k (a_row is 1).

    The function takes a_column and the address to pack to as its last two arguments.
    """

    @instruction(*_TILE_ARGUMENTS, _I, _I)
    def tile(builder, a, b, c, K, c_row, add, bias, a_column, packed):
        _emit_tile(builder, rows, vectors, None, (a, b, c, K, c_row, add, bias), LONG(1), a_column, packed)

    return tile


def _emit_tile(builder, rows, vectors, b_row, args, a_row, a_column, packed=None):
    """Emit a tile's instructions.  args: the arguments of register_tile's function; the rest as in the three makers above."""
    a, b, c = (builder.inttoptr(x, FLOAT_POINTER) for x in args[:3])
    K, c_row, add, bias = args[3:]
    b_row = LONG(vectors * WIDTH if b_row is None else b_row)
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fma.v{WIDTH}f32")

    def vector(start, offset):
        return builder.bitcast(builder.gep(start, [offset]), _VECTOR_POINTER)

    def broadcast(number):  # the same number in all lanes
        lane = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, INT(0))
        return builder.shuffle_vector(lane, lane, ir.Constant(ir.VectorType(INT, WIDTH), [0] * WIDTH))

    def places():  # row, vector and address of each vector of C
        for r in range(rows):
            for v in range(vectors):
                yield r, v, vector(c, builder.add(builder.mul(LONG(r), c_row), LONG(v * WIDTH)))

    _prefetch_tile(builder, c, c_row, rows, vectors * WIDTH)
    row_begins = [builder.mul(LONG(r), a_row) for r in range(rows)]
    # Every row's sums start from the bias, or from zeros. Adding the bias to C later would be another pass over C.
    without, biased = builder.block, builder.append_basic_block("bias")
    before = builder.append_basic_block("start")
    builder.cbranch(builder.icmp_signed("==", bias, LONG(0)), before, biased)
    builder.position_at_end(biased)
    biases = [builder.load(vector(builder.inttoptr(bias, FLOAT_POINTER), LONG(v * WIDTH)), align=4) for v in range(vectors)]
    builder.branch(before)
    builder.position_at_end(before)
    starts = [builder.phi(VECTOR) for _ in range(vectors)]
    for start, value in zip(starts, biases, strict=True):
        start.add_incoming(_ZEROS, without)
        start.add_incoming(value, biased)
    loop, after = builder.append_basic_block("k"), builder.append_basic_block("k.end")
    builder.branch(loop)

    builder.position_at_end(loop)
    k, a_k, b_k = builder.phi(LONG), builder.phi(FLOAT_POINTER), builder.phi(FLOAT_POINTER)
    sums = [[builder.phi(VECTOR) for _ in range(vectors)] for _ in range(rows)]
    b_vectors = [builder.load(vector(b_k, LONG(v * WIDTH)), align=4) for v in range(vectors)]
    for r in range(rows):
        number = broadcast(builder.load(builder.gep(a_k, [row_begins[r]]), align=4))
        for v in range(vectors):
            new_sum = builder.call(fma, [number, b_vectors[v], sums[r][v]])
            sums[r][v].add_incoming(starts[v], before)
            sums[r][v].add_incoming(new_sum, loop)
            sums[r][v] = new_sum
    if packed is not None:
        _emit_copy(builder, rows, a_k, builder.gep(builder.inttoptr(packed, FLOAT_POINTER), [builder.mul(k, LONG(rows))]))
        emit_prefetch(builder, builder.gep(a_k, [builder.mul(a_column, LONG(AHEAD))]))
    next_k = builder.add(k, LONG(1))
    steps = (k, LONG(0), next_k), (a_k, a, builder.gep(a_k, [a_column])), (b_k, b, builder.gep(b_k, [b_row]))
    for value, first, step in steps:
        value.add_incoming(first, before)
        value.add_incoming(step, loop)
    builder.cbranch(builder.icmp_signed("<", next_k, K), loop, after)

    builder.position_at_end(after)
    with builder.if_else(add) as (adding, overwriting):
        with adding:
            for r, v, place in places():
                builder.store(builder.fadd(builder.load(place, align=4), sums[r][v]), place, align=4)
        with overwriting:
            for r, v, place in places():
                builder.store(sums[r][v], place, align=4)


def _prefetch_tile(builder, c, c_row, rows, columns):
    """Prefetch a tile of C for writing: memory delivers it while k runs, and the tile needs it only after the last k.

    The last number of a row is prefetched too, because a row that does not begin at a cache line's start touches one line more.
    """
    for r in range(rows):
        for column in (*range(0, columns, LINE), columns - 1):
            emit_prefetch(builder, builder.gep(c, [builder.add(builder.mul(LONG(r), c_row), LONG(column))]), 1)


def transpose_block(rows):
    """Make a function that transposes in registers.

    `rows` rows of WIDTH floats become WIDTH rows, whose first `rows` floats are valid.

    Cut the block into four quarters and exchange the two off the diagonal, then do the same within each quarter, and so on.
    Exchanging blocks of 2ᵖ numbers between row i and row i + 2ᵖ takes two vector shuffles for each pair of rows.

    Returns:
        A function of (source, floats from one source row to the next, target, floats from one target row to the next).
        It writes WIDTH floats a row, in order. Where target rows are closer than WIDTH, each overwrites the invalid end of the
        row before.
    """

    @instruction(types.void, _I, _I, _I, _I)
    def transpose(builder, source, source_row, target, target_row):
        def place(start, row, i):
            return builder.bitcast(builder.gep(start, [builder.mul(LONG(i), row)]), _VECTOR_POINTER)

        source, target = (builder.inttoptr(x, FLOAT_POINTER) for x in (source, target))
        block = [builder.load(place(source, source_row, i), align=4) if i < rows else _ZEROS for i in range(WIDTH)]
        half = 1
        while half < WIDTH:
            # Lane numbers from WIDTH on mean the second operand of the shuffle.
            keep = [n if not n & half else WIDTH + n - half for n in range(WIDTH)]
            swap = [n + half if not n & half else WIDTH + n for n in range(WIDTH)]
            masks = [ir.Constant(ir.VectorType(INT, WIDTH), lanes) for lanes in (keep, swap)]
            for i in range(WIDTH):
                if not i & half:
                    upper, lower = block[i], block[i + half]
                    block[i], block[i + half] = (builder.shuffle_vector(upper, lower, mask) for mask in masks)
            half *= 2
        for i in range(WIDTH):
            builder.store(block[i], place(target, target_row, i), align=4)

    return transpose


def copy_row(width):
    """Make a function that copies `width` floats from one address to another, all loads before the first store.

    (In a plain loop the compiler must assume that target and source overlap, and copies one number at a time.)
    """

    @instruction(types.void, _I, _I)
    def copy(builder, source, target):
        _emit_copy(builder, width, *(builder.inttoptr(x, FLOAT_POINTER) for x in (source, target)))

    return copy


def _emit_copy(builder, width, source, target):
    row = ir.VectorType(FLOAT, width).as_pointer()
    builder.store(builder.load(builder.bitcast(source, row), align=4), builder.bitcast(target, row), align=4)


def add_row(width):
    """Make a function that adds `width` floats at one address to the floats at another, all loads before the first store."""

    @instruction(types.void, _I, _I)
    def add(builder, source, target):
        row = ir.VectorType(FLOAT, width).as_pointer()
        source, target = (builder.inttoptr(x, row) for x in (source, target))
        sums = builder.fadd(builder.load(source, align=4), builder.load(target, align=4))
        builder.store(sums, target, align=4)

    return add


def _panel_transposer(width):
    height = min(width, WIDTH)
    transpose = transpose_block(height)

    @inner
    def transpose_panel(source, i_step, K, target):
        """Pack a whole panel whose rows run along k, WIDTH columns at a time; return the number of columns packed."""
        done = 0
        while done + WIDTH <= K:
            for i in range(width):
                prefetch(source + 4 * ((width + i) * i_step + done))
            for i in range(0, width, height):
                transpose(source + 4 * (i * i_step + done), i_step, target + 4 * (done * width + i), width)
            done += WIDTH
        return done

    return transpose_panel


def packer(width):
    """Make the function that packs panels:  target[p · width · depth + k · width + i] = element (p · width + i, k) of source.

    Element (i, k), for i < count and k < K ≤ depth, is at source[i · i_step + k · k_step], where one of the two steps is 1. An
    incomplete last panel is filled with zeros, which add nothing to a product. Up to WIDTH floats after the last panel are
    overwritten.
    """
    if width % WIDTH and width > WIDTH:
        raise ValueError(f"packer: expected a panel narrower than a vector ({WIDTH}) or a multiple of it, got {width}")
    transpose_panel, copy = _panel_transposer(width), copy_row(width)

    @inner
    def pack_rest(source, i_step, k_step, count, first, K, target):
        """Pack the columns from `first` on, one number at a time."""
        for k in range(first, K):
            for i in range(count):
                store(target, k * width + i, load(source, i * i_step + k * k_step))
            for i in range(count, width):
                store(target, k * width + i, types.float32(0.0))

    @inner
    def pack(source, i_step, k_step, count, K, depth, target):
        whole = count // width
        if i_step == 1 and k_step != 1:  # the rows run across k: copy, in the order of the source's memory
            for first in range(0, whole, PANELS):
                last = min(whole, first + PANELS)
                for k in range(K):
                    here = source + 4 * (k * k_step + first * width)
                    for line in range(0, (last - first) * width, LINE):
                        prefetch(here + 4 * (AHEAD * k_step + line))
                    for p in range(first, last):
                        copy(source + 4 * (k * k_step + p * width), target + 4 * (p * depth + k) * width)
        else:
            for p in range(whole):
                panel, place = source + 4 * p * width * i_step, target + 4 * p * width * depth
                done = transpose_panel(panel, i_step, K, place) if k_step == 1 else 0
                pack_rest(panel, i_step, k_step, width, done, K, place)
        if count > whole * width:
            rest, place = source + 4 * whole * width * i_step, target + 4 * whole * width * depth
            pack_rest(rest, i_step, k_step, count - whole * width, 0, K, place)

    return pack


_transpose = transpose_block(WIDTH)


@inner
def unpack(source, source_row, n, D, target, target_row):
    """target[i, d] = source[d, i] for i < n, d < D, in squares of WIDTH by WIDTH."""
    for i in range(0, n, WIDTH):
        for d in range(0, D, WIDTH):
            if i + WIDTH <= n and d + WIDTH <= D:
                _transpose(source + 4 * (d * source_row + i), source_row, target + 4 * (i * target_row + d), target_row)
            else:
                for ii in range(i, min(n, i + WIDTH)):
                    for dd in range(d, min(D, d + WIDTH)):
                        store(target, ii * target_row + dd, load(source, dd * source_row + ii))
