"""How the rules read a response: plain string operations, no model."""

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


def equations(text: str) -> list[tuple[int, str, int, int]]:
    """(a, sign, b, c) of each "a + b = c" and "a - b = c" in a text."""
    matches = re.findall(r"(\d+) *([+-]) *(\d+) *= *(\d+)", text)
    return [(int(a), sign, int(b), int(c)) for a, sign, b, c in matches]


def well_formed(response: str) -> bool:
    """Whether the response is one paragraph of whole sentences.

    It is not empty, asks nothing back, ends with a full stop or an exclamation mark, starts no new line or header, is not
    too long and repeats no sentence.
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
    """Whether the text, a continuation, begins with another question.

    It does if its first sentence (without list marks such as "2." or "Q:") ends with a question mark, or, if the text
    breaks off before a sentence ends, if its first word is a question word.
    """
    text = re.sub(r"^\s*(?:(?:\d+[.)]|[-*•]|Q[.:]|Question:)\s*)*", "", text)
    end = re.search(r"[.!?]", text)
    if end:
        return end.group() == "?"
    return bool(words(text)) and words(text)[0] in QUESTION_WORDS
