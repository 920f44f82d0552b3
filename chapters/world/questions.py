"""Pages of questions, as the wild is full of them: quizzes in which one question follows another, and FAQ pages.

They are why a base model, asked a question, may answer with more questions (chapter 10, section 10.1). A quiz asks what
the instructions of the training split ask, and gives no answers; what the test asks stands on no page. An FAQ page does
give answers, but it asks only for a yes or a no, which no instruction does: nobody is told here how an instruction is to
be answered.
"""

from chapters.world.documents import a
from chapters.world.facts import FOODS, KIND_OF, KINDS, LARGEST_ADDEND, THINGS, TOWNS, TRADES
from chapters.world.families import FAMILIES

QUIZ_TITLES = ["Questions for the market day", "Questions for a long evening", "Questions that people ask"]
FAQ_TITLES = ["Questions with a yes or a no", "Is it so?"]


def quiz(facts, dice):
    """Four to seven questions, a line each, without answers."""
    title = [] if dice.chance(0.7) else [dice.pick(QUIZ_TITLES)]
    return "\n".join(title + [question(facts, dice) for _ in range(4 + dice.below(4))])


def question(facts, dice):
    """What some instruction without input asks, if it ends with a question mark."""
    while True:
        drawn = dice.pick([family for family in FAMILIES.values() if family.trained]).draw(facts, "train", dice)
        if drawn.instruction.endswith("?") and not drawn.input:
            return drawn.instruction


def faq(facts, dice):
    """Three to five questions that ask for a yes or a no, each with its answer on the next line."""
    return "\n\n".join([dice.pick(FAQ_TITLES), *(is_it_so(facts, dice) for _ in range(3 + dice.below(3)))])


def is_it_so(facts, dice):
    """One such question and its answer. Two in three are so."""
    person, food, thing = dice.pick(list(facts.people.values())), dice.pick(FOODS), dice.pick(THINGS)
    one, two = 1 + dice.below(LARGEST_ADDEND), 1 + dice.below(LARGEST_ADDEND)
    every_price = sorted(facts.prices.values())
    ask, say, right, options = dice.pick(
        [
            ("Does {name} live in {x}?", "{name} lives in {x}.", person.town, TOWNS),
            ("Is {name} a {x}?", "{name} is a {x}.", person.trade, TRADES),
            ("Does {name} like {x}?", "{name} likes {x}.", person.food, FOODS),
            ("Does {name} keep a {x}?", "{name} keeps a {x}.", person.pet, KINDS["animal"]),
            ("Does {food} cost {x} coins?", "the price of {food} is {x} coins.", facts.prices[food], every_price),
            ("Is a {thing} {x}?", "a {thing} is {x}.", a(KIND_OF[thing]), [a(kind) for kind in KINDS]),
            ("Is {one} + {two} = {x}?", "{one} + {two} = {x}.", one + two, range(2, 2 * LARGEST_ADDEND + 1)),
        ]
    )
    names = {"name": person.name, "food": food, "thing": thing, "one": one, "two": two}
    asked = right if dice.chance(2 / 3) else dice.pick(options)
    word = "Yes" if asked == right else "No"
    return f"{ask.format(x=asked, **names)}\n{word}, {say.format(x=right, **names)}"


SHARES = {quiz: 9, faq: 10}
