"""What a task is (Instruction), and what all families of tasks share (Family)."""

from dataclasses import dataclass

from chapters.world.facts import FOODS, PEOPLE, THINGS, TOWNS, TRADES, UNRECORDED
from chapters.world.reading import mentioned, well_formed, words

NOUNS = PEOPLE + TOWNS + TRADES + FOODS + THINGS + UNRECORDED
LISTS = ("count", "reverse", "first", "last")
MARKS = {  # words by which the response to some families' tasks is known; in any other it is out of place
    "coins": ("price",), "price": ("price", "compare"), "cost": ("price", "compare"), "costs": ("price", "compare"),
    "dearer": ("compare",), "list": LISTS, "things": LISTS, "backwards": ("reverse",), "begins": ("first",),
    "first": ("first",), "ends": ("last",), "last": ("last",), "sum": ("sum",), "left": ("take_away", "story"),
    "today": ("rewrite",), "yesterday": ("rewrite",),
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One task: what is asked (with Alpaca's `input` or an empty one), one good response, its family and its key."""

    instruction: str
    input: str
    output: str
    family: str
    key: str


class Family:
    """What all families share. `asks` are the phrasings, filled in by `draw`; `trained` is False for the families that
    instruction tuning never sees."""

    name = ""
    trained = True
    asks = []

    def draw(self, facts, split, rng):
        """One Instruction. split: "train", "test" (entities never trained on) or "test_families" (any entity)."""
        raise NotImplementedError

    def accepts(self, facts, key, response):
        """Will this response do for the instance named by key?"""
        raise NotImplementedError

    def fits(self, response, nouns=NOUNS, saying=()):
        """What every rule begins with: the response is well formed, has no mark of another family, names none of the
        world's people, places, trades and things but `nouns`, and has a word of `saying` (where there are any), unless
        it is as curt as three words with one noun may be."""
        said, things = words(response), mentioned(response, NOUNS)
        return (
            well_formed(response)
            and all(self.name in MARKS.get(word, (self.name,)) for word in said)
            and set(things) <= set(nouns)
            and (not saying or bool(set(said) & set(saying)) or (len(said) <= 3 and len(things) <= 1))
        )

    def made(self, ask, output, key, given=""):
        return Instruction(ask, given, output, self.name, key)

    def entity(self, facts, kind, split, rng):
        sides = ["train", "test"] if split == "test_families" else [split]
        return rng.pick([entity for side in sides for entity in facts.entities(kind, side)])
