"""Chapter 6: the GPT. Embeddings, a stack of blocks, a last norm, and a head that scores every token of the vocabulary.

    x = wte(ids) + wpe(positions)       # (B, T, C)
    for block in blocks:
        x = block(x)                    # (B, T, C)
    logits = lm_head(ln_f(x))           # (B, T, V): the scores for the token that follows each position

    python -m chapters.ch06_gpt --preset book

Look at the table of parameters, at the initial loss (a uniform guess gives ln V), and at the last line: a changed token
changes the logits at its own position and later, never before.

Layout and names are GPT-2's (Radford et al. 2019), so chapter 9 can load OpenAI's weights into this class.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch03_embeddings import KeyStart, check_tokens, positions
from chapters.ch04_attention import attention_maps, check_heads, draw_heads
from chapters.ch05_block import Block, make_norm
from chapters.support.command import at_least_one, command
from chapters.support.json_files import from_object
from chapters.support.run_folder import Run, load_parameters, maker_of
from minigrad.checked_json import parse_json
from minigrad.checkpointing import checkpoint
from minigrad.serialization import CheckpointError


@dataclass
class GPTConfig:
    """The shape of a GPT."""

    vocab_size: int = 1024  # V, tokens of the tokenizer
    context: int = 256  # longest input, in tokens
    n_layer: int = 4  # blocks
    n_head: int = 4  # heads in a block
    d_model: int = 128  # C, width of the residual stream
    dropout: float = 0.0  # share of activations zeroed in training
    tied: bool = True  # the head uses the weights of the token table, as in GPT-2
    bias: bool = True  # biases in linear layers and norms, as in GPT-2
    init_std: float = 0.02  # std of the initial weights; 0.02 suits a width of 768; narrow models learn faster above 0.02
    # Changes that later models made to GPT-2; chapter 9 loads SmolLM2, which has all four.
    n_kv_head: int | None = None  # heads of keys and values, shared by several query heads; None: n_head
    rotary: float | None = None  # base of rotary position embeddings, which replace the position table
    rms_eps: float | None = None  # eps of RMSNorm, which replaces LayerNorm
    d_gated: int | None = None  # width of a gated MLP (SwiGLU), which replaces the MLP with GELU

    def __post_init__(self) -> None:
        check_config(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "GPTConfig":
        """A named shape, with any field changed: `GPTConfig.preset("book", vocab_size=4096)`."""
        if name not in PRESETS:
            raise ValueError(f"there is no preset named {name!r}; the presets are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(n_layer=4, n_head=4, d_model=128, context=256, init_std=0.05),  # about 1M parameters: minutes on a laptop
    "book": dict(n_layer=6, n_head=6, d_model=384, context=256),  # the book's shape, about 11M parameters
    "gpt2": dict(n_layer=12, n_head=12, d_model=768, context=1024, vocab_size=50257),  # GPT-2 small, 124M
}


class GPT(nn.Module):
    """A GPT: token ids (B, T) -> logits (B, T, V).

    Args:
        config: the shape.
        generator: random generator of the initial weights; None: the default generator.

    Attributes:
        checkpoint_activations: if True, training saves only the inputs of the blocks and recomputes the rest in the
            backward pass, which takes less memory and more time.
    """

    def __init__(self, config: GPTConfig, generator: mg.Generator | None = None):
        super().__init__()
        c = self.config = config
        shape = (c.d_model, c.n_head, c.dropout, c.bias, c.n_kv_head, c.rotary, c.rms_eps, c.d_gated)
        self.wte = nn.Embedding(c.vocab_size, c.d_model)
        self.wpe = None if c.rotary else nn.Embedding(c.context, c.d_model)
        self.drop = nn.Dropout(c.dropout)
        self.h = nn.ModuleList([Block(*shape) for _ in range(c.n_layer)])
        self.ln_f = make_norm(c.d_model, c.bias, c.rms_eps)
        self.lm_head: Any = nn.Linear(c.d_model, c.vocab_size, bias=False)
        if c.tied:
            self.lm_head.weight = self.wte.weight
        self.checkpoint_activations = False
        self.initialise(generator)

    def forward(
        self,
        idx: mg.Tensor,
        cache: "KVCache | None" = None,
        key_start: KeyStart = None,
        last_only: bool = False,
        at: mg.Tensor | None = None,
    ) -> mg.Tensor:
        """Score the token that follows each position.

        Args:
            idx: (B, T) token ids.
            cache: keys and values of the tokens before idx; this call adds those of idx.
            key_start: each row's first column after the padding.
            last_only: score only the last position, which is all that decoding needs.
            at: score only these of the B·T positions, (N,) integers. With a large vocabulary the output layer is much of the
                work, and fine-tuning grades few positions.

        Returns:
            Logits (B, T, V), or (B, 1, V) with last_only, or (N, V) with at.

        Raises:
            ValueError: if the text is longer than the context, an id is outside the vocabulary, or last_only and at are both
                given.
        """
        if last_only and at is not None:
            raise ValueError("GPT: expected last_only or at, got both; choose the positions to score in one way")
        seen = 0 if cache is None else cache.length
        check_tokens(idx, self.config.vocab_size)
        check_length(seen + idx.shape[1], self.config.context)
        recompute = self.checkpoint_activations and self.training and cache is None and key_start is None

        x = self.embed(idx, seen, key_start)  # (B, T, C)
        if key_start is not None:
            key_start = mg.as_tensor(key_start, device=idx.device)  # (B,)  moved to the device once, not in every block
        for i, block in enumerate(self.h):
            past = None if cache is None else cache.layers[i]
            x = checkpoint(block, x) if recompute else block(x, past, key_start)  # (B, T, C)
        if last_only:
            x = x[:, -1:, :]  # (B, 1, C)
        if at is not None:
            x = F.embedding(at, x.view(-1, x.shape[-1]))  # (N, C)  rows of the B·T; the backward pass of embedding is a kernel
        return self.lm_head(self.ln_f(x))  # (B, T, V), (B, 1, V) or (N, V)  the head comes last, so chapter 10 can replace it

    def embed(self, idx: mg.Tensor, seen: int = 0, key_start: KeyStart = None) -> mg.Tensor:
        """The input of the first block, (B, T, C): the vector of each token plus the vector of its position."""
        x = self.wte(idx)  # (B, T, C)
        if self.wpe is not None:
            x = x + self.wpe(positions(idx.shape[1], seen, key_start, idx.device))  # (B, T, C)
        return self.drop(x)

    def initialise(self, generator: mg.Generator | None) -> None:
        """Draw GPT-2's initial weights: matrices from N(0, init_std²), biases 0; norm weights stay 1.

        The std of matrices that write into the residual stream is divided by √(2 · n_layer); otherwise the stream
        would grow with its 2 · n_layer additions (Radford et al. 2019, section 2.3; chapter 5 measures it).
        """
        for name, parameter in self.named_parameters():
            if len(parameter.shape) == 2:
                divisor = math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, 0.0, self.config.init_std / divisor, generator=generator)
            elif name.endswith(("c_attn.bias", "c_proj.bias", "c_fc.bias")):
                nn.init.zeros_(parameter)

    def num_parameters(self) -> int:
        """Number of learned numbers; a token table that is also the head counts once."""
        return sum(math.prod(p.shape) for p in self.parameters())


# ── decoding without repeated work: cached keys and values ───────────────────────────────────────────────────────────


class LayerCache:
    """A layer's keys and values of all tokens so far, in buffers of `context` columns that fill from the left."""

    def __init__(self, context: int):
        self.context, self.length = context, 0
        self.k: Any = None  # keys and values, (B, H, context, D) each
        self.v: Any = None

    def append(self, k: mg.Tensor, v: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        """Add the newest keys and values, (B, H, T, D) each.

        Returns:
            The keys and values so far, (B, H, length + T, D) each, as views of the buffers.
        """
        B, H, T, D = k.shape
        end = self.length + T
        for buffer, newest in zip(self.buffers(B, H, D, k.dtype, k.device), (k, v), strict=True):
            buffer.array[:, :, self.length : end] = newest.array
            buffer.changed()
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def buffers(self, B: int, H: int, D: int, dtype: Any, device: str) -> tuple[mg.Tensor, mg.Tensor]:
        """The buffers of keys and values, (B, H, context, D) each; created on first use."""
        if self.k is None:
            self.k, self.v = (mg.zeros(B, H, self.context, D, dtype=dtype, device=device) for _ in "kv")
        return self.k, self.v

    def keep(self, rows: mg.Tensor) -> None:
        """Keep only these rows of the batch, int64."""
        self.k, self.v = self.k[rows], self.v[rows]


class KVCache:
    """The keys and values of all layers for one batch, so that a new token costs one column of work, not the whole text.

    They stay valid because a token sees only earlier tokens: later tokens cannot change its keys and values. Use it
    under `mg.no_grad()`: `cache = KVCache(gpt)`, then `gpt(prompt, cache)`, then `gpt(new_tokens, cache)` and so on.

    Args:
        gpt: the model.
        room: largest number of tokens in the cache; None: the model's context.
    """

    def __init__(self, gpt: GPT, room: int | None = None):
        self.layers = [LayerCache(room or gpt.config.context) for _ in range(gpt.config.n_layer)]

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return self.layers[0].length

    def keep(self, rows: np.ndarray) -> None:
        """Keep only these rows of the batch, int64; a row may occur several times."""
        index = mg.as_tensor(rows, device=self.layers[0].k.device)  # (rows,)
        for layer in self.layers:
            layer.keep(index)


# ── a trained GPT as files in a run folder ───────────────────────────────────────────────────────────────────────────


def save_model(run: Run, model: GPT, tokenizer: Tokenizer | None = None, form: str | None = None) -> None:
    """Write model.safetensors (parameters and GPTConfig; a tied table once) and the tokenizer into a run folder.

    form: how the model reads a question, if it was tuned to answer: "instruction" is chapter 10's template.
    """
    metadata = {"config": json.dumps(asdict(model.config))} | ({"form": form} if form else {})
    mg.serialization.save(run / "model.safetensors", dict(model.named_parameters()), metadata=metadata)
    if tokenizer is not None:
        tokenizer.save(run / "tokenizer.tiktoken")


def model_file(folder: str | Path) -> Path:
    """Path of the model in a run folder.  Raises FileNotFoundError if there is none."""
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        maker = maker_of(folder) or ("python -m chapters.ch07_train" if Path(folder) == Path("runs/pretrain") else None)
        others = "give a model's run folder, such as runs/main/pretrain or runs/main/assistant, which python -m chapters makes"
        raise FileNotFoundError(f"there is no trained model in {folder}; {f'run {maker}' if maker else others}")
    return path


def load_model(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """Load the model, in eval mode, and the tokenizer that `save_model` wrote into a run folder.

    Raises:
        FileNotFoundError: if the model or the tokenizer is missing.
        CheckpointError: if a file is damaged, or the two do not belong together.
    """
    path = model_file(folder)
    arrays, metadata = mg.serialization.load(path)
    config = config_from(metadata, path)
    check_layout(arrays, layout(config), path)
    model = GPT(config)
    load_parameters(model, arrays, path)
    ranks = path.with_name("tokenizer.tiktoken")
    if not ranks.exists():
        raise FileNotFoundError(f"there is no tokenizer {ranks}; copy it from the run that trained the model")
    tokenizer = Tokenizer.load(ranks)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise CheckpointError(
            f"{ranks} has {tokenizer.vocab_size} ids, but the model beside it has {model.config.vocab_size}; "
            "use the tokenizer that the model was trained with"
        )
    return model.eval(), tokenizer


def config_from(metadata: dict[str, str], path: Path) -> GPTConfig:
    """The GPTConfig in the metadata of a model's file.  Raises CheckpointError if there is none or it is unknown."""
    if "config" not in metadata:
        raise CheckpointError(f"{path} does not contain the shape of a GPT; use a file that save_model wrote")
    try:
        return from_object(GPTConfig, parse_json(metadata["config"]), "config")
    except ValueError as error:
        raise CheckpointError(f"{path} describes a GPT that this version does not know: {error}") from None


def layout(config: GPTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of every parameter of a GPT, without building it.

    >>> list(layout(GPTConfig(vocab_size=9, context=8, n_layer=1, d_model=4, n_head=2)))[:2]
    [('wte.weight', (9, 4)), ('wpe.weight', (8, 4))]
    """
    V, T, C, F = config.vocab_size, config.context, config.d_model, config.d_gated
    heads = config.n_head + 2 * (config.n_kv_head or config.n_head)  # of queries, keys and values
    matrices = {"attn.c_attn": (C // config.n_head * heads, C), "attn.c_proj": (C, C)}
    matrices |= {"mlp.c_fc": (2 * F, C), "mlp.c_proj": (C, F)} if F else {"mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (C,)
        if config.bias and not config.rms_eps:
            yield f"{name}.bias", (C,)

    yield "wte.weight", (V, C)
    if not config.rotary:
        yield "wpe.weight", (T, C)
    for i in range(config.n_layer):
        for part, shape in matrices.items():
            yield f"h.{i}.{part}.weight", shape
            if config.bias and not (F and part.startswith("mlp")):
                yield f"h.{i}.{part}.bias", shape[:1]
        yield from (*norm(f"h.{i}.ln_1"), *norm(f"h.{i}.ln_2"))
    yield from norm("ln_f")
    if not config.tied:
        yield "lm_head.weight", (V, C)


def check_layout(arrays: Mapping[str, np.ndarray], expected: Iterable[tuple[str, tuple[int, ...]]], path: Path) -> None:
    """Raise CheckpointError unless a file holds arrays of these names and shapes.

    It comes before the model is built: a file of a few kB may describe a model that fills the memory.
    """
    for name, shape in expected:  # the first missing array ends the loop, even if n_layer claims a billion
        if name not in arrays or arrays[name].shape != shape:
            got = arrays[name].shape if name in arrays else "none"
            raise CheckpointError(f"{path} holds another model's parameters: expected {name} of shape {shape}, got {got}")


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_config(config: GPTConfig) -> None:
    """Raise ValueError unless a GPT can have this shape."""
    at_least_one(config, "vocab_size", "context", "n_layer", "n_head", "d_model")
    check_heads(config.d_model, config.n_head, config.n_head if config.n_kv_head is None else config.n_kv_head)
    width = config.d_model // config.n_head
    if config.rotary is not None and (config.rotary <= 0 or width % 2):
        raise ValueError(f"rotary needs a base above 0 and heads of even width, got {config.rotary} and {width}")
    if config.rms_eps is not None and config.rms_eps <= 0:
        raise ValueError(f"rms_eps must be above 0, got {config.rms_eps}")
    if config.d_gated is not None:
        at_least_one(config, "d_gated")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {config.dropout}")


def check_length(tokens: int, context: int) -> None:
    """Raise ValueError if a text is longer than the context."""
    if tokens > context:
        raise ValueError(
            f"{tokens} tokens do not fit in this model's context of {context}; "
            "crop the text to its last tokens, or build the model with a longer context"
        )


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Inspect a GPT before training: its parameters, its initial loss, its causality; or draw a trained GPT's attention."""

    preset: Literal["tiny", "book", "gpt2"] = "tiny"  # shape
    vocab_size: int | None = None  # tokens of the vocabulary; None: the preset's
    seed: int = 0  # random seed
    model: Path | None = None  # run folder of a trained model, such as runs/main/pretrain: draw its attention, and stop
    text: str = "a rose is a rose is a rose"  # text for the trained model
    layer: int = 0  # layer whose heads are drawn
    run: Path = Path("runs/ch06")  # folder of the drawing
    quick: bool = False  # only count the parameters


def parameter_table(model: GPT) -> str:
    """A table of the parameters: count and share of each kind."""
    groups = {"token table (wte)": 0, "position table (wpe)": 0, "attention": 0, "MLP": 0, "norms": 0, "head": 0}
    tables = {"wte": "token table (wte)", "wpe": "position table (wpe)", "lm_head": "head"}
    for name, parameter in model.named_parameters():
        kind = "attention" if ".attn." in name else "MLP" if ".mlp." in name else "norms"
        groups[tables.get(name.split(".")[0], kind)] += math.prod(parameter.shape)
    total = sum(groups.values())
    lines = [f"   {kind:22} {count:>13,}  {count / total:6.1%}" for kind, count in groups.items() if count]
    return "\n".join([*lines, f"   {'total':22} {total:>13,}"])


def changed_positions(model: GPT, generator: mg.Generator, T: int) -> np.ndarray:
    """Change the middle token of a random text of T tokens: (T,) bool, True where the logits change."""
    ids = generator.numpy.integers(0, model.config.vocab_size, (1, T))  # (1, T)
    other = ids.copy()  # (1, T)
    other[0, T // 2] = (ids[0, T // 2] + 1) % model.config.vocab_size
    with mg.no_grad():
        difference = model(mg.from_numpy(ids)).numpy() - model(mg.from_numpy(other)).numpy()  # (1, T, V)
    return np.abs(difference[0]).max(axis=-1) > 0  # (T,)


def draw_trained_heads(folder: Path, text: str, layer: int, path: Path) -> Path:
    """Draw the attention of every head in a layer of a trained GPT over a text.  Returns the path of the figure."""
    model, tokenizer = load_model(folder)
    ids = tokenizer.encode(text)[: model.config.context]  # (T,)
    if not ids:
        raise ValueError("--text: expected a text to attend to, got an empty one")
    maps = attention_maps(model, ids, layer)  # (H, T, T)
    titles = [f"layer {layer}, head {h}" for h in range(len(maps))]
    return draw_heads(list(maps), [tokenizer.decode([i]) for i in ids], titles, path)


def main(settings: Settings) -> None:
    if settings.model:
        path = settings.run / "figures" / "attention.svg"
        print(f"figure: {draw_trained_heads(settings.model, settings.text, settings.layer, path)}")
        return
    changes = {} if settings.vocab_size is None else {"vocab_size": settings.vocab_size}
    config = GPTConfig.preset(settings.preset, **changes)
    generator = mg.Generator(settings.seed)
    model = GPT(config, generator).eval()
    print(f"{settings.preset}: {config}\n{parameter_table(model)}")
    if settings.quick:
        return
    T = min(config.context, 16)
    ids = mg.from_numpy(generator.numpy.integers(0, config.vocab_size, (4, T)))  # (B, T)
    targets = mg.from_numpy(generator.numpy.integers(0, config.vocab_size, 4 * T))  # (B·T,)
    with mg.no_grad():
        loss = F.cross_entropy(model(ids).view(4 * T, config.vocab_size), targets).item()
    print(f"initial loss {loss:.3f} (a uniform guess gives ln V = {math.log(config.vocab_size):.3f})")
    changed = np.flatnonzero(changed_positions(model, generator, T)).tolist()
    print(f"token {T // 2} of {T} changed: the logits changed at positions {changed}, never before")


if __name__ == "__main__":
    command(main, Settings)
