"""Pages of questions, as the wild is full of them: quizzes in which one question follows another, and FAQ pages.

They are why a base model, asked a question, may answer with more questions (chapter 10, section 10.1). A quiz asks what
the instructions of the training split ask, and gives no answers; what the test asks stands on no page. An FAQ page does
give answers, but it asks only for a yes or a no, which no instruction does: nobody is told here how an instruction is to
be answered.
"""

from chapters.world.documents import with_article
from chapters.world.facts import FOODS, KIND_OF, KINDS, LARGEST_ADDEND, THINGS, TOWNS, TRADES
from chapters.world.families import FAMILIES

QUIZ_TITLES = ["Questions for the market day", "Questions for a long evening", "Questions that people ask"]
FAQ_TITLES = ["Questions with a yes or a no", "Is it so?"]


def quiz(facts, rng):
    """Four to seven questions, a line each, without answers."""
    title = [] if rng.chance(0.7) else [rng.pick(QUIZ_TITLES)]
    return "\n".join(title + [question(facts, rng) for _ in range(4 + rng.below(4))])


def question(facts, rng):
    """What some instruction without input asks, if it ends with a question mark."""
    while True:
        drawn = rng.pick([family for family in FAMILIES.values() if family.trained]).draw(facts, "train", rng)
        if drawn.instruction.endswith("?") and not drawn.input:
            return drawn.instruction


def faq(facts, rng):
    """Three to five questions that ask for a yes or a no, each with its answer on the next line."""
    return "\n\n".join([rng.pick(FAQ_TITLES), *(is_it_so(facts, rng) for _ in range(3 + rng.below(3)))])


def is_it_so(facts, rng):
    """One such question and its answer. Two in three are so."""
    person, food, thing = rng.pick(list(facts.people.values())), rng.pick(FOODS), rng.pick(THINGS)
    one, two = 1 + rng.below(LARGEST_ADDEND), 1 + rng.below(LARGEST_ADDEND)
    every_price = sorted(facts.prices.values())
    ask, say, right, options = rng.pick(
        [
            ("Does {name} live in {x}?", "{name} lives in {x}.", person.town, TOWNS),
            ("Is {name} a {x}?", "{name} is a {x}.", person.trade, TRADES),
            ("Does {name} like {x}?", "{name} likes {x}.", person.food, FOODS),
            ("Does {name} keep a {x}?", "{name} keeps a {x}.", person.pet, KINDS["animal"]),
            ("Does {food} cost {x} coins?", "the price of {food} is {x} coins.", facts.prices[food], every_price),
            ("Is a {thing} {x}?", "a {thing} is {x}.", with_article(KIND_OF[thing]), [with_article(kind) for kind in KINDS]),
            ("Is {one} + {two} = {x}?", "{one} + {two} = {x}.", one + two, range(2, 2 * LARGEST_ADDEND + 1)),
        ]
    )
    names = {"name": person.name, "food": food, "thing": thing, "one": one, "two": two}
    asked = right if rng.chance(2 / 3) else rng.pick(options)
    word = "Yes" if asked == right else "No"
    return f"{ask.format(x=asked, **names)}\n{word}, {say.format(x=right, **names)}"


SHARES = {quiz: 9, faq: 10}
