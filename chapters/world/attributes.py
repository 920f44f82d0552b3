"""The grid's attributes: what a task can ask about, how to ask about it, and how to say the answer (see grid.py).

An attribute draws a subject, such as the person Mira, together with the right value and wrong ones. Its table has questions
and statements in several wordings. The statements end with the value, so that they can be cut off before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from chapters.world.documents import lines, with_article
from chapters.world.facts import (
    FOODS,
    KIND_OF,
    KINDS,
    LARGEST_ADDEND,
    STAPLES,
    THINGS,
    TOWNS,
    TRADES,
    Facts,
    SeededRandom,
    is_held_out,
)

Draw: TypeAlias = Callable[
    [Facts, str, SeededRandom], "Subject"
]  # draw(facts, split, rng): a subject on that side of the split

# ── subjects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Subject:
    """What a task asks about, such as "Mira", with its right values (mostly one) and wrong ones."""

    text: str
    right: list[str]
    wrong: list[str]
    input: str = ""  # the list, for tasks on a list


def subject(text: str, right: Sequence[str], values: Sequence[str], rng: SeededRandom, input: str = "") -> Subject:
    """A subject whose right and wrong values are in random order."""
    return Subject(text, rng.shuffled(right), rng.shuffled([value for value in values if value not in right]), input)


def person(fact: str, values: Sequence[str]) -> Draw:
    """Draws a person, whose `fact` is the value."""

    def draw(facts: Facts, split: str, rng: SeededRandom) -> Subject:
        name = rng.pick(facts.entities("person", split))
        return subject(name, [getattr(facts.people[name], fact)], values, rng)

    return draw


def group(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    """A town or trade; its people are the values. Training names only people of the training side."""
    name = rng.pick(facts.entities("group", split))
    people = facts.entities("person", "train") if split == "train" else list(facts.people)
    members = [person for person in people if person in facts.members[name]]
    return subject(f"lives in {name}" if name in TOWNS else f"works as a {name}", members, people, rng)


def food(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    name = rng.pick(facts.entities("food", split))
    return subject(name, [str(facts.prices[name])], [str(price) for price in sorted(facts.prices.values())], rng)


def pair(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    foods = rng.shuffled(rng.pick(facts.entities("pair", split)).split("/"))
    return subject(" and ".join(foods), [max(foods, key=facts.prices.__getitem__)], foods, rng)


def dish(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    """A dish; its ingredients other than the one in its name are the values."""
    name = rng.pick(facts.entities("dish", split))
    return subject(name, facts.recipes[name][1:], STAPLES, rng)


def thing(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    name = rng.pick(facts.entities("thing", split))
    return subject(name, [KIND_OF[name]], list(KINDS), rng)


def addition(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    a, b = rng.shuffled(rng.pick(facts.entities("sum", split)).split("+"))
    return subject(f"{a} + {b}", [str(int(a) + int(b))], [str(n) for n in range(2, 2 * LARGEST_ADDEND + 1)], rng)


def list_of_things(split: str, rng: SeededRandom) -> tuple[list[str], str]:
    """Three to five things, and the sentence that lists them. A checksum decides the list's side of the split."""
    while True:
        things = rng.sample(THINGS, 3 + rng.below(3))
        text = ", ".join(things)
        if is_held_out(text) == (split == "test"):
            return things, f"The list is {text}."


def length(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    things, text = list_of_things(split, rng)
    return subject("the list", [str(len(things))], ["3", "4", "5"], rng, text)


def first(facts: Facts, split: str, rng: SeededRandom) -> Subject:
    things, text = list_of_things(split, rng)
    return subject("the list", things[:1], things, rng, text)


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Attribute:
    """An attribute of people, foods, things, pairs, sums or lists.

    Attributes:
        draw: a random subject on one side of the world's split.
        phrase: a value in a sentence, such as "a dog" for "dog".
        questions: templates with {subject}.
        statements: templates with {subject} that end with {value} and a full stop.
    """

    draw: Draw
    phrase: Callable[[str], str]
    questions: list[str]
    statements: list[str]


def attribute(draw: Draw, phrase: Callable[[str], str], text: str) -> Attribute:
    """An attribute from a table whose lines are questions or statements."""
    table = lines(text)
    return Attribute(draw, phrase, [line for line in table if line[-1] == "?"], [line for line in table if line[-1] == "."])


ATTRIBUTES = {
    "town": attribute(
        person("town", TOWNS),
        str,
        """
Where does {subject} live?
In which town is the house of {subject}?
Which town is the home of {subject}?
These days {subject} lives in {value}.
The house of {subject} is in {value}.
Home for {subject} is {value}.
""",
    ),
    "trade": attribute(
        person("trade", TRADES),
        with_article,
        """
What does {subject} do for work?
What is the trade of {subject}?
As what do people know {subject}?
By trade {subject} is {value}.
People know {subject} as {value}.
Every morning {subject} gets up to work as {value}.
""",
    ),
    "food": attribute(
        person("food", FOODS),
        str,
        """
What does {subject} like to eat?
What is the favourite food of {subject}?
What does {subject} eat for dinner?
Most of all {subject} likes {value}.
The favourite food of {subject} is {value}.
For dinner {subject} eats {value}.
""",
    ),
    "pet": attribute(
        person("pet", KINDS["animal"]),
        with_article,
        """
Which pet does {subject} keep?
What is the pet of {subject}?
What lives with {subject} at home?
At home {subject} keeps {value}.
The pet of {subject} is {value}.
With {subject} lives {value}.
""",
    ),
    "member": attribute(
        group,
        str,
        """
Who {subject}?
Do you know somebody who {subject}?
What is the name of somebody who {subject}?
Somebody who {subject} is {value}.
There is one who {subject}: {value}.
You can ask who {subject}: it is {value}.
""",
    ),
    "ingredient": attribute(
        dish,
        str,
        """
What goes into {subject}?
What do I need for {subject}?
How do I make {subject}?
For {subject} you need {value}.
To cook {subject}, put in {value}.
This is about {subject}, and it needs {value}.
""",
    ),
    "price": attribute(
        food,
        "{} coins".format,
        """
What is the price of {subject}?
How much does {subject} cost?
What do you pay for {subject}?
The price of {subject} is {value}.
For {subject} you pay {value}.
If you want {subject}, then bring {value}.
""",
    ),
    "kind": attribute(
        thing,
        with_article,
        """
What kind of thing is a {subject}?
What is every {subject}?
Of which kind is a {subject}?
A {subject} is {value}.
Every {subject} is {value}.
This is a {subject}, and a {subject} is {value}.
""",
    ),
    "dearer": attribute(
        pair,
        str,
        """
Which costs more of {subject}?
Between {subject}, which is the dearer one?
Look at {subject}: for which do you pay more?
Between {subject}, the dearer one is {value}.
Look at {subject}: you pay more for {value}.
Of {subject}, the dearer one is {value}.
""",
    ),
    "sum": attribute(
        addition,
        str,
        """
What is {subject}?
What is the sum {subject}?
How much is {subject}?
The sum is {subject} = {value}.
Here is {subject} = {value}.
Look at {subject}. The sum is {value}.
""",
    ),
    "length": attribute(
        length,
        "{} things".format,
        """
How many things are in {subject}?
How long is {subject}?
How many things are there?
It has {value}.
In {subject} there are {value}.
There are {value}.
""",
    ),
    "first": attribute(
        first,
        str,
        """
Which thing comes first in {subject}?
What is the first thing in {subject}?
With what does {subject} begin?
The first thing is {value}.
It begins with {value}.
The first thing in {subject} is {value}.
""",
    ),
}
