"""Chapter 9: decoding at the speed of memory. To say one token, a model must read all its weights; nothing else need cost.

    python -m chapters.ch09_decode --model smollm2            # tokens a second, in float32 and in eight bits
    python -m chapters.chat --model smollm2                   # talk to it

A prompt is read in one go (prefill): many rows against each matrix, limited by arithmetic. Then the tokens come one by
one (decode): one row against each matrix, limited by how fast weights come from memory. The first goes through chapter
6's forward pass and leaves its keys and values in the cache; the second goes past the graph, one compiled call a token
(kernels/decode), on the same cache. With eight bits a weight there is a quarter to read; and where several texts are
written together, all of them are served by one reading. On a GPU there is no such way past, and tokens go through the
forward pass one by one as well.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import KVCache
from chapters.ch08_sample import choose
from chapters.command import OnDevice, at_least_one, command
from minigrad import decoding


class Decoder:
    """A GPT that reads and writes one text, remembering what it has read.

    int8: weights of one byte, with a scale a row, for the tokens that it writes; what it reads at once is read in float32.
    beside: a Decoder of the same gpt, whose weights this one shares, for another text.
    room: tokens that it can remember, the model's context where None.
    """

    def __init__(self, gpt, int8=False, beside=None, room=None):
        self.room = room or gpt.config.context
        self.gpt, self.cache = gpt.eval(), KVCache(gpt, self.room)
        self.ids = []  # the tokens whose keys and values are in the cache
        self.caches = None  # the cache's arrays, as kernels want them
        on_cpu = gpt.wte.weight.device == "cpu"
        if int8 and not on_cpu:
            raise mg.DeviceError("only the CPU's decoding reads weights of eight bits: use --device cpu, or do without int8")
        self.kernel = beside.kernel if beside else self.past_the_graph(int8) if on_cpu else None

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

        Of more tokens than there is room for the last are read.  Returns the next token's logits, (V,).
        """
        ids = list(ids)[-self.room :]
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
        return step_together([self], [token])[0]

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


def step_together(decoders, tokens):
    """One more token of each text, (B,), by one reading of the weights that its decoders share.  Returns the logits, (B, V)."""
    first = decoders[0]
    if any(one.kernel is not first.kernel or one.gpt is not first.gpt or one.room != first.room for one in decoders):
        raise ValueError("step_together: the decoders must share their weights and have equal room; make them with beside=")
    logits = np.empty((len(tokens), first.gpt.config.vocab_size), np.float32)  # (B, V)
    rest = []  # the texts that go past the graph
    for b, (decoder, token) in enumerate(zip(decoders, tokens, strict=True)):
        if len(decoder.ids) == decoder.room:  # keep the newer half: its positions change, so it is read anew
            logits[b] = decoder.read([*decoder.ids[decoder.room // 2 :], token])
        elif decoder.kernel is None:
            logits[b] = decoder.forward([token])
            decoder.ids.append(token)
        else:
            rest.append(b)
    if rest:
        logits[rest] = _past_the_graph([decoders[b] for b in rest], [tokens[b] for b in rest])
    return logits


def _past_the_graph(decoders, tokens):
    gpt = decoders[0].gpt
    lengths = np.array([len(decoder.ids) for decoder in decoders])  # (B,)
    x, turn = gpt.wte.weight.array[tokens], None  # (B, C)
    if gpt.wpe is not None:
        x = x + gpt.wpe.weight.array[lengths]
    else:
        D = gpt.config.d_model // gpt.config.n_head
        angles = np.outer(lengths, gpt.config.rotary ** -(np.arange(0, D, 2) / D))  # (B, D/2) radians
        turn = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    logits = decoders[0].kernel.step(x, [decoder.caches for decoder in decoders], lengths, turn)  # (B, V)
    for decoder, token in zip(decoders, tokens, strict=True):
        decoder.ids.append(token)
        for layer in decoder.cache.layers:
            layer.length = len(decoder.ids)
    return logits


def write_together(decoder, prompts, max_new_tokens, *, temperature=1.0, top_k=None, top_p=None, stop_ids=(), generator=None):
    """Continue every prompt, lists of ids of any lengths; returns the new tokens, a list a prompt.

    Prompts are read one after the other, since there arithmetic is the limit; then all texts are written together.
    """
    dice = (mg.default_generator if generator is None else generator).numpy
    room = min(max(map(len, prompts), default=0) + max_new_tokens, decoder.gpt.config.context)
    texts = [Decoder(decoder.gpt, beside=decoder, room=room) for _ in prompts]
    written = [[] for _ in prompts]
    going, chosen = np.arange(len(prompts)), None  # the texts that are still being written, and what each says next
    for _ in range(max_new_tokens if prompts else 0):
        if chosen is None:
            logits = np.stack([text.read(ids) for text, ids in zip(texts, prompts, strict=True)])  # (B, V)
        else:
            logits = step_together([texts[b] for b in going], chosen.tolist())  # (going, V)
        chosen = choose(logits, dice.random(len(prompts))[going], temperature, top_k, top_p)  # (going,)
        goes_on = ~np.isin(chosen, list(stop_ids))  # (going,)
        going, chosen = going[goes_on], chosen[goes_on]
        if not len(going):
            break
        for b, token in zip(going, chosen.tolist(), strict=True):
            written[b].append(token)
    return written


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


def seconds_a_step(decoders, tokens):
    """How long a token of every text takes, the mean of `tokens` of them."""
    logits = step_together(decoders, [0] * len(decoders))  # (B, V)
    begin = time.perf_counter()
    for _ in range(tokens):
        logits = step_together(decoders, logits.argmax(axis=1).tolist())  # (B, V)
    return (time.perf_counter() - begin) / tokens


@dataclass
class Settings(OnDevice):
    """Measure reading and writing, in float32 and in eight bits."""

    model: str = "smollm2"  # smollm2, a published GPT-2, a folder of one, or a run folder
    text: Path | None = None  # a real text, to see what eight bits cost in loss
    tokens: int = 64  # tokens to write
    texts: int = 8  # texts to write together, after the one that is written alone
    quick: bool = False  # 8 tokens


def main(settings):
    from chapters.ch02_dataset import read_text
    from chapters.models import load

    at_least_one(settings, "tokens", "texts")
    gpt, tokenizer = load(settings.model)
    tokens = 8 if settings.quick else settings.tokens
    text = read_text(settings.text) if settings.text else "Once upon a time there was a little town by the sea. " * 12
    ids = tokenizer.encode(text)[: min(gpt.config.context - tokens - 1, 512)]
    for int8 in (False, True) if settings.device == "cpu" else (False,):
        decoder = Decoder(gpt, int8)
        for _ in decoder.write(ids[:8], 4, temperature=0):  # compiles
            pass
        begin = time.perf_counter()
        decoder.read(ids)
        prefill = time.perf_counter() - begin
        each = seconds_a_step([decoder], tokens)
        others = [Decoder(gpt, beside=decoder, room=min(gpt.config.context, tokens + 9)) for _ in range(settings.texts)]
        for other in others:
            other.read(ids[:8])
        together = settings.texts / seconds_a_step(others, tokens)
        size = weight_bytes(gpt, int8)
        loss = f", loss {loss_on(Decoder(gpt, int8), ids[:256]):.4f}" if settings.text else ""
        print(
            f"{'int8   ' if int8 else 'float32'} reads {len(ids) / prefill:7.0f} tokens/s, writes {1 / each:6.1f} tokens/s: "
            f"{size / 1e6:.0f} MB a token at {size / each / 1e9:.1f} GB/s{loss}; "
            f"{settings.texts} texts together {together:.1f} tokens/s"
        )


if __name__ == "__main__":
    command(main, Settings)
