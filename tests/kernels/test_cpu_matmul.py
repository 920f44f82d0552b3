"""CPU matrix products against the float64 reference: all transpose forms, ragged shapes, strides, batches, epilogues."""

import itertools

import numba
import numpy as np
import pytest

from kernels.ladders import normal, on_one_thread
from kernels.launch import address
from kernels.matmul import cpu, reference
from kernels.matmul.block import DEPTH, FEW_PANELS, TALLEST
from kernels.simd import WIDTH
from kernels.tile import COLUMNS, ROWS, VECTORS, packer

# M, K, N: one row, few rows, tiles and blocks with and without remainders, K in several steps
SHAPES = [(1, 1, 1), (1, 7, 5), (1, 770, 131), (1, 520, 2100), (3, 33, 50), (5, 600, 1), (8, 384, 96), (9, 1, 1)]
SHAPES += [(16, 5, 48), (17, 16, 49), (40, 385, 47), (145, 384, 100), (300, 17, 97), (150, 800, 97), (64, 64, 3100)]
BATCHES = [((3,), (3,)), ((2, 5), (2, 5)), ((4,), ()), ((), (4,)), ((2, 1), (1, 3)), ((2, 3), (3,)), ((1,), (1,)), ((0,), (0,))]
FORMS = list(itertools.product([False, True], repeat=2))


def operands(M, K, N, transpose_a, transpose_b, batch_a=(), batch_b=()):
    a = normal(*batch_a, *((K, M) if transpose_a else (M, K)))
    b = normal(*batch_b, *((N, K) if transpose_b else (K, N)), seed=1)
    return a, b


def close(got, want, K):
    """The tolerance covers the rounding of a sum of K products of standard normal numbers, a few times 3e-7 · √K."""
    assert got.dtype == np.float32 and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=4e-6 * np.sqrt(K) + 1e-6)


def exact(*arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


@pytest.mark.parametrize("transpose_a, transpose_b", FORMS)
@pytest.mark.parametrize("M, K, N", SHAPES)
def test_all_transpose_forms(M, K, N, transpose_a, transpose_b):
    form = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    a, b = operands(M, K, N, transpose_a, transpose_b)
    want = reference.matmul(*exact(a, b), **form)
    close(cpu.matmul(a, b, **form), want, K)
    wide = np.full((M, N + 5), 7, np.float32)  # a buffer with gaps between its rows
    assert cpu.matmul(a, b, **form, out=wide[:, 2:-3]).base is wide
    close(wide[:, 2:-3], want, K)
    assert (wide[:, :2] == 7).all() and (wide[:, -3:] == 7).all()
    start = normal(M, N, seed=2)
    close(cpu.matmul(a, b, **form, out=start.copy(), accumulate=True), want + start, K)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("panels", [1, FEW_PANELS, FEW_PANELS + 1])
@pytest.mark.parametrize("missing", [0, 1, *(n * WIDTH for n in range(1, VECTORS))])
def test_a_is_read_in_place_or_packed_first_or_packed_with_the_first_panel(transpose_a, panels, missing):
    """Both sides of FEW_PANELS, several steps of K, rows that do not fill a tile, a last panel that is partly filled."""
    M, K, N = 2 * TALLEST + ROWS + 3, 2 * DEPTH + 5, panels * COLUMNS - missing
    a, b = operands(M, K, N, transpose_a, True)
    bias, z, start = normal(N, seed=2), np.empty((M, N), np.float32), normal(M, N, seed=3)
    want = reference.matmul(*exact(a, b), transpose_a=transpose_a, transpose_b=True)
    close(cpu.matmul(a, b, transpose_a=transpose_a, transpose_b=True, bias=bias, preactivation=z), want + bias, K)
    close(z, want + bias, K)
    got = cpu.matmul(a, b, transpose_a=transpose_a, transpose_b=True, out=start.copy(), accumulate=True)
    close(got, want + start, K)


@pytest.mark.parametrize("width", sorted({4, ROWS, WIDTH, COLUMNS}))
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("panels, rest", [(0, 1), (1, 0), (9, 2)])
def test_packing_writes_every_panel_and_nothing_beyond(width, across, panels, rest):
    """Panels along k and across k; depth above K; a last panel that is partly filled; more panels than are filled at a time."""
    count, K, depth = panels * width + min(rest, width - 1), 2 * WIDTH + 3, 2 * WIDTH + 5
    matrix = normal(count, K)
    source = np.ascontiguousarray(matrix.T) if across else matrix
    steps = (1, count) if across else (K, 1)
    whole = -(-count // width)
    target = np.full(whole * width * depth + WIDTH + 20, 7, np.float32)
    pack = packer(width)

    @numba.njit
    def run(source, i_step, k_step, count, K, depth, target):
        pack(source, i_step, k_step, count, K, depth, target)

    run(address(source), *steps, count, K, depth, address(target))
    packed = target[: whole * width * depth].reshape(whole, depth, width)[:, :K]
    padded = np.zeros((whole * width, K), np.float32)
    padded[:count] = matrix
    assert (packed == padded.reshape(whole, width, K).swapaxes(1, 2)).all()
    last = (whole - 1) * width * depth + width * K  # the end of the last panel's K columns
    assert (target[last + WIDTH :] == 7).all()


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh"])
@pytest.mark.parametrize("M, K, N", SHAPES)
def test_epilogues(M, K, N, activation):
    a, b = operands(M, K, N, False, True)
    bias, z, want_z = normal(N, seed=2), np.empty((M, N), np.float32), np.empty((M, N))
    want = reference.matmul(
        *exact(a, b), transpose_b=True, bias=bias.astype(np.float64), activation=activation, preactivation=want_z
    )
    close(cpu.matmul(a, b, transpose_b=True, bias=bias, activation=activation, preactivation=z), want, K)
    close(z, want_z, K)
    want = reference.matmul(*exact(a, b), transpose_b=True, activation=activation)
    close(cpu.matmul(a, b, transpose_b=True, activation=activation), want, K)


@pytest.mark.parametrize("transpose_a, transpose_b", FORMS)
@pytest.mark.parametrize("batch_a, batch_b", BATCHES)
def test_batches_broadcast(batch_a, batch_b, transpose_a, transpose_b):
    form = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    for M, K, N in ((1, 3, 5), (20, 70, 33), (130, 50, 110)):
        a, b = operands(M, K, N, transpose_a, transpose_b, batch_a, batch_b)
        want = reference.matmul(*exact(a, b), **form)
        close(cpu.matmul(a, b, **form), want, K)
        bias, z = normal(N, seed=2), np.empty(want.shape, np.float32)
        want_y = reference.matmul(*exact(a, b), **form, bias=bias.astype(np.float64), activation="gelu_tanh")
        close(cpu.matmul(a, b, **form, bias=bias, preactivation=z, activation="gelu_tanh"), want_y, K)
        close(z, want + bias, K)
        dy = normal(*want.shape, seed=3)
        for got, exactly in zip(
            cpu.matmul_backward(dy, a, b, **form), reference.matmul_backward(*exact(dy, a, b), **form), strict=True
        ):
            close(got, exactly, M * N * 6)


def test_views_of_every_kind():
    x = normal(6, 40, 3, 4, 16)  # heads of a joint projection: (B, T, 3, H, D)
    q, k = x[:, :, 0].transpose(0, 2, 1, 3), x[:, :, 1].transpose(0, 2, 1, 3)  # (B, H, T, D)
    close(cpu.matmul(q, k, transpose_b=True), reference.matmul(*exact(q, k), transpose_b=True), 16)
    every_second = normal(30, 60)[::-2, ::3]
    close(cpu.matmul(every_second, every_second, transpose_b=True), every_second.astype(float) @ every_second.T, 20)
    column = normal(5, 100)[:, :1]  # the strides of an axis of length 1 mean nothing
    for M in (3, 20):
        close(cpu.matmul(normal(M, 1), column, transpose_b=True), normal(M, 1).astype(float) @ column.T, 1)
    frozen = normal(20, 20)
    frozen.flags.writeable = False
    close(cpu.matmul(frozen, np.broadcast_to(normal(20), (20, 20))), frozen.astype(float) @ np.tile(normal(20), (20, 1)), 20)
    heads = np.zeros((6, 40, 4, 16), np.float32)
    weights = normal(6, 4, 40, 40)
    cpu.matmul(weights, q, out=heads.transpose(0, 2, 1, 3))
    close(heads.transpose(0, 2, 1, 3), weights.astype(float) @ q, 40)


@pytest.mark.parametrize("M", [2, 50])
def test_nan_and_infinity_stay_in_their_rows(M):
    a, b = normal(M, 30), normal(30, 40)
    a[1, 3] = np.nan
    a[0, 4] = np.inf
    got = cpu.matmul(a, b)
    assert np.isnan(got[1]).all() and np.isinf(got[0]).all() and np.isfinite(got[2:]).all()


def test_shapes_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"expected b of shape \(4, N\), got \(5, 6\)"):
        cpu.matmul(normal(3, 4), normal(5, 6))
    with pytest.raises(ValueError, match=r"expected out of shape \(3, 6\), got \(3, 5\)"):
        cpu.matmul(normal(3, 4), normal(4, 6), out=normal(3, 5))
    assert cpu.matmul(normal(0, 4), normal(4, 6)).shape == (0, 6)
    assert not cpu.matmul(normal(2, 0), normal(0, 6)).any()


@pytest.mark.parametrize("shape, out_features", [((1, 3), 5), ((4, 9, 33), 70), ((2, 3, 1), 1), ((0, 4), 3), ((70, 128), 384)])
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh"])
def test_linear(shape, out_features, activation):
    x, weight, bias = normal(*shape), normal(out_features, shape[-1], seed=1), normal(out_features, seed=2)
    y, z = cpu.linear_forward(x, weight, bias, activation=activation)
    want_y, want_z = reference.linear_forward(*exact(x, weight, bias), activation=activation)
    close(y, want_y, shape[-1])
    assert (z is None) == (want_z is None)
    dy = normal(*y.shape, seed=3)
    want = reference.linear_backward(*exact(dy, x, weight, want_z), activation=activation)
    for got, exactly in zip(cpu.linear_backward(dy, x, weight, z, activation=activation), want, strict=True):
        close(got, exactly, 400)
    buffers = np.empty_like(x), normal(*weight.shape, seed=5), normal(*bias.shape, seed=6)
    before = [np.zeros_like(x), buffers[1].copy(), buffers[2].copy()]
    grads = cpu.linear_backward(dy, x, weight, z, activation=activation, out=buffers, accumulate=True)
    for g, buffer, exactly, start in zip(grads, buffers, want, before, strict=True):
        assert g is buffer
        close(g, exactly + start, 400)
    assert cpu.linear_backward(dy, x, weight, z, activation=activation, needs=(False, False, True))[:2] == (None, None)


SHARED = [(1, 550, 2101), (1, 400, 1501), (1, 550, 900), (3, 550, 200), (3, 550, 2101), (300, 550, 200)]
SHARED += [(20, 550, 17 * COLUMNS)]


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("M, K, N", SHARED)
def test_the_same_bytes_on_one_thread_and_on_all(M, K, N, transpose_b):
    """Threads share slices of B or columns of C (few rows), blocks of rows, or the columns of a single block."""
    a, b = operands(M, K, N, False, transpose_b)

    def product():
        return cpu.matmul(a, b, transpose_b=transpose_b).tobytes()

    assert on_one_thread(product)() == product()
