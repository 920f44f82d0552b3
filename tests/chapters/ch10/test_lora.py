"""LoRA starts from the unchanged model, trains few numbers and merges exactly; recomputed activations change no gradient."""

import json
from dataclasses import replace

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, next_token_loss, train
from chapters.ch10.lora import ADAPTABLE, PRESETS, LoRALinear, Settings, add_lora, main, merge_lora
from chapters.ch10.reward import load_scalar, reward_scores
from chapters.support.run_folder import Run
from minigrad.checkpointing import checkpoint

LATER = dict(n_kv_head=2, rotary=500.0, rms_eps=1e-5, d_gated=40, bias=False)  # an architecture like Llama's
IDS = np.random.default_rng(0).integers(0, 90, (2, 12))


def make(**changes):
    return GPT(GPTConfig(vocab_size=90, context=32, n_layer=3, n_head=4, d_model=32, init_std=0.1, **changes), mg.Generator(0))


def gradients(gpt, seed=5):
    gpt.zero_grad()
    mg.manual_seed(seed)
    loss = next_token_loss(gpt, mg.from_numpy(IDS), mg.from_numpy(IDS))
    loss.backward()
    return loss.item(), {name: p.grad.numpy().copy() for name, p in gpt.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, dict(dropout=0.2), LATER], ids=["gpt2", "dropout", "later"])
def test_recomputed_activations_give_the_same_gradients(changes):
    gpt = make(**changes)
    loss, expected = gradients(gpt)
    random_state = mg.default_generator.get_state()
    gpt.checkpoint_activations = True
    recomputed_loss, recomputed = gradients(gpt)
    assert recomputed_loss == loss and mg.default_generator.get_state() == random_state
    assert recomputed.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(recomputed[name], expected[name], err_msg=name)


def test_a_checkpoint_stores_only_its_input():
    gpt = make()
    parameters = {id(p.array) for p in gpt.parameters()}
    saved_bytes = {}
    for checkpointed in (False, True):
        gpt.checkpoint_activations = checkpointed
        loss = next_token_loss(gpt, mg.from_numpy(IDS), mg.from_numpy(IDS))
        visited, arrays, stack = set(), {}, [loss.node]
        while stack:
            node = stack.pop()
            if id(node) not in visited:
                visited.add(id(node))
                arrays |= {id(a): a for a in node.ctx.saved if isinstance(a, np.ndarray) and id(a) not in parameters}
                stack += [t.node for t in node.inputs if t is not None and t.node is not None]
        saved_bytes[checkpointed] = sum(a.nbytes for a in arrays.values())
    assert saved_bytes[True] < saved_bytes[False] / 3
    with mg.no_grad():
        assert checkpoint(lambda x: x * 2, mg.ones(3)).tolist() == [2, 2, 2]


def test_lora_starts_from_the_unchanged_model_and_trains_only_the_products():
    gpt = make()
    before = gpt(mg.from_numpy(IDS)).detach().numpy()
    count = add_lora(gpt, rank=2, alpha=4.0, generator=mg.Generator(1))
    np.testing.assert_array_equal(gpt(mg.from_numpy(IDS)).detach().numpy(), before)
    assert count == 3 * (2 * (32 + 96) + 2 * (32 + 32))
    for checkpointed in (False, True):  # the products learn although the embeddings are frozen
        gpt.checkpoint_activations = checkpointed
        _, grads = gradients(gpt)
        assert set(grads) == {n for n, p in gpt.named_parameters() if "up" in n or "down" in n} and len(grads) == 12
    with pytest.raises(ValueError, match="LoRA adapts .*, got 'ln_1'"):
        add_lora(make(), 2, 4.0, ("ln_1",))
    with pytest.raises(ValueError, match="LoRALinear: expected a rank from 1 to 3"):
        LoRALinear(nn.Linear(3, 5), 4, 1.0)


@pytest.mark.parametrize("changes, layers", [({}, ADAPTABLE), (LATER, ("mlp.c_fc", "attn.c_proj"))], ids=["gpt2", "later"])
def test_merging_keeps_the_logits_and_removes_the_products(tmp_path, changes, layers):
    class Batches:
        def batch(self, step):
            return IDS, IDS

    gpt = make(**changes)
    names = [name for name, _ in gpt.named_parameters()]
    first = gradients(gpt)[0]
    add_lora(gpt, 4, 8.0, layers, mg.Generator(1))
    frozen = gpt.wte.weight.array.copy()
    train(gpt, Batches(), TrainConfig(steps=20, lr=1e-2, warmup_steps=1), Run(tmp_path))
    assert gradients(gpt)[0] < first - 0.2
    expected = gpt.eval()(mg.from_numpy(IDS)).detach().numpy()
    merge_lora(gpt)
    np.testing.assert_allclose(gpt(mg.from_numpy(IDS)).detach().numpy(), expected, atol=2e-4)
    np.testing.assert_array_equal(gpt.wte.weight.array, frozen)
    assert [name for name, _ in gpt.named_parameters()] == names and all(p.requires_grad for p in gpt.parameters())


@pytest.fixture
def body(tmp_path):
    """A run folder with a small model and its tokenizer, and the model."""
    words = "some text to learn from, again and again: ham and spam for you and me, free of charge"
    tokenizer = Tokenizer.train(words * 3, 290)
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context=256, n_layer=1, n_head=2, d_model=16), mg.Generator(0))
    save_model(Run(tmp_path / "body"), gpt, tokenizer)
    return gpt


DATA = {
    "classify": "".join(f"spam\tfree {i}\nham\tto you {i}\n" for i in range(20)),
    "sft": json.dumps([{"instruction": f"say {i}", "output": str(i)} for i in range(20)]),
    "reward": json.dumps([{"instruction": f"say {i}", "chosen": str(i), "rejected": "me"} for i in range(20)]),
}


@pytest.mark.parametrize("preset", ["lora", "full"])
@pytest.mark.parametrize("task", DATA)
def test_the_command(tmp_path, body, task, preset, capsys):
    data, run = tmp_path / "data", tmp_path / "out"
    data.write_text(DATA[task])
    config = replace(PRESETS["full"]["training"], steps=3, batch_size=4, warmup_steps=1, lr=1e-2)
    settings = Settings(data=data, model=str(tmp_path / "body"), task=task, preset=preset, run=run, training=config)
    main(replace(settings, rank=2, context=200, checkpoint_activations=True))
    output = capsys.readouterr().out
    assert f"{body.num_parameters() if preset == 'full' else 2 * (16 + 48 + 16 + 16):,} parameters are trained" in output
    if task == "classify":
        assert json.loads((run / "scores.json").read_text())["labels"] == ["ham", "spam"]
        weights, metadata = mg.serialization.load(run / "classifier.safetensors")
        assert json.loads(metadata["labels"]) == ["ham", "spam"] and weights["class_head.weight"].shape == (2, 16)
        assert not any("linear" in name or "down" in name for name in weights), "merged: an ordinary GPT below the head"
        trained = weights["gpt.h.0.attn.c_attn.weight"]
        assert np.abs(trained - body.h[0].attn.c_attn.weight.array).max() > 0
        return
    saved = load_model(run)[0] if task == "sft" else load_scalar(run).gpt
    assert saved.config == body.config  # merged: an ordinary GPT, with its old context
    assert (saved.wte.weight.array == body.wte.weight.array).all() == (preset == "lora")
    assert np.abs(saved.h[0].attn.c_attn.weight.array - body.h[0].attn.c_attn.weight.array).max() > 0
    if task == "reward":
        assert "2 held out" in output and "a bag of " in output
        assert np.isfinite(reward_scores(load_scalar(run), [[1, 2, 3]])).all()
    else:
        assert output.count("  -> ") == 2


def test_without_data_the_error_names_the_flag(body):
    with pytest.raises(ValueError, match="--task reward reads"):
        main(Settings(task="reward"))


def test_a_layer_named_twice_is_adapted_once():
    once, twice = make(), make()
    assert add_lora(once, 2, 4.0, ("attn.c_attn",)) == add_lora(twice, 2, 4.0, ("attn.c_attn", "attn.c_attn"))
