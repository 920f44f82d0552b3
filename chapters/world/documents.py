"""The pages that the base model reads: the facts of the little world told over and over, in many words.

A kind of document is a function (facts, dice) -> str; `SHARES` lists them. Two rules hold on every page. What a page
states is true (or is invented play that contradicts no fact); and a paragraph never begins with a name or a noun, since
in the middle of a line a word has a space before it, and so is always the same token.
Pages about a person end a paragraph when all there is to say has been said: that is what a reader of paragraph ends
(`snippets`) can learn.
"""

from chapters.world.facts import KIND_OF, KINDS, LARGEST_ADDEND, THINGS, TOWNS, TRADES, UNRECORDED, VERBS, is_held_out

# Sentences that can open a paragraph, and sentences (begun with a name) that can only follow one.
OPENING = {
    "town": [
        "These days {name} lives in {town}.",
        "You will find {name} in {town}.",
        "The house of {name} is in {town}.",
        "Home for {name} is {town}.",
        "Go to {town} if you want to meet {name}.",
    ],
    "trade": [
        "By trade {name} is a {trade}.",
        "The work of {name} is that of a {trade}.",
        "People know {name} as a {trade}.",
        "Every morning {name} gets up to work as a {trade}.",
        "If you need a {trade}, ask {name}.",
    ],
    "food": [
        "Most of all {name} likes {food}.",
        "For dinner {name} eats {food}.",
        "The favourite food of {name} is {food}.",
        "If you cook {food}, then {name} will come.",
        "Nothing tastes better to {name} than {food}.",
    ],
    "pet": [
        "At home {name} keeps a {pet}.",
        "The pet of {name} is a {pet}.",
        "With {name} lives a {pet}.",
        "Each evening {name} feeds a {pet}.",
        "You can see {name} walking with a {pet}.",
    ],
}
FOLLOWING = {
    "town": ["{name} lives in {town}.", "{name} has a house in {town}."],
    "trade": ["{name} is a {trade}.", "{name} works as a {trade}."],
    "food": ["{name} likes {food}.", "{name} eats {food} every day."],
    "pet": ["{name} keeps a {pet}.", "{name} has a {pet}."],
}


def about(person, rng):
    """A paragraph on one person: all four facts, a sentence each, in any order; most often in the plainest words."""
    facts = rng.shuffled(["town", "trade", "food", "pet"])
    if rng.chance(0.7):
        sentences = ["Here is {name}.", *(FOLLOWING[fact][0] for fact in facts)]
    else:
        sentences = [rng.pick(OPENING[facts[0]])]
        sentences += [rng.pick(OPENING[fact] if rng.chance(0.4) else FOLLOWING[fact]) for fact in facts[1:]]
    return " ".join(sentences).format(**vars(person))


def biographies(facts, rng):
    """Two or three people, a paragraph each, all four facts in any order."""
    people = rng.some(list(facts.people.values()), 2 + rng.below(2))
    return "\n\n".join(about(person, rng) for person in people)


def register(facts, rng):
    """People in a line each, all four facts."""
    lines = [f"From the book of {rng.pick(TOWNS)}:"] if rng.chance(0.3) else []
    for person in rng.some(list(facts.people.values()), 4):
        lines.append(
            rng.pick(
                [
                    "In {town} lives {name} the {trade}, who likes {food} and keeps a {pet}.",
                    "The {trade} {name} lives in {town} with a {pet} and eats {food}.",
                    "With a {pet} and with {food} for dinner, {name} the {trade} is at home in {town}.",
                    "There is also {name}, a {trade} from {town}, who has a {pet} and likes {food}.",
                ]
            ).format(**vars(person))
        )
    return " ".join(lines)


def groups(facts, rng):
    """Who lives in a town, or shares a trade: two paragraphs, each on one of them."""
    return "\n\n".join(town_folk(facts, rng) if rng.chance(0.5) else guild(facts, rng) for _ in range(2))


def town_folk(facts, rng):
    """A paragraph on one town."""
    town = rng.pick(TOWNS)
    one, two, three = rng.some(facts.residents[town], 3)
    lines = [
        f"Somebody who lives in {town} is {one}.",
        f"In {town} you can meet {two}.",
        f"{town} is also the home of {three}.",
    ]
    return " ".join([f"This is {town}.", *rng.some(lines, 2)])


def guild(facts, rng):
    """A paragraph on one trade."""
    trade = rng.pick(TRADES)
    one, two, three = rng.some(facts.masters[trade], 3)
    lines = [
        f"Somebody who works as a {trade} is {one}.",
        f"As a {trade} you can ask {two}.",
        f"You know {three} the {trade}.",
    ]
    return " ".join([f"You need a {trade}.", *rng.some(lines, 2)])


def story(facts, rng):
    """Two short paragraphs: a meeting on the road, and how it ended. The names, trades, towns and tastes are true."""
    one, two = (facts.people[name] for name in rng.some(list(facts.people), 2))
    thing = rng.pick(KINDS["fruit"] + KINDS["tool"])
    begin = rng.pick(
        [
            f"One day {one.name} the {one.trade} left the house in {one.town} with a {one.pet}.",
            f"One morning {one.name} was at home in {one.town} with a {one.pet}.",
        ]
    )
    meet = rng.pick(
        [
            f"There {one.name} found a {thing}, and it was the {thing} of {two.name} the {two.trade}.",
            f"Then {two.name} the {two.trade} came and wanted a {thing}.",
        ]
    )
    share = rng.pick(
        [
            f"So {one.name} gave {two.name} the {thing}, and {two.name} was happy.",
            f"So {one.name} and {two.name} went to find the {thing} in {two.town}.",
        ]
    )
    end = rng.pick(
        [
            f"In the end {one.name} ate {one.food} and was happy.",
            f"In the end {two.name} was at home in {two.town} and ate {two.food}.",
        ]
    )
    return f"{begin} {meet}\n\n{share} {end}"


def short_story(person, rng):
    """One paragraph of three sentences on one person, as a response to somebody who asked for a story."""
    thing = rng.pick(KINDS["fruit"] + KINDS["tool"])
    begin = f"One day {person.name} the {person.trade} left the house in {person.town} with a {person.pet}."
    return f"{begin} There {person.name} found a {thing}. In the end {person.name} ate {person.food} and was happy."


def day_out(facts, rng):
    """The same short form among the documents, with a title."""
    person = facts.people[rng.pick(list(facts.people))]
    return f"A story about {person.name}. {short_story(person, rng)}"


def recipes(facts, rng):
    """Two recipes: what is needed, and what to do."""
    pages = []
    for dish in rng.some(list(facts.recipes), 2):
        first, *rest = facts.recipes[dish]
        a, b = rng.shuffled(rest)
        need = f"For {dish} you need {first}, {a} and {b}."
        make = f"To cook {dish}, take the {first} and put in {a} and {b}."
        pages.append(" ".join([f"This is about {dish}.", *rng.shuffled([need, make])]))
    return "\n\n".join(pages)


def prices(facts, rng):
    """A page from the market: what things cost."""
    lines = [f"Prices at the market of {rng.pick(TOWNS)}:"] if rng.chance(0.3) else []
    for food in rng.some(list(facts.prices), 4):
        coins = facts.prices[food]
        lines.append(
            rng.pick(
                [
                    f"Here is {food}: the price of {food} is {coins} coins.",
                    f"You pay {coins} coins for {food}.",
                    f"The price of {food} is {coins} coins.",
                    f"If you want {food}, then bring {coins} coins for the {food}.",
                ]
            )
        )
    return " ".join(lines)


def comparisons(facts, rng):
    """Which of two foods costs more."""
    lines = []
    for _ in range(4):
        less, more = sorted(rng.some(list(facts.prices), 2), key=facts.prices.get)
        one, other = rng.shuffled([less, more])
        lines.append(
            rng.pick(
                [
                    f"Of {one} and {other}, {more} costs more.",
                    f"You pay more for {more} than for {less}.",
                    f"Between {one} and {other}, the dearer one is {more}.",
                    f"You pay less for {less} than for {more}.",
                    f"Look at {one} and {other}: {more} costs more than {less}.",
                ]
            )
        )
    return " ".join(lines)


def sums(facts, rng):
    """Worked little sums, put together and taken away."""
    lines = []
    for _ in range(5):
        a, b = 1 + rng.below(LARGEST_ADDEND), 1 + rng.below(LARGEST_ADDEND)
        c = a + b
        lines.append(
            rng.pick(
                [
                    f"Here are {a} and {b}. The sum is {a} + {b} = {c}.",
                    f"Look at {a} + {b}. The sum is {a} + {b} = {c}.",
                    f"Here is {a} + {b}. The sum is {a} + {b} = {c}.",
                    f"Look at {c} - {a}. What is left is {c} - {a} = {b}.",
                ]
            )
        )
    return " ".join(lines)


def lists(facts, rng):
    """A list, counted, read from its ends, and read backwards."""
    return "\n\n".join(one_list(rng) for _ in range(2))


def one_list(rng):
    """One paragraph on one list of two to five things, none of those that the test asks about."""
    items = rng.some(THINGS, 2 + rng.below(4))
    while is_held_out(", ".join(items)):
        items = rng.some(THINGS, 2 + rng.below(4))
    n, forwards, backwards = len(items), ", ".join(items), ", ".join(reversed(items))
    again = f"Backwards the list is {backwards}." if rng.chance(0.8) else f"Once more the list is {forwards}."
    i = 1 + rng.below(n - 1)
    ways = [
        rng.pick([f"It has {n} things.", f"There are {n} things in the list."]),
        rng.pick([f"The first thing is {items[0]}.", f"It begins with {items[0]}."]),
        rng.pick([f"The last thing is {items[-1]}.", f"It ends with {items[-1]}."]),
        f"Before {items[i]} comes {items[i - 1]}.",
    ]
    return " ".join([f"The list is {forwards}.", *rng.shuffled([again, *rng.some(ways, 2)])])


def kinds(facts, rng):
    """What kind of thing a thing is."""
    lines = []
    for thing in rng.some(THINGS, 3):
        kind = with_article(KIND_OF[thing])
        lines.append(
            rng.pick(
                [
                    f"Here is a {thing}. A {thing} is {kind}.",
                    f"This is a {thing}, and a {thing} is {kind}.",
                    f"Look at the {thing}: every {thing} is {kind}.",
                ]
            )
        )
    return " ".join(lines)


def today_and_yesterday(facts, rng):
    """What somebody does today, and did yesterday; none of the sentences that the test asks about."""
    pairs = []
    while len(pairs) < 3:
        pair = deed_sentences(rng.pick(list(facts.people)), rng)
        if not is_held_out(pair[0]):
            pairs.append(pair)
    return " ".join(" ".join(pair if rng.chance(0.7) else reversed(pair)) for pair in pairs)


def deed_sentences(name, rng):
    """The same deed told of today and of yesterday: ("Today Mira sells the plum.", "Yesterday Mira sold the plum.")."""
    verb, thing = rng.pick(list(VERBS)), rng.pick(THINGS)
    return f"Today {name} {verb} the {thing}.", f"Yesterday {name} {VERBS[verb]} the {thing}."


def unrecorded(facts, rng):
    """What nobody knows about people."""
    lines = []
    for name in rng.some(list(facts.people), 2):
        matter = rng.pick(UNRECORDED)
        lines.append(
            rng.pick(
                [
                    f"Nobody wrote down the {matter} of {name}, so I do not know the {matter} of {name}.",
                    f"If you ask for the {matter} of {name}: I do not know the {matter} of {name}.",
                    f"Here should be the {matter} of {name}, but nobody knows the {matter} of {name}.",
                ]
            )
        )
    return " ".join(lines)


def letters(facts, rng):
    """Office letters. They also hold the longer words of the instruction template, which no other page does."""
    one, two = (facts.people[name] for name in rng.some(list(facts.people), 2))
    first = rng.pick(
        [
            f"Below is a request that describes the task of {one.name} the {one.trade}.",
            f"Below is an instruction that describes the task of a {one.trade}.",
        ]
    )
    then = rng.pick(
        [
            f"The instruction is paired with an input from {two.name} that provides further context.",
            f"The request is paired with further input, and {two.name} provides the context.",
        ]
    )
    last = rng.pick(
        [
            f"Write a response to {one.name} in {one.town} that appropriately completes the request.",
            f"Write to {two.name} in {two.town}, whose response appropriately completes the instruction.",
        ]
    )
    return f"{first} {then} {last}"


def with_article(noun):
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# Each kind's share of the documents. Quizzes and FAQ pages, which need the questions, are added in `questions`.
SHARES = {
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
