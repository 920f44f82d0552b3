"""Chapter 6: the GPT. Embeddings, a stack of blocks, a last norm, and a head that scores every token of the vocabulary.

    python -m chapters.ch06_gpt --preset book  # prints where the parameters are and checks loss at birth and causality

The layout and the names are GPT-2's (Radford et al. 2019), so that chapter 9 can load OpenAI's weights into this very
class.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch03_embeddings import check_tokens, positions
from chapters.ch04_attention import attention_maps, draw_heads
from chapters.ch05_block import Block, make_norm
from chapters.support.command import at_least_one, command
from chapters.support.run_folder import load_parameters
from minigrad.checkpointing import checkpoint
from minigrad.serialization import CheckpointError

PRESETS = {
    "tiny": dict(n_layer=4, n_head=4, d_model=128, context=256, init_std=0.05),  # about 1M parameters: minutes on a laptop
    "book": dict(n_layer=6, n_head=6, d_model=384, context=256),  # the book's, about 11M
    "gpt2": dict(n_layer=12, n_head=12, d_model=768, context=1024, vocab_size=50257),  # GPT-2 small, 124M
}


@dataclass
class GPTConfig:
    """The shape of a GPT."""

    vocab_size: int = 1024  # V, how many tokens the tokenizer knows
    context: int = 256  # most tokens that the model sees at once
    n_layer: int = 4  # blocks
    n_head: int = 4  # heads in a block
    d_model: int = 128  # C, width of the residual stream
    dropout: float = 0.0  # share of activations zeroed in training
    tied: bool = True  # read tokens out with the table that read them in, as GPT-2 does
    bias: bool = True  # biases in linear layers and norms, as GPT-2 has them
    init_std: float = 0.02  # spread of the first weights; GPT-2's suits a width of 768, narrower models learn sooner with more
    # What later models changed, and GPT-2 has not (chapter 9 loads SmolLM2, which has all four):
    n_kv_head: int | None = None  # heads of keys and values, where several of the n_head queries share one
    rotary: float | None = None  # positions as rotations, with this base, in place of a table of positions
    rms_eps: float | None = None  # RMSNorm with this eps in place of LayerNorm
    d_gated: int | None = None  # a gated MLP (SwiGLU) of this width in place of GELU's

    def __post_init__(self):
        at_least_one(self, "vocab_size", "context", "n_layer", "n_head", "d_model")
        if self.d_model % self.n_head:
            raise ValueError(f"d_model must be divisible by n_head, got d_model={self.d_model} and n_head={self.n_head}")
        if self.n_kv_head is not None and (self.n_kv_head < 1 or self.n_head % self.n_kv_head):
            raise ValueError(f"n_head must be divisible by n_kv_head, got n_head={self.n_head} and n_kv_head={self.n_kv_head}")
        if self.rotary is not None and (self.rotary <= 0 or self.d_model // self.n_head % 2):
            raise ValueError(
                f"rotary needs a base above 0 and heads of even width, got {self.rotary} and {self.d_model // self.n_head}"
            )
        if self.rms_eps is not None and self.rms_eps <= 0:
            raise ValueError(f"rms_eps must be above 0, got {self.rms_eps}")
        if self.d_gated is not None and self.d_gated < 1:
            raise ValueError(f"d_gated must be at least 1, got {self.d_gated}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    @classmethod
    def preset(cls, name, **changes):
        """`GPTConfig.preset("book", vocab_size=4096)`: a named shape, with any field changed."""
        if name not in PRESETS:
            raise ValueError(f"there is no preset named {name!r}; the presets are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


class LayerCache:
    """One layer's keys and values of all tokens so far, in buffers that are filled from the left."""

    def __init__(self, context):
        self.context, self.length = context, 0
        self.k = self.v = None  # (B, H, context, D) each, made when the first keys tell B, H and D

    def append(self, k, v):
        """k, v: (B, H, T, D), the newest.  Returns all so far, (B, H, length + T, D), as views of the buffers."""
        B, H, T, D = k.shape
        if self.k is None:
            self.k, self.v = (mg.zeros(B, H, self.context, D, dtype=k.dtype, device=k.device) for _ in "kv")
        end = self.length + T
        self.k.array[:, :, self.length : end] = k.array
        self.v.array[:, :, self.length : end] = v.array
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def keep(self, rows):
        """Forget all rows but these: (rows,) int64."""
        self.k, self.v = self.k[rows], self.v[rows]


class KVCache:
    """What decoding remembers, so that a new token costs one column of work and not the whole window again.

    A past token's keys and values do not change as long as it keeps its position, for it sees only what came before it.
    For one batch: `cache = KVCache(gpt)`, then `gpt(prompt, cache)`, then `gpt(newest, cache)` …, under `mg.no_grad()`.
    room: for how many tokens, the model's whole context where None.
    """

    def __init__(self, gpt, room=None):
        self.layers = [LayerCache(room or gpt.config.context) for _ in range(gpt.config.n_layer)]

    @property
    def length(self):
        """Tokens remembered so far."""
        return self.layers[0].length

    def keep(self, rows):
        """Go on with these rows of the batch alone: (rows,) int64, in which a row may come several times."""
        kept = mg.as_tensor(rows, device=self.layers[0].k.device)  # (rows,)
        for layer in self.layers:
            layer.keep(kept)


class GPT(nn.Module):
    """idx: (B, T) integer token ids -> logits: (B, T, V), the scores of the token that follows each position."""

    def __init__(self, config, generator=None):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.wpe = None if config.rotary else nn.Embedding(config.context, config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList([
            Block(config.d_model, config.n_head, config.dropout, config.bias,
                  config.n_kv_head, config.rotary, config.rms_eps, config.d_gated)
            for _ in range(config.n_layer)
        ])  # fmt: skip
        self.ln_f = make_norm(config.d_model, config.bias, config.rms_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.wte.weight
        self.checkpoint_activations = False  # True: training keeps only what enters each block, and computes the rest twice
        self.initialise(generator)

    def initialise(self, generator):
        """GPT-2's beginning: matrices N(0, init_std²), biases 0, norms 1 and 0 (as the layers make them).

        What writes into the residual stream starts smaller by √(2 · n_layer): so many additions would otherwise make
        the stream grow with depth (Radford et al. 2019, section 2.3; chapter 5 shows it).
        """
        for name, parameter in self.named_parameters():
            if len(parameter.shape) == 2:
                small = math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, 0.0, self.config.init_std / small, generator=generator)
            elif name.endswith(("c_attn.bias", "c_proj.bias", "c_fc.bias")):
                nn.init.zeros_(parameter)

    def num_parameters(self):
        """How many numbers are learned; a table that is read in and out by is counted once."""
        return sum(math.prod(p.shape) for p in self.parameters())

    def embed(self, idx, seen=0, key_start=None):
        """What enters the first block: each token's vector, and that of the place where it stands.  -> (B, T, C)"""
        x = self.wte(idx)  # (B, T, C)
        if self.wpe is not None:
            where = positions(idx.shape[1], seen, key_start, idx.device)  # (T,) or (B, T)
            x = x + self.wpe(where)  # (B, T, C)
        return self.drop(x)

    def forward(self, idx, cache=None, key_start=None, last_only=False):
        """idx: (B, T) ids.  cache: a KVCache with the tokens before idx.  key_start: (B,), where padded rows begin.

        last_only: score only the last position, (B, 1, V), as decoding needs it.
        Raises ValueError where T (with the cached tokens) is beyond the context, or an id beyond the vocabulary.
        """
        check_tokens(idx, self.config.vocab_size)
        B, T = idx.shape
        seen = 0 if cache is None else cache.length
        if seen + T > self.config.context:
            raise ValueError(
                f"{seen + T} tokens do not fit in this model's context of {self.config.context}: "
                "crop the text to its last tokens or build the model with a longer context"
            )
        x = self.embed(idx, seen, key_start)  # (B, T, C)
        if key_start is not None:
            key_start = mg.as_tensor(key_start, device=idx.device)  # (B,)  sent once, not by every block
        for i, block in enumerate(self.h):
            if self.checkpoint_activations and self.training and cache is None and key_start is None:
                x = checkpoint(block, x)  # (B, T, C)
            else:
                x = block(x, None if cache is None else cache.layers[i], key_start)  # (B, T, C)
        if last_only:
            x = x[:, -1:, :]  # (B, 1, C)
        return self.lm_head(self.ln_f(x))  # (B, T, V)  the head comes last: chapter 10 unbolts it


# ── a trained GPT as files in a run folder ──────────────────────────────────────────────────────────────────────────


def save_model(run, model, tokenizer=None):
    """Write model.safetensors (parameters and GPTConfig; a tied table once) and the tokenizer into the run's folder."""
    metadata = {"config": json.dumps(asdict(model.config))}
    mg.serialization.save(run / "model.safetensors", dict(model.named_parameters()), metadata=metadata)
    if tokenizer is not None:
        tokenizer.save(run / "tokenizer.tiktoken")


def model_file(folder):
    """The path of the model in a run's folder; raises FileNotFoundError where there is none."""
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no trained model in {folder}: python -m chapters leaves some in runs/main (pretrain, sft, assistant, "
            f"rlhf), and python -m chapters.ch07_train --run {folder} trains one there"
        )
    return path


def load_model(folder):
    """The (GPT, tokenizer) that save_model left in a run's folder, the model in eval mode."""
    path = model_file(folder)
    arrays, metadata = mg.serialization.load(path)
    if "config" not in metadata:
        raise CheckpointError(f"{path} does not say what shape of GPT it holds; was it written by save_model?")
    try:
        config = GPTConfig(**json.loads(metadata["config"]))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes a GPT that this version does not know: {error}") from error
    model = GPT(config)
    load_parameters(model, arrays, path)
    ranks = path.with_name("tokenizer.tiktoken")
    if not ranks.exists():
        raise FileNotFoundError(f"there is no tokenizer {ranks}: it belongs beside the model that was trained with it")
    tokenizer = Tokenizer.load(ranks)
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{ranks} has {tokenizer.vocab_size} ids, but the model beside it {config.vocab_size}: it is another model's"
        )
    return model.eval(), tokenizer


# ── the lesson ───────────────────────────────────────────────────────────────────────────────────────────────────────


def parameter_table(model):
    """Lines that say where the parameters are."""
    groups = {"token table (wte)": 0, "position table (wpe)": 0, "attention": 0, "MLP": 0, "norms": 0, "head": 0}
    for name, parameter in model.named_parameters():
        kinds = {"wte": "token table (wte)", "wpe": "position table (wpe)", "lm_head": "head"}
        kind = kinds.get(name.split(".")[0])
        if kind is None:
            kind = "attention" if ".attn." in name else "MLP" if ".mlp." in name else "norms"
        groups[kind] += math.prod(parameter.shape)
    total = sum(groups.values())
    lines = [f"   {kind:22} {count:>13,}  {count / total:6.1%}" for kind, count in groups.items() if count]
    return "\n".join([*lines, f"   {'together':22} {total:>13,}"])


def changed_positions(model, generator, T):
    """Change the token in the middle of a random text: which positions' logits change?  (T,) bool."""
    ids = generator.numpy.integers(0, model.config.vocab_size, (1, T))  # (1, T)
    other = ids.copy()  # (1, T)
    other[0, T // 2] = (ids[0, T // 2] + 1) % model.config.vocab_size
    with mg.no_grad():
        gap = model(mg.from_numpy(ids)).numpy() - model(mg.from_numpy(other)).numpy()  # (1, T, V)
    return np.abs(gap[0]).max(axis=-1) > 0  # (T,)


@dataclass
class Settings:
    """Build a GPT and look at it before it has learned anything."""

    preset: Literal["tiny", "book", "gpt2"] = "tiny"  # which shape
    vocab_size: int | None = None  # tokens of the vocabulary; the preset's own where None
    seed: int = 0  # of the first weights
    model: Path | None = None  # a run folder of chapter 7: draw who looks at whom in its model, and stop
    text: str = "a rose is a rose is a rose"  # what that model reads
    layer: int = 0  # the layer whose heads are drawn
    run: Path = Path("runs/ch06")  # where that figure goes
    quick: bool = False  # counts, but does not run the model


def draw_trained_heads(settings):
    """The attention maps of one layer of a trained GPT, as chapter 4 draws its head made by hand."""
    model, tokenizer = load_model(settings.model)
    ids = tokenizer.encode(settings.text)[: model.config.context]  # (T,)
    if not ids:
        raise ValueError("the text is empty: give the heads something to read")
    maps = attention_maps(model, ids, settings.layer)  # (H, T, T)
    titles = [f"layer {settings.layer}, head {h}" for h in range(len(maps))]
    tokens = [tokenizer.decode([i]) for i in ids]
    print(f"drawn in {draw_heads(maps, [tokens] * len(maps), titles, settings.run / 'figures' / 'attention.png')}")


def main(settings):
    if settings.model:
        return draw_trained_heads(settings)
    changes = {} if settings.vocab_size is None else {"vocab_size": settings.vocab_size}
    config = GPTConfig.preset(settings.preset, **changes)
    generator = mg.Generator(settings.seed)
    model = GPT(config, generator).eval()
    print(f"{settings.preset}: {config}\n{parameter_table(model)}")
    if settings.quick:
        return
    T = min(config.context, 16)
    ids = mg.from_numpy(generator.numpy.integers(0, config.vocab_size, (4, T)))  # (B, T)
    answers = mg.from_numpy(generator.numpy.integers(0, config.vocab_size, 4 * T))  # (B·T,)
    with mg.no_grad():
        loss = F.cross_entropy(model(ids).view(4 * T, config.vocab_size), answers).item()
    print(f"loss at birth {loss:.3f}; one who knows nothing has ln V = {math.log(config.vocab_size):.3f}")
    changed = np.flatnonzero(changed_positions(model, generator, T)).tolist()
    print(f"token {T // 2} of {T} changed: the logits changed at positions {changed}, never before it")


if __name__ == "__main__":
    command(main, Settings)
