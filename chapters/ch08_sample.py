"""Chapter 8: the sampler. The model scores every token; how the next one is chosen is a decision of its own.

    python -m chapters.ch08_sample --run runs/pretrain --prompt "In the market" --temperature 0.8 --top-k 40

Temperature sharpens or flattens the distribution; top-k keeps the k likeliest tokens (Fan et al. 2018,
arXiv:1805.04833); the nucleus keeps the fewest tokens that together have probability p (Holtzman et al. 2019,
arXiv:1904.09751). Then one is drawn, appended, and everything begins anew: that is `generate_plainly`. `generate` gives
the same for many prompts at once, and remembers what it has read.
"""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import KVCache, load_model
from chapters.support.command import OnDevice, at_least_one, command


def top_k_filter(logits, k):
    """Keep the k highest logits of each row, -inf for the rest.  logits: (B, V) -> (B, V).  Ties with the k-th stay."""
    if k < 1:
        raise ValueError(f"top_k must be at least 1, got {k}")
    if k >= logits.shape[-1]:
        return logits
    kth = np.partition(logits, -k, axis=-1)[:, -k, None]  # (B, 1)
    return np.where(logits < kth, -np.inf, logits)  # (B, V)


def nucleus_filter(logits, p):
    """Keep the fewest tokens, likeliest first, whose probabilities reach p.  logits: (B, V) -> (B, V), else -inf.

    The token that crosses p is kept, so at least one always is.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {p}")
    probability = softmax(logits)  # (B, V)
    return np.where(np.stack([_nucleus(row, p) for row in probability]), logits, -np.inf)  # (B, V)


def _nucleus(probability, p):
    """probability: (V,) -> (V,) bool. Sorts only as many of the likeliest as it takes: of 50,257 tokens mostly a few."""
    V, most = len(probability), 256
    keep = np.zeros(V, dtype=bool)  # (V,)
    while True:
        least = np.partition(probability, -most)[-most] if most < V else -np.inf
        likely = np.flatnonzero(probability >= least)  # (n,)  in their order, with all that tie with the last
        order = likely[np.argsort(-probability[likely], kind="stable")]  # (n,)  likeliest first, equals in their order
        cumulative = np.cumsum(probability[order])  # (n,)
        if cumulative[-1] >= p or most >= V:
            keep[order[cumulative - probability[order] < p]] = True  # what the likelier ones have together is below p
            return keep
        most *= 8


def softmax(logits):
    """(B, V) -> (B, V), in float64: thousands of small probabilities are about to be added up."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))  # (B, V)
    return shifted / shifted.sum(axis=-1, keepdims=True)


def choose(logits, uniform, temperature=1.0, top_k=None, top_p=None):
    """One token a row.  logits: (B, V); uniform: (B,) in [0, 1), one throw of the dice a row.  Returns (B,) int64.

    temperature 0 takes the likeliest token and ignores the dice.
    """
    if temperature == 0:
        return logits.argmax(axis=-1)  # (B,)
    logits = logits.astype(np.float64) / temperature  # (B, V)
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = nucleus_filter(logits, top_p)
    cumulative = np.cumsum(softmax(logits), axis=-1)  # (B, V)
    # The first token whose cumulative probability exceeds the throw; rounding may leave the total a little below 1.
    return (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=-1)  # (B,)


def generate_plainly(model, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Continue one text by max_new_tokens tokens: ids, T of them -> the new ones.  For the reader, and for the test that
    says that `generate` gives the same; the model has to be in eval mode."""
    rng = (mg.default_generator if generator is None else generator).numpy
    text = list(ids)
    for _ in range(max_new_tokens):
        window = mg.tensor([text[-model.config.context :]])  # (1, T)
        with mg.no_grad():
            logits = model(window).numpy(force=True)[:, -1]  # (1, V)  of the last position: what comes next
        text.append(int(choose(logits, rng.random(1), temperature, top_k, top_p)[0]))
    return text[len(ids) :]


def generate(
    model,
    prompts,
    max_new_tokens,
    *,
    temperature=1.0,
    top_k=None,
    top_p=None,
    stop_ids=(),
    generator=None,
    use_cache=True,
    observe=None,
):
    """Continue every prompt by up to max_new_tokens tokens; a row ends early at one of stop_ids, which is not returned.

    prompts: non-empty lists of token ids, of any lengths; of one longer than the context the last tokens are used,
    with a warning.  generator: a seeded mg.Generator, the default one where None; every row has a throw of its own at
    every step, whether it is done or not, so that what it says does not depend on when another row stops.
    observe(logits), if given, is shown every step's logits, (rows, V), of the rows still being written, in their order.
    Returns only the new tokens, a list a prompt.  The model is in eval mode meanwhile and afterwards as it was.
    Raises ValueError for settings that make no sense.
    """
    context = model.config.context
    check(prompts, max_new_tokens, temperature, top_k, top_p, context)
    rng = (mg.default_generator if generator is None else generator).numpy
    prompts = [list(prompt[-context:]) for prompt in prompts]
    B, width = len(prompts), max(map(len, prompts), default=0)
    ids = np.zeros((B, width + max_new_tokens), np.int64)  # (B, W)  padded on the left, so that all rows end together
    start = np.array([width - len(prompt) for prompt in prompts], np.int64)  # (B,) column of each row's first token
    for row, prompt in enumerate(prompts):
        ids[row, start[row] : width] = prompt
    lengths = np.full(B, max_new_tokens)  # (B,) new tokens before the stop
    first_of, which = distinct(prompts)  # a prompt that is given several times is read once
    rows, live = np.arange(B), np.ones(B, bool)  # (B,) those that are computed, and which of them are still being written

    was_training = model.training
    model.eval()
    try:
        with mg.no_grad():
            cache = KVCache(model) if use_cache else None
            for new in range(max_new_tokens if B else 0):
                if new == 0:
                    logits = next_logits(model, ids[first_of, :width], start[first_of], cache)[which]  # (B, V)
                    if cache is not None and len(first_of) < B:
                        cache.keep(which)
                else:
                    logits = next_logits(model, ids[rows, : width + new], start[rows], cache)  # (rows, V)
                if observe is not None:
                    observe(logits[live])
                chosen = choose(logits, rng.random(B)[rows], temperature, top_k, top_p)  # (rows,)
                ids[rows, width + new] = chosen
                stopped = live & np.isin(chosen, list(stop_ids))  # (rows,)
                lengths[rows[stopped]] = new
                live &= ~stopped
                if not live.any():
                    break
                if live.mean() <= 0.75:  # to leave rows out, the keys and values of all others must move together
                    if cache is not None:
                        cache.keep(np.flatnonzero(live))
                    rows, live = rows[live], live[live]
    finally:
        model.train(was_training)
    return [ids[row, width : width + lengths[row]].tolist() for row in range(B)]


def distinct(prompts):
    """The number of each prompt's first occurrence, (n,), and for every prompt which of these it is, (B,)."""
    numbers = {}
    which = np.array([numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts], np.int64)  # (B,)
    return np.array([np.argmax(which == number) for number in range(len(numbers))], np.int64), which  # (n,), (B,)


def next_logits(model, ids, start, cache):
    """ids: (B, W), all so far; start: (B,) where each row begins.  Returns the next token's logits, (B, V).

    While all fits into the context, the cache holds every column but the newest ones, and only those are computed.
    Beyond it the window slides: every token's position, counted from the window's start, becomes one less at each
    step, and as positions are added to the embeddings, all keys and values change with them. Nothing cached is valid
    then, and each step recomputes the window. (Relative or rotary positions have no such cliff; GPT-2's learned ones
    do.)
    """
    context, W = model.config.context, ids.shape[1]
    if cache is not None and W <= context:
        newest = ids[:, cache.length :]  # (B, T)
        key_start = start
    else:
        newest, cache = ids[:, -context:], None  # (B, T)
        key_start = np.maximum(start - (W - newest.shape[1]), 0)  # (B,)
    padded = key_start if key_start.any() else None  # without padding, attention need not look for it
    device = next(iter(model.parameters())).device
    idx = mg.as_tensor(np.ascontiguousarray(newest), device=device)  # (B, T)
    logits = model(idx, cache, padded, last_only=True)  # (B, 1, V)
    return logits.numpy(force=True)[:, -1, :]  # (B, V)


def check(prompts, max_new_tokens, temperature, top_k, top_p, context):
    """Refuse settings that make no sense, in one sentence each; warn of prompts that must be cropped."""
    if temperature < 0 or not np.isfinite(temperature):
        raise ValueError(f"temperature must be at least 0 (0 takes the likeliest token), got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {i} is empty: give at least one token, such as the end-of-text token, to start from")
    too_long = sum(len(prompt) > context for prompt in prompts)
    if too_long:
        warnings.warn(f"{too_long} prompt(s) longer than the context were cropped to their last {context} tokens", stacklevel=3)


@dataclass
class Settings(OnDevice):
    """Let a trained model write."""

    run: str = "runs/pretrain"  # the run folder of chapter 7 (or a later one) to take the model from
    prompt: tuple[str, ...] = ("",)  # one or more beginnings; an empty one starts from the end-of-text token
    max_new_tokens: int = 200  # most tokens to add
    temperature: float = 0.8  # 0 takes the likeliest token; 1 draws from the model's own distribution
    top_k: int | None = None  # keep only the k likeliest tokens
    top_p: float | None = None  # keep only the nucleus of this probability
    samples: int = 1  # continuations of each prompt
    seed: int = 0  # of the dice
    cache: bool = True  # remember keys and values; the text is the same without, only later
    quick: bool = False  # 40 tokens at most


def main(settings):
    at_least_one(settings, "samples")
    model, tokenizer = load_model(settings.run)
    texts = [text for text in settings.prompt for _ in range(settings.samples)]
    prompts = [tokenizer.encode(text) or [tokenizer.eos_id] for text in texts]
    outputs = generate(
        model,
        prompts,
        min(settings.max_new_tokens, 40) if settings.quick else settings.max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        stop_ids=(tokenizer.eos_id,),
        generator=mg.Generator(settings.seed),
        use_cache=settings.cache,
    )
    samples = [text + tokenizer.decode(output) for text, output in zip(texts, outputs, strict=True)]
    print(("\n" + "─" * 60 + "\n").join(samples))
    with open(Path(settings.run) / "samples.txt", "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(settings)) + "\n" + "\n---\n".join(samples) + "\n\n")


if __name__ == "__main__":
    command(main, Settings)
