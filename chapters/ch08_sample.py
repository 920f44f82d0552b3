"""Chapter 8: the sampler. The model scores every token; choosing the next token is a separate decision.

    python -m chapters.ch08_sample --run runs/pretrain --prompt "In the market" --temperature 0.8 --top-k 40

`choose_plainly` shows the three decisions on one row of logits. Temperature sharpens or flattens the distribution.
Top-k keeps the k likeliest tokens (Fan et al. 2018, arXiv:1805.04833). Top-p, the nucleus, keeps the fewest tokens whose
probabilities add up to p (Holtzman et al. 2019, arXiv:1904.09751). A random number then picks a token. `generate_plainly`
appends it and starts again; `generate` does the same for many prompts at once, with a cache. Run the command
twice, at temperature 0.2 and 1.5: the first text repeats itself, and the second falls apart.
"""

import json
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import GPT, KVCache, load_model
from chapters.support.command import OnDevice, at_least_one, command


def choose_plainly(
    logits: np.ndarray, uniform: float, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> int:
    """Choose a token from one row of logits, (V,), with a random number in [0, 1).

    >>> choose_plainly(np.log([0.5, 0.3, 0.2]), uniform=0.9)
    2
    >>> choose_plainly(np.log([0.5, 0.3, 0.2]), uniform=0.9, top_k=2)
    1
    """
    if temperature == 0:
        return int(logits.argmax())
    p = np.exp((logits - logits.max()) / temperature)  # (V,)
    p /= p.sum()
    likeliest_first = np.argsort(-p, kind="stable")  # (V,)
    if top_k is not None:
        p[likeliest_first[top_k:]] = 0
        p /= p.sum()
    if top_p is not None:
        ahead = np.concatenate([[0.0], np.cumsum(p[likeliest_first])[:-1]])  # (V,) probability of all likelier tokens
        p[likeliest_first[ahead >= top_p]] = 0  # the token that crosses top_p stays
    cumulative = np.cumsum(p)  # (V,)
    return int((cumulative <= uniform * cumulative[-1]).sum())  # the first token whose cumulative probability is larger


def generate_plainly(
    model: GPT,
    ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: mg.Generator | None = None,
) -> list[int]:
    """Continue one text by max_new_tokens tokens and return the new tokens; the model must be in eval mode."""
    rng = (generator or mg.default_generator).numpy
    text = list(ids)
    for _ in range(max_new_tokens):
        window = mg.tensor([text[-model.config.context :]])  # (1, T)
        with mg.no_grad():
            logits = model(window).numpy(force=True)[0, -1]  # (V,)  the last position scores the next token
        text.append(choose_plainly(logits.astype(np.float64), rng.random(), temperature, top_k, top_p))
    return text[len(ids) :]


# ── the filters for a batch ──────────────────────────────────────────────────────────────────────────────────────────


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row, (B, V), in float64, because sums run over thousands of small numbers."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))  # (B, V)
    return shifted / shifted.sum(axis=-1, keepdims=True)


def top_k_filter(logits: np.ndarray, k: int) -> np.ndarray:
    """Keep the k highest logits of each row, and ties with the k-th; set the others to -inf. (B, V) -> (B, V)"""
    check_sampling(top_k=k)
    if k >= logits.shape[-1]:
        return logits
    kth = np.partition(logits, -k, axis=-1)[:, -k, None]  # (B, 1)
    return np.where(logits < kth, -np.inf, logits)  # (B, V)


def nucleus_filter(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep each row's fewest tokens whose probabilities reach p; set the other logits to -inf. (B, V) -> (B, V)

    The token that crosses p stays, so every row keeps at least one token.
    """
    check_sampling(top_p=p)
    probability = softmax(logits)  # (B, V)
    return np.where(np.stack([_nucleus(row, p) for row in probability]), logits, -np.inf)  # (B, V)


def _nucleus(probability: np.ndarray, p: float) -> np.ndarray:
    """Whether each token belongs to the nucleus, (V,) bool. Sorts the likeliest few, and more only if they do not reach p."""
    V, most = len(probability), 256
    nucleus = np.zeros(V, dtype=bool)  # (V,)
    while True:
        least = np.partition(probability, -most)[-most] if most < V else -np.inf
        likely = np.flatnonzero(probability >= least)  # (n,)  in token order, with every tie for the last place
        order = likely[np.argsort(-probability[likely], kind="stable")]  # (n,)  likeliest first, ties in token order
        cumulative = np.cumsum(probability[order])  # (n,)
        if cumulative[-1] >= p or most >= V:
            # A token stays if the probabilities of all likelier tokens add up to less than p.
            nucleus[order[np.concatenate([[True], cumulative[:-1] < p])]] = True
            return nucleus
        most *= 8


def choose(
    logits: np.ndarray, uniform: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """Choose one token in each row, like `choose_plainly` (but tokens that tie with the k-th stay).

    Args:
        logits: (B, V).
        uniform: (B,) random numbers in [0, 1), one a row; unused at temperature 0, which takes the likeliest token.

    Returns:
        (B,) int64.

    Raises:
        ValueError: for settings out of range, or logits that are not numbers.
    """
    check_sampling(temperature, top_k, top_p)
    top = logits.max(axis=-1, keepdims=True, initial=-np.inf)  # (B, 1)
    if not np.isfinite(top).all():
        raise ValueError("choose: the logits hold NaN or infinity, so the model's weights probably do; train with a smaller lr")
    if temperature == 0:
        return logits.argmax(axis=-1)  # (B,)
    with np.errstate(over="ignore"):  # a tiny temperature leaves the likeliest token at 0 and sends the others to -inf
        logits = (logits.astype(np.float64) - top) / temperature  # (B, V)
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = nucleus_filter(logits, top_p)
    cumulative = np.cumsum(softmax(logits), axis=-1)  # (B, V)
    # The first token whose cumulative probability exceeds the number; rounding may leave the total a little below 1.
    return (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=-1)  # (B,)


# ── many prompts at once, with a cache ───────────────────────────────────────────────────────────────────────────────


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Collection[int] = (),
    generator: mg.Generator | None = None,
    use_cache: bool = True,
    observe: Callable[[np.ndarray], object] | None = None,
) -> list[list[int]]:
    """Continue every prompt by up to max_new_tokens tokens, like `generate_plainly`, but end a row at a stop token.

    Args:
        prompts: non-empty lists of token ids; prompts longer than the context are cropped, with a warning.
        max_new_tokens: one limit for all prompts, or one for each.
        stop_ids: tokens that end a row; they are not returned.
        generator: seeded random numbers. Every row, finished or not, uses one number a step, so its text does not
            depend on when another row stops.
        observe: called in every step with the logits of the unfinished rows, (rows, V).

    Returns:
        The new tokens of each prompt. The model's mode is restored.

    Raises:
        ValueError: for settings out of range or an empty prompt.
    """
    context = model.config.context
    limits = np.broadcast_to(np.asarray(max_new_tokens, np.int64), (len(prompts),))  # (B,)
    check(prompts, limits, temperature, top_k, top_p, context)
    rng = (generator or mg.default_generator).numpy
    prompts = [list(prompt[-context:]) for prompt in prompts]
    B, width = len(prompts), max(map(len, prompts), default=0)
    most = int(limits.max(initial=0))
    ids, start = pad_left(prompts, width, most)  # (B, W), (B,)
    lengths = limits.copy()  # (B,) new tokens before the stop
    first_rows, prompt_of_row = distinct(prompts)  # repeated prompts are read once
    rows, live = np.arange(B), np.ones(B, bool)  # (B,) the rows that are computed, and whether each is unfinished

    was_training = model.training
    model.eval()
    try:
        with mg.no_grad():
            cache = KVCache(model, min(context, width + most)) if use_cache else None
            for new in range(most):
                if new == 0:
                    logits = next_logits(model, ids[first_rows, :width], start[first_rows], cache)[prompt_of_row]  # (B, V)
                    if cache is not None and len(first_rows) < B:
                        cache.keep(prompt_of_row)
                else:
                    logits = next_logits(model, ids[rows, : width + new], start[rows], cache)  # (rows, V)
                if observe is not None:
                    observe(logits[live])
                chosen = choose(logits, rng.random(B)[rows], temperature, top_k, top_p)  # (rows,)
                ids[rows, width + new] = chosen
                stopped = live & np.isin(chosen, list(stop_ids))  # (rows,)
                lengths[rows[stopped]] = new
                live &= ~stopped & (limits[rows] > new + 1)
                if not live.any():
                    break
                if live.mean() <= 0.75:  # dropping finished rows copies the cache of all others, so not at every stop
                    if cache is not None:
                        cache.keep(np.flatnonzero(live))
                    rows, live = rows[live], live[live]
    finally:
        model.train(was_training)
    return [ids[row, width : width + lengths[row]].tolist() for row in range(B)]


def pad_left(prompts: Sequence[Sequence[int]], width: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (B, width + room) with prompts that all end at column `width`, and each row's first column, (B,)."""
    ids = np.zeros((len(prompts), width + room), np.int64)  # (B, W)
    start = np.array([width - len(prompt) for prompt in prompts], np.int64)  # (B,)
    for row, prompt in enumerate(prompts):
        ids[row, start[row] : width] = prompt
    return ids, start


def distinct(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Find repeated prompts: each distinct prompt's first row, (n,), and every row's index among them, (B,)."""
    numbers: dict[tuple[int, ...], int] = {}
    which = np.array([numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts], np.int64)  # (B,)
    return np.array([np.argmax(which == number) for number in range(len(numbers))], np.int64), which  # (n,), (B,)


def next_logits(model: GPT, ids: np.ndarray, start: np.ndarray, cache: KVCache | None) -> np.ndarray:
    """Logits of the next token, (B, V); ids: (B, W), all tokens so far; start: (B,), the column where each row begins.

    While the text fits into the context, the cache holds all columns but the newest, and the model computes only the newest.
    Beyond the context the window slides: every token's position drops by one a step, and since positions are added to the
    embeddings, all keys and values change. Nothing in the cache is then valid, and each step recomputes the window.
    (Relative or rotary positions would not need this.)
    """
    context, W = model.config.context, ids.shape[1]
    if cache is not None and W <= context:
        newest = ids[:, cache.length :]  # (B, T)
        key_start = start
    else:
        newest, cache = ids[:, -context:], None  # (B, T)
        key_start = np.maximum(start - (W - newest.shape[1]), 0)  # (B,)
    padded = key_start if key_start.any() else None  # without padding, attention need not mask it
    device = next(iter(model.parameters())).device
    idx = mg.as_tensor(np.ascontiguousarray(newest), device=device)  # (B, T)
    logits = model(idx, cache, padded, last_only=True)  # (B, 1, V)
    return logits.numpy(force=True)[:, -1, :]  # (B, V)


def check_sampling(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> None:
    """Raise ValueError for sampling settings out of range."""
    if temperature < 0 or not np.isfinite(temperature):
        raise ValueError(f"temperature must be at least 0 (0 takes the likeliest token), got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")


def warn_cropped(count: int, room: int) -> None:
    """Warn that `count` prompts lose their beginning, because only the last `room` tokens of each are read."""
    if count:
        warnings.warn(f"{count} prompt(s) longer than the context were cropped to their last {room} tokens", stacklevel=4)


def check(
    prompts: Sequence[Sequence[int]],
    limits: np.ndarray,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    context: int,
) -> None:
    """Raise ValueError for settings out of range; warn about prompts that must be cropped."""
    check_sampling(temperature, top_k, top_p)
    if (limits < 0).any():
        raise ValueError(f"max_new_tokens must be at least 0, got {limits.min()}")
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {i} is empty; give at least one token, such as the end-of-text token")
    warn_cropped(sum(len(prompt) > context for prompt in prompts), context)


@dataclass
class Settings(OnDevice):
    """Let a trained model write."""

    run: str = "runs/pretrain"  # run folder of the model, from chapter 7 or a later one
    prompt: tuple[str, ...] = ("",)  # texts to continue; an empty text starts from the end-of-text token
    max_new_tokens: int = 200  # largest number of new tokens
    temperature: float = 0.8  # sampling temperature: 0 takes the likeliest token, 1 leaves the distribution as it is
    top_k: int | None = None  # number of likeliest tokens to draw from
    top_p: float | None = None  # probability of the nucleus to draw from
    samples: int = 1  # continuations of each prompt
    seed: int = 0  # random seed
    cache: bool = True  # reuse keys and values, which changes the speed but not the text
    quick: bool = False  # at most 40 tokens


def main(settings: Settings) -> None:
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
    command(main, Settings, writes=None)
