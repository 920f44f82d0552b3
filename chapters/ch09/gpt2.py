"""Chapter 9: GPT-2. Load OpenAI's published weights into chapter 6's class.

    python -m chapters.ch09.gpt2 --model gpt2 --verify                 # by name, through huggingface_hub
    python -m chapters.ch09.gpt2 --model some/folder --run runs/gpt2   # also writes a run folder for chapters 8 and 10

The parameter names are the same; only the layout differs. Four matrices of every block are stored transposed, because the
release computes x W where chapter 6 computes x Wᵀ. The head is the token table, stored once. The logits agree with
transformers' up to the rounding of float32, as `--verify` shows layer by layer.

A folder holds `config.json` and `model.safetensors` as Hugging Face lays them out, for gpt2, gpt2-medium, gpt2-large,
gpt2-xl or distilgpt2, in F32, F16 or BF16. Sources: Radford et al. 2019; the layout is transformers' GPT2LMHeadModel.
"""

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_tokenizer import END_OF_TEXT, Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, layout, save_model
from chapters.ch08_sample import generate
from chapters.ch09.weights import WeightsFile
from chapters.support.command import OnDevice, command
from chapters.support.run_folder import Run
from kernels.terminal import unguarded
from minigrad.checked_json import parse_json
from minigrad.serialization import WHY_NO_PICKLES, CheckpointError, short, write_atomically

NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored (in, out): transformers calls it Conv1D
IGNORED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # the causal mask, stored like a parameter


# ── the layout ───────────────────────────────────────────────────────────────────────────────────────────────────────


def stored_as(name: str, prefix: str = "transformer.") -> str:
    """A parameter's name in the file, where every name but the head's may have a prefix."""
    return name if name.startswith("lm_head") else prefix + name


def load_gpt2(model: str | Path) -> GPT:
    """Load the GPT in a folder, or a published GPT by name, in eval mode and float32.

    It needs only a few MiB beyond the model's own memory, because it maps the file a slab at a time.

    Raises:
        CheckpointError: if files are missing or damaged, or describe another model; no memory is then allocated.
    """
    folder = find(model)
    if not (folder / "model.safetensors").exists():
        for name in ("pytorch_model.bin", "model.pt", "model.bin"):
            if (folder / name).exists():
                raise CheckpointError(f"{folder / name} is a pickled PyTorch file, {WHY_NO_PICKLES}")
        if any(folder.glob("model*.safetensors*")):
            raise CheckpointError(f"{folder} holds its weights in several shards; join them into one model.safetensors")
    config = read_config(folder)
    file = WeightsFile(folder / "model.safetensors")
    prefix = check_layout(file, config)
    if config.tied and "lm_head.weight" in file.entries and not file.equal("lm_head.weight", prefix + "wte.weight"):
        raise CheckpointError(
            f"{file.path} holds a head of its own, but config.json ties the head to the token table; "
            "set tie_word_embeddings to false to use the file's head"
        )
    with nn.init.skip_init(), mg.device("cpu"):  # the system allocates a page of memory only when we write to it
        gpt = GPT(config)
    for name, parameter in gpt.named_parameters():
        array = parameter.array
        file.copy_into(stored_as(name, prefix), array.T if name.endswith(TRANSPOSED) else array)
        parameter.changed()
    return gpt.eval().to(mg.get_default_device())


def save_gpt2(gpt: GPT, folder: str | Path) -> None:
    """Write config.json and model.safetensors, so that `GPT2LMHeadModel.from_pretrained(folder)` loads this GPT.

    Raises:
        ValueError: if this layout cannot express the GPT; nothing is then written.
    """
    folder, config = Path(folder), gpt.config
    for option in ("n_kv_head", "rotary", "rms_eps", "d_gated"):
        if getattr(config, option) is not None:
            raise ValueError(f"GPT-2's layout has no {option}, and this GPT has {option}={getattr(config, option)}")
    arrays = {name: parameter.numpy(force=True) for name, parameter in gpt.named_parameters()}
    tensors = {}
    for name, shape in layout(replace(config, bias=True)):
        if name not in arrays and not name.endswith(".bias"):
            raise ValueError(f"this GPT lacks {name}, which GPT-2 has; merge LoRA first, with merge_lora")
        array = arrays[name] if name in arrays else np.zeros(shape, np.float32)  # GPT-2 always has biases
        tensors[stored_as(name)] = array.T if name.endswith(TRANSPOSED) else array
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_ctx": config.context,
        "n_embd": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": config.tied,
        **dict.fromkeys(("bos_token_id", "eos_token_id"), config.vocab_size - 1),
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout),
    }
    mg.serialization.save(folder / "model.safetensors", tensors, {"format": "pt"})
    write_atomically(folder / "config.json", (json.dumps(description, indent=2) + "\n").encode())


# ── the proof ────────────────────────────────────────────────────────────────────────────────────────────────────────


def activations(gpt: GPT, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the output of each stage for ids, (B, T): the embeddings, each block, the last norm, the logits."""
    with mg.no_grad():
        x = gpt.embed(mg.as_tensor(ids))  # (B, T, C)
        yield "embeddings", x.numpy(force=True)
        for i, block in enumerate(gpt.h):
            x = block(x)  # (B, T, C)
            yield f"h.{i}", x.numpy(force=True)
        x = gpt.ln_f(x)  # (B, T, C)
        yield "ln_f", x.numpy(force=True)
        yield "logits", gpt.lm_head(x).numpy(force=True)  # (B, T, V)


def verify(gpt: GPT, folder: str | Path) -> float:
    """Print each layer's largest difference from transformers; returns the largest relative difference.

    A difference is relative to the largest value in its layer. A separate process, chapters.bench.peer_gpt2, computes
    transformers' activations, so our process loads neither transformers nor PyTorch. Nothing is written into the folder.
    """
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError("--verify compares with transformers, which is not installed; pip install -e '.[peers]'")
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


def ask_transformers(module: str, *arguments: object) -> None:
    """Run chapters/bench/MODULE.py in a separate process; CheckpointError, with its last line of stderr, if it fails.

    Started as a file, not with -m, it does not have the checkout on Python's path: transformers may import another `kernels`.
    """
    command = [sys.executable, str(Path(__file__).parents[1] / "bench" / f"{module}.py"), *map(str, arguments)]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise CheckpointError(f"--verify: transformers could not compute its activations: {lines[-1].strip()[:300]}")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def find(model: str | Path) -> Path:
    """The folder of a model: an existing path, or a published name, whose files huggingface_hub downloads or has in its cache.

    Raises:
        CheckpointError: if the files cannot be found; it says where to put them.
    """
    folder = Path(model)
    if folder.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise CheckpointError(f"{folder} is a pickled PyTorch file, {WHY_NO_PICKLES}")
    if folder.suffix == ".safetensors":
        folder = folder.parent
    if folder.is_dir():
        return folder
    by_hand = "download its config.json and model.safetensors elsewhere, put both in one folder and give its path"
    if str(model) not in NAMES:
        raise CheckpointError(f"there is no folder {model}, and the published names are {', '.join(NAMES)}")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CheckpointError(f"fetching {model} needs huggingface_hub; pip install -e '.[hub]', or {by_hand}")
    import huggingface_hub

    repository = f"{'distilbert' if str(model) == 'distilgpt2' else 'openai-community'}/{model}"
    try:  # huggingface_hub shows progress, resumes downloads, keeps a cache and compares checksums
        with contextlib.redirect_stderr(unguarded(sys.stderr)):
            paths = [huggingface_hub.hf_hub_download(repository, name) for name in ("config.json", "model.safetensors")]
    except Exception as error:  # whether the network, a proxy or the hub failed, the advice is the same
        raise CheckpointError(
            f"{model} is not in huggingface_hub's cache and could not be downloaded ({type(error).__name__}); "
            f"try again online, or {by_hand}"
        ) from error
    return Path(paths[0]).parent


SIZES = {"vocab_size": "vocab_size", "context": "n_positions", "n_layer": "n_layer", "n_head": "n_head", "d_model": "n_embd"}
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}


def read_config(folder: str | Path) -> GPTConfig:
    """The GPTConfig that a folder's config.json describes; CheckpointError for a model that chapter 6 cannot build."""
    path = Path(folder) / "config.json"
    try:
        if path.stat().st_size > 1 << 20:
            raise CheckpointError(f"{path} has more than 1 MiB, too much for the config.json of a model")
        config = parse_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; it belongs beside model.safetensors") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("model_type") != "gpt2":
        raise CheckpointError(f"{path} does not describe a GPT-2: its model_type is not 'gpt2'")
    for name, ours in FIXED.items():
        if config.get(name, ours) != ours:
            raise CheckpointError(f"{path}: {name} is {short(config[name])}, but chapter 6's GPT has {ours}")
    sizes: dict[str, Any] = {}
    for ours, theirs in SIZES.items():
        sizes[ours] = config.get(theirs)
        if type(sizes[ours]) is not int:
            raise CheckpointError(f"{path}: {theirs} should be a whole number, got {short(sizes[ours])}")
    if config.get("n_inner") not in (None, 4 * sizes["d_model"]):
        raise CheckpointError(f"{path}: n_inner is {short(config['n_inner'])}, but chapter 5's MLP is four times as wide as C")
    try:
        return GPTConfig(**sizes, tied=config.get("tie_word_embeddings", True) is not False)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def check_layout(file: WeightsFile, config: GPTConfig) -> str:
    """Check, before memory is allocated, that a file holds exactly this GPT; returns the prefix of its names."""
    prefix = "transformer." if any(name.startswith("transformer.") for name in file.entries) else ""
    expected = set()
    for name, shape in layout(config):  # the first missing tensor ends the loop, even if n_layer claims a billion
        stored = stored_as(name, prefix)
        file.check(stored, shape[::-1] if name.endswith(TRANSPOSED) else shape)
        expected.add(stored)
    expected.add("lm_head.weight")  # some files of tied models store the table twice
    for name in file.entries:
        if name not in expected and not IGNORED.fullmatch(name.removeprefix(prefix)):
            raise CheckpointError(f"{file.path} holds the tensor {name[:60]}, which has no place in a GPT-2")
    return prefix


def load_tokenizer(folder: str | Path, config: GPTConfig) -> Tokenizer:
    """The folder's own tokenizer, saved by chapter 1, or GPT-2's encoding if the folder has none."""
    path = Path(folder) / "tokenizer.tiktoken"
    tokenizer = Tokenizer.load(path) if path.exists() else Tokenizer.gpt2()
    vocabulary = path.with_name("vocab.json")
    if not path.exists() and vocabulary.exists() and read_vocabulary(vocabulary) != tokenizer.ranks:
        raise CheckpointError(
            f"{vocabulary} is not GPT-2's vocabulary; save it in chapter 1's format, as {path.name} beside it"
        )
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids but the model {config.vocab_size}; "
            f"put the model's own tokenizer beside it, as {path.name}"
        )
    return tokenizer


def read_vocabulary(path: Path) -> dict[bytes, int]:
    """The ranks in a published vocab.json, {token: id}, without "<|endoftext|>"."""
    letters = byte_letters()
    try:
        ids = parse_json(path.read_bytes())
        return {bytes(letters[letter] for letter in text): i for text, i in ids.items() if text != END_OF_TEXT}
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a vocabulary in GPT-2's format: {error}") from None


def byte_letters() -> dict[str, int]:
    """{letter: byte}: GPT-2's encoder.py publishes vocabularies as text, with a printable letter for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


@dataclass
class Settings(OnDevice):
    """Load GPT-2's published weights into chapter 6's GPT, and let it write."""

    model: str = "gpt2"  # folder with config.json and model.safetensors, or gpt2, gpt2-medium, -large, -xl, distilgpt2
    prompt: str = "The little town by the sea"  # beginning of the text; the model adds the likeliest tokens
    max_new_tokens: int = 40  # largest number of new tokens
    verify: bool = False  # compare with transformers, layer by layer
    run: Path | None = None  # run folder to write, for chapters 8 and 10
    export: Path | None = None  # folder to write in Hugging Face's layout
    quick: bool = False  # 10 new tokens


def main(settings: Settings) -> None:
    folder = find(settings.model)
    begin = time.perf_counter()
    gpt = load_gpt2(folder)
    seconds = time.perf_counter() - begin
    count = gpt.num_parameters()
    print(f"{count:,} parameters ({count * 4 / 1e6:,.0f} MB in float32) in {seconds:.1f} s: {gpt.config}")
    if settings.verify:
        print(f"largest difference, relative to the layer's largest value: {verify(gpt, folder):.1e}")
    tokenizer = load_tokenizer(folder, gpt.config)
    if settings.run:
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
