"""The GPT against the same model in PyTorch: equal logits, loss and gradients, and 50 equal steps of training."""

from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import next_token_loss

torch = pytest.importorskip("torch")
F = torch.nn.functional

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


def torch_logits(params, idx, config):
    """GPT-2's forward pass in PyTorch: idx (B, T) -> logits (B, T, V); params has minigrad's names."""
    B, T = idx.shape
    C, H = config.d_model, config.n_head
    x = params["wte.weight"][idx] + params["wpe.weight"][:T]
    for i in range(config.n_layer):
        p = {name.removeprefix(f"h.{i}."): value for name, value in params.items() if name.startswith(f"h.{i}.")}
        h = F.layer_norm(x, (C,), p["ln_1.weight"], p["ln_1.bias"])
        q, k, v = F.linear(h, p["attn.c_attn.weight"], p["attn.c_attn.bias"]).view(B, T, 3, H, C // H).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).reshape(B, T, C), p["attn.c_proj.weight"], p["attn.c_proj.bias"])
        h = F.layer_norm(x, (C,), p["ln_2.weight"], p["ln_2.bias"])
        h = F.gelu(F.linear(h, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"]), approximate="tanh")
        x = x + F.linear(h, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])
    return F.layer_norm(x, (C,), params["ln_f.weight"], params["ln_f.bias"]) @ params["wte.weight"].T


def twins(config, dtype):
    """Our GPT, and its parameters as PyTorch leaves with equal values."""
    ours = GPT(config, mg.Generator(0)).to(dtype)
    rng = np.random.default_rng(0)
    for p in ours.parameters():
        if p.ndim == 1:  # at their initial 0 and 1, biases and norms could hide a mistake
            p.array += 0.1 * rng.standard_normal(p.shape).astype(dtype)
    theirs = {n: torch.tensor(p.array.copy(), requires_grad=True) for n, p in ours.named_parameters()}
    return ours, theirs


def torch_loss(theirs, x, y, config):
    logits = torch_logits(theirs, torch.tensor(x), config)
    return logits, F.cross_entropy(logits.view(-1, config.vocab_size), torch.tensor(y).view(-1))


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-4)])
def test_logits_loss_and_every_gradient(dtype, tolerance):
    config = GPTConfig.preset("book", vocab_size=65)
    ours, theirs = twins(config, dtype)
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 65, (2, 2, 100))
    logits, expected = torch_loss(theirs, x, y, config)
    close(ours(mg.tensor(x)).detach().numpy(), logits.detach().numpy(), tolerance)
    loss = next_token_loss(ours, mg.tensor(x), mg.tensor(y))
    assert loss.dtype == dtype and loss.item() == pytest.approx(expected.item(), rel=tolerance)
    loss.backward()
    expected.backward()
    for name, p in ours.named_parameters():
        assert p.grad.dtype == dtype
        close(p.grad.numpy(), theirs[name].grad.numpy(), tolerance, name)


def close(actual, expected, tolerance, name=""):
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="needs ../shared/data/tinyshakespeare.txt")
def test_fifty_steps_of_training_follow_pytorchs():
    text = SHAKESPEARE.read_text()
    ids = np.unique(np.frombuffer(text.encode(), np.uint8), return_inverse=True)[1]
    config = GPTConfig.preset("book", vocab_size=int(ids.max()) + 1)
    ours, theirs = twins(config, "float32")
    settings = {"lr": 3e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
    our_adamw = mg.optim.AdamW(ours.parameters(), **settings)
    their_adamw = torch.optim.AdamW(theirs.values(), **settings)
    rng = np.random.default_rng(2)
    for step in range(50):
        starts = rng.integers(0, len(ids) - 65, 2)
        x, y = (np.stack([ids[s + shift : s + shift + 64] for s in starts]) for shift in (0, 1))
        our_adamw.zero_grad()
        their_adamw.zero_grad()
        loss = next_token_loss(ours, mg.tensor(x), mg.tensor(y))
        _, expected = torch_loss(theirs, x, y, config)
        assert abs(loss.item() - expected.item()) < 1e-3, f"step {step}"
        loss.backward()
        expected.backward()
        mg.optim.clip_grad_norm_(ours.parameters(), 1.0)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        our_adamw.step()
        their_adamw.step()
