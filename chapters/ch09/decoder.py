"""Chapter 9: decoding at the speed of memory. To say one token, a model must read all its weights; nothing else need cost.

    python -m chapters.ch09.decode --model smollm2            # tokens a second, in float32 and in eight bits
    python -m chapters.ch09.chat --model smollm2                   # talk to it

A prompt is read in one go (prefill): many rows against each matrix, limited by arithmetic. Then the tokens come one by
one (decode): one row against each matrix, limited by how fast weights come from memory. The first goes through chapter
6's forward pass and leaves its keys and values in the cache; the second goes past the graph, one compiled call a token
(kernels/decode), on the same cache. With eight bits a weight there is a quarter to read; and where several texts are
written together, all of them are served by one reading. On a GPU there is no such way past, and tokens go through the
forward pass one by one as well.
"""

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import KVCache
from chapters.ch08_sample import choose
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
        rng = (mg.default_generator if generator is None else generator).numpy
        token = None
        for _ in range(max_new_tokens):
            logits = self.read(ids) if token is None else self.step(token)  # (V,)
            token = int(choose(logits[None], rng.random(1), temperature, top_k, top_p)[0])
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
    rng = (mg.default_generator if generator is None else generator).numpy
    room = min(max(map(len, prompts), default=0) + max_new_tokens, decoder.gpt.config.context)
    texts = [Decoder(decoder.gpt, beside=decoder, room=room) for _ in prompts]
    written = [[] for _ in prompts]
    going, chosen = np.arange(len(prompts)), None  # the texts that are still being written, and what each says next
    for _ in range(max_new_tokens if prompts else 0):
        if chosen is None:
            logits = np.stack([text.read(ids) for text, ids in zip(texts, prompts, strict=True)])  # (B, V)
        else:
            logits = step_together([texts[b] for b in going], chosen.tolist())  # (going, V)
        chosen = choose(logits, rng.random(len(prompts))[going], temperature, top_k, top_p)  # (going,)
        goes_on = ~np.isin(chosen, list(stop_ids))  # (going,)
        going, chosen = going[goes_on], chosen[goes_on]
        if not len(going):
            break
        for b, token in zip(going, chosen.tolist(), strict=True):
            written[b].append(token)
    return written
