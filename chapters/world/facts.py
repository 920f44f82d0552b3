"""The people and things of the little world, and the facts about them.

The same seed gives the same bytes on every machine. All random choices go through `SeededRandom`, whose only source is
`random.Random.random()`: Python guarantees that its sequence never changes, and gives no such guarantee for `choice`,
`shuffle` or `sample`. No code iterates over a set or calls `hash()`.
"""

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# Names are short, so that a vocabulary of a thousand tokens has a token for nearly every word. Nouns that follow "a"
# begin with a consonant.
PEOPLE = """
Ada Alma Anna Arlo Axel Bela Bram Cleo Cora Dana Dora Egon Ella Emil Enzo Esme Finn Gia Greta Hana Hugo Ida Iris Jon
Kara Kira Kurt Lara Lea Lena Leo Lina Lola Luca Malik Milo Mira Nadia Nell Nico Nils Nina Noa Nora Olaf Olga Omar Oren
Oskar Otto Pablo Paul Pia Pola Raul Remy Rita Rolf Rosa Ruth Sami Sara Saul Sven Tess Theo Tilda Timo Tom Uma Una Vera
Vito Walt Wanda Yara Yuri Zara Zeno Zita
""".split()
TOWNS = "Arden Belmo Corby Dunlo Farn Holt Kesh Lorn Pell Selby Tarn Wick".split()
TRADES = """
baker miller tailor potter weaver farmer doctor teacher singer painter mason sailor
""".split()
FOODS = """
bread cheese honey butter milk salt flour rice ham tea corn cream sugar beef pepper oil
""".split()
KINDS = {  # the things in lists
    "fruit": "plum pear fig cherry peach lemon grape melon".split(),
    "vegetable": "leek beet bean carrot turnip radish pea potato".split(),
    "animal": "cat dog hen goat horse duck mouse frog".split(),
    "tool": "hammer rake spade knife ladder needle bucket lamp".split(),
}
THINGS = [thing for things in KINDS.values() for thing in things]
KIND_OF = {thing: kind for kind, things in KINDS.items() for thing in things}
DISH_FORMS = "soup pie stew salad".split()
STAPLES = "milk salt honey butter flour oil pepper sugar".split()  # further ingredients of a dish
VERBS = dict(sells="sold", buys="bought", finds="found", brings="brought", wants="wanted", paints="painted")  # present: past
UNRECORDED = ["birthday", "shoe size", "middle name", "lucky number", "best friend", "favourite song"]  # no page states them
LARGEST_ADDEND = 5


class SeededRandom:
    """Random choices from a seed (any text or number), the same on every machine."""

    def __init__(self, seed: object):
        self.random = random.Random(str(seed)).random

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return int(self.random() * n)

    def pick(self, options: Sequence[T]) -> T:
        """An element of a list."""
        return options[int(self.random() * len(options))]

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.random() < p

    def sample(self, options: Iterable[T], n: int) -> list[T]:
        """n different elements in random order (Fisher and Yates's shuffle, stopped after n)."""
        options = list(options)
        for i in range(n):
            j = i + self.below(len(options) - i)
            options[i], options[j] = options[j], options[i]
        return options[:n]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All elements in random order."""
        return self.sample(options, len(options))


@dataclass(frozen=True)
class Person:
    """An inhabitant and the four facts about them."""

    name: str
    town: str
    trade: str
    food: str  # favourite food
    pet: str


class Facts:
    """The facts of the world with this seed, and the entities that instruction tuning never asks about.

    Attributes:
        people: {name: Person}.
        members: {town or trade: names of its people}.
        prices: {food: coins}, all different.
        recipes: {dish: its three ingredients}.
        train, test: {kind: entities}, the two sides of the split.
    """

    def __init__(self, seed: int = 0):
        rng = SeededRandom(f"facts/{seed}")
        names = rng.shuffled(PEOPLE)
        towns, trades, foods, pets = (deal(rng, options, len(names)) for options in (TOWNS, TRADES, FOODS, KINDS["animal"]))
        self.people = {name: Person(name, *facts) for name, *facts in zip(names, towns, trades, foods, pets, strict=True)}
        self.members = {g: [n for n, p in self.people.items() if g in (p.town, p.trade)] for g in TOWNS + TRADES}
        self.prices = dict(zip(rng.shuffled(FOODS), range(2, 2 + len(FOODS)), strict=True))
        self.recipes: dict[str, list[str]] = {}
        for thing in KINDS["fruit"] + KINDS["vegetable"]:
            self.recipes[f"{thing} {rng.pick(DISH_FORMS)}"] = [thing, *rng.sample(STAPLES, 2)]

        entities = {
            "person": names,
            "group": TOWNS + TRADES,
            "food": FOODS,
            "dish": list(self.recipes),
            "thing": THINGS,
            "sum": [f"{a}+{b}" for a in range(1, LARGEST_ADDEND + 1) for b in range(a, LARGEST_ADDEND + 1)],
            "pair": [f"{a}/{b}" for a in FOODS for b in FOODS if a < b],
        }
        # A random fifth of each kind is held out. The test lists keep the order in which they were drawn: picks depend on it.
        self.test = {kind: rng.sample(keys, round(len(keys) / 5)) for kind, keys in entities.items()}
        self.train = {kind: [k for k in keys if k not in self.test[kind]] for kind, keys in entities.items()}

    def entities(self, kind: str, split: str) -> list[str]:
        """The entities of a kind (person, group, food, dish, thing, sum, pair) on the train or the test side."""
        return (self.train if split == "train" else self.test)[kind]


def is_held_out(text: str) -> bool:
    """Whether a text (a list of words, a sentence) is on the test side: its checksum puts a fifth of all texts there.

    There are too many possible texts to list and draw from.
    """
    return zlib.crc32(text.encode()) % 5 == 0


def deal(rng: SeededRandom, options: Sequence[T], n: int) -> list[T]:
    """n values in random order, in which every option occurs equally often, or some occur once more."""
    return rng.shuffled([options[i % len(options)] for i in range(n)])
