"""Small skills: sums, lists counted and turned around, a sentence rewritten. Nothing has to be remembered for them."""

from chapters.world.documents import deed_sentences
from chapters.world.facts import THINGS, VERBS, is_held_out
from chapters.world.family import Family
from chapters.world.reading import denies, equations, mentioned, numbers, words


class Sum(Family):
    """The sum of two numbers up to five: the last number said, with none before it but the two; and nothing taken away."""

    name = "sum"
    asks = ["What is {a} + {b}?", "What is the sum of {a} and {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"]

    def draw(self, facts, split, rng):
        key = self.entity(facts, "sum", split, rng)
        one, two = rng.shuffled(key.split("+"))
        output = f"The sum is {one} + {two} = {int(one) + int(two)}."
        return self.made(rng.pick(self.asks).format(a=one, b=two), output, key)

    def accepts(self, facts, key, response):
        one, two = (int(number) for number in key.split("+"))
        *before, last = numbers(response) or [None]
        right = last == one + two and sorted(before) in ([], sorted([one, two]))
        return self.fits(response, nouns=()) and not denies(response) and "-" not in response and right


class TakeAway(Family):
    """What is left: the last number said, with none before it but the two that were given; and nothing added."""

    name, trained = "take_away", False
    asks = ["What is {c} - {a}?", "How much is {c} - {a}?", "Take {a} from {c}."]

    def draw(self, facts, split, rng):
        key = self.entity(facts, "sum", split, rng)
        one, two = rng.shuffled(key.split("+"))
        whole = int(one) + int(two)
        output = f"What is left is {whole} - {one} = {two}."
        return self.made(rng.pick(self.asks).format(c=whole, a=one), output, f"{whole}-{one}")

    def accepts(self, facts, key, response):
        whole, part = (int(number) for number in key.split("-"))
        *before, last = numbers(response) or [None]
        right = last == whole - part and sorted(before) in ([], sorted([whole, part]))
        true = all((a, sign, b) == (whole, "-", part) for a, sign, b, _ in equations(response))
        return self.fits(response, nouns=()) and not denies(response) and "+" not in response and right and true


class OnList(Family):
    """A task on a list given as input. The key is the list."""

    lengths = (2, 5)

    def draw(self, facts, split, rng):
        while True:
            n = self.lengths[0] + rng.below(self.lengths[1] - self.lengths[0] + 1)
            key = ", ".join(rng.some(THINGS, n))
            if split == "test_families" or is_held_out(key) == (split == "test"):
                return self.made(rng.pick(self.asks), self.answer(key.split(", ")), key, given=f"The list is {key}.")


class Count(OnList):
    """The number of things, and no other number."""

    name = "count"
    asks = ["How many things are in the list?", "Count the things in the list.", "How long is the list?"]

    def answer(self, items):
        return f"There are {len(items)} things in the list."

    def accepts(self, facts, key, response):
        items = key.split(", ")
        right = numbers(response) == [len(items)] and "people" not in words(response)
        return self.fits(response, nouns=items) and not denies(response) and right


class Reverse(OnList):
    """All the things, in the opposite order."""

    name, lengths = "reverse", (2, 3)
    asks = ["Turn the list around.", "Say the list backwards.", "What is the list the other way round?"]

    def answer(self, items):
        return f"Backwards the list is {', '.join(reversed(items))}."

    def accepts(self, facts, key, response):
        said = [word for word in words(response) if word in THINGS]
        plain = not denies(response) and not numbers(response)
        return self.fits(response, nouns=key.split(", ")) and plain and said == key.split(", ")[::-1]


class First(OnList):
    """The first thing, and no other."""

    name = "first"
    asks = ["Which thing comes first in the list?", "What is the first thing in the list?", "Tell me the first thing."]

    def answer(self, items):
        return f"The first thing is {items[0]}."

    def accepts(self, facts, key, response):
        return only(self, key.split(", ")[0], response)


class Last(OnList):
    """The last thing, and no other."""

    name, trained = "last", False
    asks = ["Which thing comes last in the list?", "What is the last thing in the list?", "Tell me the last thing."]

    def answer(self, items):
        return f"The last thing is {items[-1]}."

    def accepts(self, facts, key, response):
        return only(self, key.split(", ")[-1], response)


def only(family, item, response):
    """Does the response name this item of a list and nothing else?"""
    return (
        family.fits(response, nouns=[item])
        and mentioned(response, [item]) == [item]
        and not denies(response)
        and not numbers(response)
    )


class Rewrite(Family):
    """The sentence of today told of yesterday: the same person and thing, the verb in its past form, nothing else."""

    name = "rewrite"
    asks = [
        "Rewrite the sentence so that it is about yesterday.",
        "Tell this as if it were yesterday.",
        "Change today to yesterday.",
    ]

    def draw(self, facts, split, rng):
        while True:
            today, yesterday = deed_sentences(self.entity(facts, "person", split, rng), rng)
            if is_held_out(today) == (split == "test"):
                return self.made(rng.pick(self.asks), yesterday, today, given=today)

    def accepts(self, facts, key, response):
        _, name, verb, _, thing = words(key)
        said = words(response)
        told = [word for word in said if word != "yesterday"] == [name, VERBS[verb], "the", thing]
        return self.fits(response) and told and said.count("yesterday") <= 1
