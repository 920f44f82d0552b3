import math

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch04_attention import (
    CausalSelfAttention,
    Settings,
    attention_by_hand,
    main,
    same_letter_head,
)
from chapters.ch06_gpt import LayerCache


def small_attention(**settings):
    attention = CausalSelfAttention(12, 3, **settings)
    generator = mg.Generator(0)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
    return attention


def normal(*shape, seed=1):
    return mg.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_two_positions_worked_out_on_paper():
    q = k = mg.tensor([[1.0], [2.0]])  # (T, D) = (2, 1)
    out, weights = attention_by_hand(q, k, mg.tensor([[10.0], [20.0]]))
    second = 1 / (1 + math.exp(-2))  # scores 2 and 4 for the second position: softmax gives 1 / (1 + e^(2 - 4))
    np.testing.assert_allclose(weights.numpy(), np.array([[1, 0], [1 - second, second]]), rtol=1e-6)
    np.testing.assert_allclose(out.numpy(), np.array([[10], [10 + 10 * second]]), rtol=1e-6)


def test_by_hand_equals_the_engine():
    q, k, v = (normal(9, 5, seed=s) for s in range(3))
    batch = [x.view(1, 1, 9, 5) for x in (q, k, v)]
    engine = F.scaled_dot_product_attention(batch[0], batch[1], batch[2], is_causal=True)
    np.testing.assert_allclose(attention_by_hand(q, k, v)[0].numpy(), engine.numpy()[0, 0], rtol=1e-5, atol=1e-6)


def test_the_module_equals_heads_by_hand_side_by_side():
    attention, x = small_attention(), normal(1, 7, 12)
    with mg.no_grad():
        q, k, v = attention.heads(x)  # (1, 3, 7, 4) each
        heads = [attention_by_hand(q[0, h], k[0, h], v[0, h])[0].numpy() for h in range(3)]
        mixed = attention.c_proj(mg.from_numpy(np.concatenate(heads, axis=1)[None]))
        np.testing.assert_allclose(attention(x).numpy(), mixed.numpy(), rtol=1e-4, atol=1e-5)


def test_the_future_is_not_seen():
    attention, x = small_attention(), normal(2, 6, 12)
    changed = x.numpy().copy()
    changed[:, 4] += 1
    with mg.no_grad():
        before, after = attention(x).numpy(), attention(mg.from_numpy(changed)).numpy()
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max(axis=(0, 2)).min() > 1e-3


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (3, 2), (4, 1)])
def test_with_a_cache_the_pieces_of_a_text_give_the_same_result(pieces):
    attention, x = small_attention(), normal(2, 5, 12)
    cache, start = LayerCache(8), 0
    outputs: list[np.ndarray] = []
    with mg.no_grad():
        for T in pieces:
            outputs.append(attention(x[:, start : start + T], cache).numpy())
            start += T
        np.testing.assert_allclose(np.concatenate(outputs, axis=1), attention(x).numpy(), rtol=1e-4, atol=1e-5)
    assert cache.length == 5


def test_no_query_sees_padding_on_the_left():
    attention, x = small_attention(), normal(1, 4, 12)
    padded = mg.from_numpy(np.concatenate([np.full((1, 3, 12), 50, np.float32), x.numpy()], axis=1))  # (1, 7, 12)
    with mg.no_grad():
        result = attention(padded, key_start=np.array([3])).numpy()[:, 3:]
        np.testing.assert_allclose(result, attention(x).numpy(), rtol=1e-4, atol=1e-5)


def test_maps_are_distributions_over_the_past():
    with mg.no_grad():
        maps = small_attention().weights(normal(1, 6, 12))
    assert maps.shape == (3, 6, 6)
    np.testing.assert_allclose(maps.sum(axis=-1), 1, rtol=1e-5)
    assert not np.triu(maps, k=1).any()


def test_the_same_letter_head_attends_to_equal_letters():
    weights = same_letter_head("abcab")
    assert weights[3, 0] + weights[3, 3] > 0.9  # the second a attends to both
    assert weights[4, 1] + weights[4, 4] > 0.9


def test_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="d_model=10 and n_head=3"):
        CausalSelfAttention(10, 3)


def test_the_lesson_runs(tmp_path, capsys):
    main(Settings(run=tmp_path, text="a rose is a rose"))
    assert "the largest weight in the future is 0.0" in capsys.readouterr().out
    assert (tmp_path / "figures" / "attention.svg").stat().st_size > 1000
