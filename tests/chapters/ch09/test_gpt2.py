"""GPT-2 against transformers: each loads the other's files, with the same logits, gradients and activations."""

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import next_token_loss
from chapters.ch09.gpt2 import TRANSPOSED, load_gpt2, save_gpt2, verify
from minigrad.serialization import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPES = {"gpt2": dict(n_layer=12, n_head=12), "distilgpt2": dict(n_layer=6, n_head=12)}  # narrow, but with the same layout


@pytest.fixture(scope="module", params=SHAPES)
def theirs(request):
    """A random GPT-2 of transformers, in which no norm weight is 1 and no bias 0."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=503, n_embd=48, n_positions=1024, **SHAPES[request.param])
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    return folder


def relative(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("T", [1, 17, 1024])
def test_the_logits_equal_transformers(theirs, folder, T):
    gpt = load_gpt2(folder)
    ids = np.random.default_rng(T).integers(0, 503, (1, T))
    with torch.no_grad(), mg.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
        assert relative(gpt(mg.from_numpy(ids)).numpy(), expected) < 1e-4


def test_every_gradient_equals_transformers(theirs, folder):
    gpt = load_gpt2(folder)
    x, y = np.random.default_rng(0).integers(0, 503, (2, 2, 33))
    next_token_loss(gpt, mg.from_numpy(x), mg.from_numpy(y)).backward()
    theirs.zero_grad()
    logits = theirs(torch.from_numpy(x)).logits
    torch.nn.functional.cross_entropy(logits.reshape(-1, 503), torch.from_numpy(y).reshape(-1)).backward()
    expected = dict(theirs.transformer.named_parameters())
    for name, parameter in gpt.named_parameters():
        grad = expected[name].grad.numpy()
        assert relative(parameter.grad.numpy(), grad.T if name.endswith(TRANSPOSED) else grad) < 1e-3, name


def test_transformers_reads_our_files(tmp_path):
    config = GPTConfig(vocab_size=301, context=64, n_layer=2, n_head=4, d_model=32, init_std=0.2)
    gpt = GPT(config, mg.Generator(0)).eval()
    save_gpt2(gpt, tmp_path)
    theirs, notes = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    ids = np.random.default_rng(0).integers(0, 301, (2, 20))
    with torch.no_grad(), mg.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids)).logits.numpy()
        assert relative(gpt(mg.from_numpy(ids)).numpy(), expected) < 1e-4


def test_verify_compares_every_layer(folder, capsys):
    gpt, before = load_gpt2(folder), sorted(folder.iterdir())
    assert verify(gpt, folder) < 1e-5
    assert len(capsys.readouterr().out.splitlines()) == 1 + gpt.config.n_layer + 3
    gpt.h[3].mlp.c_proj.bias.array[...] += 0.5
    assert verify(gpt, folder) > 1e-2
    assert sorted(folder.iterdir()) == before


def test_a_failure_of_transformers_gives_one_sentence(folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="transformers could not compute its activations: .*Error") as error:
        verify(load_gpt2(folder), tmp_path)
    assert "\n" not in str(error.value)
