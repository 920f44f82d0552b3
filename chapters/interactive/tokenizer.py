"""Type a text, and watch byte-pair encoding merge its bytes into tokens (chapter 1)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chapters.ch01_tokenizer import CharTokenizer, Tokenizer
from chapters.ch06_gpt import load_model
from chapters.interactive import Interactive

SAMPLES = {
    "a sentence of the world": "By trade Mira is a baker, and the price of bread is 4 coins.",
    "words that training never saw": "Unbelievably, the transformer's tokenizer stumbles over hexadecimal numbers.",
    "other scripts": "naïve café · こんにちは · שלום · 👩‍🚀",
}


def vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer as bpe.js wants it: the tokens in the order of their ranks, the pattern, and the id of "<|endoftext|>".

    Raises:
        ValueError: if its tokens are characters, which nothing merges.
    """
    if isinstance(tokenizer, CharTokenizer):
        raise ValueError(
            "tokenizer: expected tokens made of bytes, got characters; give a main job's folder, such as runs/main"
        )
    return {"tokens": spellings(tokenizer, range(len(tokenizer.ranks))), "pattern": tokenizer.pattern, "end": tokenizer.eos_id}


def spellings(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Each token as a string with one character per byte, because JSON has no bytes."""
    return [piece.decode("latin-1") for piece in tokenizer.pieces(ids)]


def tokenizer_data(run: Path) -> dict[str, Any]:
    """The base model's vocabulary, and texts to begin with."""
    _, tokenizer = load_model(run / "pretrain")
    return {"vocabulary": vocabulary(tokenizer), "samples": SAMPLES}


TOKENIZER = Interactive(
    "tokenizer",
    "How a text becomes tokens",
    "This is your run's tokenizer. Type a text: every token begins as one byte, and each step joins the pair of neighbours "
    "that training learned first. Try a word that the training text lacks, or a letter outside ASCII, which is several "
    "bytes.",
    tokenizer_data,
)
