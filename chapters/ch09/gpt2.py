"""Chapter 9: GPT-2. The weights that OpenAI published go into the very class that chapter 6 wrote.

    python -m chapters.ch09.gpt2 --model gpt2 --verify           # by name, through huggingface_hub
    python -m chapters.ch09.gpt2 --model some/folder --run runs/gpt2   # and ready for chapters 8 and 10

Nothing is translated but a layout. The names are the same; four matrices of every block are stored the other way round
(the release multiplied from the left, x W, where ours is x Wᵀ), and the head is the token table, stored once. Then the
logits are the same to the last digits of float32, which `--verify` shows layer by layer.

A folder holds `config.json` and `model.safetensors` as Hugging Face lays them out, of gpt2, gpt2-medium, gpt2-large,
gpt2-xl or distilgpt2, in F32, F16 or BF16. Source: Radford et al. 2019; the layout is transformers' GPT2LMHeadModel.
"""

import importlib.util
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch09.weights import WHY_NO_PICKLES, Checkpoint
from chapters.support.command import OnDevice, command
from minigrad.serialization import CheckpointError, write_atomically

NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored (in, out): transformers calls it Conv1D
IGNORED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # the causal mask, kept as if it had been learned


# ── where the files are ──────────────────────────────────────────────────────────────────────────────────────────────


def find(model):
    """The folder of a model: a path that exists, or a published name, fetched (or found in the cache) by huggingface_hub.

    Raises CheckpointError, saying where to put the files, where neither holds.
    """
    folder = Path(model)
    if folder.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise CheckpointError(f"{folder} is a pickled PyTorch file, {WHY_NO_PICKLES}")
    if folder.suffix == ".safetensors":
        folder = folder.parent
    if folder.is_dir():
        return folder
    by_hand = "download config.json and model.safetensors of it elsewhere, put both in one folder and give its path"
    if str(model) not in NAMES:
        raise CheckpointError(f"there is no folder {model}, and the published names are {', '.join(NAMES)}")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CheckpointError(f"fetching {model} needs huggingface_hub: pip install -e '.[hub]', or {by_hand}")
    import huggingface_hub

    repository = f"{'distilbert' if str(model) == 'distilgpt2' else 'openai-community'}/{model}"
    try:  # it shows its progress, goes on where it stopped, keeps a cache and compares checksums
        fetched = [huggingface_hub.hf_hub_download(repository, name) for name in ("config.json", "model.safetensors")]
    except Exception as error:  # no route, a refusing proxy, a hub that is down: one sentence for all
        raise CheckpointError(
            f"{model} is neither in huggingface_hub's cache nor to be had from the network ({type(error).__name__}): "
            f"try again online, or {by_hand}"
        ) from error
    return Path(fetched[0]).parent


def read_config(folder):
    """The GPTConfig that a folder's config.json describes.  Raises CheckpointError for what this GPT cannot be."""
    path = Path(folder) / "config.json"
    try:
        if path.stat().st_size > 1 << 20:
            raise CheckpointError(f"{path} has more than 1 MiB: it is not the config.json of a model")
        told = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; it belongs beside model.safetensors") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(told, dict) or told.get("model_type") != "gpt2":
        raise CheckpointError(f"{path} does not describe a GPT-2 (its model_type is not 'gpt2')")
    same = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True}
    same |= {"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False, "add_cross_attention": False}
    for name, ours in same.items():
        if told.get(name, ours) != ours:
            raise CheckpointError(f"{path}: {name} is {told[name]}, but chapter 6's GPT has {ours}")
    sizes = {}
    for ours, theirs in {
        "vocab_size": "vocab_size", "context": "n_positions", "n_layer": "n_layer", "n_head": "n_head", "d_model": "n_embd"
    }.items():  # fmt: skip
        sizes[ours] = told.get(theirs)
        if type(sizes[ours]) is not int:
            raise CheckpointError(f"{path}: {theirs} should be a whole number, but is {str(sizes[ours])[:60]}")
    if told.get("n_inner") not in (None, 4 * sizes["d_model"]):
        raise CheckpointError(f"{path}: n_inner is {told['n_inner']}, but chapter 5's MLP is four times as wide as C")
    try:
        return GPTConfig(**sizes, tied=told.get("tie_word_embeddings", True) is not False)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


# ── reading and writing ──────────────────────────────────────────────────────────────────────────────────────────────


def layout(config):
    """(name, shape) of every parameter, as chapter 6 has them, one after the other."""
    V, T, C = config.vocab_size, config.context, config.d_model
    yield from [("wte.weight", (V, C)), ("wpe.weight", (T, C))]
    for i in range(config.n_layer):
        for part, inner, outer in (("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, 4 * C)):
            yield from [(f"h.{i}.{part}.weight", (outer, inner)), (f"h.{i}.{part}.bias", (outer,))]
        yield from [(f"h.{i}.mlp.c_proj.weight", (C, 4 * C)), (f"h.{i}.mlp.c_proj.bias", (C,))]
        for norm in ("ln_1", "ln_2"):
            yield from [(f"h.{i}.{norm}.weight", (C,)), (f"h.{i}.{norm}.bias", (C,))]
    yield from [("ln_f.weight", (C,)), ("ln_f.bias", (C,))]
    if not config.tied:
        yield "lm_head.weight", (V, C)


def stored_as(name, prefix="transformer."):
    """A parameter's name in the file: all but the head may stand under a prefix."""
    return name if name.startswith("lm_head") else prefix + name


def check_layout(checkpoint, config):
    """Refuse a file that is not exactly this GPT, before anything is made for it.  Returns the prefix of its names."""
    prefix = "transformer." if any(name.startswith("transformer.") for name in checkpoint.entries) else ""
    known = set()
    for name, shape in layout(config):  # the first that is missing ends this, however many layers config.json promises
        stored = stored_as(name, prefix)
        checkpoint.check(stored, shape[::-1] if name.endswith(TRANSPOSED) else shape)
        known.add(stored)
    known.add("lm_head.weight")  # tied: some files hold the table twice
    for name in checkpoint.entries:
        if name not in known and not IGNORED.fullmatch(name.removeprefix(prefix)):
            raise CheckpointError(f"{checkpoint.path} holds the tensor {name[:60]}, which has no place in a GPT-2")
    return prefix


def load_gpt2(model):
    """The GPT in a folder (or of a published name), in eval mode, float32.

    Memory: the model's own and some MiB; the file is mapped a slab at a time. Raises CheckpointError, in one sentence,
    where the files are missing, damaged or describe something else, before anything is allocated for them.
    """
    folder = find(model)
    if not (folder / "model.safetensors").exists():
        pickled = [name for name in ("pytorch_model.bin", "model.pt", "model.bin") if (folder / name).exists()]
        if pickled:
            raise CheckpointError(f"{folder / pickled[0]} is a pickled PyTorch file, {WHY_NO_PICKLES}")
    config = read_config(folder)
    checkpoint = Checkpoint(folder / "model.safetensors")
    prefix = check_layout(checkpoint, config)
    with nn.init.skipped(), mg.device("cpu"):  # memory that nobody wrote to is not there yet
        gpt = GPT(config)
    for name, parameter in gpt.named_parameters():
        array = parameter.array
        checkpoint.copy_into(stored_as(name, prefix), array.T if name.endswith(TRANSPOSED) else array)
        parameter.changed()
    return gpt.eval().to(mg.get_default_device())


def save_gpt2(gpt, folder):
    """Write config.json and model.safetensors, so that `GPT2LMHeadModel.from_pretrained(folder)` loads this GPT.

    Raises ValueError, before anything is written, for a GPT that this layout cannot say.
    """
    folder, config = Path(folder), gpt.config
    for option in ("n_kv_head", "rotary", "rms_eps", "d_gated"):
        if getattr(config, option) is not None:
            raise ValueError(f"GPT-2's layout has no {option}, and this GPT has {option}={getattr(config, option)}")
    own, tensors = {name: parameter.numpy(force=True) for name, parameter in gpt.named_parameters()}, {}
    for name, shape in layout(config):
        if name not in own and not name.endswith(".bias"):
            raise ValueError(f"this GPT lacks {name}, which GPT-2 has (LoRA is merged first, with merge_lora)")
        array = own[name] if name in own else np.zeros(shape, np.float32)  # GPT-2's layout knows no GPT without biases
        tensors[stored_as(name)] = array.T if name.endswith(TRANSPOSED) else array
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "vocab_size": config.vocab_size, "n_positions": config.context, "n_ctx": config.context, "n_embd": config.d_model,
        "n_layer": config.n_layer, "n_head": config.n_head, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": config.tied,
        "bos_token_id": config.vocab_size - 1, "eos_token_id": config.vocab_size - 1,
        "attn_pdrop": config.dropout, "embd_pdrop": config.dropout, "resid_pdrop": config.dropout,
    }  # fmt: skip
    mg.serialization.save(folder / "model.safetensors", tensors, {"format": "pt"})
    write_atomically(folder / "config.json", (json.dumps(told, indent=2) + "\n").encode())


def load_tokenizer(folder, config):
    """The folder's own tokenizer where there is one (as chapter 1 saves it), else GPT-2's encoding."""
    own = Path(folder) / "tokenizer.tiktoken"
    tokenizer = Tokenizer.load(own) if own.exists() else Tokenizer.gpt2()
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids but the model {config.vocab_size}: "
            f"put the model's own beside it, as {own.name}"
        )
    return tokenizer


# ── the proof ────────────────────────────────────────────────────────────────────────────────────────────────────────


def activations(gpt, ids):
    """What every stage of the GPT makes of ids: (B, T).  Yields (name, array): the embeddings, each block, norm, logits."""
    with mg.no_grad():
        x = gpt.embed(mg.as_tensor(ids))  # (B, T, C)
        yield "embeddings", x.numpy(force=True)
        for i, block in enumerate(gpt.h):
            x = block(x)  # (B, T, C)
            yield f"h.{i}", x.numpy(force=True)
        x = gpt.ln_f(x)  # (B, T, C)
        yield "ln_f", x.numpy(force=True)
        yield "logits", gpt.lm_head(x).numpy(force=True)  # (B, T, V)


def verify(gpt, folder):
    """Print, layer by layer, the largest difference from what transformers computed; returns the largest relative one.

    Its activations come from chapters.bench.peer_gpt2, a process of its own: neither transformers nor PyTorch is ever
    loaded beside our model. They are computed anew each time, and nothing is written into the folder.
    """
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError("--verify compares with transformers, which is not installed: pip install -e '.[peers]'")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "activations.safetensors"
        ask_transformers("peer_gpt2", folder, path)
        theirs, _ = mg.serialization.load(path)
    worst = 0.0
    print(f"{'':12}largest value   largest difference")
    for name, ours in activations(gpt, theirs["ids"]):
        difference, size = float(np.abs(ours - theirs[name]).max()), float(np.abs(theirs[name]).max())
        worst = max(worst, difference / size)
        print(f"{name:<12}{size:13.3f}   {difference:18.1e}")
    return worst


def ask_transformers(module, *arguments):
    """Run chapters.bench.MODULE in a process of its own.  Raises CheckpointError, with the last line it said, where it fails."""
    command = [sys.executable, "-m", f"chapters.bench.{module}", *map(str, arguments)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        raise CheckpointError(f"transformers could not compute what --verify compares with: {said[-1].strip()[:300]}")


@dataclass
class Settings(OnDevice):
    """Load GPT-2's published weights into chapter 6's GPT, and let it write."""

    model: str = "gpt2"  # a folder with config.json and model.safetensors, or gpt2, gpt2-medium, -large, -xl, distilgpt2
    prompt: str = "The little town by the sea"  # what the model goes on with, taking the likeliest token each time
    max_new_tokens: int = 40  # how far
    verify: bool = False  # print, layer by layer, how far our numbers are from transformers'
    run: Path | None = None  # write a run folder that chapters 8 and 10 start from
    export: Path | None = None  # write the model back in Hugging Face's layout
    quick: bool = False  # 10 new tokens


def main(settings):
    from chapters.ch08_sample import generate

    folder = find(settings.model)
    begin = time.perf_counter()
    gpt = load_gpt2(folder)
    seconds = time.perf_counter() - begin
    megabytes = sum(math.prod(p.shape) for p in gpt.parameters()) * 4 / 1e6
    print(f"{gpt.num_parameters():,} parameters ({megabytes:,.0f} MB in float32) in {seconds:.1f} s: {gpt.config}")
    if settings.verify:
        print(f"largest difference, relative to the layer's largest value: {verify(gpt, folder):.1e}")
    tokenizer = load_tokenizer(folder, gpt.config)
    if settings.run:
        from chapters.ch06_gpt import save_model
        from chapters.support.run_folder import Run

        save_model(Run(settings.run), gpt, tokenizer)
        print(f"written to {settings.run}, for chapters 8 and 10")
    if settings.export:
        save_gpt2(gpt, settings.export)
        print(f"written to {settings.export}, for transformers")
    prompt = tokenizer.encode(settings.prompt) or [tokenizer.eos_id]
    length = 10 if settings.quick else settings.max_new_tokens
    (output,) = generate(gpt, [prompt], length, temperature=0, stop_ids=(tokenizer.eos_id,))
    print(settings.prompt + tokenizer.decode(output))


if __name__ == "__main__":
    command(main, Settings)
