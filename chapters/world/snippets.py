"""Text cut off somewhere, for the classifier of chapter 10: mid-sentence, at a sentence's end, or at a paragraph's end?

The mark that would give it away (the full stop, the empty line) is cut off too: one has to know what can come next.
"""

from chapters.world.documents import biographies, day_out, story
from chapters.world.facts import held_out

LABELS = ("mid-sentence", "sentence boundary", "paragraph break")


def snippet(facts, split, label, dice):
    """(text, label): a document from its beginning up to a place of the given label (0, 1 or 2; see LABELS)."""
    while True:
        document = dice.pick([biographies, story, day_out])(facts, dice)
        places = cuts(document)[label]
        text = document[: dice.pick(places)]
        if held_out(text) == (split == "test"):
            return text, label


def cuts(document):
    """For each label the places at which a document can be cut: [between words], [before a full stop inside a
    paragraph], [before a paragraph's last full stop]."""
    places = ([], [], [])
    for i, character in enumerate(document):
        if character == " " and document[i - 1].isalnum():
            places[0].append(i)
        elif character == ".":
            places[2 if document[i + 1 : i + 3] in ("", "\n\n") else 1].append(i)
    return places
