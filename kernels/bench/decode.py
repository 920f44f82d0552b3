"""One token after the other: GPT-2 124M, greedy, beside transformers on PyTorch and beside nothing but reading its weights.

    python -m kernels.bench decode

The weights are random (no time depends on them), the text is 128 to 192 tokens long. A token must read every matrix once, so
the bytes of the weights over the time of a token are held against the rate at which this machine reads memory.
"""

import numpy as np

from kernels.bench.measure import in_turns
from kernels.bench.peers import contestants

FIRST, LAST = 128, 192  # tokens in the cache: from FIRST on, and at LAST back to FIRST


def our_decoding(int8):
    """A function that makes one token."""
    from chapters.ch06_gpt import GPT, GPTConfig
    from chapters.ch09_decode import Decoder
    from minigrad import Generator

    decoder = Decoder(GPT(GPTConfig.preset("gpt2"), Generator(0)), int8)
    start = np.random.default_rng(0).integers(0, 50257, FIRST).tolist()
    logits = decoder.read(start)

    def token():
        nonlocal logits
        if len(decoder.ids) == LAST:
            del decoder.ids[FIRST:]
            for layer in decoder.cache.layers:
                layer.length = FIRST
        logits = decoder.step(int(logits.argmax()))

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


def run(limits, size=None):
    from chapters.ch06_gpt import GPT, GPTConfig
    from chapters.ch09_decode import weight_bytes
    from minigrad.nn import init

    with init.skipped():
        gpt = GPT(GPTConfig.preset("gpt2"))
    megabytes = {int8: weight_bytes(gpt, int8) / 1e6 for int8 in (False, True)}
    figures = []
    with contestants("minigrad", "limit", "torch") as them, contestants("minigrad", "torch") as others:
        for library, one in them.items():
            one.prepare(*(("memory", "reading") if library == "limit" else ("decoding", False)))
        for one in others.values():
            one.prepare("decoding", True)
        all_of_them = [*them.values(), *others.values()]
        found = in_turns([one.turn for one in all_of_them], size or 30.0)
    ours, bare, ours_8 = found[0], found[1], found[len(them)]
    peers = {"transformers, its bare forward": found[2], "transformers, generate()": found[-1]} if "torch" in them else {}
    rate = (200 << 20) / bare / 1e9
    print(f"\nGPT-2 124M, one token; memory is read at {rate:.1f} GB/s")
    for name, seconds, read in (("float32", ours, megabytes[False]), ("int8", ours_8, megabytes[True])):
        speed = read / 1e3 / seconds
        share = f"{read:.0f} MB of weights at {speed:.1f} GB/s, {100 * speed / rate:.0f}% of the limit"
        print(f"  minigrad {name:<8}{1 / seconds:8.1f} tokens/s   {share}   {ours / seconds:.2f}x float32")
        figures.append((name, 1 / seconds))
    for name, seconds in peers.items():
        print(f"  {name:<33}{1 / seconds:8.1f} tokens/s; minigrad float32 makes {seconds / ours:.2f} times as many")
        figures.append((name, 1 / seconds))
    return figures, "tokens/s", rate / megabytes[False] * 1e3
