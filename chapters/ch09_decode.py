"""Chapter 9: decoding at the speed of memory. To say one token, a model must read all its weights; nothing else need cost.

    python -m chapters.ch09_decode --model smollm2            # tokens a second, in float32 and in eight bits
    python -m chapters.chat --model smollm2                   # talk to it

A prompt is read in one go (prefill): many rows against each matrix, limited by arithmetic. Then the tokens come one by
one (decode): one row against each matrix, limited by how fast weights come from memory. The first goes through chapter
6's forward pass and leaves its keys and values in the cache; the second goes past the graph, one compiled call a token
(kernels/decode), on the same cache. With eight bits a weight there is a quarter to read. On a GPU there is no such way
past, and tokens go through the forward pass one by one as well.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import KVCache
from chapters.ch08_sample import choose
from chapters.command import OnDevice, command
from minigrad import decoding


class Decoder:
    """A GPT that reads and writes one text, remembering what it has read.

    int8: weights of one byte, with a scale a row, for the tokens that it writes; what it reads at once is read in float32.
    """

    def __init__(self, gpt, int8=False):
        config = gpt.config
        self.gpt, self.cache = gpt.eval(), KVCache(gpt)
        self.ids = []  # the tokens whose keys and values are in the cache
        self.caches = None  # the cache's arrays, as kernels want them
        D = config.d_model // config.n_head
        self.turns = config.rotary and config.rotary ** -(np.arange(0, D, 2) / D)  # (D/2,) radians a position
        on_cpu = gpt.wte.weight.device == "cpu"
        if int8 and not on_cpu:
            raise mg.DeviceError("only the CPU's decoding reads weights of eight bits: use --device cpu, or do without int8")
        self.kernel = self.past_the_graph(int8) if on_cpu else None

    def past_the_graph(self, int8):
        """What takes in one token by one compiled call."""
        gpt, config = self.gpt, self.gpt.config
        layers = [
            decoding.Layer(
                decoding.norm(block.ln_1), decoding.matrix(block.attn.c_attn, int8), decoding.matrix(block.attn.c_proj, int8),
                decoding.norm(block.ln_2), decoding.matrix(block.mlp.c_fc, int8), decoding.matrix(block.mlp.c_proj, int8),
            )
            for block in gpt.h
        ]  # fmt: skip
        return decoding.decoder(
            layers, decoding.norm(gpt.ln_f), decoding.matrix(gpt.lm_head, int8), n_head=config.n_head,
            n_kv_head=config.n_kv_head or config.n_head, eps=gpt.ln_f.eps, rms=bool(config.rms_eps), gated=bool(config.d_gated),
        )  # fmt: skip

    def read(self, ids):
        """Take in a whole text, given from its beginning; what is already remembered of it is not read again.

        Of more tokens than the context holds the last are read.  Returns the next token's logits, (V,).
        """
        ids = list(ids)[-self.gpt.config.context :]
        if not ids:
            raise ValueError("there is nothing to read: give at least one token")
        same = next((i for i, (a, b) in enumerate(zip(ids, self.ids)) if a != b), min(len(ids), len(self.ids)))
        same = min(same, len(ids) - 1)  # the last token is read in any case: its logits are asked for
        for layer in self.cache.layers:
            layer.length = same
        self.ids = self.ids[:same]  # what stays true if the forward pass is interrupted
        logits = self.forward(ids[same:])  # (V,)
        self.ids = ids
        self.caches = [(layer.k.array, layer.v.array) for layer in self.cache.layers]
        return logits

    def forward(self, ids):
        """Take in tokens by the model's own forward pass.  Returns the next one's logits, (V,)."""
        with mg.no_grad():
            idx = mg.tensor([ids], device=self.gpt.wte.weight.device)  # (1, T)
            return self.gpt(idx, self.cache, last_only=True).numpy(force=True)[0, 0]

    def step(self, token):
        """Take in one more token.  Returns the next one's logits, (V,)."""
        length = len(self.ids)
        if length == self.gpt.config.context:  # keep the newer half: its positions change, so it is read anew
            return self.read([*self.ids[length // 2 :], token])
        if self.kernel is None:
            logits = self.forward([token])
            self.ids.append(token)
            return logits
        x, turn = self.gpt.wte.weight.array[token], None  # (C,)
        if self.gpt.wpe is not None:
            x = x + self.gpt.wpe.weight.array[length]
        else:
            angles = length * self.turns  # (D/2,)
            turn = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
        logits = self.kernel.step(x, self.caches, length, turn)
        self.ids.append(token)
        for layer in self.cache.layers:
            layer.length = length + 1
        return logits

    def write(self, ids, max_new_tokens, *, temperature=1.0, top_k=None, top_p=None, stop_ids=(), generator=None):
        """Read ids, a text from its beginning, then yield up to max_new_tokens tokens, each as soon as it is chosen."""
        dice = (mg.default_generator if generator is None else generator).numpy
        token = None
        for _ in range(max_new_tokens):
            logits = self.read(ids) if token is None else self.step(token)  # (V,)
            token = int(choose(logits[None], dice.random(1), temperature, top_k, top_p)[0])
            if token in stop_ids:
                return
            yield token


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────


def weight_bytes(gpt, int8=False):
    """Bytes that one token must read: every matrix and vector once, but of the tables it enters by only a row."""
    tables = {id(gpt.wte.weight)} | ({id(gpt.wpe.weight)} if gpt.wpe is not None else set())
    total = 0
    for parameter in [p for p in gpt.parameters() if id(p) not in tables] + [gpt.lm_head.weight]:
        rows = len(parameter.array)
        total += parameter.array.size + 4 * rows if int8 and parameter.ndim == 2 else parameter.array.nbytes
    return total


def loss_on(decoder, ids):
    """The mean loss of a text, token by token, through the decoder's own step; ids: at least two, at most a context."""
    logits, losses = decoder.read(ids[:1]), []
    for target in ids[1:]:
        top = logits.max()
        losses.append(top + np.log(np.exp(logits.astype(np.float64) - top).sum()) - logits[target])
        logits = decoder.step(target)
    return float(np.mean(losses))


@dataclass
class Settings(OnDevice):
    """Measure reading and writing, in float32 and in eight bits."""

    model: str = "smollm2"  # smollm2, a published GPT-2, a folder of one, or a run folder
    text: Path | None = None  # a real text, to see what eight bits cost in loss
    tokens: int = 64  # tokens to write
    quick: bool = False  # 8 tokens


def main(settings):
    from chapters.ch02_dataset import read_text
    from chapters.models import load

    gpt, tokenizer = load(settings.model)
    tokens = 8 if settings.quick else settings.tokens
    text = read_text(settings.text) if settings.text else "Once upon a time there was a little town by the sea. " * 12
    ids = tokenizer.encode(text)[: min(gpt.config.context - tokens, 512)]
    for int8 in (False, True) if settings.device == "cpu" else (False,):
        decoder = Decoder(gpt, int8)
        for _ in decoder.write(ids[:8], 4, temperature=0):  # compiles
            pass
        begin = time.perf_counter()
        logits = decoder.read(ids)
        prefill = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(tokens):
            logits = decoder.step(int(logits.argmax()))
        each = (time.perf_counter() - begin) / tokens
        size = weight_bytes(gpt, int8)
        loss = f", loss {loss_on(Decoder(gpt, int8), ids[:256]):.4f}" if settings.text else ""
        print(
            f"{'int8   ' if int8 else 'float32'} reads {len(ids) / prefill:7.0f} tokens/s, writes {1 / each:6.1f} tokens/s: "
            f"{size / 1e6:.0f} MB a token at {size / each / 1e9:.1f} GB/s{loss}"
        )


if __name__ == "__main__":
    command(main, Settings)
