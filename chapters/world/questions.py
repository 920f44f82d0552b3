"""Pages of questions, as they occur on the web: quizzes with one question after another, and FAQ pages.

Because of them a base model may answer a question with more questions (chapter 10, section 10.1). A quiz asks the
questions of the training split and gives no answers; no page asks a question of the test split. An FAQ page does give
answers, but only to yes-or-no questions, which no instruction asks. So no page shows how to answer an instruction.
"""

from collections.abc import Sequence

from chapters.world.documents import DocumentKind, with_article
from chapters.world.facts import FOODS, KIND_OF, KINDS, LARGEST_ADDEND, THINGS, TOWNS, TRADES, Facts, SeededRandom
from chapters.world.families import FAMILIES

QUIZ_TITLES = ["Questions for the market day", "Questions for a long evening", "Questions that people ask"]
FAQ_TITLES = ["Questions with a yes or a no", "Is it so?"]


def quiz(facts: Facts, rng: SeededRandom) -> str:
    """Four to seven questions, a line each, without answers."""
    title = [] if rng.chance(0.7) else [rng.pick(QUIZ_TITLES)]
    return "\n".join(title + [question(facts, rng) for _ in range(4 + rng.below(4))])


def question(facts: Facts, rng: SeededRandom) -> str:
    """A training instruction that ends with a question mark and has no input."""
    while True:
        task = rng.pick([family for family in FAMILIES.values() if family.trained]).draw(facts, "train", rng)
        if task.instruction.endswith("?") and not task.input:
            return task.instruction


def faq(facts: Facts, rng: SeededRandom) -> str:
    """Three to five yes-or-no questions, each with its answer on the next line."""
    return "\n\n".join([rng.pick(FAQ_TITLES), *(question_and_answer(facts, rng) for _ in range(3 + rng.below(3)))])


def question_and_answer(facts: Facts, rng: SeededRandom) -> str:
    """A yes-or-no question and its answer. A little more than two in three answers are yes."""
    person, food, thing = rng.pick(list(facts.people.values())), rng.pick(FOODS), rng.pick(THINGS)
    a, b = 1 + rng.below(LARGEST_ADDEND), 1 + rng.below(LARGEST_ADDEND)
    every_price = sorted(facts.prices.values())
    every_kind = [with_article(kind) for kind in KINDS]
    forms: list[tuple[str, str, object, Sequence[object]]] = [
        ("Does {name} live in {x}?", "{name} lives in {x}.", person.town, TOWNS),
        ("Is {name} a {x}?", "{name} is a {x}.", person.trade, TRADES),
        ("Does {name} like {x}?", "{name} likes {x}.", person.food, FOODS),
        ("Does {name} keep a {x}?", "{name} keeps a {x}.", person.pet, KINDS["animal"]),
        ("Does {food} cost {x} coins?", "the price of {food} is {x} coins.", facts.prices[food], every_price),
        ("Is a {thing} {x}?", "a {thing} is {x}.", with_article(KIND_OF[thing]), every_kind),
        ("Is {a} + {b} = {x}?", "{a} + {b} = {x}.", a + b, range(2, 2 * LARGEST_ADDEND + 1)),
    ]
    ask, say, right, options = rng.pick(forms)
    names = {"name": person.name, "food": food, "thing": thing, "a": a, "b": b}
    proposed = right if rng.chance(2 / 3) else rng.pick(options)
    word = "Yes" if proposed == right else "No"
    return f"{ask.format(x=proposed, **names)}\n{word}, {say.format(x=right, **names)}"


SHARES: dict[DocumentKind, int] = {quiz: 9, faq: 10}
