"""Row-wise and elementwise CPU kernels against float64: ragged shapes, strided arrays, special values, out= buffers."""

import numpy as np
import pytest

import kernels
from kernels.adamw.cpu import SPAN

ours, plain = kernels.SETS["cpu"], kernels.SETS["reference"]
SHAPES = [(1, 1), (1, 17), (3, 5), (0, 4), (2, 3, 33), (7, 129), (300, 257)]


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def close(got, want, tolerance):
    """Check that each array is float32, has the right shape, and is within `tolerance` relative to the largest value."""
    got, want = (got, want) if isinstance(got, tuple) else ((got,), (want,))
    for g, w in zip(got, want, strict=True):
        if w is None:
            assert g is None
            continue
        assert g.dtype == np.float32 and g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * max(1.0, np.abs(w).max(initial=0)))


def exact(*arrays):
    return [a.astype(np.float64) for a in arrays]


def strided(array):
    """The same values in a view with gaps."""
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("log", ["", "log_"])
def test_softmax(shape, log):  # tolerance: exp 2e-7, then a sum of up to 257 terms
    x, dy = normal(*shape, scale=3), normal(*shape, seed=1)
    forward, backward = getattr(ours, f"{log}softmax_forward"), getattr(ours, f"{log}softmax_backward")
    want = getattr(plain, f"{log}softmax_forward")(*exact(x))
    close(forward(x), want, 1e-6)
    close(forward(strided(x), out=strided(x)), want, 1e-6)
    want_dx = getattr(plain, f"{log}softmax_backward")(*exact(dy), want)
    y = want.astype(np.float32)
    close(backward(dy, y), want_dx, 2e-6)
    close(backward(strided(dy), strided(y), out=strided(dy)), want_dx, 2e-6)


@pytest.mark.parametrize("function", ["softmax_forward", "log_softmax_forward"])
def test_softmax_of_special_rows_equals_numpys(function):
    x = np.array([[np.inf, 0, 1], [-np.inf] * 3, [np.nan, 1, 2], [1, 2, -np.inf], [88, -88, 0], [3e38, -3e38, 0]], np.float32)
    with np.errstate(all="ignore"):
        want = getattr(plain, function)(x)
    np.testing.assert_allclose(getattr(ours, function)(x), want, rtol=1e-6)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu(form):  # tolerance: 5e-7 of max(1, |x|), and 2e-6 for the gradient
    x = np.concatenate([np.linspace(-12, 12, 24001), normal(1000, scale=100)]).astype(np.float32)
    want = plain.gelu_forward(*exact(x), approximate=form)
    assert (np.abs(ours.gelu_forward(x, approximate=form) - want) / np.maximum(1, np.abs(x))).max() < 5e-7
    dy = normal(len(x), seed=1)
    with np.errstate(over="ignore"):
        want_dx = plain.gelu_backward(*exact(dy, x), approximate=form)
    close(ours.gelu_backward(dy, x, approximate=form), want_dx, 2e-6)
    close(ours.gelu_backward(strided(dy), strided(x), approximate=form, out=strided(dy)), want_dx, 2e-6)
    assert ours.gelu_forward(x[:0].reshape(0, 3), approximate=form).shape == (0, 3)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_keeps_nan_and_infinity(form):
    got = ours.gelu_forward(np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0], np.float32), approximate=form)
    np.testing.assert_array_equal(got, np.array([np.nan, np.inf, np.nan, 1e30, 0, 0], np.float32))
    slope = ours.gelu_backward(np.ones(3, np.float32), np.array([np.nan, 1e15, -1e15], np.float32), approximate=form)
    np.testing.assert_array_equal(slope, np.array([np.nan, 1, 0], np.float32))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_layernorm(shape, affine):  # tolerance: sums over up to 300 rows
    C = shape[-1]
    x, dy = normal(*shape, scale=2) + 1, normal(*shape, seed=1)
    weight, bias = (normal(C, seed=2), normal(C, seed=3)) if affine else (None, None)
    x64, dy64 = exact(x, dy)
    weight64, bias64 = exact(weight, bias) if affine else (None, None)
    want = plain.layernorm_forward(x64, weight64, bias64)
    tolerance = 1e-4 if C == 1 else 5e-6  # a row of one number: rstd is 1/√eps and magnifies the rounding of x − mean
    close(ours.layernorm_forward(x, weight, bias), want, tolerance)
    close(ours.layernorm_forward(strided(x), weight, bias, out=strided(x)), want, tolerance)
    mean, rstd = want[1:]
    want_grads = plain.layernorm_backward(dy64, x64, weight64, mean, rstd)
    saved = mean.astype(np.float32), rstd.astype(np.float32)
    tolerance = 1e-3 if C == 1 else 2e-5
    close(ours.layernorm_backward(dy, x, weight, *saved), want_grads, tolerance)
    buffers = strided(dy), normal(C, seed=4), normal(C, seed=5)
    before = [b.copy() for b in buffers[1:]]
    got = ours.layernorm_backward(strided(dy), strided(x), weight, *saved, out=buffers, accumulate=True)
    assert all(g is b for g, b in zip(got, buffers, strict=True))
    close(got, (want_grads[0], want_grads[1] + before[0], want_grads[2] + before[1]), tolerance)
    assert ours.layernorm_backward(dy, x, weight, *saved, needs=(False, True, False))[::2] == (None, None)


@pytest.mark.parametrize("R, V", [(1, 1), (5, 3), (0, 4), (9, 1000), (4, 50257)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_cross_entropy(R, V, smoothing, kind):
    logits, dlosses = normal(R, V, scale=4), normal(R, seed=1)
    targets = np.random.default_rng(2).integers(0, V, R).astype(kind)
    targets[::3] = -100
    logits[::3] = np.nan  # kernels never read ignored rows
    options: dict = {"label_smoothing": smoothing}
    logits64, dlosses64 = exact(logits, dlosses)
    want = plain.cross_entropy_forward(logits64, targets, **options)
    close(ours.cross_entropy_forward(logits, targets, **options), want, 2e-6)
    close(ours.cross_entropy_forward(strided(logits), targets, **options), want, 2e-6)
    want_dx = plain.cross_entropy_backward(dlosses64, logits64, targets, want[1], **options)
    arguments = targets, want[1].astype(np.float32)
    close(ours.cross_entropy_backward(dlosses, logits, *arguments, **options), want_dx, 5e-6)
    in_place = logits.copy()
    got = ours.cross_entropy_backward(dlosses, in_place, *arguments, **options, out=in_place)
    assert got is in_place
    close(got, want_dx, 5e-6)


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_indices_out_of_range_raise(wrong):
    logits, table = normal(3, 5), normal(5, 2)
    indices = np.array([0, wrong, 4])
    losses = np.zeros(3, np.float32)
    for call in (
        lambda: ours.cross_entropy_forward(logits, indices),
        lambda: ours.cross_entropy_backward(losses, logits, indices, losses),
        lambda: ours.embedding_forward(table, indices),
        lambda: ours.embedding_backward(normal(3, 2), indices, 5),
    ):
        with pytest.raises(IndexError, match=f"expected indices in 0…4, got {wrong}$"):
            call()


@pytest.mark.parametrize("V, C, shape", [(1, 1, (1,)), (7, 5, (2, 3)), (50, 33, (0,)), (11, 64, (40, 50)), (3, 129, (4000,))])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_embedding(V, C, shape, kind):
    table, indices = normal(V, C), np.random.default_rng(1).integers(0, V, shape).astype(kind)
    np.testing.assert_array_equal(ours.embedding_forward(table, indices), table[indices])
    np.testing.assert_array_equal(ours.embedding_forward(strided(table), indices), table[indices])
    dy = normal(*shape, C, seed=2)
    want = plain.embedding_backward(exact(dy)[0], indices, V)
    close(ours.embedding_backward(dy, indices, V), want, 1e-5)
    buffer = normal(V, C, seed=3)
    close(ours.embedding_backward(strided(dy), indices, V, out=buffer.copy(), accumulate=True), want + buffer, 1e-5)
    close(ours.embedding_backward(dy, indices, V, out=strided(buffer)), want, 1e-5)
    close(ours.embedding_backward(dy, indices, V, out=strided(buffer), accumulate=True), want + buffer, 1e-5)


@pytest.mark.parametrize("shape", [(1,), (0, 3), (5, 7), (200, 301)])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_has_the_references_mask(shape, p):
    x = normal(*shape)
    for seed in (0, 12345, 2**64 - 1):
        np.testing.assert_array_equal(ours.dropout(x, p, seed), plain.dropout(x, p, seed))
    np.testing.assert_array_equal(ours.dropout(strided(x), p, 3, out=strided(x)), plain.dropout(x, p, 3))


SIZES = [(1,), (3, 5), (0,), (3 * SPAN + 77,), (SPAN,), (SPAN + 1,), (7, 11, 13)]


def test_adamw_follows_the_reference():
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "grad_scale": 0.5}
    params = [normal(*s, seed=i) for i, s in enumerate(SIZES)]
    params.append(strided(normal(6, 10, seed=9)))  # not contiguous
    m, v = [np.zeros(p.shape, np.float32) for p in params], [np.zeros(p.shape, np.float32) for p in params]
    params64, m64, v64 = exact(*params), exact(*m), exact(*v)
    for step in range(1, 4):
        grads = [normal(*p.shape, seed=10 * step + i) for i, p in enumerate(params)]
        grads[1] = strided(grads[1])
        ours.adamw_step(params, grads, m, v, step=step, **settings)
        plain.adamw_step(params64, exact(*grads), m64, v64, step=step, **settings)
    for got, want in zip(params + m + v, params64 + m64 + v64, strict=True):
        close(got, want, 2e-6)


def test_norm_and_scale():
    arrays = [normal(*s, seed=i) for i, s in enumerate(SIZES)] + [strided(normal(6, 10, seed=9))]
    want = plain.global_norm(exact(*arrays))
    assert abs(ours.global_norm(arrays) - want) < 1e-12 * want
    assert ours.global_norm([]) == 0
    arrays[0][0] = np.nan
    assert np.isnan(ours.global_norm(arrays))
    expected = [a * np.float32(0.3) for a in arrays]
    ours.scale_arrays(arrays, 0.3)
    for got, want in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_repeated_calls_give_the_same_bytes():
    x, dy = normal(300, 257), normal(300, 257, seed=1)
    runs = []
    for _ in range(3):
        y, mean, rstd = ours.layernorm_forward(x)
        grads = ours.layernorm_backward(dy, x, None, mean, rstd)
        runs.append([np.asarray(a).tobytes() for a in (y, *grads, ours.global_norm([x]))])
    assert runs[0] == runs[1] == runs[2]


def test_cross_entropy_over_pieces_of_a_long_row():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 3 * 4096 + 77)).astype(np.float32)  # several pieces
    x[0, :4096] = -np.inf
    x[1, 4096:8192] = -np.inf
    x[2, -1] = 60.0  # a late maximum
    x[3, 9000] = np.nan
    x[4, 9000] = np.inf
    x[5] = -np.inf
    targets = np.full(6, 12000)
    with np.errstate(all="ignore"):
        want = plain.cross_entropy_forward(x.astype(np.float64), targets)
    got = ours.cross_entropy_forward(x, targets)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g[:3], w[:3], rtol=1e-5)
        assert not np.isfinite(g[3:]).any() and not np.isfinite(w[3:]).any()
