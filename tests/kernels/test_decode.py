"""The compiled decoder gives the reference's logits for several texts at a time; chapter 9's tests check the reference."""

import numpy as np
import pytest

import kernels
from kernels.decode.reference import Layer, Matrix, Norm, quantize_rows

ours, plain = kernels.SETS["cpu"], kernels.SETS["reference"]
CONTEXT = 40


def weights(rng, dtype, C, H, G, F, gated, bias, int8, layers=2, V=61):
    def normal(*shape):
        return (rng.standard_normal(shape) * 0.3).astype(dtype)

    def matrix(rows, columns, with_bias=bias):
        weight, scale = normal(rows, columns), None
        if int8:
            weight, scale = quantize_rows(weight)
        return Matrix(weight, scale, normal(rows) if with_bias else None)

    def norm():
        return Norm(normal(C) + 1, normal(C) if bias else None)

    D = C // H
    blocks = [
        Layer(norm(), matrix(C + 2 * G * D, C), matrix(C, C), norm(), matrix(2 * F if gated else F, C), matrix(C, F))
        for _ in range(layers)
    ]
    return blocks, norm(), matrix(V, C, False)


SETTINGS = [
    dict(C=24, H=3, G=3, F=96, gated=False, bias=True, int8=False),
    dict(C=48, H=6, G=2, F=40, gated=True, bias=False, int8=False),
    dict(C=24, H=3, G=1, F=50, gated=True, bias=False, int8=True),
    dict(C=64, H=4, G=4, F=256, gated=False, bias=True, int8=True),
    dict(C=8, H=1, G=1, F=7, gated=False, bias=False, int8=False),
]


def empty_caches(G, D, texts, dtype=np.float32):
    return [[[np.zeros((1, G, CONTEXT, D), dtype) for _ in "kv"] for _ in range(2)] for _ in range(texts)]


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_compiled_decoder_matches_the_reference(settings, texts):
    rng = np.random.default_rng(0)
    parts = weights(rng, np.float32, **settings)
    C, H, G = settings["C"], settings["H"], settings["G"]
    D = C // H
    shape = dict(n_head=H, n_kv_head=G, eps=1e-5, rms=not settings["bias"], gated=settings["gated"])
    fast, slow = ours.Decoder(*parts, **shape), plain.Decoder(*parts, **shape)
    caches, exact = empty_caches(G, D, texts), empty_caches(G, D, texts, np.float64)
    for step in range(9):
        active = slice(0, 1 if step < 3 else texts)  # the first text is three tokens ahead of the others
        lengths = np.array([step, *[step - 3] * (texts - 1)])[active]
        x = rng.standard_normal((len(lengths), C)).astype(np.float32)
        angles = np.outer(lengths, 0.5 ** np.arange(D // 2))
        rotation = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)) if settings["gated"] else None
        before = x.copy()
        logits = fast.step(x, caches[active], lengths, rotation)
        want = slow.step(x.astype(np.float64), exact[active], lengths, rotation)
        assert logits.dtype == np.float32 and logits.shape == want.shape and (x == before).all()
        np.testing.assert_allclose(logits, want, rtol=2e-5, atol=2e-5 * np.abs(want).max())
        np.testing.assert_allclose(caches, exact, rtol=1e-4, atol=1e-4)


def test_a_full_cache_is_refused():
    parts = weights(np.random.default_rng(0), np.float32, **SETTINGS[0])
    decoder, caches = ours.Decoder(*parts, n_head=3, n_kv_head=3, eps=1e-5), empty_caches(3, 8, 2)
    for lengths in ([0, CONTEXT], [-1, 0]):
        with pytest.raises(ValueError, match=r"expected lengths from 0 to 39, got \[.*room for 40 tokens"):
            decoder.step(np.zeros((2, 24), np.float32), caches, lengths)
    with pytest.raises(ValueError, match="contiguous"):
        decoder.step(np.zeros((1, 24), np.float32), [[[c[:, :, ::2] for c in pair] for pair in caches[0]]], [0])


def test_eight_bits_are_within_half_a_step():
    weight = np.random.default_rng(0).standard_normal((5000, 7)).astype(np.float32)
    weight[3] = 0
    quantized, scale = quantize_rows(weight)
    assert quantized.dtype == np.int8 and scale.dtype == np.float32 and not quantized[3].any()
    assert np.abs(quantized).max(axis=1)[[0, 1, 2, 4999]].tolist() == [127] * 4
    assert (np.abs(quantized * scale[:, None] - weight) <= scale[:, None] * 0.5001).all()
