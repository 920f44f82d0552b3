"""The tasks: for each family, how it is asked for, how it is done, and the rule that says whether a response will do.

A family is a small class. `draw` makes one Instruction from an entity or instance on the given side of the split;
`accepts` reads a response. Every rule begins with `well_formed` (whole sentences, no question back, a clean end); then
the right fact must be there and none that contradicts it. `key` names the instance ("Mira", "3+5", "plum, rake, dog"):
the rule finds the truth by it, and no key of one split ever occurs in the other.

To add a family (a later chapter adds requests to be refused), write a class and put it into FAMILIES.
"""

from dataclasses import dataclass

from chapters.world.documents import a, deed, short_story
from chapters.world.facts import FOODS, KIND_OF, KINDS, PEOPLE, THINGS, TOWNS, TRADES, UNRECORDED, VERBS
from chapters.world.facts import held_out as is_held_out
from chapters.world.reading import denies, named, numbers, sentences, well_formed, words


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

    def draw(self, facts, split, dice):
        """One Instruction. split: "train", "test" (entities never trained on) or "test_families" (any entity)."""
        raise NotImplementedError

    def accepts(self, facts, key, response):
        """Will this response do for the instance named by key?"""
        raise NotImplementedError

    def made(self, ask, output, key, given=""):
        return Instruction(ask, given, output, self.name, key)

    def entity(self, facts, kind, split, dice):
        sides = ["train", "test"] if split == "test_families" else [split]
        return dice.pick([entity for side in sides for entity in facts.entities(kind, side)])


# ── facts about people ───────────────────────────────────────────────────────────────────────────────────────────────


class PersonFact(Family):
    """One fact about one person: the right value is named, no other value, and nobody else."""

    fact, values, answers = "", [], []

    def draw(self, facts, split, dice):
        person = facts.people[self.entity(facts, "person", split, dice)]
        return self.made(
            dice.pick(self.asks).format(name=person.name), dice.pick(self.answers).format(**vars(person)), person.name
        )

    def accepts(self, facts, key, response):
        right = getattr(facts.people[key], self.fact)
        return (
            well_formed(response)
            and not denies(response)
            and named(response, self.values) == [right]
            and named(response, PEOPLE) in ([], [key])
        )


class Town(PersonFact):
    name, fact, values = "town", "town", TOWNS
    asks = ["Where does {name} live?", "In which town does {name} live?", "Tell me where {name} lives.",
            "Which town is the home of {name}?"]  # fmt: skip
    answers = ["These days {name} lives in {town}."]


class Trade(PersonFact):
    name, fact, values = "trade", "trade", TRADES
    asks = ["What does {name} do for work?", "What is the trade of {name}?", "Tell me what {name} does for work.",
            "Which trade does {name} have?"]  # fmt: skip
    answers = ["By trade {name} is a {trade}."]


class Food(PersonFact):
    name, fact, values = "food", "food", FOODS
    asks = ["What does {name} like to eat?", "Which food does {name} like most?", "Tell me what {name} likes to eat.",
            "What is the favourite food of {name}?"]  # fmt: skip
    answers = ["Most of all {name} likes {food}."]


class Pet(PersonFact):
    name, fact, values, trained = "pet", "pet", KINDS["animal"], False
    asks = ["Which pet does {name} keep?", "What animal lives with {name}?", "Tell me which pet {name} keeps."]
    answers = ["At home {name} keeps a {pet}."]


def true_of(facts, people, response):
    """Is every town, trade, food and animal that the response names a fact of one of these people?"""
    true = [value for name in people for value in vars(facts.people[name]).values()]
    return all(value in true for value in named(response, TOWNS + TRADES + FOODS + KINDS["animal"]))


class Describe(Family):
    """Two facts or more about the person, all of them right."""

    name = "describe"
    asks = ["Describe {name}.", "Who is {name}?", "Tell me about {name}.", "Say two things about {name}."]

    def draw(self, facts, split, dice):
        person = facts.people[self.entity(facts, "person", split, dice)]
        chosen = dice.some([Town, Trade, Food], 2)
        output = " ".join(dice.pick(family.answers) for family in chosen).format(**vars(person))
        return self.made(dice.pick(self.asks).format(name=person.name), output, person.name)

    def accepts(self, facts, key, response):
        told = named(response, TOWNS + TRADES + FOODS + KINDS["animal"])
        return (
            well_formed(response)
            and not denies(response)
            and named(response, PEOPLE) == [key]
            and len(told) >= 2
            and true_of(facts, [key], response)
        )


class Story(Family):
    """Two sentences or more about the person; whatever town, trade, food or animal is named belongs to them, or to
    somebody else whom the story names."""

    name = "story"
    asks = ["Tell a short story about {name}.", "Write a story about {name}.", "Can you tell me a story about {name}?"]

    def draw(self, facts, split, dice):
        person = facts.people[self.entity(facts, "person", split, dice)]
        return self.made(dice.pick(self.asks).format(name=person.name), short_story(person, dice), person.name)

    def accepts(self, facts, key, response):
        people = named(response, PEOPLE)
        return (
            well_formed(response)
            and key in people
            and len(sentences(response)) >= 2
            and true_of(facts, people, response)
        )


class Unknown(Family):
    """A matter that no page records: the response says that it is not known, names the matter, and makes nothing up."""

    name = "unknown"
    asks = ["What is the {matter} of {name}?", "Tell me the {matter} of {name}.", "Do you know the {matter} of {name}?"]

    def draw(self, facts, split, dice):
        name, matter = self.entity(facts, "person", split, dice), dice.pick(UNRECORDED)
        ask = dice.pick(self.asks).format(name=name, matter=matter)
        return self.made(ask, f"I do not know the {matter} of {name}.", f"{name}/{matter}")

    def accepts(self, facts, key, response):
        name, matter = key.split("/")
        return (
            well_formed(response)
            and denies(response)
            and named(response, UNRECORDED) in ([], [matter])
            and named(response, PEOPLE) in ([], [name])
            and not numbers(response)
            and not named(response, TOWNS + TRADES + FOODS + THINGS)
        )


# ── towns, trades, markets, kitchens ─────────────────────────────────────────────────────────────────────────────────


class Member(Family):
    """Somebody of a town or of a trade (or more people than one), and nobody who does not belong there."""

    name = "member"
    asks = ["Name somebody who {does}.", "Who {does}?", "Tell me somebody who {does}."]

    def draw(self, facts, split, dice):
        group = self.entity(facts, "group", split, dice)
        does = f"lives in {group}" if group in TOWNS else f"works as a {group}"
        # In training only people of the training side are named, so that no response gives away a held-out person.
        members = [n for n in self.members(facts, group) if split != "train" or n in facts.train["person"]]
        return self.made(dice.pick(self.asks).format(does=does), f"Somebody who {does} is {dice.pick(members)}.", group)

    def members(self, facts, group):
        return facts.residents[group] if group in TOWNS else facts.masters[group]

    def accepts(self, facts, key, response):
        people = named(response, PEOPLE)
        return (
            well_formed(response)
            and not denies(response)
            and len(people) >= 1
            and all(name in self.members(facts, key) for name in people)
            and named(response, TOWNS + TRADES) in ([], [key])
        )


class Price(Family):
    """The number of coins, and no other number or food."""

    name = "price"
    asks = ["What is the price of {food}?", "How much does {food} cost?", "How many coins do I need for {food}?",
            "Tell me the price of {food}."]  # fmt: skip

    def draw(self, facts, split, dice):
        food = self.entity(facts, "food", split, dice)
        output = f"The price of {food} is {facts.prices[food]} coins."
        return self.made(dice.pick(self.asks).format(food=food), output, food)

    def accepts(self, facts, key, response):
        return (
            well_formed(response)
            and not denies(response)
            and numbers(response) == [facts.prices[key]]
            and named(response, FOODS) in ([], [key])
        )


class Compare(Family):
    """The dearer of two foods: it is named alone or with "more", and never the cheaper one with "more"."""

    name = "compare"
    asks = ["Which costs more, {one} or {other}?", "Which is dearer, {one} or {other}?",
            "Between {one} and {other}, which costs more?"]  # fmt: skip

    def draw(self, facts, split, dice):
        key = self.entity(facts, "pair", split, dice)
        one, other = dice.shuffled(key.split("/"))
        dearer = max(one, other, key=facts.prices.get)
        return self.made(dice.pick(self.asks).format(one=one, other=other), f"Of the two, {dearer} costs more.", key)

    def accepts(self, facts, key, response):
        less, more = sorted(key.split("/"), key=facts.prices.get)
        foods = named(response, FOODS)
        claims_less = {"less", "cheaper"} & set(words(response))
        return (
            well_formed(response)
            and not denies(response)
            and not numbers(response)
            and (foods == [more] or foods == [more, less])
            and not claims_less
        )


class Recipe(Family):
    """All three ingredients of the dish, and nothing else."""

    name = "recipe"
    asks = ["What goes into {dish}?", "What do I need for {dish}?", "How do I make {dish}?",
            "List what goes into {dish}."]  # fmt: skip

    def draw(self, facts, split, dice):
        dish = self.entity(facts, "dish", split, dice)
        first, *rest = facts.recipes[dish]
        one, two = dice.shuffled(rest)
        return self.made(dice.pick(self.asks).format(dish=dish), f"For {dish} you need {first}, {one} and {two}.", dish)

    def accepts(self, facts, key, response):
        return (
            well_formed(response)
            and not denies(response)
            and sorted(named(response, FOODS + THINGS)) == sorted(facts.recipes[key])
        )


class Classify(Family):
    """The kind of a thing, and no other kind. Half of them give the thing as input."""

    name = "classify"
    asks = ["What kind of thing is a {thing}?", "Which kind of thing is a {thing}?", "Tell me what a {thing} is."]
    asks_of_input = ["What kind of thing is this?", "Tell me what kind of thing this is."]

    def draw(self, facts, split, dice):
        thing = self.entity(facts, "thing", split, dice)
        output = f"A {thing} is {a(KIND_OF[thing])}."
        if dice.chance(0.5):
            return self.made(dice.pick(self.asks).format(thing=thing), output, thing)
        return self.made(dice.pick(self.asks_of_input), output, thing, given=f"This is a {thing}.")

    def accepts(self, facts, key, response):
        return (
            well_formed(response)
            and not denies(response)
            and named(response, list(KINDS)) == [KIND_OF[key]]
            and named(response, THINGS) in ([], [key])
        )


# ── small skills ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Sum(Family):
    """The sum of two numbers up to five: the last number said, with none before it but the two."""

    name = "sum"
    asks = ["What is {a} + {b}?", "What is the sum of {a} and {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"]

    def draw(self, facts, split, dice):
        key = self.entity(facts, "sum", split, dice)
        one, two = dice.shuffled(key.split("+"))
        return self.made(dice.pick(self.asks).format(a=one, b=two), f"The sum is {one} + {two} = {int(one) + int(two)}.", key)

    def accepts(self, facts, key, response):
        one, two = (int(number) for number in key.split("+"))
        *before, last = numbers(response) or [None]
        return well_formed(response) and not denies(response) and last == one + two and set(before) <= {one, two}


class TakeAway(Family):
    """What is left: the last number said, with none before it but the two that were given."""

    name, trained = "take_away", False
    asks = ["What is {c} - {a}?", "How much is {c} - {a}?", "Take {a} from {c}."]

    def draw(self, facts, split, dice):
        key = self.entity(facts, "sum", split, dice)
        one, two = dice.shuffled(key.split("+"))
        whole = int(one) + int(two)
        return self.made(dice.pick(self.asks).format(c=whole, a=one), f"What is left is {whole} - {one} = {two}.", f"{whole}-{one}")

    def accepts(self, facts, key, response):
        whole, part = (int(number) for number in key.split("-"))
        *before, last = numbers(response) or [None]
        return well_formed(response) and not denies(response) and last == whole - part and set(before) <= {whole, part}


class OnList(Family):
    """A task on a list given as input. The key is the list."""

    lengths = (2, 5)

    def draw(self, facts, split, dice):
        while True:
            n = self.lengths[0] + dice.below(self.lengths[1] - self.lengths[0] + 1)
            key = ", ".join(dice.some(THINGS, n))
            if split == "test_families" or is_held_out(key) == (split == "test"):
                return self.made(dice.pick(self.asks), self.answer(key.split(", ")), key, given=f"The list is {key}.")


class Count(OnList):
    """The number of things, and no other number."""

    name = "count"
    asks = ["How many things are in the list?", "Count the things in the list.", "How long is the list?"]

    def answer(self, items):
        return f"There are {len(items)} things in the list."

    def accepts(self, facts, key, response):
        return well_formed(response) and not denies(response) and numbers(response) == [len(key.split(", "))]


class Reverse(OnList):
    """All the things, in the opposite order."""

    name, lengths = "reverse", (2, 3)
    asks = ["Turn the list around.", "Say the list backwards.", "What is the list the other way round?"]

    def answer(self, items):
        return f"Backwards the list is {', '.join(reversed(items))}."

    def accepts(self, facts, key, response):
        said = [word for word in words(response) if word in THINGS]
        return well_formed(response) and said == key.split(", ")[::-1]


class First(OnList):
    """The first thing, and no other."""

    name = "first"
    asks = ["Which thing comes first in the list?", "What is the first thing in the list?", "Tell me the first thing."]

    def answer(self, items):
        return f"The first thing is {items[0]}."

    def accepts(self, facts, key, response):
        return well_formed(response) and not denies(response) and named(response, THINGS) == [key.split(", ")[0]]


class Last(OnList):
    """The last thing, and no other."""

    name, trained = "last", False
    asks = ["Which thing comes last in the list?", "What is the last thing in the list?", "Tell me the last thing."]

    def answer(self, items):
        return f"The last thing is {items[-1]}."

    def accepts(self, facts, key, response):
        return well_formed(response) and not denies(response) and named(response, THINGS) == [key.split(", ")[-1]]


class Rewrite(Family):
    """The sentence of today told of yesterday: the same person and thing, the verb in its past form, nothing else."""

    name = "rewrite"
    asks = ["Rewrite the sentence so that it is about yesterday.", "Tell this as if it were yesterday.",
            "Change today to yesterday."]  # fmt: skip

    def draw(self, facts, split, dice):
        while True:
            today, yesterday = deed(self.entity(facts, "person", split, dice), dice)
            if is_held_out(today) == (split == "test"):
                return self.made(dice.pick(self.asks), yesterday, today, given=today)

    def accepts(self, facts, key, response):
        _, name, verb, _, thing = words(key)
        said = words(response)
        return (
            well_formed(response)
            and [word for word in said if word != "yesterday"] == [name, VERBS[verb], "the", thing]
        )


FAMILIES = {
    family.name: family
    for family in (
        Town(), Trade(), Food(), Describe(), Story(), Unknown(), Member(), Price(), Compare(), Recipe(), Classify(),
        Sum(), Count(), Reverse(), First(), Rewrite(), Pet(), TakeAway(), Last(),
    )
}  # fmt: skip
