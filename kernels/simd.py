"""What the vector unit offers, for Numba: a fast exp, a NaN-keeping maximum, loads and stores by address, dot products.

A vector register holds WIDTH float32 numbers, and one instruction works on all of them. LLVM, Numba's compiler, turns a plain
loop into such instructions by itself as long as the loop calls no library: libm's exp takes one number at a time, and would
make a softmax ten times slower. So the kernels bring their own exp, a short polynomial. (tanh and log are not here: GPT-2's
GELU is a sigmoid in disguise, see gelu/cpu.py, and a row of logits needs its logarithm only once.)

`intrinsic` functions write LLVM's instructions themselves, where Python has no word for them.
"""

import os

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.launch import exact, inner

FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def _vector_width():
    """How many float32 numbers one vector register holds: 16 with AVX-512, 8 with AVX, 4 with SSE or NEON.

    MINIGRAD_VECTOR_WIDTH=8 overrides it, to try a narrower unit or to see what the wide one brings.
    """
    asked = os.environ.get("MINIGRAD_VECTOR_WIDTH", "")
    if asked:
        if asked not in ("4", "8", "16"):
            raise ValueError(f"MINIGRAD_VECTOR_WIDTH must be 4, 8 or 16, got {asked!r}")
        return int(asked)
    if numba.config.CPU_FEATURES is not None:  # NUMBA_CPU_FEATURES="+avx2,…": the code is made for that processor
        has = dict.fromkeys((f[1:] for f in numba.config.CPU_FEATURES.split(",") if f.startswith("+")), True)
    else:
        has = llvm.get_host_cpu_features()
    return 16 if has.get("avx512f") else 8 if has.get("avx") else 4


WIDTH = _vector_width()
VECTOR = ir.VectorType(FLOAT, WIDTH)


def _float_at(builder, address, index):
    return builder.gep(builder.inttoptr(address, FLOAT.as_pointer()), [index])


@intrinsic
def load(typing, address, index):
    """The float32 number `index` of those that start at `address`."""

    def emit(context, builder, signature, args):
        return builder.load(_float_at(builder, *args))

    return types.float32(types.int64, types.int64), emit


@intrinsic
def store(typing, address, index, value):
    """Write the float32 number `index` of those that start at `address`."""

    def emit(context, builder, signature, args):
        builder.store(args[2], _float_at(builder, *args[:2]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), emit


@intrinsic
def take_number(typing, counter):
    """The number at the address `counter`, and add one to it, as one step that no other thread can come between.

    Threads that share a list of tasks draw their next task with it: a fast core draws more than a slow or busy one.
    """

    def emit(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], LONG.as_pointer())
        return builder.atomic_rmw("add", pointer, LONG(1), "monotonic")

    return types.int64(types.int64), emit


@intrinsic
def maximum(typing, a, b):
    """The larger of two float32 numbers, or NaN if either is: a NaN among the scores must not vanish."""

    def emit(context, builder, signature, args):
        function = builder.module.declare_intrinsic("llvm.maximum", [FLOAT], ir.FunctionType(FLOAT, [FLOAT, FLOAT]))
        return builder.call(function, args)

    return types.float32(types.float32, types.float32), emit


# A float32 number of this size has no bits left for a fraction: adding it to x rounds x to a whole number, which then stands
# in the lowest bits of the sum.
_ROUNDER, _ROUNDER_BITS = 12582912.0, 0x4B400000  # 1.5 · 2²³

_F = types.float32
LOG2_E = 1.44269504
# ln 2 in two parts: the first has so few bits that n · LN2_HIGH is exact, so that x − n ln 2 loses nothing.
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4


@intrinsic
def _times_power_of_two(typing, y, rounded):
    """y · 2ⁿ, where n is the whole number in the lowest bits of `rounded`.

    A float32 is 2^(e − 127) where its exponent bits say e, so writing n + 127 there makes 2ⁿ. In two halves, since 2ⁿ itself
    may overflow before the product does, and so that results below 2⁻¹²⁶ lose their bits gradually.
    """

    def emit(context, builder, signature, args):
        y, n = args[0], builder.sub(builder.bitcast(args[1], INT), INT(_ROUNDER_BITS))
        half = builder.ashr(n, INT(1))
        for part in (half, builder.sub(n, half)):
            y = builder.fmul(y, builder.bitcast(builder.shl(builder.add(part, INT(127)), INT(23)), FLOAT))
        return y

    return types.float32(types.float32, types.float32), emit


@exact
def exp(x):
    """eˣ = 2ⁿ eʳ, relative error below 2e-7; e^inf = inf, e^-inf = 0, NaN stays NaN, tiny results are denormal numbers.

    x = n ln 2 + r with |r| ≤ ln 2 / 2, an interval so short that eʳ is a polynomial of degree 7 there (coefficients: Moshier's
    Cephes library, expf).
    """
    x = _F(-104.0) if x < _F(-104.0) else x  # e^-104 is 0 and e^89 is inf; a NaN fails both comparisons and stays
    x = _F(89.0) if x > _F(89.0) else x
    rounded = x * _F(LOG2_E) + _F(_ROUNDER)
    n = rounded - _F(_ROUNDER)
    r = x - n * _F(LN2_HIGH) - n * _F(LN2_LOW)
    p = _F(1.9875691500e-4)
    p = p * r + _F(1.3981999507e-3)
    p = p * r + _F(8.3334519073e-3)
    p = p * r + _F(4.1665795894e-2)
    p = p * r + _F(1.6666665459e-1)
    p = p * r + _F(5.0000001201e-1)
    return _times_power_of_two(p * (r * r) + r + _F(1.0), rounded)


@intrinsic
def _power_in_lowest_bits(typing, rounded):
    """2ⁿ, where n + 127 stands in the lowest bits: shifted to where a float32 has its exponent, the others falling off."""

    def emit(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.bitcast(args[0], INT), INT(23)), FLOAT)

    return types.float32(types.float32), emit


@exact
def _short_exp(x, raised):
    """2^raised eˣ where that is a normal number, as for x of at most 0 or a little; relative error below 2e-7.

    2^(n + raised) takes a single shift and nothing is clipped; and the polynomial, whose coefficients are fitted to this
    interval (least squares of the relative error, with weights that even it out: 1e-7), needs only degree 5.
    """
    rounded = x * _F(LOG2_E) + _F(_ROUNDER + 127 + raised)
    n = rounded - _F(_ROUNDER + 127 + raised)
    r = x - n * _F(LN2_HIGH) - n * _F(LN2_LOW)
    p = _F(0.00829029549)
    p = p * r + _F(0.0418980308)
    p = p * r + _F(0.166676372)
    p = p * r + _F(0.499991477)
    p = p * r + _F(0.999999702)
    p = p * r + _F(1.0)
    return p * _power_in_lowest_bits(rounded)


@exact
def exp_to_zero(x):
    """eˣ for x of at most 0 (or just above), as where a maximum was subtracted, to be summed: half the work of exp.

    Results below e^-87, which float32 cannot hold in full and no sum with e⁰ would notice, are 0.
    """
    return _F(0.0) if x < _F(-87.0) else _short_exp(x, 0)


@exact
def raised_exp(x):
    """2⁶⁴ eˣ for x of at most 0, to be divided by a sum of such: the quotient is a denormal number where it should be one."""
    return _F(0.0) if x < _F(-104.0) else _short_exp(x, 64)


@exact
def clipped_exp(x):
    """eˣ for x within ±87, and what it is there for those beyond: for where 1 is added to it. As short as exp_to_zero."""
    x = _F(-87.0) if x < _F(-87.0) else x
    return _short_exp(_F(87.0) if x > _F(87.0) else x, 0)


def emit_prefetch(builder, pointer, to_write=0):
    """LLVM's instruction that asks for the cache line at a pointer, into the nearest cache, to be read or to be written."""
    pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kinds = [pointer.type, INT, INT, INT]
    function = builder.module.declare_intrinsic("llvm.prefetch", kinds[:1], ir.FunctionType(ir.VoidType(), kinds))
    builder.call(function, [pointer, INT(to_write), INT(3), INT(1)])


def _asking(to_write):
    @intrinsic
    def ask(typing, address):
        """Ask for the cache line at this address, to write to it if `to_write`. It need not be valid; nothing waits for it."""

        def emit(context, builder, signature, args):
            emit_prefetch(builder, builder.inttoptr(args[0], FLOAT.as_pointer()), to_write)
            return context.get_dummy_value()

        return types.void(types.int64), emit

    return ask


prefetch, _prefetch_to_write = _asking(0), _asking(1)


@inner
def prefetch_numbers(address, n):
    """Ask for all the cache lines of the n float32 numbers that start here."""
    for i in range(0, n, 16):
        prefetch(address + 4 * i)


@inner
def prefetch_room(address, n):
    """The same, for n numbers that will be written: a core must hold a line, and hold it alone, before it changes a part."""
    for i in range(0, n, 16):
        _prefetch_to_write(address + 4 * i)


def dot_products(load_weight, width):
    """(dot, four_dots) of a row of floats with rows whose numbers load_weight reads, each `width` bytes long."""

    @inner
    def dot(x, w, K):
        """Two rows of K numbers, multiplied and added up."""
        s = _F(0.0)
        for k in range(K):
            s += load(x, k) * load_weight(w, k)
        return s

    @inner
    def four_dots(x, w, w_row, K):
        """A row of K numbers against four rows: four sums, so that four additions are always under way."""
        s0, s1, s2, s3 = _F(0.0), _F(0.0), _F(0.0), _F(0.0)
        w1, w2, w3 = w + width * w_row, w + 2 * width * w_row, w + 3 * width * w_row
        for k in range(K):
            s0 += load(x, k) * load_weight(w, k)
            s1 += load(x, k) * load_weight(w1, k)
            s2 += load(x, k) * load_weight(w2, k)
            s3 += load(x, k) * load_weight(w3, k)
        return s0, s1, s2, s3

    return dot, four_dots


dot, four_dots = dot_products(load, 4)


@inner
def _add_eight_rows(x, b, b_k, n, c):
    x0, x1, x2, x3, x4, x5, x6, x7 = (
        load(x, 0), load(x, 1), load(x, 2), load(x, 3), load(x, 4), load(x, 5), load(x, 6), load(x, 7)
    )  # fmt: skip
    row = 4 * b_k
    for j in range(n):
        low = x0 * load(b, j) + x1 * load(b + row, j) + x2 * load(b + 2 * row, j) + x3 * load(b + 3 * row, j)
        high = x4 * load(b + 4 * row, j) + x5 * load(b + 5 * row, j) + x6 * load(b + 6 * row, j) + x7 * load(b + 7 * row, j)
        store(c, j, load(c, j) + low + high)


@inner
def _add_one_row(x0, b, n, c):
    for j in range(n):
        store(c, j, load(c, j) + x0 * load(b, j))


@inner
def add_rows(x, b, b_k, K, n, c):
    """c[:n] += x[:K] @ b[:K, :n], eight rows of b at a time, so that c is read and written an eighth as often."""
    k = 0
    while k + 8 <= K:
        for j in range(0, n, 1024):
            if n - j >= 1024:
                _add_eight_rows(x + 4 * k, b + 4 * (k * b_k + j), b_k, 1024, c + 4 * j)
            else:
                _add_eight_rows(x + 4 * k, b + 4 * (k * b_k + j), b_k, n - j, c + 4 * j)
        k += 8
    while k < K:
        _add_one_row(load(x, k), b + 4 * k * b_k, n, c)
        k += 1
