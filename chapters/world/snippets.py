"""Text cut off somewhere, for the classifier of chapter 10: mid-sentence, at a sentence's end, or at a paragraph's end?

The body has read pages like these, some of the test's texts among them, but never a label.

The mark that would give it away (the full stop, the empty line) is cut off too, and a text cut mid-sentence stops at a
word with which a sentence could also have ended: one has to know what can come next, not just which word came last.
"""

from chapters.world.documents import biographies, day_out, register, story
from chapters.world.facts import FOODS, KINDS, TOWNS, TRADES, is_held_out

ENDINGS = frozenset(TOWNS + TRADES + FOODS + KINDS["animal"] + KINDS["fruit"] + KINDS["tool"])
LABELS = ("mid-sentence", "sentence boundary", "paragraph break")


def snippet(facts, split, label, rng):
    """(text, label): a document from its beginning up to a place of the given label (0, 1 or 2; see LABELS)."""
    while True:
        document = rng.pick([biographies, register, story, day_out])(facts, rng)
        places = cuts(document)[label]
        text = document[: rng.pick(places)] if places else ""
        if text and is_held_out(text) == (split == "test"):
            return text, label


def cuts(document):
    """For each label the places at which a document can be cut: [after a word of ENDINGS inside a sentence], [before a
    full stop inside a paragraph], [before a paragraph's last full stop]."""
    places = ([], [], [])
    for i, character in enumerate(document):
        if character in " ," and document[:i].rsplit(" ", 1)[-1] in ENDINGS:
            places[0].append(i)
        elif character == ".":
            places[2 if document[i + 1 : i + 3] in ("", "\n\n") else 1].append(i)
    return places
