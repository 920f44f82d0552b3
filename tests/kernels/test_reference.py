"""The reference kernels keep the contract of kernels/__init__.py, and `serving` picks the right set."""

import numpy as np
import pytest

import kernels
from kernels.adamw.reference import adamw_step, global_norm, scale_arrays
from kernels.dropout.reference import uniform

ref = kernels.SETS["reference"]


def draw(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_matmul_in_every_transposed_form(transpose_a, transpose_b, batch):
    a, b = draw(*batch, 4, 5), draw(5, 3, seed=1)
    want = a @ b
    a = np.ascontiguousarray(a.swapaxes(-1, -2)) if transpose_a else a
    b = np.ascontiguousarray(b.T) if transpose_b else b
    flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    np.testing.assert_allclose(ref.matmul(a, b, **flags), want)
    out = np.ones_like(want)
    assert ref.matmul(a, b, out=out, accumulate=True, **flags) is out
    np.testing.assert_allclose(out, want + 1)
    dy = draw(*want.shape, seed=2)
    da, db = ref.matmul_backward(dy, a, b, **flags)
    assert da.shape == a.shape and db.shape == b.shape
    h = 1e-6  # differences along one random direction for each input
    for x, grad, f in ((a, da, lambda x: ref.matmul(x, b, **flags)), (b, db, lambda x: ref.matmul(a, x, **flags))):
        d = draw(*x.shape, seed=3)
        slope = ((f(x + h * d) - f(x - h * d)) * dy).sum() / (2 * h)
        assert slope == pytest.approx((grad * d).sum(), rel=1e-7)


def test_linear_writes_into_buffers_and_accumulates():
    x, weight, bias, dy = draw(2, 3, 5), draw(7, 5, seed=1), draw(7, seed=2), draw(2, 3, 7, seed=3)
    y, z = ref.linear_forward(x, weight, bias, activation="gelu_tanh")
    plain, none = ref.linear_forward(x, weight, bias)
    assert none is None
    np.testing.assert_allclose(z, plain)
    np.testing.assert_allclose(y, ref.gelu_forward(plain, approximate="tanh"))
    want = ref.linear_backward(dy, x, weight, z, activation="gelu_tanh")
    out = tuple(np.ones_like(g) for g in want)
    got = ref.linear_backward(dy, x, weight, z, activation="gelu_tanh", out=out, accumulate=True)
    assert all(g is o for g, o in zip(got[1:], out[1:])) and np.shares_memory(got[0], out[0])
    for result, expected, ones in zip(got, want, (0, 1, 1)):  # dx is overwritten, dweight and dbias are added to ones
        np.testing.assert_allclose(result, expected + ones)
    assert ref.linear_backward(dy, x, weight, needs=(False, True, False))[::2] == (None, None)


def test_attention_equals_one_query_at_a_time():
    q, k, v = draw(2, 2, 3, 4), draw(2, 2, 7, 4, seed=1), draw(2, 2, 7, 4, seed=2)
    whole, lse = ref.attention_forward(q, k, v, causal_offset=4, key_start=np.array([0, 2]))
    for b, start in ((0, 0), (1, 2)):
        for h in range(2):
            for i in range(3):
                scores = k[b, h, start : i + 5] @ q[b, h, i] / 2
                weights = np.exp(scores) / np.exp(scores).sum()
                np.testing.assert_allclose(whole[b, h, i], weights @ v[b, h, start : i + 5])
                assert lse[b, h, i] == pytest.approx(np.log(np.exp(scores).sum()))


def test_a_query_without_visible_keys_gives_zeros_and_finite_gradients():
    q, k, v = (draw(1, 1, 4, 3, seed=s) for s in range(3))
    settings = {"causal_offset": 0, "key_start": np.array([2])}
    y, lse = ref.attention_forward(q, k, v, **settings)
    assert not y[0, 0, :2].any() and np.isneginf(lse[0, 0, :2]).all() and y[0, 0, 2:].any()
    dq, dk, dv = ref.attention_backward(np.ones_like(y), q, k, v, y, lse, **settings)
    assert all(np.isfinite(g).all() and not g[0, 0, :2].any() for g in (dq, dk, dv))


def test_attention_writes_into_strided_views():
    packed = draw(2, 5, 3, 2, 4)  # (B, T, 3, H, D), the output of one linear layer
    q, k, v = (packed[:, :, i].swapaxes(1, 2) for i in range(3))
    y, lse = ref.attention_forward(q, k, v, causal_offset=0)
    grads = np.full_like(packed, np.nan)
    out = tuple(grads[:, :, i].swapaxes(1, 2) for i in range(3))
    want = ref.attention_backward(y, q, k, v, y, lse, causal_offset=0)
    ref.attention_backward(y, q, k, v, y, lse, causal_offset=0, out=out)
    for g, w in zip(out, want):
        np.testing.assert_allclose(g, w)
    buffer = np.empty((2, 5, 2, 4)).swapaxes(1, 2)
    assert ref.attention_forward(q, k, v, causal_offset=0, out=buffer)[0] is buffer
    np.testing.assert_allclose(buffer, y)


def test_cross_entropy_never_reads_ignored_rows_and_works_in_place():
    logits, targets = draw(4, 6), np.array([1, -100, 5, -100])
    with_nan = logits.copy()
    with_nan[1::2] = np.nan
    losses, lse = ref.cross_entropy_forward(with_nan, targets)
    assert losses[1] == losses[3] == 0 and np.isfinite(losses).all()
    dlosses = draw(4, seed=1)
    want = ref.cross_entropy_backward(dlosses, logits, targets, lse)
    assert not want[1::2].any()
    assert ref.cross_entropy_backward(dlosses, with_nan, targets, lse, out=with_nan) is with_nan
    np.testing.assert_allclose(with_nan, want)


def test_large_logits_do_not_overflow():
    x = np.array([[1000.0, 0.0, -1000.0]])
    assert ref.softmax_forward(x).tolist() == [[1, 0, 0]]
    assert ref.log_softmax_forward(x).tolist() == [[0, -1000, -2000]]
    assert ref.cross_entropy_forward(x, np.array([1]))[0].tolist() == [1000]


def test_embedding_backward_adds_repeats():
    dy, ids = draw(2, 3, 4), np.array([[1, 5, 1], [0, 1, 5]])
    want = np.zeros((6, 4))
    for i in np.ndindex(2, 3):
        want[ids[i]] += dy[i]
    np.testing.assert_allclose(ref.embedding_backward(dy, ids, 6), want)
    out = np.ones((6, 4))
    ref.embedding_backward(dy, ids, 6, out=out, accumulate=True)
    np.testing.assert_allclose(out, want + 1)
    assert not ref.embedding_backward(dy[:0], ids[:0], 6).any()


def test_splitmix64_gives_the_published_numbers():
    """Seed 1234567 gives 6457827717110365317, then 3203168211198807973 (Rosetta Code, "Pseudo-random numbers/Splitmix64")."""
    top = np.array([6457827717110365317, 3203168211198807973, 9817491932198370423], np.uint64) >> np.uint64(40)
    np.testing.assert_array_equal(uniform(1234567, 3), top.astype(np.float32) / 2**24)


def test_adamw_by_hand():
    """One parameter, two steps, worked out by hand."""
    p, m, v = [np.array([1.0])], [np.array([0.0])], [np.array([0.0])]
    settings = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 0.0, "weight_decay": 0.5}
    adamw_step(p, [np.array([4.0])], m, v, step=1, grad_scale=0.5, **settings)
    assert p[0][0] == pytest.approx(0.95 - 0.1)  # the first step is always lr · sign(g)
    adamw_step(p, [np.array([2.0])], m, v, step=2, **settings)
    assert m[0][0] == pytest.approx(0.9 * 0.2 + 0.2) and v[0][0] == pytest.approx(0.99 * 0.04 + 0.04)
    assert p[0][0] == pytest.approx(0.85 * 0.95 - 0.1 * (0.38 / 0.19) / np.sqrt(0.0796 / 0.0199))
    with pytest.raises(ValueError):
        adamw_step(p, [], m, v, step=1, **settings)


def test_norm_and_scaling():
    arrays = [np.full((2, 2), 3.0, np.float32), np.full(7, 4e30, np.float32)]
    assert global_norm(arrays[:1]) == 6 and np.isfinite(global_norm(arrays))
    scale_arrays(arrays, 0.5)
    assert arrays[0][0, 0] == 1.5 and arrays[0].dtype == np.float32


@pytest.mark.parametrize("name", ["reference", "cpu", "emulator"])
def test_impossible_products_are_refused(name):
    a, b = draw(3, 4, dtype="float32"), draw(4, 2, dtype="float32")
    matmul = kernels.SETS[name].matmul
    with pytest.raises(ValueError, match="needs an `out` to add to"):
        matmul(a, b, accumulate=True)
    with pytest.raises(ValueError, match="and no activation"):
        matmul(a, b, accumulate=True, activation="gelu", out=np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="activation must be None, 'gelu' or 'gelu_tanh', got 'relu'"):
        matmul(a, b, activation="relu")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nothing_is_promoted(dtype):
    x, w = draw(3, 4, dtype=dtype), draw(5, 4, dtype=dtype)
    results = [*ref.linear_forward(x, w, w[:, 0], activation="gelu"), *ref.linear_backward(x @ w.T, x, w)]
    results += [ref.softmax_backward(x, ref.softmax_forward(x)), ref.log_softmax_backward(x, ref.log_softmax_forward(x))]
    y, mean, rstd = ref.layernorm_forward(x, x[0], x[1])
    results += [y, mean, rstd, *ref.layernorm_backward(x, x, x[0], mean, rstd)]
    q = draw(1, 2, 3, 4, dtype=dtype)
    y, lse = ref.attention_forward(q, q, q, causal_offset=0)
    results += [y, lse, *ref.attention_backward(y, q, q, q, y, lse, causal_offset=0)]
    losses, lse = ref.cross_entropy_forward(x, np.array([0, 1, 2]), label_smoothing=0.1)
    results += [losses, lse, ref.cross_entropy_backward(losses, x, np.array([0, 1, 2]), lse, label_smoothing=0.1)]
    results += [ref.gelu_backward(x, x), ref.gelu_backward(x, x, approximate="tanh"), ref.dropout(x, 0.5, 1)]
    results += [ref.embedding_backward(x, np.array([0, 1, 0]), 3)]
    assert {r.dtype.name for r in results} == {dtype}


def test_dispatch():
    x = np.ones((2, 2), np.float32)
    assert kernels.serving(x).name == "cpu" and kernels.serving(x.astype("float64")).name == "reference"
    with kernels.use("reference"):
        assert kernels.serving(x).name == "reference"
        with kernels.use("cpu"):
            assert kernels.serving(x).name == "cpu"
            with pytest.raises(TypeError, match="the cpu kernels: expected float32, got float64"):
                kernels.serving(x.astype("float64"))
        assert kernels.serving(x).name == "reference"
    assert kernels.serving(x).name == "cpu"
    with pytest.raises(ValueError, match="expected 'reference', 'cpu' or 'emulator', got 'tpu'"), kernels.use("tpu"):
        pass
    with pytest.raises(ValueError, match="got 'cuda'; move the arrays to the GPU"), kernels.use("cuda"):
        pass
    with pytest.raises(AttributeError, match="expected the name of a kernel, got 'fourier'"):
        _ = kernels.serving(x).fourier
    with pytest.raises(TypeError, match="NumPy or CuPy array"):
        kernels.array_module([1.0])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 4), (2, 1, 4), (1, 1, 1)])
def test_unbroadcast_undoes_broadcasting(shape):
    grad = draw(2, 3, 4)
    back = kernels.unbroadcast(grad, shape)
    assert back.shape == shape and back.sum() == pytest.approx(grad.sum())
