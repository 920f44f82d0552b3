"""Chapter 9: decoding at the speed of memory. Writing a token must read all weights once, and should do little else.

    python -m chapters.ch09.decode --model smollm2   # tokens a second, with float32 and with 8-bit weights
    python -m chapters.chat --model smollm2          # talk to it

Reading a prompt (prefill) multiplies many rows by each matrix, so arithmetic is the limit. Writing (decode) multiplies one
row by each matrix, so the memory that delivers the weights is the limit. Prefill therefore uses chapter 6's forward pass and
leaves keys and values in the cache. Decode makes one compiled call per token on the same cache, without a graph
(kernels/decode). 8-bit weights have a quarter of the bytes, and texts that are written together share each reading of the
weights. On a GPU the forward pass also writes, token by token.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import GPT, KVCache
from chapters.ch08_sample import choose, warn_cropped
from minigrad import decoding


class Decoder:
    """A GPT that reads and writes one text, with a cache of the text's keys and values.

    Args:
        int8: write with 8-bit weights and one scale a row; prompts are still read in float32.
        beside: a Decoder of the same gpt for another text; the two share their weights.
        room: largest number of tokens in the cache, the model's context if None.

    Raises:
        DeviceError: for int8 on a device other than the CPU.
    """

    def __init__(self, gpt: GPT, int8: bool = False, beside: "Decoder | None" = None, room: int | None = None) -> None:
        self.room = room or gpt.config.context
        self.gpt, self.cache = gpt.eval(), KVCache(gpt, self.room)
        self.ids: list[int] = []  # the tokens whose keys and values are in the cache
        self.caches: list[tuple[np.ndarray, np.ndarray]] = []  # the cache's arrays, as the kernels need them
        on_cpu = gpt.wte.weight.device == "cpu"
        if int8 and not on_cpu:
            raise mg.DeviceError("decoding: only the CPU reads weights of eight bits; use --device cpu, or drop --int8")
        self.kernel: Any = beside.kernel if beside else compiled_step(gpt, int8) if on_cpu else None

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Read a text, apart from the beginning that is still in the cache; returns the next logits, (V,).

        Only the last `room` tokens of a longer text are read, with a warning.
        """
        warn_cropped(int(len(ids) > self.room), self.room)
        ids = list(ids)[-self.room :]
        if not ids:
            raise ValueError("read: expected at least one token, got none")
        same = next((i for i, (a, b) in enumerate(zip(ids, self.ids)) if a != b), min(len(ids), len(self.ids)))
        same = min(same, len(ids) - 1)  # always read the last token, for its logits
        for layer in self.cache.layers:
            layer.length = same
        self.ids = self.ids[:same]  # so that an interrupted forward pass leaves a correct cache
        logits = self.forward(ids[same:])  # (V,)
        self.ids = ids
        self.caches = [(layer.k.array, layer.v.array) for layer in self.cache.layers]
        return logits

    def forward(self, ids: Sequence[int]) -> np.ndarray:
        """Read tokens with the model's own forward pass; returns the next logits, (V,)."""
        with mg.no_grad():
            idx = mg.tensor([ids], device=self.gpt.wte.weight.device)  # (1, T)
            return self.gpt(idx, self.cache, last_only=True).numpy(force=True)[0, 0]

    def step(self, token: int) -> np.ndarray:
        """Add one token; returns the next logits, (V,)."""
        return step_together([self], [token])[0]

    def write(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        *,
        stop_ids: Collection[int] = (),
        generator: mg.Generator | None = None,
        **sampling: Any,
    ) -> Iterator[int]:
        """Read a text from its beginning, then yield up to max_new_tokens tokens, each as soon as it is chosen.

        `sampling` may have chapter 8's temperature, top_k and top_p.

        Raises:
            ValueError: if this Decoder has read or written something else since the last token.
        """
        rng = (generator or mg.default_generator).numpy
        token, text_so_far, length = None, self.ids, 0
        for _ in range(max_new_tokens):
            if token is not None and (self.ids is not text_so_far or len(self.ids) != length):
                raise ValueError("write: this Decoder has begun another text; give each text a Decoder, with beside=")
            logits = self.read(ids) if token is None else self.step(token)  # (V,)
            token = int(choose(logits[None], rng.random(1), **sampling)[0])
            text_so_far, length = self.ids, len(self.ids)
            if token in stop_ids:
                return
            yield token


def compiled_step(gpt: GPT, int8: bool) -> Any:
    """The compiled call that adds one token to each of several texts."""
    config, norm = gpt.config, decoding.norm

    def matrix(linear):
        return decoding.matrix(linear, int8)

    layers = []
    for block in gpt.h:
        attention = norm(block.ln_1), matrix(block.attn.c_attn), matrix(block.attn.c_proj)
        mlp = norm(block.ln_2), matrix(block.mlp.c_fc), matrix(block.mlp.c_proj)
        layers.append(decoding.Layer(*attention, *mlp))
    heads = dict(n_head=config.n_head, n_kv_head=config.n_kv_head or config.n_head)
    kinds = dict(eps=gpt.ln_f.eps, rms=bool(config.rms_eps), gated=bool(config.d_gated))
    return decoding.decoder(layers, norm(gpt.ln_f), matrix(gpt.lm_head), **heads, **kinds)


def step_together(decoders: Sequence[Decoder], tokens: Sequence[int]) -> np.ndarray:
    """Add one token to each text with a single reading of the weights; returns the next logits, (B, V).

    Raises:
        ValueError: if the decoders do not share their weights or differ in room.
    """
    first = decoders[0]
    if any(d.kernel is not first.kernel or d.gpt is not first.gpt or d.room != first.room for d in decoders):
        raise ValueError("step_together: the decoders must share their weights and have equal room; make them with beside=")
    logits = np.empty((len(tokens), first.gpt.config.vocab_size), np.float32)  # (B, V)
    compiled = []  # the texts to which the compiled call adds their tokens
    for b, (decoder, token) in enumerate(zip(decoders, tokens, strict=True)):
        if len(decoder.ids) == decoder.room:  # keep the newer half and read it again, because its positions change
            logits[b] = decoder.read([*decoder.ids[decoder.room // 2 :], token])
        elif decoder.kernel is None:
            logits[b] = decoder.forward([token])
            decoder.ids.append(token)
        else:
            compiled.append(b)
    if compiled:
        logits[compiled] = _compiled_step_together([decoders[b] for b in compiled], [tokens[b] for b in compiled])
    return logits


def _compiled_step_together(decoders: Sequence[Decoder], tokens: Sequence[int]) -> np.ndarray:
    gpt = decoders[0].gpt
    lengths = np.array([len(decoder.ids) for decoder in decoders])  # (B,)
    x, rotation = gpt.wte.weight.array[tokens], None  # (B, C)
    if gpt.wpe is not None:
        x = x + gpt.wpe.weight.array[lengths]
    elif gpt.config.rotary is not None:
        D = gpt.config.d_model // gpt.config.n_head
        angles = np.outer(lengths, gpt.config.rotary ** -(np.arange(0, D, 2) / D))  # (B, D/2) radians
        rotation = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    logits = decoders[0].kernel.step(x, [decoder.caches for decoder in decoders], lengths, rotation)  # (B, V)
    for decoder, token in zip(decoders, tokens, strict=True):
        decoder.ids.append(token)
        for layer in decoder.cache.layers:
            layer.length = len(decoder.ids)
    return logits


def write_together(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop_ids: Collection[int] = (),
    generator: mg.Generator | None = None,
    **sampling: Any,
) -> list[list[int]]:
    """Continue every prompt and return the new tokens, like chapter 8's `generate`, with the same `sampling` settings.

    It reads the prompts one by one, because arithmetic limits reading, then writes all texts together.
    """
    rng = (generator or mg.default_generator).numpy
    room = min(max(map(len, prompts), default=0) + max_new_tokens, decoder.gpt.config.context)
    texts = [Decoder(decoder.gpt, beside=decoder, room=room) for _ in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    unfinished, chosen = np.arange(len(prompts)), None  # the unfinished texts, and the next token of each
    for _ in range(max_new_tokens if prompts else 0):
        if chosen is None:
            logits = np.stack([text.read(ids) for text, ids in zip(texts, prompts, strict=True)])  # (B, V)
        else:
            logits = step_together([texts[b] for b in unfinished], chosen.tolist())  # (unfinished, V)
        chosen = choose(logits, rng.random(len(prompts))[unfinished], **sampling)  # (unfinished,)
        continues = ~np.isin(chosen, list(stop_ids))  # (unfinished,)
        unfinished, chosen = unfinished[continues], chosen[continues]
        if not len(unfinished):
            break
        for b, token in zip(unfinished, chosen.tolist(), strict=True):
            written[b].append(token)
    return written
