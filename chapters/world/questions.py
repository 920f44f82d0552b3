"""Pages of questions, as the wild is full of them: quizzes in which one question follows another, and FAQ pages.

They are why a base model, asked a question, may answer with more questions (chapter 10, section 10.1). Quizzes ask about
anybody and give no answers. FAQ pages do give answers, but only to what belongs to the training side of the split.
"""

from chapters.world.families import FAMILIES

QUIZ_TITLES = ["Questions for the village fair", "A quiz for long evenings", "Things that visitors ask"]
FAQ_TITLES = ["Questions and answers", "What people ask, and what we say"]


def quiz(facts, dice):
    """Four to seven questions, a line each, without answers."""
    title = [] if dice.chance(0.7) else [dice.pick(QUIZ_TITLES)]
    lines = [question(facts, dice.pick(["train", "test"]), dice).instruction for _ in range(4 + dice.below(4))]
    return "\n".join(title + lines)


def faq(facts, dice):
    """Three to five questions of the trained families, each with its answer on the next line."""
    pages = [question(facts, "train", dice, answered=True) for _ in range(3 + dice.below(3))]
    return "\n\n".join([dice.pick(FAQ_TITLES), *(f"{page.instruction}\n{page.output}" for page in pages)])


def question(facts, split, dice, answered=False):
    """An Instruction without input that ends with a question mark."""
    while True:
        family = dice.pick(list(FAMILIES.values()))
        if family.trained or not answered:
            drawn = family.draw(facts, split, dice)
            if drawn.instruction.endswith("?") and not drawn.input:
                return drawn


SHARES = {quiz: 9, faq: 6}
