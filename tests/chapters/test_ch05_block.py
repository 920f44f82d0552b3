import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch05_block import MLP, Block, Settings, gradient_lengths, main, stack_of
from chapters.ch06_gpt import LayerCache
from chapters.support.one_operation import layers_of, parameters_of
from minigrad import decoding


def randomised(module, seed=0):
    generator = mg.Generator(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
    return module


def normal(*shape, seed=1):
    return mg.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_mlp_is_linear_gelu_linear():
    mlp, x = randomised(MLP(6)), normal(2, 3, 6)
    with mg.no_grad():
        plain = mlp.c_proj(F.gelu(mlp.c_fc(x), approximate="tanh"))
        np.testing.assert_allclose(mlp(x).numpy(), plain.numpy(), rtol=1e-4, atol=1e-5)
    assert tuple(mlp.c_fc.weight.shape) == (24, 6)


def test_block_adds_both_halves_to_the_stream():
    block, x = randomised(Block(8, 2)), normal(2, 5, 8)
    with mg.no_grad():
        middle = x + block.attn(block.ln_1(x))
        expected = middle + block.mlp(block.ln_2(middle))
        np.testing.assert_allclose(block(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def results(block, x, one_operation, monkeypatch):
    """The block's result, and all gradients, with or without the fused operation."""
    calls = []
    with monkeypatch.context() as patch:
        if one_operation:
            fused = F.transformer_block
            patch.setattr(F, "transformer_block", lambda *args: calls.append(1) or fused(*args))
        else:
            patch.setattr("chapters.ch05_block.is_one_operation", lambda *_: False)
        x = x.detach().requires_grad_(True)
        y = block(x)
        (y * normal(*y.shape, seed=2)).sum().backward()
        (block(x) * 0.5).sum().backward()  # adds to the gradients
    grads = [parameter.grad.numpy() for parameter in block.parameters()]
    block.zero_grad()
    return bool(calls), [y.detach().numpy(), x.grad.numpy(), *grads]


@pytest.mark.parametrize(
    "B, T, C, H", [(0, 3, 4, 2), (3, 0, 4, 2), (1, 1, 4, 2), (3, 7, 12, 3), (9, 40, 32, 1), (2, 130, 16, 4)]
)
def test_one_operation_equals_the_operations_one_after_another(B, T, C, H, monkeypatch):
    block, x = randomised(Block(C, H)), normal(B, T, C)
    fused, ours = results(block, x, True, monkeypatch)
    _, expected = results(block, x, False, monkeypatch)
    assert fused
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(initial=0))


@pytest.mark.parametrize("B, pieces", [(1, (5, 1, 1)), (3, (2, 4)), (40, (6, 1, 1, 3)), (0, (2, 1)), (70, (1, 1, 40))])
@pytest.mark.parametrize("padded", [False, True])
def test_with_a_cache_too(B, pieces, padded, monkeypatch):
    block, x, start = randomised(Block(12, 3)), normal(B, sum(pieces), 12), None
    if padded:
        start = mg.from_numpy(np.random.default_rng(B).integers(0, pieces[0], B))

    def pieces_of_text():
        cache, first = LayerCache(sum(pieces) + 2), 0
        with mg.no_grad():
            for T in pieces:
                yield block(x[:, first : first + T], cache, start).numpy()
                first += T
        yield from (cache.k.numpy(), cache.v.numpy())
        assert cache.length == first

    calls: list[int] = []
    fused = decoding.block
    monkeypatch.setattr(decoding, "block", lambda *args: calls.append(1) or fused(*args))
    ours = list(pieces_of_text())
    monkeypatch.setattr("chapters.ch05_block.is_one_operation", lambda *_: False)
    expected = list(pieces_of_text())
    assert len(calls) == len(pieces)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(initial=0))


def test_a_cache_holds_no_graph():
    block, x = randomised(Block(8, 2)), normal(2, 3, 8)
    y = block(x, LayerCache(4))  # operation by operation, with a graph
    assert y.requires_grad
    keys, values = (mg.zeros(2, 2, 4, 4) for _ in "kv")
    parameters = parameters_of(layers_of(block))
    with pytest.raises(RuntimeError, match="expected a call under no_grad"):
        decoding.block(x, parameters, keys, values, 2, 0)
    with mg.no_grad(), pytest.raises(ValueError, match="expected seen from 0 to 1, .* got 2"):
        decoding.block(x, parameters, keys, values, 2, 2)
    with mg.no_grad(), pytest.raises(ValueError, match="expected a cache of 2 heads of width 8 / 2, got 2 of width 3"):
        decoding.block(x, parameters, mg.zeros(2, 2, 4, 3), mg.zeros(2, 2, 4, 3), 2, 0)


def frozen(block):
    block.mlp.c_fc.weight.requires_grad_(False)


def with_lora(block):
    block.attn.c_attn = nn.Sequential(block.attn.c_attn)


def with_another_forward(block):
    block.mlp.forward = lambda x: x


class OtherMLP(MLP):
    def forward(self, x):
        return 2 * super().forward(x)


def with_another_class(block):
    block.mlp = OtherMLP(8)


UNSUITABLE = {
    "another forward": with_another_forward,
    "another class": with_another_class,
    "dropout": lambda block: Block(8, 2, dropout=0.1),
    "no bias": lambda block: Block(8, 2, bias=False),
    "fewer heads of keys": lambda block: Block(8, 2, n_kv_head=1),
    "rotary": lambda block: Block(8, 2, rotary=100.0),
    "RMSNorm": lambda block: Block(8, 2, rms_eps=1e-5),
    "SwiGLU": lambda block: Block(8, 2, d_gated=16),
    "a frozen parameter": frozen,
    "another layer": with_lora,
    "a hook": lambda block: block.mlp.register_forward_hook(lambda *_: None) and None,
}


@pytest.mark.parametrize("change", UNSUITABLE.values(), ids=UNSUITABLE.keys())
def test_other_blocks_run_their_operations_one_after_another(change, monkeypatch):
    block = Block(8, 2)
    block = change(block) or block
    monkeypatch.setattr(F, "transformer_block", None)
    assert block(normal(2, 3, 8)).shape == (2, 3, 8)


def test_a_block_that_adds_nothing_is_the_identity():
    block, x = randomised(Block(8, 2)), normal(2, 5, 8)
    for layer in (block.attn.c_proj, block.mlp.c_proj):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with mg.no_grad():
        np.testing.assert_array_equal(block(x).numpy(), x.numpy())


def test_every_parameter_gets_a_gradient():
    block = randomised(Block(8, 2))
    (block(normal(2, 5, 8)) * normal(2, 5, 8, seed=2)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and np.abs(parameter.grad.numpy()).max() > 0, name


def test_bias_false_creates_no_bias():
    assert all("bias" not in name for name, _ in Block(8, 2, bias=False).named_parameters())


def test_dropout_only_in_training():
    block, x = randomised(Block(8, 2, dropout=0.5)), normal(2, 5, 8)
    mg.manual_seed(0)
    with mg.no_grad():
        assert np.abs(block(x).numpy() - block(x).numpy()).max() > 0
        block.eval()
        np.testing.assert_array_equal(block(x).numpy(), block(x).numpy())


def test_the_residual_stream_carries_the_gradient():
    x, target = normal(2, 4, 16), normal(2, 4, 16, seed=2)
    with_residual = gradient_lengths(stack_of(6, 16, mg.Generator(0)), x, target, residual=True)
    without = gradient_lengths(stack_of(6, 16, mg.Generator(0)), x, target, residual=False)
    assert 0.2 < with_residual[0] / with_residual[-1] < 5
    assert without[0] / without[-1] < 1e-3


def test_the_lesson_runs(tmp_path, capsys):
    main(Settings(run=tmp_path, quick=True, d_model=16))
    assert "residual stream" in capsys.readouterr().out
    assert (tmp_path / "figures" / "depth.svg").stat().st_size > 1000
    with pytest.raises(ValueError, match="at least 1"):
        main(Settings(run=tmp_path, depth=0))
