"""The pages that pretraining reads: the facts of the little world, told many times in many words.

Each kind of document is a function (facts, rng) -> text; `SHARES` lists the kinds. Two rules hold for every page:

- Its statements are true, or they are fiction that contradicts no fact.
- No paragraph begins with a name or noun of the world (`family.NOUNS`). These words thus always have a space before them, and
  are the same tokens everywhere.

A paragraph about a person ends after the person's last fact, so a classifier (`snippets`) can learn where paragraphs end.
"""

from collections.abc import Callable

from chapters.world.facts import (
    KIND_OF,
    KINDS,
    LARGEST_ADDEND,
    THINGS,
    TOWNS,
    TRADES,
    UNRECORDED,
    VERBS,
    Facts,
    Person,
    SeededRandom,
    is_held_out,
)

DocumentKind = Callable[[Facts, SeededRandom], str]


def lines(text: str) -> list[str]:
    """The lines of a table of sentences."""
    return text.strip().split("\n")


# OPENING sentences can begin a paragraph. FOLLOWING sentences begin with a name, so they must follow another sentence.
OPENING = {
    "town": lines("""
These days {name} lives in {town}.
You will find {name} in {town}.
The house of {name} is in {town}.
Home for {name} is {town}.
Go to {town} if you want to meet {name}.
"""),
    "trade": lines("""
By trade {name} is a {trade}.
The work of {name} is that of a {trade}.
People know {name} as a {trade}.
Every morning {name} gets up to work as a {trade}.
If you need a {trade}, ask {name}.
"""),
    "food": lines("""
Most of all {name} likes {food}.
For dinner {name} eats {food}.
The favourite food of {name} is {food}.
If you cook {food}, then {name} will come.
Nothing tastes better to {name} than {food}.
"""),
    "pet": lines("""
At home {name} keeps a {pet}.
The pet of {name} is a {pet}.
With {name} lives a {pet}.
Each evening {name} feeds a {pet}.
You can see {name} walking with a {pet}.
"""),
}
FOLLOWING = {
    "town": ["{name} lives in {town}.", "{name} has a house in {town}."],
    "trade": ["{name} is a {trade}.", "{name} works as a {trade}."],
    "food": ["{name} likes {food}.", "{name} eats {food} every day."],
    "pet": ["{name} keeps a {pet}.", "{name} has a {pet}."],
}


def about(person: Person, rng: SeededRandom) -> str:
    """A paragraph on a person: all four facts in random order, a sentence for each fact, mostly in the plainest words."""
    facts = rng.shuffled(["town", "trade", "food", "pet"])
    if rng.chance(0.7):
        sentences = ["Here is {name}.", *(FOLLOWING[fact][0] for fact in facts)]
    else:
        sentences = [rng.pick(OPENING[facts[0]])]
        sentences += [rng.pick(OPENING[fact] if rng.chance(0.4) else FOLLOWING[fact]) for fact in facts[1:]]
    return " ".join(sentences).format(**vars(person))


def biographies(facts: Facts, rng: SeededRandom) -> str:
    """Two or three people, a paragraph each."""
    people = rng.sample(facts.people.values(), 2 + rng.below(2))
    return "\n\n".join(about(person, rng) for person in people)


REGISTER = lines("""
In {town} lives {name} the {trade}, who likes {food} and keeps a {pet}.
The {trade} {name} lives in {town} with a {pet} and eats {food}.
With a {pet} and with {food} for dinner, {name} the {trade} is at home in {town}.
There is also {name}, a {trade} from {town}, who has a {pet} and likes {food}.
""")


def register(facts: Facts, rng: SeededRandom) -> str:
    """Four people, each in one sentence with all four facts."""
    page = [f"From the book of {rng.pick(TOWNS)}:"] if rng.chance(0.3) else []
    people = rng.sample(facts.people.values(), 4)
    return " ".join(page + [rng.pick(REGISTER).format(**vars(person)) for person in people])


TOWN_PARAGRAPH = lines("""
This is {group}.
Somebody who lives in {group} is {a}.
In {group} you can meet {b}.
{group} is also the home of {c}.
""")
TRADE_PARAGRAPH = lines("""
You need a {group}.
Somebody who works as a {group} is {a}.
As a {group} you can ask {b}.
You know {c} the {group}.
""")


def groups(facts: Facts, rng: SeededRandom) -> str:
    """Two paragraphs, each on the people of a town or of a trade."""
    return "\n\n".join(group_paragraph(facts, rng) for _ in range(2))


def group_paragraph(facts: Facts, rng: SeededRandom) -> str:
    names, (opening, *sentences) = (TOWNS, TOWN_PARAGRAPH) if rng.chance(0.5) else (TRADES, TRADE_PARAGRAPH)
    group = rng.pick(names)
    a, b, c = rng.sample(facts.members[group], 3)
    return " ".join([opening, *rng.sample(sentences, 2)]).format(group=group, a=a, b=b, c=c)


STORY = [
    [
        "One day {a.name} the {a.trade} left the house in {a.town} with a {a.pet}.",
        "One morning {a.name} was at home in {a.town} with a {a.pet}.",
    ],
    [
        "There {a.name} found a {thing}, and it was the {thing} of {b.name} the {b.trade}.",
        "Then {b.name} the {b.trade} came and wanted a {thing}.",
    ],
    [
        "So {a.name} gave {b.name} the {thing}, and {b.name} was happy.",
        "So {a.name} and {b.name} went to find the {thing} in {b.town}.",
    ],
    ["In the end {a.name} ate {a.food} and was happy.", "In the end {b.name} was at home in {b.town} and ate {b.food}."],
]


def story(facts: Facts, rng: SeededRandom) -> str:
    """Two short paragraphs: two people meet, and something comes of it. Their trades, towns, pets and tastes are true."""
    a, b = rng.sample(facts.people.values(), 2)
    thing = rng.pick(KINDS["fruit"] + KINDS["tool"])
    begin, meet, share, end = (rng.pick(sentences).format(a=a, b=b, thing=thing) for sentences in STORY)
    return f"{begin} {meet}\n\n{share} {end}"


def short_story(person: Person, rng: SeededRandom) -> str:
    """A paragraph of three sentences on a person, in which the facts are true; also the response to a request for a story."""
    thing = rng.pick(KINDS["fruit"] + KINDS["tool"])
    begin = f"One day {person.name} the {person.trade} left the house in {person.town} with a {person.pet}."
    return f"{begin} There {person.name} found a {thing}. In the end {person.name} ate {person.food} and was happy."


def day_out(facts: Facts, rng: SeededRandom) -> str:
    """A short story with a title."""
    person = rng.pick(list(facts.people.values()))
    return f"A story about {person.name}. {short_story(person, rng)}"


def recipes(facts: Facts, rng: SeededRandom) -> str:
    """Two recipes: the ingredients, and the instructions."""
    pages = []
    for dish in rng.sample(facts.recipes, 2):
        first, *rest = facts.recipes[dish]
        a, b = rng.shuffled(rest)
        need = f"For {dish} you need {first}, {a} and {b}."
        make = f"To cook {dish}, take the {first} and put in {a} and {b}."
        pages.append(" ".join([f"This is about {dish}.", *rng.shuffled([need, make])]))
    return "\n\n".join(pages)


PRICES = lines("""
Here is {food}: the price of {food} is {coins} coins.
You pay {coins} coins for {food}.
The price of {food} is {coins} coins.
If you want {food}, then bring {coins} coins for the {food}.
""")


def prices(facts: Facts, rng: SeededRandom) -> str:
    """A page from the market: the prices of four foods."""
    page = [f"Prices at the market of {rng.pick(TOWNS)}:"] if rng.chance(0.3) else []
    foods = rng.sample(facts.prices, 4)
    return " ".join(page + [rng.pick(PRICES).format(food=food, coins=facts.prices[food]) for food in foods])


COMPARISONS = lines("""
Of {a} and {b}, {more} costs more.
You pay more for {more} than for {less}.
Between {a} and {b}, the dearer one is {more}.
You pay less for {less} than for {more}.
Look at {a} and {b}: {more} costs more than {less}.
""")


def comparisons(facts: Facts, rng: SeededRandom) -> str:
    """Which of two foods costs more, four times."""
    page = []
    for _ in range(4):
        less, more = sorted(rng.sample(facts.prices, 2), key=facts.prices.__getitem__)
        a, b = rng.shuffled([less, more])
        page.append(rng.pick(COMPARISONS).format(a=a, b=b, less=less, more=more))
    return " ".join(page)


SUMS = lines("""
Here are {a} and {b}. The sum is {a} + {b} = {c}.
Look at {a} + {b}. The sum is {a} + {b} = {c}.
Here is {a} + {b}. The sum is {a} + {b} = {c}.
Look at {c} - {a}. What is left is {c} - {a} = {b}.
""")


def sums(facts: Facts, rng: SeededRandom) -> str:
    """Five small sums and differences, worked out."""
    page = []
    for _ in range(5):
        a, b = 1 + rng.below(LARGEST_ADDEND), 1 + rng.below(LARGEST_ADDEND)
        page.append(rng.pick(SUMS).format(a=a, b=b, c=a + b))
    return " ".join(page)


def lists(facts: Facts, rng: SeededRandom) -> str:
    """Two lists, each told again, mostly backwards, with two sentences on its length, its ends or its order."""
    return "\n\n".join(list_paragraph(rng) for _ in range(2))


def list_paragraph(rng: SeededRandom) -> str:
    """A paragraph on a list of two to five things. The test split never asks about this list."""
    items = rng.sample(THINGS, 2 + rng.below(4))
    while is_held_out(", ".join(items)):
        items = rng.sample(THINGS, 2 + rng.below(4))
    n, forwards, backwards = len(items), ", ".join(items), ", ".join(reversed(items))
    again = f"Backwards the list is {backwards}." if rng.chance(0.8) else f"Once more the list is {forwards}."
    i = 1 + rng.below(n - 1)
    sentences = [
        rng.pick([f"It has {n} things.", f"There are {n} things in the list."]),
        rng.pick([f"The first thing is {items[0]}.", f"It begins with {items[0]}."]),
        rng.pick([f"The last thing is {items[-1]}.", f"It ends with {items[-1]}."]),
        f"Before {items[i]} comes {items[i - 1]}.",
    ]
    return " ".join([f"The list is {forwards}.", *rng.shuffled([again, *rng.sample(sentences, 2)])])


KIND_SENTENCES = lines("""
Here is a {thing}. A {thing} is {kind}.
This is a {thing}, and a {thing} is {kind}.
Look at the {thing}: every {thing} is {kind}.
""")


def kinds(facts: Facts, rng: SeededRandom) -> str:
    """The kinds of three things."""
    things = rng.sample(THINGS, 3)
    return " ".join(rng.pick(KIND_SENTENCES).format(thing=thing, kind=with_article(KIND_OF[thing])) for thing in things)


def today_and_yesterday(facts: Facts, rng: SeededRandom) -> str:
    """Three deeds, each told for today and for yesterday, without the sentences that a test asks about."""
    deeds: list[tuple[str, str]] = []
    while len(deeds) < 3:
        deed = deed_sentences(rng.pick(list(facts.people)), rng)
        if not is_held_out(deed[0]):
            deeds.append(deed)
    return " ".join(" ".join(deed if rng.chance(0.7) else reversed(deed)) for deed in deeds)


def deed_sentences(name: str, rng: SeededRandom) -> tuple[str, str]:
    """The same deed today and yesterday: ("Today Mira sells the plum.", "Yesterday Mira sold the plum.")."""
    verb, thing = rng.pick(list(VERBS)), rng.pick(THINGS)
    return f"Today {name} {verb} the {thing}.", f"Yesterday {name} {VERBS[verb]} the {thing}."


UNKNOWN = lines("""
Nobody wrote down the {matter} of {name}, so I do not know the {matter} of {name}.
If you ask for the {matter} of {name}: I do not know the {matter} of {name}.
Here should be the {matter} of {name}, but nobody knows the {matter} of {name}.
""")


def unrecorded(facts: Facts, rng: SeededRandom) -> str:
    """Two people, with one thing about each that nobody knows."""
    page = []
    for name in rng.sample(facts.people, 2):
        matter = rng.pick(UNRECORDED)
        page.append(rng.pick(UNKNOWN).format(name=name, matter=matter))
    return " ".join(page)


LETTER = [
    [
        "Below is a request that describes the task of {a.name} the {a.trade}.",
        "Below is an instruction that describes the task of a {a.trade}.",
    ],
    [
        "The instruction is paired with an input from {b.name} that provides further context.",
        "The request is paired with further input, and {b.name} provides the context.",
    ],
    [
        "Write a response to {a.name} in {a.town} that appropriately completes the request.",
        "Write to {b.name} in {b.town}, whose response appropriately completes the instruction.",
    ],
]


def letters(facts: Facts, rng: SeededRandom) -> str:
    """An office letter, the only kind of page that has the longer words of the instruction template."""
    a, b = rng.sample(facts.people.values(), 2)
    return " ".join(rng.pick(sentences).format(a=a, b=b) for sentences in LETTER)


def with_article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# Each kind's share of the documents. `questions` adds quizzes and FAQ pages.
SHARES: dict[DocumentKind, int] = {
    biographies: 22,
    register: 6,
    day_out: 10,
    story: 4,
    groups: 11,
    recipes: 13,
    prices: 10,
    comparisons: 8,
    sums: 18,
    lists: 34,
    kinds: 8,
    today_and_yesterday: 14,
    unrecorded: 8,
    letters: 6,
}
