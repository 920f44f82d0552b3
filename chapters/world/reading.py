"""The string operations with which the rules read a response; no model takes part."""

import re
from collections.abc import Iterable

QUESTION_WORDS = "where what who whose whom how which when why is are does do did can could would will should".split()
LONGEST = 60  # words; every task of the world needs fewer


def words(text: str) -> list[str]:
    """The words and numbers of a text in order, in lower case."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def mentioned(text: str, options: Iterable[str]) -> list[str]:
    """The options (words or short phrases) that occur in the text, each once, in the order of their first occurrence."""
    spaced = f" {' '.join(words(text))} "
    places = {option: spaced.find(f" {option.lower()} ") for option in options}
    return sorted((option for option in places if places[option] >= 0), key=places.__getitem__)


def numbers(text: str) -> list[int]:
    """The whole numbers of a text, in order."""
    return [int(word) for word in words(text) if word.isdigit()]


def sentences(text: str) -> list[str]:
    """The sentences of a text, each up to its full stop, question mark or exclamation mark."""
    return [part.strip() for part in re.findall(r"[^.!?]+[.!?]", text)]


def denies(text: str) -> bool:
    """Whether the text says that something is not so or not known."""
    return bool({"not", "no", "never", "nobody", "unknown", "cannot"} & set(words(text)))


def well_formed(response: str) -> bool:
    """Whether the response is one paragraph of whole sentences, ends with "." or "!", and has at most LONGEST words.

    It must contain no question, no header and no repeated sentence.
    """
    text = response.strip()
    parts = sentences(text)
    return (
        text.endswith((".", "!"))
        and not any(mark in text for mark in ("?", "\n", "###", "<|"))
        and len(words(text)) <= LONGEST
        and len(parts) == len(set(parts))
    )


def asks_a_question(text: str) -> bool:
    """Whether the first sentence of the text is a question; list marks such as "2." or "Q:" do not count.

    A sentence that breaks off before its end is a question if its first word is a question word.
    """
    text = re.sub(r"^\s*(?:(?:\d+[.)]|[-*•]|Q[.:]|Question:)\s*)*", "", text)
    end = re.search(r"[.!?]", text)
    if end:
        return end.group() == "?"
    return bool(words(text)) and words(text)[0] in QUESTION_WORDS
