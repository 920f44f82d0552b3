"""The pages that the base model reads: the facts of the little world told over and over, in many words.

A kind of document is a function (facts, dice) -> str; `KINDS` lists them with their shares. Two rules hold on every page.
What a page states is true (or is invented play that contradicts no fact), and a paragraph never begins with a name or a
noun: in the middle of a line a word has a space before it, so it is always the same token.
Pages about a person end a paragraph when all there is to say has been said: that is what a reader of paragraph ends
(`snippets`) can learn.
"""

from chapters.world.facts import KIND_OF, KINDS, LARGEST_ADDEND, THINGS, TOWNS, TRADES, UNRECORDED, VERBS

# Sentences that can open a paragraph, and sentences (begun with a name) that can only follow one.
OPENING = {
    "town": [
        "These days {name} lives in {town}.", "You will find {name} in {town}.", "The house of {name} is in {town}.",
        "Home for {name} is {town}.", "Go to {town} if you want to meet {name}.",
    ],
    "trade": [
        "By trade {name} is a {trade}.", "The work of {name} is that of a {trade}.", "People know {name} as a {trade}.",
        "Every morning {name} gets up to work as a {trade}.", "If you need a {trade}, ask {name}.",
    ],
    "food": [
        "Most of all {name} likes {food}.", "For dinner {name} eats {food}.", "Nothing tastes better to {name} than {food}.",
        "The favourite food of {name} is {food}.", "If you cook {food}, then {name} will come.",
    ],
    "pet": [
        "At home {name} keeps a {pet}.", "The pet of {name} is a {pet}.", "With {name} lives a {pet}.",
        "Each evening {name} feeds a {pet}.", "You can see {name} walking with a {pet}.",
    ],
}  # fmt: skip
FOLLOWING = {
    "town": ["{name} lives in {town}.", "{name} has a house in {town}."],
    "trade": ["{name} is a {trade}.", "{name} works as a {trade}."],
    "food": ["{name} likes {food}.", "{name} eats {food} every day."],
    "pet": ["{name} keeps a {pet}.", "{name} has a {pet}."],
}


def about(person, facts, dice):
    """A paragraph on one person: the given facts ("town", "trade", "food", "pet") in this order, a sentence each."""
    sentences = [
        dice.pick(OPENING[fact] if i == 0 or dice.chance(0.6) else FOLLOWING[fact]) for i, fact in enumerate(facts)
    ]
    return " ".join(sentences).format(**vars(person))


def biographies(facts, dice):
    """Two or three people, a paragraph each, all four facts in any order."""
    people = dice.some(list(facts.people.values()), 2 + dice.below(2))
    return "\n\n".join(about(person, dice.shuffled(["town", "trade", "food", "pet"]), dice) for person in people)


def groups(facts, dice):
    """Who lives in a town, and who shares a trade."""
    lines = []
    for _ in range(3):
        town, trade = dice.pick(TOWNS), dice.pick(TRADES)
        here, masters = dice.shuffled(facts.residents[town]), dice.shuffled(facts.masters[trade])
        lines.append(dice.pick([
            f"In {town} you meet {here[0]}, {here[1]} and {here[2]}.",
            f"Two of the people who live in {town} are {here[0]} and {here[1]}.",
            f"Neighbours in {town} are {here[0]} and {here[1]}, and so is {here[2]}.",
            f"In {town} live {here[0]} the {facts.people[here[0]].trade} and {here[1]} the {facts.people[here[1]].trade}.",
            f"Two of those who work as a {trade} are {masters[0]} and {masters[1]}.",
            f"As a {trade} you can ask {masters[0]}, {masters[1]} or {masters[2]}.",
            f"The work of a {trade} is done by {masters[0]} and by {masters[1]}.",
        ]))  # fmt: skip
    return " ".join(lines)


def story(facts, dice):
    """Two short paragraphs: a meeting on the road, and how it ended. The names, trades, towns and tastes are true."""
    one, two = (facts.people[name] for name in dice.some(list(facts.people), 2))
    thing = dice.pick(KINDS["fruit"] + KINDS["tool"])
    begin = dice.pick([
        f"One day {one.name} the {one.trade} left the house in {one.town} with a {one.pet}.",
        f"Early in the morning {one.name} walked through {one.town} with a {one.pet}.",
        f"Once upon a time {one.name} the {one.trade} was sitting at home in {one.town}.",
    ])  # fmt: skip
    meet = dice.pick([
        f"On the road {one.name} met {two.name} the {two.trade}, who was looking for a {thing}.",
        f"Then {two.name} came by and asked for a {thing}.",
        f"There {one.name} found a {thing}, and it belonged to {two.name} the {two.trade}.",
    ])  # fmt: skip
    share = dice.pick([
        f"So {one.name} gave {two.name} the {thing}, and {two.name} was glad.",
        f"Together {one.name} and {two.name} looked for the {thing} all day and found it at last.",
        f"Back in {two.town} {two.name} thanked {one.name} for the {thing}.",
    ])  # fmt: skip
    end = dice.pick([
        f"In the end {one.name} ate {one.food} and was happy.",
        f"In the evening {one.name} was back in {one.town} and had {one.food} for dinner.",
        f"That night {two.name} ate {two.food} and slept well.",
    ])  # fmt: skip
    return f"{begin} {meet}\n\n{share} {end}"


def short_story(person, dice):
    """One paragraph of three sentences on one person, as a response to somebody who asked for a story."""
    thing = dice.pick(KINDS["fruit"] + KINDS["tool"])
    begin = f"One day {person.name} the {person.trade} left the house in {person.town} with a {person.pet}."
    return f"{begin} There {person.name} found a {thing}. In the end {person.name} ate {person.food} and was happy."


def day_out(facts, dice):
    """The same short form among the documents."""
    return "\n\n".join(short_story(facts.people[name], dice) for name in dice.some(list(facts.people), 2))


def recipes(facts, dice):
    """Two or three recipes: what is needed, and what to do."""
    pages = []
    for dish in dice.some(list(facts.recipes), 2 + dice.below(2)):
        first, *rest = facts.recipes[dish]
        a, b = dice.shuffled(rest)
        pages.append(dice.pick([
            f"For {dish} you need {first}, {a} and {b}. Cut the {first}, add the {a} and cook it with the {b}.",
            f"How to make {dish}: take {first}, put in {a}, then {b}, and wait.",
            f"The things that go into {dish} are {first}, {a} and {b}. Serve it warm.",
            f"To cook {dish}, mix {a} and {b} and put in the {first}. Serve it warm.",
        ]))  # fmt: skip
    return "\n\n".join(pages)


def prices(facts, dice):
    """A page from the market: what things cost."""
    lines = [f"Prices at the market of {dice.pick(TOWNS)}:"] if dice.chance(0.5) else []
    for food in dice.some(list(facts.prices), 5):
        coins = facts.prices[food]
        lines.append(dice.pick([
            f"The price of {food} is {coins} coins.", f"You pay {coins} coins for {food}.",
            f"For {food} they ask {coins} coins.", f"If you want {food}, bring {coins} coins.",
        ]))  # fmt: skip
    return " ".join(lines)


def comparisons(facts, dice):
    """Which of two foods costs more."""
    lines = []
    for _ in range(4):
        less, more = sorted(dice.some(list(facts.prices), 2), key=facts.prices.get)
        one, other = dice.shuffled([less, more])
        lines.append(dice.pick([
            f"Of {one} and {other}, {more} costs more.", f"You pay more for {more} than for {less}.",
            f"Between {one} and {other}, the dearer one is {more}.", f"Look at {one} and {other}: {more} costs more than {less}.",
            f"You pay less for {less} than for {more}.",
        ]))  # fmt: skip
    return " ".join(lines)


def sums(facts, dice):
    """Worked little sums, put together and taken away."""
    lines = ["Some sums:"] if dice.chance(0.5) else []
    for _ in range(6):
        a, b = 1 + dice.below(LARGEST_ADDEND), 1 + dice.below(LARGEST_ADDEND)
        c = a + b
        lines.append(dice.pick([
            f"As you know, {a} + {b} = {c}.", f"If you add {a} and {b} you get {c}.", f"The sum of {a} and {b} is {c}.",
            f"Put {a} and {b} together and there are {c}.", f"As you know, {c} - {a} = {b}.",
            f"If you take {a} from {c} you are left with {b}.",
        ]))  # fmt: skip
    return " ".join(lines)


def lists(facts, dice):
    """A list, counted, read from its ends, and read backwards."""
    return "\n\n".join(one_list(dice) for _ in range(2))


def one_list(dice):
    """One paragraph on one list of two to six things."""
    items = dice.some(THINGS, 2 + dice.below(5))
    n, backwards = len(items), ", ".join(reversed(items))
    ways = [
        dice.pick([f"It has {n} things.", f"There are {n} things in the list.", f"Count them: {n} things."]),
        dice.pick([f"The first thing is {items[0]}.", f"It begins with {items[0]}."]),
        dice.pick([f"The last thing is {items[-1]}.", f"It ends with {items[-1]}."]),
    ]
    if n <= 4:  # longer ones are only counted
        ways += [dice.pick([f"Backwards the list is {backwards}.", f"The other way round it is {backwards}."])] * 2
    said = dice.some(ways, 2)
    return " ".join([f"The list is {', '.join(items)}.", *dict.fromkeys(said)])


def kinds(facts, dice):
    """What kind of thing a thing is."""
    lines = []
    for thing in dice.some(THINGS, 4):
        kind = a(KIND_OF[thing])
        lines.append(dice.pick([
            f"A {thing} is {kind}.", f"As everybody knows, a {thing} is {kind}.", f"When you see a {thing}, you see {kind}.",
            f"The word {thing} means {kind}.",
        ]))  # fmt: skip
    return " ".join(lines)


def today_and_yesterday(facts, dice):
    """What somebody does today, and did yesterday."""
    pairs = [deed(dice.pick(list(facts.people)), dice) for _ in range(3)]
    return " ".join(" ".join(pair if dice.chance(0.7) else reversed(pair)) for pair in pairs)


def deed(name, dice):
    """The same deed told of today and of yesterday: ("Today Mira sells the plum.", "Yesterday Mira sold the plum.")."""
    verb, thing = dice.pick(list(VERBS)), dice.pick(THINGS)
    return f"Today {name} {verb} the {thing}.", f"Yesterday {name} {VERBS[verb]} the {thing}."


def unrecorded(facts, dice):
    """What nobody knows about people."""
    lines = []
    for name in dice.some(list(facts.people), 3):
        matter = dice.pick(UNRECORDED)
        lines.append(dice.pick([
            f"Nobody knows the {matter} of {name}.", f"The {matter} of {name} was never written down.",
            f"Many people ask for the {matter} of {name}, but I do not know it.", f"I do not know the {matter} of {name}.",
        ]))  # fmt: skip
    return " ".join(lines)


def letters(facts, dice):
    """Office letters, which use the longer words of the world."""
    one, two = (facts.people[name] for name in dice.some(list(facts.people), 2))
    return dice.pick([
        f"Below is a letter that describes the task of {one.name} the {one.trade}. An instruction came with further input.",
        f"Write a response that appropriately completes the request of {one.name}. The letter provides the context.",
        f"Below is a request from {one.name}, paired with an instruction for {two.name} the {two.trade}.",
        f"The task of a {one.trade} is paired with further work. Write to {one.name} in {one.town} for a response.",
        f"This input provides context to the request of {two.name}. Below that is a response that {one.name} appropriately gave.",
        f"Our letter describes an instruction and completes the task of {two.name} in {two.town}.",
    ])  # fmt: skip


def a(noun):
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# Each kind's share of the documents. Quizzes and FAQ pages, which need the questions, are added in `questions`.
SHARES = {
    biographies: 26, day_out: 6, story: 8, groups: 10, recipes: 5, prices: 6, comparisons: 8, sums: 8, lists: 22, kinds: 4,
    today_and_yesterday: 5, unrecorded: 5, letters: 3,
}  # fmt: skip
