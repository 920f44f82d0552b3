"""How the rules read a response: plain string work, no model."""

import re

QUESTION_WORDS = "where what who whose whom how which when why is are does do did can could would will should".split()
LONGEST = 60  # words; every task of the world can be done in fewer


def words(text):
    """The words and numbers of a text in order, in small letters."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def mentioned(text, options):
    """Which of the options (words or short phrases) the text names, in the order of the first mention, each once."""
    said = f" {' '.join(words(text))} "
    places = {option: said.find(f" {option.lower()} ") for option in options}
    return sorted((option for option in options if places[option] >= 0), key=places.get)


def numbers(text):
    """The whole numbers of a text, in order."""
    return [int(word) for word in words(text) if word.isdigit()]


def sentences(text):
    """The sentences of a text: what stands before a full stop, a question mark or an exclamation mark."""
    return [part.strip() for part in re.findall(r"[^.!?]+[.!?]", text)]


def denies(text):
    """Does the text say that something is not so, or not known?"""
    return bool({"not", "no", "never", "nobody", "unknown", "cannot"} & set(words(text)))


def equations(text):
    """The sums written out in a text: [(a, "+" or "-", b, c)] of "a + b = c" and "a - b = c"."""
    found = re.findall(r"(\d+) *([+-]) *(\d+) *= *(\d+)", text)
    return [(int(a), sign, int(b), int(c)) for a, sign, b, c in found]


def well_formed(response):
    """One paragraph of whole sentences: it is not empty, asks nothing back, ends with a full stop or an exclamation
    mark, does not run into a new header or line, is not overlong and says no sentence twice."""
    text = response.strip()
    said = sentences(text)
    return (
        text.endswith((".", "!"))
        and not any(mark in text for mark in ("?", "\n", "###", "<|"))
        and len(words(text)) <= LONGEST
        and len(said) == len(set(said))
    )


def asks_a_question(text):
    """Does the text, a continuation, begin by asking another question?

    It does when its first sentence (list marks such as "2." or "Q:" aside) ends with a question mark; or, when the text
    breaks off before any sentence has ended, when its first word is a question word.
    """
    text = re.sub(r"^\s*(?:(?:\d+[.)]|[-*•]|Q[.:]|Question:)\s*)*", "", text)
    end = re.search(r"[.!?]", text)
    if end:
        return end.group() == "?"
    return bool(words(text)) and words(text)[0] in QUESTION_WORDS
