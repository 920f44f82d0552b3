"""Pick a layer and a head of the base model, and see to which earlier tokens each token attends (chapter 4)."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch04_attention import attention_maps
from chapters.ch06_gpt import load_model
from chapters.interactive import Interactive
from chapters.interactive.tokenizer import spellings
from chapters.support.tokenizer_files import END_OF_TEXT

TEXTS, LONGEST = 4, 40  # paragraphs of the training text, and tokens in the longest


def attention_data(run: Path) -> dict[str, Any]:
    """Some paragraphs of the training text in tokens, with the attention weights of all layers and heads.

    The first is the one that repeats a token most: there the reader finds the heads that look for earlier mentions.
    """
    model, tokenizer = load_model(run / "pretrain")
    texts = [tokenizer.encode(text)[:LONGEST] for text in paragraphs(run / "world" / "documents.txt")]
    texts.sort(key=lambda ids: max(Counter(ids).values()) / len(ids), reverse=True)
    return {"texts": [with_maps(model, tokenizer, ids) for ids in texts]}


def paragraphs(path: Path) -> list[str]:
    """The beginnings of the first pages that differ in their first word, and so in their kind."""
    with path.open(encoding="utf-8") as file:
        pages = filter(str.strip, file.read(20_000).split(END_OF_TEXT))
    by_first_word: dict[str, str] = {}
    for page in pages:
        by_first_word.setdefault(page.split()[0], page.split("\n\n")[0])
    return list(by_first_word.values())[:TEXTS]


def with_maps(model: Any, tokenizer: Tokenizer, ids: list[int]) -> dict[str, Any]:
    """A text's tokens, and maps[layer][head][query]: weights of the keys up to the query, in thousandths."""
    maps = [[lower_triangle(head) for head in attention_maps(model, ids, layer)] for layer in range(model.config.n_layer)]
    return {"tokens": spellings(tokenizer, ids), "maps": maps}


def lower_triangle(weights: np.ndarray) -> list[list[int]]:
    """Row t of a map (T, T) up to the diagonal, in thousandths; the rest is the future, whose weight is 0."""
    thousandths = np.rint(1000 * weights).astype(int)  # (T, T)
    return [row[: t + 1].tolist() for t, row in enumerate(thousandths)]


ATTENTION = Interactive(
    "attention",
    "Which token attends to which",
    "These are the attention weights of your run's base model. Choose a layer and a head, then move over the tokens: the "
    "stronger a token's shade, the more the chosen token attends to it. Look for a head in which a name attends to its "
    "earlier mentions, and for another in which it attends to the token after them.",
    attention_data,
)
