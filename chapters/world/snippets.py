"""Texts for the classifier of chapter 10, cut off inside a sentence, at the end of a sentence, or at the end of a paragraph.

The full stop or the empty line, which would give the label away, is cut off too. A text cut inside a sentence stops after a
word that could also end a sentence. So the last word alone does not give the label: the classifier has to know what can
follow. Pretraining reads pages like these, even some of the test texts, but never a label.
"""

from chapters.world.documents import biographies, day_out, register, story
from chapters.world.facts import FOODS, KINDS, TOWNS, TRADES, Facts, SeededRandom, is_held_out

ENDINGS = frozenset(TOWNS + TRADES + FOODS + KINDS["animal"] + KINDS["fruit"] + KINDS["tool"])
LABELS = ("mid-sentence", "sentence boundary", "paragraph break")


def snippet(facts: Facts, split: str, label: int, rng: SeededRandom) -> tuple[str, int]:
    """(text, label): a document up to a random cut with this label, an index of LABELS."""
    while True:
        document = rng.pick([biographies, register, story, day_out])(facts, rng)
        places = find_cuts(document)[label]
        text = document[: rng.pick(places)] if places else ""
        if text and is_held_out(text) == (split == "test"):
            return text, label


def find_cuts(document: str) -> tuple[list[int], list[int], list[int]]:
    """The offsets at which a document can be cut, a list for each label in the order of LABELS.

    They lie after a word of ENDINGS inside a sentence, before a full stop inside a paragraph, and before the last full
    stop of a paragraph.
    """
    cuts: tuple[list[int], list[int], list[int]] = [], [], []
    mid_sentence, sentence, paragraph = cuts
    for i, character in enumerate(document):
        if character in " ," and document[:i].rsplit(" ", 1)[-1] in ENDINGS:
            mid_sentence.append(i)
        elif character == ".":
            (paragraph if document[i + 1 : i + 3] in ("", "\n\n") else sentence).append(i)
    return cuts
