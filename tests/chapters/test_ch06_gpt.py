import math
from typing import Any

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, KVCache, Settings, changed_positions, draw_trained_heads, layout, main, save_model
from chapters.support.run_folder import Run

SMALL: dict[str, Any] = dict(vocab_size=17, context=8, n_layer=2, n_head=2, d_model=12)


def small_gpt(**changes):
    return GPT(GPTConfig(**{**SMALL, **changes}), mg.Generator(0)).eval()


def ids(*shape, seed=0):
    return mg.from_numpy(np.random.default_rng(seed).integers(0, 17, shape))


def test_names_are_gpt2s():
    names = [name for name, _ in small_gpt().named_parameters()]
    block = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    expected = [f"h.{i}.{part}.{kind}" for i in range(2) for part in block for kind in ("weight", "bias")]
    assert sorted(names) == sorted(["wte.weight", "wpe.weight", *expected, "ln_f.weight", "ln_f.bias"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(bias=False, tied=False),
        dict(rotary=1e4, rms_eps=1e-5, d_gated=20, n_kv_head=1),
        dict(d_gated=20),
        dict(rms_eps=1e-5),
    ],
)
def test_the_layout_is_known_without_building_the_model(changes):
    model = small_gpt(**changes)
    assert dict(layout(model.config)) == {name: p.shape for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "preset, changes, count",
    [("tiny", {}, 957_184), ("book", {"vocab_size": 1024}, 11_139_072), ("gpt2", {}, 124_439_808)],
)
def test_parameter_counts(preset, changes, count):
    """124,439,808 is GPT-2 small's published count; the others follow from 12 C² + 13 C a block."""
    c = GPTConfig.preset(preset, **changes)
    by_hand = (c.vocab_size + c.context + 2) * c.d_model + c.n_layer * (12 * c.d_model**2 + 13 * c.d_model)
    assert by_hand == count
    if preset != "gpt2":  # a GPT-2 would take 500 MB
        assert GPT(c, mg.Generator(0)).num_parameters() == count


def test_the_initial_loss_is_that_of_a_uniform_guess():
    model = GPT(GPTConfig(vocab_size=512, context=32, n_layer=2, n_head=2, d_model=32), mg.Generator(0))
    tokens = mg.from_numpy(np.random.default_rng(0).integers(0, 512, (4, 32)))
    loss = F.cross_entropy(model(tokens).view(-1, 512), mg.from_numpy(np.arange(128) * 4)).item()
    assert loss == pytest.approx(math.log(512), abs=0.1)


def test_initial_weights_are_gpt2s():
    model = GPT(GPTConfig(vocab_size=300, context=64, n_layer=8, n_head=2, d_model=64), mg.Generator(0))
    assert model.wte.weight.detach().numpy().std() == pytest.approx(0.02, rel=0.03)
    assert model.h[3].mlp.c_fc.weight.detach().numpy().std() == pytest.approx(0.02, rel=0.03)
    assert model.h[3].mlp.c_proj.weight.detach().numpy().std() == pytest.approx(0.02 / 4, rel=0.03)  # √(2·8) = 4
    assert not model.h[3].attn.c_attn.bias.detach().numpy().any()
    again = GPT(model.config, mg.Generator(0))
    assert model.wpe and again.wpe
    np.testing.assert_array_equal(again.wpe.weight.detach().numpy(), model.wpe.weight.detach().numpy())


def test_nothing_depends_on_the_future():
    assert changed_positions(small_gpt(), mg.Generator(1), 8).tolist() == [False] * 4 + [True] * 4


def test_tied_and_untied_heads():
    tied, untied = small_gpt(), small_gpt(tied=False)
    assert tied.lm_head.weight is tied.wte.weight
    assert untied.num_parameters() == tied.num_parameters() + 17 * 12
    tied(ids(2, 4)).sum().backward()
    assert np.abs(tied.wte.weight.grad.numpy()).min() > 0  # the rows of absent tokens too, through the head


def test_the_head_is_the_last_step():
    model = small_gpt()
    logits = model(ids(4, 8)).detach().numpy()
    table = model.wte.weight.detach().numpy()
    model.lm_head = nn.Identity()
    hidden = model(ids(4, 8)).detach().numpy()
    assert hidden.shape == (4, 8, 12)
    np.testing.assert_allclose(hidden @ table.T, logits, rtol=1e-4, atol=1e-5)


def test_cache_and_last_only_change_nothing():
    model, text = small_gpt(), ids(3, 8)
    with mg.no_grad():
        whole = model(text).numpy()  # (3, 8, 17)
        cache = KVCache(model)
        pieces = [model(text[:, a:b], cache).numpy() for a, b in ((0, 3), (3, 4), (4, 8))]
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model(text, last_only=True).numpy(), whole[:, -1:], rtol=1e-4, atol=1e-5)
    assert cache.length == 8


def test_chosen_positions_get_the_logits_of_all_positions():
    model, text = small_gpt(), ids(3, 8)
    at = mg.tensor([0, 9, 23])
    with mg.no_grad():
        whole = model(text).numpy().reshape(24, 17)
        np.testing.assert_allclose(model(text, at=at).numpy(), whole[[0, 9, 23]], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="GPT: expected last_only or at, got both"):
        model(text, last_only=True, at=at)


def test_padding_on_the_left_changes_no_logits():
    model, text = small_gpt(), ids(1, 5)
    padded = mg.from_numpy(np.concatenate([np.zeros((1, 3), np.int64), text.numpy()], axis=1))  # (1, 8)
    with mg.no_grad():
        logits = model(padded, key_start=np.array([3])).numpy()
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[:, 3:], model(text).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_bad_arguments_are_refused():
    model = small_gpt()
    with pytest.raises(ValueError, match="9 tokens do not fit in this model's context of 8"):
        model(ids(1, 9))
    with mg.no_grad(), pytest.raises(ValueError, match="9 tokens do not fit"):
        cache = KVCache(model)
        model(ids(1, 8), cache)
        model(ids(1, 1), cache)
    with pytest.raises(ValueError, match=r"0\.\.16, got 17\.\.17"):
        model(mg.tensor([[17]]))
    with pytest.raises(ValueError, match=r"\(batch, time\)"):
        model(mg.tensor([1, 2]))
    with pytest.raises(ValueError, match="no preset named 'huge'; the presets are tiny, book, gpt2"):
        GPTConfig.preset("huge")
    refused: list[tuple[dict[str, Any], str]] = [
        (dict(n_head=5), "d_model=12 and n_head=5"),
        (dict(context=0), "context must be at least 1"),
        (dict(dropout=1.0), "dropout must be"),
        (dict(rms_eps=0.0), "rms_eps must be above 0"),
        (dict(d_gated=0), "d_gated must be at least 1"),
        (dict(n_head=4, rotary=1e4), "heads of even width, got 10000.0 and 3"),
        (dict(rotary=0.0), "a base above 0"),
    ]
    for changes, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            GPTConfig(**{**SMALL, **changes})


def test_the_lesson_runs(capsys):
    main(Settings(preset="tiny", vocab_size=64))
    assert "at positions [8, 9, 10, 11, 12, 13, 14, 15]" in capsys.readouterr().out


def test_the_heads_of_a_trained_model_are_drawn(tmp_path, capsys):
    tokenizer = Tokenizer.characters("a rose is")
    save_model(Run(tmp_path / "model"), small_gpt(vocab_size=tokenizer.vocab_size, context=20), tokenizer)
    main(Settings(model=tmp_path / "model", run=tmp_path, layer=1, text="a rose is a rose is a rose"))
    figure = tmp_path / "figures" / "attention.svg"
    assert capsys.readouterr().out == f"figure: {figure}\n"
    assert figure.stat().st_size > 1000
    with pytest.raises(ValueError, match="expected a layer from 0 to 1, got 2"):
        draw_trained_heads(tmp_path / "model", "a rose", 2, figure)
    with pytest.raises(ValueError, match="--text: expected a text to attend to, got an empty one"):
        draw_trained_heads(tmp_path / "model", "", 0, figure)
