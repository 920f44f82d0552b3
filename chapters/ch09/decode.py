"""Chapter 9: measure how fast a model reads and writes tokens, with float32 and with 8-bit weights.

python -m chapters.ch09.decode --model smollm2
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chapters.ch06_gpt import GPT
from chapters.ch09.decoder import Decoder, step_together
from chapters.ch09.load import load
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.readers import read_text


def weight_bytes(gpt: GPT, int8: bool = False) -> int:
    """Bytes of weights that one new token reads. A token table counts only if it is also the head."""
    tables = {id(table.weight) for table in (gpt.wte, gpt.wpe) if table is not None} - {id(gpt.lm_head.weight)}
    total = 0
    for array in (p.array for p in gpt.parameters() if id(p) not in tables):
        total += array.size + 4 * len(array) if int8 and array.ndim == 2 else array.nbytes  # a float32 scale per row
    return total


def loss_on(decoder: Decoder, ids: Sequence[int]) -> float:
    """Mean loss of a text in nats per token, from the decoder's steps; ids has at least two tokens and fits the context."""
    logits, losses = decoder.read(ids[:1]), []
    for target in ids[1:]:
        top = logits.max()
        losses.append(top + np.log(np.exp(logits.astype(np.float64) - top).sum()) - logits[target])
        logits = decoder.step(target)
    return float(np.mean(losses))


def seconds_per_step(decoders: Sequence[Decoder], tokens: int) -> float:
    """Mean duration of `tokens` steps, each of which adds one token to every text."""
    logits = step_together(decoders, [0] * len(decoders))  # (B, V)
    begin = time.perf_counter()
    for _ in range(tokens):
        logits = step_together(decoders, logits.argmax(axis=1).tolist())  # (B, V)
    return (time.perf_counter() - begin) / tokens


@dataclass
class Settings(OnDevice):
    """Measure reading and writing, with float32 and with 8-bit weights."""

    model: str = "smollm2"  # smollm2, a published GPT-2, a folder of its files, or a run folder
    text: Path | None = None  # text file on which to compare the loss of both kinds of weights
    tokens: int = 64  # tokens to write
    texts: int = 8  # texts to write together, after measuring a single text
    quick: bool = False  # 8 tokens


def main(settings: Settings) -> None:
    at_least_one(settings, "tokens", "texts")
    gpt, tokenizer = load(settings.model)
    tokens = 8 if settings.quick else settings.tokens
    if gpt.config.context < tokens + 10:
        raise ValueError(f"tokens: {settings.model} has a context of {gpt.config.context}, room for {gpt.config.context - 10}")
    text = read_text(settings.text) if settings.text else "Once upon a time there was a little town by the sea. " * 12
    ids = tokenizer.encode(text)[: min(gpt.config.context - tokens - 1, 512)]
    for int8 in (False, True) if settings.device == "cpu" else (False,):
        decoder = Decoder(gpt, int8)
        for _ in decoder.write(ids[:8], 4, temperature=0):  # compiles the kernels
            pass
        begin = time.perf_counter()
        decoder.read(ids)
        prefill = time.perf_counter() - begin
        alone = seconds_per_step([decoder], tokens)
        others = [Decoder(gpt, beside=decoder, room=min(gpt.config.context, tokens + 9)) for _ in range(settings.texts)]
        for other in others:
            other.read(ids[:8])
        together = settings.texts / seconds_per_step(others, tokens)
        size = weight_bytes(gpt, int8)
        loss = f", loss {loss_on(Decoder(gpt, int8), ids[:256]):.4f}" if settings.text else ""
        print(
            f"{'int8   ' if int8 else 'float32'} reads {len(ids) / prefill:7.0f} tokens/s, writes {1 / alone:6.1f} tokens/s: "
            f"{size / 1e6:.0f} MB a token at {size / alone / 1e9:.1f} GB/s{loss}; "
            f"{settings.texts} texts together {together:.1f} tokens/s"
        )


if __name__ == "__main__":
    command(main, Settings)
