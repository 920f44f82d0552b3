"""CPU attention against the float64 reference: ragged sizes, causal offsets, left padding, strided heads, extreme values."""

import tracemalloc

import numpy as np
import pytest

from kernels.attention import cpu, reference
from kernels.ladders import normal

# B, H, T, S, D: one query, few queries, panels with and without remainders, several blocks of keys, odd head widths
SIZES = [(1, 1, 1, 1, 1), (2, 3, 1, 70, 16), (2, 1, 3, 9, 5), (1, 2, 7, 7, 33), (2, 3, 40, 40, 20), (1, 2, 65, 65, 64)]
SIZES += [(1, 1, 100, 300, 24), (1, 1, 300, 260, 8), (3, 2, 129, 129, 32), (1, 1, 5, 600, 40)]
MASKS = [("none", False), ("training", False), ("decoding", False), ("none", True), ("decoding", True)]


def heads(B, H, T, D, seed, parts=1):
    """`parts` arrays (B, H, T, D), views of one joint projection (B, T, parts · H · D) as in a GPT."""
    joint = normal(B, T, parts, H, D, seed=seed)
    return [joint[:, :, i].transpose(0, 2, 1, 3) for i in range(parts)]


def exact(*arrays):
    return [a.astype(np.float64) for a in arrays]


def close(got, want, tolerance=1e-5):
    """Compare arrays relative to their largest number. The tolerance covers sums over 600 keys and an exp accurate to 2e-7."""
    for g, w in zip(got, want, strict=True):
        assert g.dtype == np.float32 and g.shape == w.shape
        scale = max(1.0, np.abs(w[np.isfinite(w)]).max(initial=0))
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("causal, padded", MASKS)
@pytest.mark.parametrize("B, H, T, S, D", SIZES)
def test_forward_and_backward(B, H, T, S, D, causal, padded):
    options: dict = {"causal_offset": {"none": None, "training": 0, "decoding": S - T}[causal]}
    options["key_start"] = np.random.default_rng(3).integers(0, S, B) if padded else None
    (q,), (k, v) = heads(B, H, T, D, 0), heads(B, H, S, D, 1, parts=2)
    want = reference.attention_forward(*exact(q, k, v), **options)
    close(cpu.attention_forward(q, k, v, **options), want)
    (buffer,) = heads(B, H, T, D, 5)
    assert cpu.attention_forward(q, k, v, **options, out=buffer)[0] is buffer
    close([buffer], want[:1])

    (dout,) = heads(B, H, T, D, 2)
    dout64, q64, k64, v64 = exact(dout, q, k, v)
    want_grads = reference.attention_backward(dout64, q64, k64, v64, *want, **options)
    saved = [w.astype(np.float32) for w in want]
    buffers = (*heads(B, H, T, D, 6), *heads(B, H, S, D, 7, parts=2))
    close(cpu.attention_backward(dout, q, k, v, *saved, **options), want_grads, 2e-5)
    grads = cpu.attention_backward(dout, q, k, v, *saved, **options, out=buffers)
    assert all(g is b for g, b in zip(grads, buffers, strict=True))
    close(grads, want_grads, 2e-5)


def test_scale_and_awkward_strides():
    q, k, v = (normal(2, 2, 10, 12, seed=i)[..., ::2] for i in range(3))
    close(cpu.attention_forward(q, k, v, scale=0.3), reference.attention_forward(*exact(q, k, v), scale=0.3))
    y, lse = reference.attention_forward(q, k, v, scale=0.3)
    dq, dk, dv = (np.empty((2, 2, 10, 12), np.float32)[..., ::2] for _ in range(3))
    grads = cpu.attention_backward(y, q, k, v, y, lse, scale=0.3, out=(dq, dk, dv))
    close(grads, reference.attention_backward(*exact(y, q, k, v, y, lse), scale=0.3), 2e-5)


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
    close(cpu.attention_forward(q * 300, k * 300, v)[:1], want[:1], 2e-3)  # scores of 10⁵, which float32 resolves to 0.01
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
    """Attention's forward and backward pass take far less memory than one (T, T) matrix would."""
    T = 2048
    (q,), (k, v) = heads(1, 2, T, 32, 0), heads(1, 2, T, 32, 1, parts=2)
    tracemalloc.start()
    y, lse = cpu.attention_forward(q, k, v, causal_offset=0)
    cpu.attention_backward(y, q, k, v, y, lse, causal_offset=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < T * T * 4, f"{peak} bytes at T = {T}, as much as a score matrix of {T * T * 4}"
