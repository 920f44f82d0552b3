"""What there is in the little world, and what is true of it.

Everything is drawn from one seed with `Dice`, whose only source is `random.Random.random()`: Python promises that this
sequence never changes between versions or machines, which it does not promise of `choice`, `shuffle` or `sample`.
No set is ever iterated and `hash()` is never called, so the same seed gives the same bytes everywhere.
"""

import random
import zlib
from dataclasses import dataclass

# All names are short, and start with a consonant where "a" has to stand before them, so that a vocabulary of a thousand
# tokens can hold nearly every word whole.
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
KINDS = {  # the things that lists are made of
    "fruit": "plum pear fig cherry peach lemon grape melon".split(),
    "vegetable": "leek beet bean carrot turnip radish pea potato".split(),
    "animal": "cat dog hen goat horse duck mouse frog".split(),
    "tool": "hammer rake spade knife ladder needle bucket lamp".split(),
}
THINGS = [thing for things in KINDS.values() for thing in things]
KIND_OF = {thing: kind for kind, things in KINDS.items() for thing in things}
DISH_FORMS = "soup pie stew salad".split()
STAPLES = "milk salt honey butter flour oil pepper sugar".split()  # what else goes into a dish
VERBS = {  # today: yesterday
    "sells": "sold",
    "buys": "bought",
    "finds": "found",
    "brings": "brought",
    "wants": "wanted",
    "paints": "painted",
}
UNRECORDED = ["birthday", "shoe size", "middle name", "lucky number", "best friend", "favourite song"]  # nobody knows
LARGEST_ADDEND = 5


class SeededRandom:
    """Seeded choices that are the same on every machine. `seed` is any text or number."""

    def __init__(self, seed):
        self.random = random.Random(str(seed)).random

    def below(self, n):
        """A whole number from 0 to n - 1."""
        return int(self.random() * n)

    def pick(self, options):
        """One of a list."""
        return options[int(self.random() * len(options))]

    def chance(self, p):
        """True with probability p."""
        return self.random() < p

    def some(self, options, n):
        """n different ones of a list, in random order (Fisher and Yates's shuffle, stopped after n)."""
        options = list(options)
        for i in range(n):
            j = i + self.below(len(options) - i)
            options[i], options[j] = options[j], options[i]
        return options[:n]

    def shuffled(self, options):
        """The whole list in random order."""
        return self.some(options, len(options))


@dataclass(frozen=True)
class Person:
    """One inhabitant and all that is on record: four facts."""

    name: str
    town: str
    trade: str
    food: str  # what they like most
    pet: str


class Facts:
    """What is true in the world of one seed, and which of it is held out from instruction tuning.

    `people`: {name: Person}; `prices`: {food: coins}; `recipes`: {dish: three ingredients}; `residents`: {town: names};
    `masters`: {trade: names}. `is_test(kind, key)` says on which side of the split an entity or instance falls.
    """

    def __init__(self, seed=0):
        rng = SeededRandom(f"facts/{seed}")
        names = rng.shuffled(PEOPLE)
        towns, trades, foods, pets = (dealt(rng, options, len(names)) for options in (TOWNS, TRADES, FOODS, KINDS["animal"]))
        self.people = {name: Person(name, *facts) for name, *facts in zip(names, towns, trades, foods, pets, strict=True)}
        self.residents = {town: [n for n, p in self.people.items() if p.town == town] for town in TOWNS}
        self.masters = {trade: [n for n, p in self.people.items() if p.trade == trade] for trade in TRADES}
        self.prices = dict(zip(rng.shuffled(FOODS), range(2, 2 + len(FOODS)), strict=True))  # all different
        self.recipes = {}
        for thing in KINDS["fruit"] + KINDS["vegetable"]:
            self.recipes[f"{thing} {rng.pick(DISH_FORMS)}"] = [thing, *rng.some(STAPLES, 2)]

        entities = {
            "person": names,
            "group": TOWNS + TRADES,
            "food": FOODS,
            "dish": list(self.recipes),
            "thing": THINGS,
            "sum": [f"{a}+{b}" for a in range(1, LARGEST_ADDEND + 1) for b in range(a, LARGEST_ADDEND + 1)],
            "pair": [f"{a}/{b}" for a in FOODS for b in FOODS if a < b],
        }
        # A fifth of each kind is held out, drawn; the order in which they were drawn is kept, for choosing among them.
        self.test = {kind: rng.some(keys, round(len(keys) / 5)) for kind, keys in entities.items()}
        self.train = {kind: [k for k in keys if k not in self.test[kind]] for kind, keys in entities.items()}

    def entities(self, kind, split):
        """The entities of a kind (person, group, food, dish, thing, sum, pair) on one side of the split."""
        return (self.train if split == "train" else self.test)[kind]


def is_held_out(text):
    """Which side an instance with too many possibilities to list (a list of words, a sentence) falls on: a fifth of all
    texts, by checksum, which is the same on every machine."""
    return zlib.crc32(text.encode()) % 5 == 0


def dealt(rng, options, n):
    """n values, every option as often as any other (or once more), in random order."""
    return rng.shuffled([options[i % len(options)] for i in range(n)])
