"""Small skills that need no facts: sums, lists counted and reversed, a sentence rewritten."""

import re

from chapters.world.documents import deed_sentences
from chapters.world.facts import THINGS, VERBS, Facts, SeededRandom, is_held_out
from chapters.world.family import NOUNS, Family, Instruction
from chapters.world.reading import mentioned, numbers, words


def ends_with_result(response: str, result: int, *operands: int) -> bool:
    """Whether the response's last number is the result, and no numbers or exactly the operands come before it."""
    *others, last = numbers(response) or [-1]
    return last == result and sorted(others) in ([], sorted(operands))


class Sum(Family):
    """Accept the sum of two numbers up to five as the last number, alone or after both addends; no minus sign."""

    name, may_count = "sum", True
    asks = ["What is {a} + {b}?", "What is the sum of {a} and {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        key = self.entity(facts, "sum", split, rng)
        a, b = rng.shuffled(key.split("+"))
        return self.task(rng.pick(self.asks).format(a=a, b=b), f"The sum is {a} + {b} = {int(a) + int(b)}.", key)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        a, b = map(int, key.split("+"))
        return self.fits(response, nouns=[]) and "-" not in response and ends_with_result(response, a + b, a, b)


class TakeAway(Family):
    """Accept the difference as the last number, alone or after both numbers of the task; no plus sign."""

    name, trained, may_count = "take_away", False, True
    asks = ["What is {c} - {a}?", "How much is {c} - {a}?", "Take {a} from {c}."]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        a, b = rng.shuffled(self.entity(facts, "sum", split, rng).split("+"))
        c = int(a) + int(b)
        return self.task(rng.pick(self.asks).format(c=c, a=a), f"What is left is {c} - {a} = {b}.", f"{c}-{a}")

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        whole, part = map(int, key.split("-"))
        differences = re.findall(r"(\d+) *- *(\d+) *= *\d+", response)
        return (
            self.fits(response, nouns=[])
            and "+" not in response
            and ends_with_result(response, whole - part, whole, part)
            and all((int(a), int(b)) == (whole, part) for a, b in differences)
        )


class OnList(Family):
    """A task on a list, which is its input and its key."""

    shortest, longest = 2, 5

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        while True:
            n = self.shortest + rng.below(self.longest - self.shortest + 1)
            key = ", ".join(rng.sample(THINGS, n))
            if split == "test_families" or is_held_out(key) == (split == "test"):
                return self.task(rng.pick(self.asks), self.answer(key.split(", ")), key, input=f"The list is {key}.")

    def answer(self, items: list[str]) -> str:
        """The good response for a list."""
        raise NotImplementedError


class Count(OnList):
    """Accept the number of things, and no other number."""

    name, may_count = "count", True
    asks = ["How many things are in the list?", "Count the things in the list.", "How long is the list?"]

    def answer(self, items: list[str]) -> str:
        return f"There are {len(items)} things in the list."

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        items = key.split(", ")
        return self.fits(response, items) and numbers(response) == [len(items)] and "people" not in words(response)


class Reverse(OnList):
    """Accept all the things in the opposite order."""

    name, longest = "reverse", 3
    asks = ["Turn the list around.", "Say the list backwards.", "What is the list the other way round?"]

    def answer(self, items: list[str]) -> str:
        return f"Backwards the list is {', '.join(reversed(items))}."

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        items = key.split(", ")
        return self.fits(response, items) and [word for word in words(response) if word in THINGS] == items[::-1]


class First(OnList):
    """Accept the first thing and no other."""

    name, index = "first", 0
    asks = ["Which thing comes first in the list?", "What is the first thing in the list?", "Tell me the first thing."]

    def answer(self, items: list[str]) -> str:
        return f"The {self.name} thing is {items[self.index]}."

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        item = key.split(", ")[self.index]
        return self.fits(response, [item]) and mentioned(response, [item]) == [item]


class Last(First):
    """Accept the last thing and no other."""

    name, index, trained = "last", -1, False
    asks = [ask.replace("first", "last") for ask in First.asks]


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
        rest = [word for word in used if word != "yesterday"]
        return self.fits(response, NOUNS) and rest == [name, VERBS[verb], "the", thing] and len(used) - len(rest) <= 1
