"""Small skills that need no facts: sums, lists counted and turned around, a sentence rewritten."""

from chapters.world.documents import deed_sentences
from chapters.world.facts import THINGS, VERBS, Facts, SeededRandom, is_held_out
from chapters.world.family import Family, Instruction
from chapters.world.reading import denies, equations, mentioned, numbers, words


class Sum(Family):
    """Accept the sum of two numbers up to five as the last number, after none but the two addends; no minus sign."""

    name = "sum"
    asks = ["What is {a} + {b}?", "What is the sum of {a} and {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        key = self.entity(facts, "sum", split, rng)
        a, b = rng.shuffled(key.split("+"))
        return self.task(rng.pick(self.asks).format(a=a, b=b), f"The sum is {a} + {b} = {int(a) + int(b)}.", key)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        a, b = (int(number) for number in key.split("+"))
        *before, last = numbers(response) or [-1]
        right = last == a + b and sorted(before) in ([], sorted([a, b]))
        return self.fits(response, nouns=()) and not denies(response) and "-" not in response and right


class TakeAway(Family):
    """Accept the difference as the last number, after none but the two in the task; no plus sign."""

    name, trained = "take_away", False
    asks = ["What is {c} - {a}?", "How much is {c} - {a}?", "Take {a} from {c}."]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        a, b = rng.shuffled(self.entity(facts, "sum", split, rng).split("+"))
        c = int(a) + int(b)
        return self.task(rng.pick(self.asks).format(c=c, a=a), f"What is left is {c} - {a} = {b}.", f"{c}-{a}")

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        whole, part = (int(number) for number in key.split("-"))
        *before, last = numbers(response) or [-1]
        right = last == whole - part and sorted(before) in ([], sorted([whole, part]))
        true = all((a, sign, b) == (whole, "-", part) for a, sign, b, _ in equations(response))
        return self.fits(response, nouns=()) and not denies(response) and "+" not in response and right and true


class OnList(Family):
    """A task on a list, which is its input and its key."""

    shortest, longest = 2, 5

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        while True:
            n = self.shortest + rng.below(self.longest - self.shortest + 1)
            key = ", ".join(rng.some(THINGS, n))
            if split == "test_families" or is_held_out(key) == (split == "test"):
                return self.task(rng.pick(self.asks), self.answer(key.split(", ")), key, input=f"The list is {key}.")

    def answer(self, items: list[str]) -> str:
        """The good response for a list."""
        raise NotImplementedError


class Count(OnList):
    """Accept the number of things, and no other number."""

    name = "count"
    asks = ["How many things are in the list?", "Count the things in the list.", "How long is the list?"]

    def answer(self, items: list[str]) -> str:
        return f"There are {len(items)} things in the list."

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        items = key.split(", ")
        right = numbers(response) == [len(items)] and "people" not in words(response)
        return self.fits(response, nouns=items) and not denies(response) and right


class Reverse(OnList):
    """Accept all the things in the opposite order."""

    name, longest = "reverse", 3
    asks = ["Turn the list around.", "Say the list backwards.", "What is the list the other way round?"]

    def answer(self, items: list[str]) -> str:
        return f"Backwards the list is {', '.join(reversed(items))}."

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        items = key.split(", ")
        right = [word for word in words(response) if word in THINGS] == items[::-1]
        return self.fits(response, nouns=items) and not denies(response) and not numbers(response) and right


class First(OnList):
    """Accept the first thing and no other."""

    name = "first"
    asks = ["Which thing comes first in the list?", "What is the first thing in the list?", "Tell me the first thing."]

    def answer(self, items: list[str]) -> str:
        return f"The first thing is {items[0]}."

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        return names_only(self, key.split(", ")[0], response)


class Last(OnList):
    """Accept the last thing and no other."""

    name, trained = "last", False
    asks = ["Which thing comes last in the list?", "What is the last thing in the list?", "Tell me the last thing."]

    def answer(self, items: list[str]) -> str:
        return f"The last thing is {items[-1]}."

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        return names_only(self, key.split(", ")[-1], response)


def names_only(family: Family, item: str, response: str) -> bool:
    """Whether the response names this item of a list and nothing else."""
    right = mentioned(response, [item]) == [item]
    return family.fits(response, nouns=[item]) and right and not denies(response) and not numbers(response)


class Rewrite(Family):
    """Accept today's sentence retold as yesterday's: the same person and thing, the verb in the past, nothing else."""

    name = "rewrite"
    asks = [
        "Rewrite the sentence so that it is about yesterday.",
        "Tell this as if it were yesterday.",
        "Change today to yesterday.",
    ]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        while True:
            today, yesterday = deed_sentences(self.entity(facts, "person", split, rng), rng)
            if is_held_out(today) == (split == "test"):
                return self.task(rng.pick(self.asks), yesterday, today, input=today)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        _, name, verb, _, thing = words(key)
        used = words(response)
        right = [word for word in used if word != "yesterday"] == [name, VERBS[verb], "the", thing]
        return self.fits(response) and right and used.count("yesterday") <= 1
