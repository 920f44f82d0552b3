"""A task (Instruction), and the base class of all families of tasks (Family)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from chapters.world.facts import FOODS, PEOPLE, THINGS, TOWNS, TRADES, UNRECORDED, Facts, SeededRandom
from chapters.world.reading import denies, mentioned, numbers, well_formed, words

NOUNS = PEOPLE + TOWNS + TRADES + FOODS + THINGS + UNRECORDED
LISTS = ("count", "reverse", "first", "last")
MARKS = {  # word: the only families whose responses may contain it
    **dict.fromkeys(["price", "cost", "costs"], ("price", "compare")),
    **dict.fromkeys(["list", "things"], LISTS),
    **dict.fromkeys(["begins", "first"], ("first",)),
    **dict.fromkeys(["ends", "last"], ("last",)),
    **dict.fromkeys(["today", "yesterday"], ("rewrite",)),
    "coins": ("price",),
    "dearer": ("compare",),
    "backwards": ("reverse",),
    "sum": ("sum",),
    "left": ("take_away", "story"),
}


@dataclass(frozen=True)
class Instruction:
    """A task: the request (with Alpaca's `input`, which may be empty), a good response, the family and the key."""

    instruction: str
    input: str
    output: str
    family: str
    key: str


class Family:
    """A family of tasks.

    Attributes:
        name: the family's name.
        trained: False for a family that instruction tuning never sees.
        asks: phrasings of the request, templates that `draw` fills in.
        saying: a response needs one of these words, unless it is very short (see `fits`).
        may_deny, may_count: whether a response may deny something ("not", "nobody"), or contain a number.
    """

    name = ""
    trained = True
    asks: ClassVar[list[str]] = []
    saying: tuple[str, ...] = ()
    may_deny = may_count = False

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        """Draw an Instruction. split: "train", "test" (held-out entities) or "test_families" (any entity)."""
        raise NotImplementedError

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        """Whether the response does the task of this family with this key."""
        raise NotImplementedError

    def fits(self, response: str, nouns: Iterable[str]) -> bool:
        """The checks that all rules share.

        The response is well formed, denies nothing and has no number (unless this family may), and has no word of another
        family (MARKS). It mentions none of the world's people, places, trades and things except `nouns`. It has a word of
        `saying`, unless it has at most three words and at most one noun.
        """
        used, mentions = words(response), mentioned(response, NOUNS)
        very_short = len(used) <= 3 and len(mentions) <= 1
        return (
            well_formed(response)
            and (self.may_deny or not denies(response))
            and (self.may_count or not numbers(response))
            and all(self.name in MARKS.get(word, (self.name,)) for word in used)
            and set(mentions) <= set(nouns)
            and (not self.saying or very_short or bool(set(used) & set(self.saying)))
        )

    def task(self, instruction: str, output: str, key: str, input: str = "") -> Instruction:
        """An Instruction of this family."""
        return Instruction(instruction, input, output, self.name, key)

    def entity(self, facts: Facts, kind: str, split: str, rng: SeededRandom) -> str:
        """A random entity of a kind on this side of the split."""
        sides = ["train", "test"] if split == "test_families" else [split]
        return rng.pick([entity for side in sides for entity in facts.entities(kind, side)])
