"""CPU attention against the float64 reference: ragged sizes, causal offsets, left padding, strided heads, extreme values."""

import tracemalloc

import numpy as np
import pytest

from kernels.attention import cpu, reference

# B, H, T, S, D: one query, few queries, panels with and without remainders, several blocks of keys, odd head widths
SIZES = [(1, 1, 1, 1, 1), (2, 3, 1, 70, 16), (2, 1, 3, 9, 5), (1, 2, 7, 7, 33), (2, 3, 40, 40, 20), (1, 2, 65, 65, 64)]
SIZES += [(1, 1, 100, 300, 24), (1, 1, 300, 260, 8), (3, 2, 129, 129, 32), (1, 1, 5, 600, 40)]
MASKS = [{}, {"causal_offset": 0}, {"causal_offset": "past"}, {"key_start": True}, {"causal_offset": "past", "key_start": True}]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def heads(B, H, T, D, seed, parts=1):
    """`parts` arrays (B, H, T, D), views of one joint projection (B, T, parts · H · D) as in a GPT."""
    joint = normal(B, T, parts, H, D, seed=seed)
    return [joint[:, :, i].transpose(0, 2, 1, 3) for i in range(parts)]


def mask(options, B, T, S):
    options = dict(options)
    if options.get("causal_offset") == "past":
        options["causal_offset"] = S - T
    if "key_start" in options:
        options["key_start"] = np.random.default_rng(3).integers(0, S, B)
    return options


def exact(*arrays):
    return [a.astype(np.float64) for a in arrays]


def close(got, want, tolerance=1e-5):
    """Compare relative to the largest entry. The tolerance covers sums over up to 600 keys and an exp accurate to 2e-7."""
    assert got.dtype == np.float32 and got.shape == want.shape
    finite = np.isfinite(want)
    scale = max(1.0, np.abs(want[finite]).max(initial=0))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("options", MASKS)
@pytest.mark.parametrize("B, H, T, S, D", SIZES)
def test_forward_and_backward(B, H, T, S, D, options):
    options = mask(options, B, T, S)
    (q,), (k, v) = heads(B, H, T, D, 0), heads(B, H, S, D, 1, parts=2)
    want = reference.attention_forward(*exact(q, k, v), **options)
    got = cpu.attention_forward(q, k, v, **options)
    for g, w in zip(got, want, strict=True):
        close(g, w)
    (into,) = heads(B, H, T, D, 5)
    assert cpu.attention_forward(q, k, v, **options, out=into)[0] is into
    close(into, want[0])

    (dout,) = heads(B, H, T, D, 2)
    dout64, q64, k64, v64 = exact(dout, q, k, v)
    want_grads = reference.attention_backward(dout64, q64, k64, v64, *want, **options)
    saved = [w.astype(np.float32) for w in want]
    buffers = (*heads(B, H, T, D, 6), *heads(B, H, S, D, 7, parts=2))
    for grads in (
        cpu.attention_backward(dout, q, k, v, *saved, **options),
        cpu.attention_backward(dout, q, k, v, *saved, **options, out=buffers),
    ):
        for g, w in zip(grads, want_grads, strict=True):
            close(g, w, 2e-5)
    assert all(g is b for g, b in zip(grads, buffers, strict=True))


def test_scale_and_awkward_strides():
    q, k, v = (normal(2, 2, 10, 12, seed=i)[..., ::2] for i in range(3))
    for got, want in zip(
        cpu.attention_forward(q, k, v, scale=0.3), reference.attention_forward(*exact(q, k, v), scale=0.3), strict=True
    ):
        close(got, want)
    y, lse = reference.attention_forward(q, k, v, scale=0.3)
    dq, dk, dv = (np.empty((2, 2, 10, 12), np.float32)[..., ::2] for _ in range(3))
    grads = cpu.attention_backward(y, q, k, v, y, lse, scale=0.3, out=(dq, dk, dv))
    for got, want in zip(grads, reference.attention_backward(*exact(y, q, k, v, y, lse), scale=0.3), strict=True):
        close(got, want, 2e-5)


def test_a_query_that_sees_no_key_gives_zeros():
    (q,), (k, v) = heads(2, 1, 20, 8, 0), heads(2, 1, 20, 8, 1, parts=2)
    options: dict = {"causal_offset": 0, "key_start": np.array([0, 7])}
    y, lse = cpu.attention_forward(q, k, v, **options)
    assert not y[1, :, :7].any() and np.isneginf(lse[1, :, :7]).all() and np.isfinite(lse[1, :, 7:]).all()
    dq, dk, dv = cpu.attention_backward(normal(2, 1, 20, 8), q, k, v, y, lse, **options)
    assert not dq[1, :, :7].any() and not dk[1, :, :7].any() and not dv[1, :, :7].any()
    y, lse = cpu.attention_forward(q, k, v, causal_offset=-30)
    assert not y.any() and np.isneginf(lse).all()


@pytest.mark.parametrize("T", [2, 50])
def test_large_scores_and_nan(T):
    (q,), (k, v) = heads(1, 1, T, 16, 0), heads(1, 1, T, 16, 1, parts=2)
    want = reference.attention_forward(*exact(q * 300, k * 300, v))
    close(cpu.attention_forward(q * 300, k * 300, v)[0], want[0], 2e-3)  # scores of 10⁵, which float32 resolves to 0.01
    k[0, 0, 1, 3] = np.nan
    y, lse = cpu.attention_forward(q, k, v)
    assert np.isnan(y).all() and np.isnan(lse).all()  # every query sees that key
    y, lse = cpu.attention_forward(q, k, v, causal_offset=0)
    assert np.isfinite(y[0, 0, 0]).all() and np.isnan(y[0, 0, 1:]).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (1, 2, 0, 4)])
def test_nothing_to_do(shape):
    q = k = v = np.zeros(shape, np.float32)
    y, lse = cpu.attention_forward(q, k, v)
    assert y.shape == shape and lse.shape == shape[:3]
    assert all(g.shape == shape for g in cpu.attention_backward(q, q, k, v, y, lse))


def test_no_keys_at_all():
    q, k = normal(1, 1, 2, 4), np.zeros((1, 1, 0, 4), np.float32)
    y, lse = cpu.attention_forward(q, k, k)
    assert not y.any() and np.isneginf(lse).all()


def test_memory_is_linear_in_T():
    """All of attention takes far less memory than one (T, T) matrix would."""
    T = 2048
    (q,), (k, v) = heads(1, 2, T, 32, 0), heads(1, 2, T, 32, 1, parts=2)
    tracemalloc.start()
    y, lse = cpu.attention_forward(q, k, v, causal_offset=0)
    cpu.attention_backward(y, q, k, v, y, lse, causal_offset=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < T * T * 4, f"{peak} bytes at T = {T}, as much as a score matrix of {T * T * 4}"
