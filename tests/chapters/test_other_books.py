"""Run other people's listings with only their import lines changed, beside PyTorch on the same weights.

Nothing is fetched. Set MINIGRAD_LISTINGS to a folder that holds clones named owner+name, for example
rasbt+LLMs-from-scratch, karpathy+nanoGPT, karpathy+minGPT and karpathy+micrograd; tests of absent clones are skipped.
The listings tokenize with tiktoken; TIKTOKEN_CACHE_DIR lets it work without a network.
"""

import importlib
import inspect
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg

FOLDER = Path(os.environ.get("MINIGRAD_LISTINGS") or "-")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="MINIGRAD_LISTINGS names no folder of clones")
if FOLDER.is_dir():
    torch = pytest.importorskip("torch")

BOOK, NANO, MINI, MICRO = (
    FOLDER / name for name in ("rasbt+LLMs-from-scratch", "karpathy+nanoGPT", "karpathy+minGPT", "karpathy+micrograd")
)
CONFIG = {  # every setting that a listing looks up
    "vocab_size": 61, "context_length": 24, "emb_dim": 16, "n_heads": 4, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
    "kv_window_size": 24, "n_kv_groups": 2, "latent_dim": 4, "sliding_window_size": 6, "sliding_window_stride": 1,
    "hidden_dim": 20, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8, "qk_norm": True,
    "rope_base": 10_000.0, "drop_rate_emb": 0.0, "drop_rate_attn": 0.0, "drop_rate_shortcut": 0.0,
    "rope_freq": {
        "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context_length": 16
    },
}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 61, (2, 7))
GENERATORS = ("generate", "generate_text_simple", "generate_text_simple_cached")
DATASETS = ("create_dataloader_v1", "create_dataloader")


SEVERAL_GPUS = ("02_opt_multi_gpu_ddp.py", "DDP-script.py", "DDP-script-torchrun.py")  # minigrad trains on one device


def listings(root, *patterns):
    """The files that import torch, as paths within the clone."""
    found = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    return [str(path.relative_to(root)) for path in found if re.search(r"^\s*(import|from) torch", path.read_text(), re.M)]


def with_our_imports(text):
    """The listing with its import lines changed: torch becomes minigrad."""
    text = re.sub(r"^(\s*)import torch$", r"\1import minigrad as torch", text, flags=re.M)
    return re.sub(r"^(\s*)(import|from) torch\b", r"\1\2 minigrad", text, flags=re.M)


@pytest.fixture(scope="session")
def rewritten(tmp_path_factory):
    """A function: clone -> a copy of its Python files with our imports."""
    copies = {}

    def copy(clone):
        if clone not in copies:
            copies[clone] = tmp_path_factory.mktemp("listings") / clone.name
            for path in clone.rglob("*.py"):
                target = copies[clone] / path.relative_to(clone)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(with_our_imports(path.read_text()))
        return copies[clone]

    return copy


def imported(root, name, *folders):
    """Import a listing and its neighbours afresh from one copy of a clone."""
    path = root / name
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(path.parent), *(str(root / folder) for folder in folders)]
    try:
        inside = (path.parent / "__init__.py").is_file()
        parts = path.relative_to(root / folders[0]).with_suffix("").parts if inside else (path.stem,)
        return importlib.import_module(".".join(parts))
    finally:
        sys.path[:] = before
        for module in set(sys.modules) - known:
            if str(getattr(sys.modules[module], "__file__", "")).startswith(str(root)):
                del sys.modules[module]


def array(tensor):
    return tensor.detach().float().numpy() if tensor.dtype in (getattr(torch, "bfloat16", None),) else tensor.detach().numpy()


def built(model_class, t):
    settings = {**CONFIG, "dtype": t.float32}
    if not model_class.__name__.startswith("Qwen3"):
        settings["head_dim"] = settings["emb_dim"] // settings["n_heads"]
    return model_class(settings)


def compare_models(theirs, ours, state=None):
    """The same weights, logits and gradients."""
    ours.load_state_dict({name: array(tensor) for name, tensor in theirs.state_dict().items()})
    losses = []
    for t, model in ((torch, theirs), (mg, ours)):
        model.eval()
        for module in model.modules():
            if hasattr(module, "reset_cache"):
                module.reset_cache()
        logits = model(t.tensor(IDS))
        loss = t.nn.functional.cross_entropy(logits.flatten(0, 1), t.tensor(np.roll(IDS, -1, 1)).flatten())
        loss.backward()
        losses.append((logits, dict(model.named_parameters())))
    (their_logits, their_parameters), (our_logits, our_parameters) = losses
    np.testing.assert_allclose(array(our_logits), array(their_logits), rtol=2e-4, atol=2e-5)
    assert list(our_parameters) == list(their_parameters)
    for name, parameter in their_parameters.items():
        grad = our_parameters[name].grad
        assert (grad is None) == (parameter.grad is None), name
        if grad is not None:
            np.testing.assert_allclose(array(grad), array(parameter.grad), rtol=1e-3, atol=2e-5, err_msg=name)


def compare_generation(theirs, ours, their_model, our_model):
    for name in GENERATORS:
        if hasattr(theirs, name):
            function = getattr(theirs, name)
            settings = {"max_new_tokens": 5}
            if "context_size" in inspect.signature(function).parameters:
                settings["context_size"] = CONFIG["context_length"]
            outputs = []
            for t, module, model in ((torch, theirs, their_model), (mg, ours, our_model)):
                with t.no_grad():
                    outputs.append(getattr(module, name)(model, t.tensor(IDS), **settings).tolist())
            assert outputs[0] == outputs[1], name


def compare_data(theirs, ours, t_text):
    for name in DATASETS:
        if hasattr(theirs, name):
            settings = dict(batch_size=2, max_length=8, stride=8, shuffle=False)
            batches = [
                [[x.tolist() for x in batch] for batch in getattr(module, name)(t_text, **settings)]
                for module in (theirs, ours)
            ]
            assert batches[0] == batches[1] and batches[0], name


def compare_collation(theirs, ours):
    for name in ("custom_collate_fn", "custom_collate_draft_1", "custom_collate_draft_2"):
        if hasattr(theirs, name):
            results = [getattr(module, name)([[1, 2, 3], [4], [5, 6]]) for module in (theirs, ours)]
            tensors = [result if isinstance(result, tuple) else (result,) for result in results]
            assert [x.tolist() for x in tensors[0]] == [x.tolist() for x in tensors[1]], name


SIZES = {"d_in": 12, "d_out": 12, "context_length": 7, "block_size": 7, "dropout": 0.0, "num_heads": 4, "emb_dim": 12}
SIZES |= {"num_inputs": 12, "num_outputs": 3, "in_dim": 12, "out_dim": 12, "rank": 3, "alpha": 2.0}


def compare_layers(theirs, ours):
    """Layers that are not part of a model (chapter 3, appendices A and E), where SIZES has all that they are made from."""
    x = np.random.default_rng(1).standard_normal((2, 7, 12)).astype(np.float32)
    for name, layer in vars(theirs).items():
        if inspect.isclass(layer) and issubclass(layer, torch.nn.Module) and layer.__module__ == theirs.__name__:
            needed = [n for n, p in inspect.signature(layer).parameters.items() if p.default is p.empty]
            if needed and set(needed) <= set(SIZES):
                mine, pytorchs = (getattr(module, name)(**{n: SIZES[n] for n in needed}) for module in (ours, theirs))
                mine.load_state_dict({n: array(tensor) for n, tensor in pytorchs.state_dict().items()})
                inputs = x[0] if "SelfAttention" in name else x
                results = array(mine(mg.tensor(inputs))), array(pytorchs(torch.tensor(inputs)))
                np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5, err_msg=name)


TEXT = "In the beginning there was a small engine, and it could count. " * 6


@pytest.mark.parametrize(
    "name",
    listings(
        BOOK,
        "ch0*/*/*.py",
        "ch05/11*/*/*.py",
        "appendix-*/*/*.py",
        "pkg/llms_from_scratch/*.py",
        "pkg/llms_from_scratch/kv_cache*/*.py",
    ),
)
def test_llms_from_scratch(name, rewritten):
    try:
        theirs = imported(BOOK, name, "pkg")
    except ImportError as error:
        pytest.skip(f"does not import with PyTorch either: {error}")
    if name.endswith(SEVERAL_GPUS):
        with pytest.raises(ImportError, match="minigrad"):
            imported(rewritten(BOOK), name, "pkg")
        return
    ours = imported(rewritten(BOOK), name, "pkg")
    models = [
        n
        for n, c in vars(theirs).items()
        if inspect.isclass(c) and issubclass(c, torch.nn.Module) and re.search(r"Model(Fast)?$", n)
    ]
    for model in models:
        their_model, our_model = built(getattr(theirs, model), torch), built(getattr(ours, model), mg)
        compare_models(their_model, our_model)
        compare_generation(theirs, ours, their_model, our_model)
    if not models:
        compare_layers(theirs, ours)
    compare_data(theirs, ours, TEXT)
    compare_collation(theirs, ours)


def test_nanogpt(rewritten):
    theirs, ours = imported(NANO, "model.py"), imported(rewritten(NANO), "model.py")
    models = [module.GPT(module.GPTConfig(24, 61, 2, 4, 12, 0.0, True)) for module in (theirs, ours)]
    compare_steps(*models, lambda model: model.configure_optimizers(0.1, 1e-2, (0.9, 0.95), "cpu"))
    ours_model = models[1]
    for model in models:
        model.crop_block_size(16)
        model.eval()
    assert [model.get_num_params() for model in models].count(ours_model.get_num_params()) == 2
    compare_samples(*models)


def test_mingpts_model(rewritten):
    theirs, ours = imported(MINI, "mingpt/model.py", "."), imported(rewritten(MINI), "mingpt/model.py", ".")
    models = []
    for module in (theirs, ours):
        config = module.GPT.get_default_config()
        config.model_type, config.vocab_size, config.block_size = None, 61, 24
        config.n_layer, config.n_head, config.n_embd = 2, 4, 12
        config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = 0.0
        models.append(module.GPT(config))
    settings = type("Settings", (), {"learning_rate": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95)})
    compare_steps(*models, lambda model: model.configure_optimizers(settings))
    for model in models:
        model.eval()
    compare_samples(*models)
    idx = IDS[:1]
    greedy = [model.generate(t.tensor(idx), 5, do_sample=False).tolist() for t, model in zip((torch, mg), models)]
    assert greedy[0] == greedy[1]


def test_mingpts_trainer(rewritten):
    root = rewritten(MINI)
    model_module, trainer_module = imported(root, "mingpt/model.py", "."), imported(root, "mingpt/trainer.py", ".")
    config = model_module.GPT.get_default_config()
    config.model_type, config.vocab_size, config.block_size = None, 3, 8
    config.n_layer, config.n_head, config.n_embd = 1, 2, 16
    dataset = mg.utils.data.TensorDataset(mg.arange(9).reshape(1, 9)[:, :-1] % 3, mg.arange(9).reshape(1, 9)[:, 1:] % 3)
    settings = trainer_module.Trainer.get_default_config()
    settings.max_iters, settings.batch_size, settings.learning_rate = 60, 4, 5e-3
    trainer = trainer_module.Trainer(settings, model_module.GPT(config), dataset)
    losses = []
    trainer.add_callback("on_batch_end", lambda trainer: losses.append(trainer.loss.item()))
    trainer.run()
    assert len(losses) == 60 and losses[-1] < 0.3 < losses[0]


@pytest.mark.parametrize("name", ["test_sanity_check", "test_more_ops"])
def test_micrograds_tests(name, rewritten):
    getattr(imported(rewritten(MICRO), "test/test_engine.py", "."), name)()


def compare_steps(theirs, ours, make_optimizer):
    """Three optimizer steps on one batch end at the same weights."""
    ours.load_state_dict({name: array(tensor) for name, tensor in theirs.state_dict().items()})
    for t, model in ((torch, theirs), (mg, ours)):
        optimizer = make_optimizer(model)
        for _ in range(3):
            _, loss = model(t.tensor(IDS), t.tensor(np.roll(IDS, -1, 1)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            t.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    for (name, mine), pytorchs in zip(ours.named_parameters(), theirs.parameters()):
        np.testing.assert_allclose(array(mine), array(pytorchs), rtol=1e-3, atol=2e-4, err_msg=name)


def compare_samples(theirs, ours):
    """The same token is by far the likeliest with top_k=1, so both draw it."""
    samples = [model.generate(t.tensor(IDS), 5, top_k=1).tolist() for t, model in ((torch, theirs), (mg, ours))]
    assert samples[0] == samples[1]
