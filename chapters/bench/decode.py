"""One token after the other: GPT-2 124M, greedy, beside transformers on PyTorch and beside nothing but reading its weights.

    python -m kernels.bench decode

The weights are random (no time depends on them), the texts are 128 to 192 tokens long. A token must read every matrix once,
so the bytes of the weights over the time of a token are held against the rate at which this machine reads memory. Of several
texts, one reading serves all.
"""

from contextlib import ExitStack

import numpy as np

from kernels.bench.measure import in_turns
from kernels.bench.peers import contestants, limit_rate

FIRST, LAST = 128, 192  # tokens in the cache: from FIRST on, and at LAST back to FIRST


def our_decoding(int8, texts=1):
    """A function that makes one token of each of some texts."""
    from chapters.ch06_gpt import GPT, GPTConfig
    from chapters.ch09_decode import Decoder, step_together
    from minigrad import Generator

    first = Decoder(GPT(GPTConfig.preset("gpt2"), Generator(0)), int8)
    decoders = [first, *(Decoder(first.gpt, beside=first) for _ in range(texts - 1))]
    start = np.random.default_rng(0).integers(0, 50257, (texts, FIRST)).tolist()
    logits = np.stack([decoder.read(ids) for decoder, ids in zip(decoders, start)])  # (B, V)

    def token():
        nonlocal logits
        if len(first.ids) == LAST:
            for decoder in decoders:
                del decoder.ids[FIRST:]
                for layer in decoder.cache.layers:
                    layer.length = FIRST
        logits = step_together(decoders, logits.argmax(axis=1).tolist())

    return token


def their_decoding(torch, generate):
    """transformers' forward pass and nothing around it, or its generate(), which its users call."""
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

    # a greedy text of 32 tokens, whose 8 tokens of prompt are read in the time of one
    def text():
        model.generate(ids[:, :8], attention_mask=torch.ones_like(ids[:, :8]), max_new_tokens=32, min_new_tokens=32)

    text.share = 1 / 32
    if not generate:
        token()
    return text if generate else token


WORK = {
    "reading": ("limit", "nothing_but", "reading"),
    "float32": ("minigrad", "decoding", False, 1),
    "4 texts": ("minigrad", "decoding", False, 4),
    "8 texts": ("minigrad", "decoding", False, 8),
    "int8": ("minigrad", "decoding", True, 1),
    "int8, 8 texts": ("minigrad", "decoding", True, 8),
    "its bare forward": ("torch", "decoding", False),
    "generate()": ("torch", "decoding", True),
}


def run(limits, size=None):
    from chapters.ch06_gpt import GPT, GPTConfig
    from chapters.ch09_decode import weight_bytes
    from minigrad.nn import init

    with init.skipped():
        gpt = GPT(GPTConfig.preset("gpt2"))
    megabytes = {int8: weight_bytes(gpt, int8) / 1e6 for int8 in (False, True)}
    with ExitStack() as stack:
        them = {}
        for name, (library, *arguments) in WORK.items():
            for one in stack.enter_context(contestants(library)).values():  # none where PyTorch is not installed
                one.prepare(*arguments)
                them[name] = one
        seconds = dict(zip(them, in_turns([one.turn for one in them.values()], size or 20.0)))
    rate = limit_rate("reading", seconds.pop("reading"))
    print(f"\nGPT-2 124M, a token of every text; memory is read at {rate:.1f} GB/s")
    figures, single = [], seconds["float32"]
    for name, each in seconds.items():
        library, _, int8, *texts = WORK[name]
        tokens = sum(texts or [1]) / each
        if library == "minigrad":
            speed = megabytes[int8] / 1e3 / each
            said = f"{megabytes[int8]:.0f} MB of weights at {speed:.1f} GB/s, {100 * speed / rate:.0f}% of the limit"
            said += f"; {tokens * single:.2f} times float32's tokens"
        else:
            said = f"transformers; minigrad float32 makes {each / single:.2f} times as many"
        print(f"  {name:<17}{tokens:8.1f} tokens/s   {said}")
        figures.append((name, tokens))
    return figures, "tokens/s", rate / megabytes[False] * 1e3
