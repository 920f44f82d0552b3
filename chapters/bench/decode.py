"""GPT-2 124M writes text greedily, token by token: its speed, beside transformers and the memory's bandwidth.

    python -m chapters.bench decode

The weights are random, which changes no time. The texts are 128 to 192 tokens long (8 to 40 for generate()). Every token reads
each matrix once, so the table compares the weights' bytes per second with the machine's memory bandwidth. Several texts share
each reading.
"""

from argparse import Namespace
from collections.abc import Callable

import numpy as np

from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch09.decode import weight_bytes
from chapters.ch09.decoder import Decoder, step_together
from kernels.bench import tasks
from kernels.bench.climb import plot
from kernels.bench.contest import Task, compete_alone
from kernels.bench.limits import bound, machine
from minigrad import Generator
from minigrad.nn import init

FIRST, LAST = 128, 192  # tokens in the cache: it grows from FIRST to LAST, then starts again


def decoding(library: str, variant: bool, texts: int) -> Task:
    """The task: the next token of every text. variant: int8 for minigrad, generate() for transformers."""
    return Task(our_decoding(variant, texts)) if library == "minigrad" else their_decoding(variant)


def our_decoding(int8: bool, texts: int) -> Callable[[], None]:
    first = Decoder(GPT(GPTConfig.preset("gpt2"), Generator(0)), int8)
    decoders = [first, *(Decoder(first.gpt, beside=first) for _ in range(texts - 1))]
    prompts = np.random.default_rng(0).integers(0, 50257, (texts, FIRST)).tolist()
    logits = np.stack([decoder.read(ids) for decoder, ids in zip(decoders, prompts)])  # (B, V)

    def token():
        nonlocal logits
        if len(first.ids) == LAST:
            for decoder in decoders:
                del decoder.ids[FIRST:]
                for layer in decoder.cache.layers:
                    layer.length = FIRST
        logits = step_together(decoders, logits.argmax(axis=1).tolist())

    return token


def their_decoding(generate: bool) -> Task:
    """transformers' forward pass with nothing around it, or its generate(), which its users call."""
    torch = tasks.pytorch()
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.cache_utils import DynamicCache

    torch.manual_seed(0)
    model, cache = GPT2LMHeadModel(GPT2Config()).eval(), DynamicCache()
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50257, (1, FIRST)))

    def token():
        nonlocal ids
        if cache.get_seq_length() == LAST:
            cache.crop(FIRST - LAST)
        with torch.inference_mode():
            logits = model(ids, past_key_values=cache, use_cache=True).logits  # (1, T, V)
        ids = logits[:, -1:].argmax(-1)

    def text():  # 32 tokens; reading the 8-token prompt takes as long as one token
        model.generate(ids[:, :8], attention_mask=torch.ones_like(ids[:, :8]), max_new_tokens=32, min_new_tokens=32)

    if generate:
        return Task(text, share=1 / 32)
    token()
    return Task(token)


ENTRIES = {  # a line of the table: the arguments of `decoding`
    "float32": ("minigrad", False, 1),
    "4 texts": ("minigrad", False, 4),
    "8 texts": ("minigrad", False, 8),
    "int8": ("minigrad", True, 1),
    "int8, 8 texts": ("minigrad", True, 8),
    "forward pass only": ("torch", False, 1),
    "generate()": ("torch", True, 1),
}


def run(options: Namespace) -> None:
    print(machine())
    with init.skip_init():
        gpt = GPT(GPTConfig.preset("gpt2"))
    megabytes = {int8: weight_bytes(gpt, int8) / 1e6 for int8 in (False, True)}
    entries: dict[str, tuple] = {"reading": ("limit", bound, "reading")}
    entries |= {name: (library, decoding, *arguments) for name, (library, *arguments) in ENTRIES.items()}
    times = {name: seconds for name, (seconds, _) in compete_alone(entries, options.seconds).items()}
    rate = 1 / times.pop("reading")
    print(f"\nGPT-2 124M, one token for each text at a time; memory is read at {rate:.1f} GB/s")
    figures, single = [], times["float32"]
    for name, seconds in times.items():
        library, int8, texts = ENTRIES[name]
        tokens = texts / seconds
        if library == "minigrad":
            speed = megabytes[int8] / 1e3 / seconds
            remark = f"{megabytes[int8]:.0f} MB of weights at {speed:.1f} GB/s, {100 * speed / rate:.0f}% of the limit"
            remark += f"; {tokens * single:.2f} times float32's tokens"
        else:
            remark = f"transformers; minigrad float32 makes {seconds / single:.2f} times as many"
        print(f"  {name:<17}{tokens:8.1f} tokens/s   {remark}")
        figures.append((name, tokens))
    if options.plot:
        plot(figures, "GPT-2 124M writes text", "tokens/s", rate / megabytes[False] * 1e3, options.plot)
