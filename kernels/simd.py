"""The vector unit for Numba: fast exp and exp2, a maximum that keeps NaN, loads and stores by address, dot products.

A vector register holds WIDTH float32 numbers, and one instruction works on all of them. LLVM, Numba's compiler, vectorises a
plain loop by itself unless the loop calls a library. libm's exp takes one number at a time and would make a softmax ten times
slower, so the kernels bring their own exp, a short polynomial. They need neither tanh nor a fast log: GPT-2's GELU is written
with a sigmoid (gelu/cpu.py), and a row of logits needs only one logarithm.

An `instruction` is a function of LLVM instructions that Python has no syntax for. Addresses count bytes; a float32 has 4.
"""

import os
from collections import namedtuple
from functools import wraps

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target

from kernels.launch import exact, inner, intrinsic

FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)  # LLVM's names of the types
FLOAT_POINTER = FLOAT.as_pointer()
_F, _I = types.float32, types.int64  # Numba's names of the types


def _vector_width() -> int:
    """How many float32 numbers a vector register holds: 16 with AVX-512, 8 with AVX, 4 with SSE or NEON.

    MINIGRAD_VECTOR_WIDTH=8 overrides it, to measure what wide vectors bring.
    """
    setting = os.environ.get("MINIGRAD_VECTOR_WIDTH", "")
    if setting:
        if setting not in ("4", "8", "16"):
            raise ValueError(f"MINIGRAD_VECTOR_WIDTH: must be 4, 8 or 16, got {setting!r}")
        return int(setting)
    _, _, listed = cpu_target.target_context.codegen().magic_tuple()  # the features that Numba compiles for: "+avx2,-avx512f,…"
    switches = {feature[1:]: feature[0] for feature in listed.split(",") if feature}  # the last switch of a feature counts
    names = [name for name, switch in switches.items() if switch == "+" and name.startswith("avx")]  # avx2 implies avx
    return 16 if any(name.startswith("avx512") for name in names) else 8 if names else 4


WIDTH = _vector_width()
VECTOR = ir.VectorType(FLOAT, WIDTH)


# A matrix in memory whose rows are contiguous: the address of row 0, and the floats from one row to the next.
Rows = namedtuple("Rows", "address step")


@inner
def row_of(rows, r):
    """The address of row r."""
    return rows.address + 4 * r * rows.step


def instruction(result, *arguments):
    """Turn a function that emits LLVM instructions into a function that kernels can call.

    Args:
        result, arguments: Numba's types of the result (types.void for none) and of the arguments.

    The decorated function takes an IR builder and the arguments' values, and returns the result's value.
    """

    def decorate(emit):
        @intrinsic
        @wraps(emit)
        def define(typing, *_):
            def lower(context, builder, signature, values):
                value = emit(builder, *values)
                return context.get_dummy_value() if result is types.void else value

            return result(*arguments), lower

        return define

    return decorate


@instruction(_F, _I, _I)
def load(builder, address, index):
    """Read the float32 number `index` of an array that starts at `address`."""
    return builder.load(builder.gep(builder.inttoptr(address, FLOAT_POINTER), [index]))


@instruction(types.void, _I, _I, _F)
def store(builder, address, index, value):
    """Write the float32 number `index` of an array that starts at `address`."""
    builder.store(value, builder.gep(builder.inttoptr(address, FLOAT_POINTER), [index]))


@instruction(_I, _I)
def next_task(builder, counter):
    """Return the number at the address `counter` and increment it, as one atomic step.

    Threads that share a list of tasks draw their next task this way, so a fast core draws more than a slow or busy one.
    """
    return builder.atomic_rmw("add", builder.inttoptr(counter, LONG.as_pointer()), LONG(1), "monotonic")


@instruction(_F, _F, _F)
def maximum(builder, a, b):
    """The larger of two float32 numbers; NaN if either is NaN, so that a NaN among the scores cannot vanish."""
    function = builder.module.declare_intrinsic("llvm.maximum", [FLOAT], ir.FunctionType(FLOAT, [FLOAT, FLOAT]))
    return builder.call(function, [a, b])


# A float32 of this size has no bits for a fraction. Adding it to x rounds x to an integer and leaves the integer in the lowest
# bits of the sum.
_ROUNDER, _ROUNDER_BITS = 12582912.0, 0x4B400000  # 1.5 · 2²³

LOG2_E = 1.44269504
# ln 2 in two parts. The first has so few bits that n · LN2_HIGH is exact, so x − n ln 2 loses no precision.
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4


@instruction(_F, _F, _F)
def _times_power_of_two(builder, y, rounded):
    """y · 2ⁿ, where n is the integer in the lowest bits of `rounded`.

    A float32 whose exponent bits are n + 127 is 2ⁿ. This multiplies twice by about 2^(n/2), not once by 2ⁿ: 2ⁿ may overflow
    though the product does not, and results below 2⁻¹²⁶ should lose their bits gradually.
    """
    n = builder.sub(builder.bitcast(rounded, INT), INT(_ROUNDER_BITS))
    half = builder.ashr(n, INT(1))
    for part in (half, builder.sub(n, half)):
        y = builder.fmul(y, builder.bitcast(builder.shl(builder.add(part, INT(127)), INT(23)), FLOAT))
    return y


@exact
def exp(x):
    """eˣ = 2ⁿ eʳ with a relative error below 2e-7; e^inf = inf, e^-inf = 0, NaN stays NaN, tiny results are subnormal.

    x = n ln 2 + r with |r| ≤ ln 2 / 2, an interval so short that a polynomial of degree 7 gives eʳ.
    Source of the coefficients: Moshier's Cephes library, expf.
    """
    x = _F(-104.0) if x < _F(-104.0) else x  # e^-104 is 0 and e^89 is inf; NaN fails both comparisons and stays
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


@instruction(_F, _F)
def _power_in_lowest_bits(builder, rounded):
    """2ⁿ, where the lowest bits of `rounded` hold n + 127: a shift moves them to the exponent and drops the other bits."""
    return builder.bitcast(builder.shl(builder.bitcast(rounded, INT), INT(23)), FLOAT)


@exact
def _short_exp(x, power):
    """2^power eˣ, if that is a normal number, for x up to a little above 0; relative error below 2e-7.

    Nothing is clipped, and 2^(n + power) takes a single shift. A polynomial of degree 5 suffices, because its coefficients are
    fitted to this interval: weighted least squares bring the relative error down to 1e-7.
    """
    rounded = x * _F(LOG2_E) + _F(_ROUNDER + 127 + power)
    n = rounded - _F(_ROUNDER + 127 + power)
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
    """eˣ for x up to a little above 0, such as a score minus the largest score; half the work of exp.

    Results below e^-87 become 0: float32 cannot hold them in full, and no sum that contains e⁰ would notice.
    """
    return _F(0.0) if x < _F(-87.0) else _short_exp(x, 0)


@exact
def scaled_exp(x):
    """2⁶⁴ eˣ for x ≤ 0. Divided by a sum of such numbers it gives a subnormal quotient where the exact one is subnormal."""
    return _F(0.0) if x < _F(-104.0) else _short_exp(x, 64)


@exact
def exp2(x):
    """2ˣ with a relative error below 2e-7 from -126 to 127.5; 0 from -126.5 down, inf above 127.5, NaN stays NaN.

    For sums such as a sigmoid's 1 + e⁻ˣ = 1 + 2^(−x log₂e): log₂e merges into the constant that multiplies x. Reducing
    x = n + r needs no ln 2, so exp2 does half the work of exp. The polynomial of degree 5 is fitted to |r| ≤ ½: minimax,
    relative error 1e-7.
    """
    x = _F(-127.0) if x < _F(-127.0) else x
    x = _F(128.0) if x > _F(128.0) else x
    rounded = x + _F(_ROUNDER + 127)
    r = x - (rounded - _F(_ROUNDER + 127))
    p = _F(0.0013264727)
    p = p * r + _F(0.009671513)
    p = p * r + _F(0.055507336)
    p = p * r + _F(0.24022242)
    p = p * r + _F(0.693147)
    p = p * r + _F(1.0)
    return p * _power_in_lowest_bits(rounded)


def emit_prefetch(builder, pointer, for_writing=0):
    """Emit the instruction that fetches the cache line at a pointer into the nearest cache, for reading or for writing."""
    pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kinds = [pointer.type, INT, INT, INT]
    function = builder.module.declare_intrinsic("llvm.prefetch", kinds[:1], ir.FunctionType(ir.VoidType(), kinds))
    builder.call(function, [pointer, INT(for_writing), INT(3), INT(1)])


@instruction(types.void, _I)
def prefetch(builder, address):
    """Start fetching the cache line at this address. The address may be invalid, and the thread does not wait."""
    emit_prefetch(builder, builder.inttoptr(address, FLOAT_POINTER))


@instruction(types.void, _I)
def _prefetch_for_writing(builder, address):
    emit_prefetch(builder, builder.inttoptr(address, FLOAT_POINTER), 1)


@inner
def prefetch_floats(address, n):
    """Prefetch the cache lines of n float32 numbers."""
    for i in range(0, n, 16):
        prefetch(address + 4 * i)


@inner
def prefetch_for_writing(address, n):
    """Prefetch the cache lines of n numbers that will be written: a core must own a line before it can change the line."""
    for i in range(0, n, 16):
        _prefetch_for_writing(address + 4 * i)


def dot_products(load_weight, width):
    """Make (dot, four_dots): dot products of a row of floats with rows of weights.

    load_weight reads one weight, and `width` is the size of a weight in bytes.
    """

    @inner
    def dot(x, w, K):
        """Σ_k x[k] w[k] over K numbers."""
        s = _F(0.0)
        for k in range(K):
            s += load(x, k) * load_weight(w, k)
        return s

    @inner
    def four_dots(x, w, w_row, K):
        """The dot products of x with four rows, w_row weights apart. Four sums keep four additions in flight."""
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
def _add_eight_rows(x, b, b_row, n, c):
    x0, x1, x2, x3 = load(x, 0), load(x, 1), load(x, 2), load(x, 3)
    x4, x5, x6, x7 = load(x, 4), load(x, 5), load(x, 6), load(x, 7)
    row = 4 * b_row
    for j in range(n):
        low = x0 * load(b, j) + x1 * load(b + row, j) + x2 * load(b + 2 * row, j) + x3 * load(b + 3 * row, j)
        high = x4 * load(b + 4 * row, j) + x5 * load(b + 5 * row, j) + x6 * load(b + 6 * row, j) + x7 * load(b + 7 * row, j)
        store(c, j, load(c, j) + low + high)


@inner
def add_weighted_row(x0, b, n, c):
    """c[:n] += x0 · b[:n]."""
    for j in range(n):
        store(c, j, load(c, j) + x0 * load(b, j))


@inner
def add_rows(x, b, b_row, K, n, c):
    """c[:n] += x[:K] @ b[:K, :n], eight rows of b at a time, so that c is read and written an eighth as often."""
    k = 0
    while k + 8 <= K:
        for j in range(0, n, 1024):
            if n - j >= 1024:  # a constant length: the vectorised loop has no remainder
                _add_eight_rows(x + 4 * k, b + 4 * (k * b_row + j), b_row, 1024, c + 4 * j)
            else:
                _add_eight_rows(x + 4 * k, b + 4 * (k * b_row + j), b_row, n - j, c + 4 * j)
        k += 8
    while k < K:
        add_weighted_row(load(x, k), b + 4 * k * b_row, n, c)
        k += 1
