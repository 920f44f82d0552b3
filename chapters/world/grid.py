"""A grid of tasks: twelve attributes, each asked about in six forms (Wei et al. 2021's kinds of tasks in miniature).

An attribute is something that the pages tell or show: a person's pet, the price of a food, the first thing in a list. A form is
a way to ask: a question, a question with options, a sentence to complete, true or false, a false sentence to correct, two
sentences to choose from. Any attribute goes with any form. Both have several wordings, and a form has several frames for its
answer. The main job never sees these tasks: they serve `chapters.ch10.headlines.wei`.

>>> from chapters.world import World
>>> task = draw_tasks(World(0), [("pet", "options")], "train", n=1, seed=0)[0]
>>> task.instruction
'Choose from a goat, a cat, a mouse or a hen. What is the pet of Hugo?'
>>> task.options
('With Hugo lives a hen.', 'With Hugo lives a goat.', 'With Hugo lives a mouse.', 'With Hugo lives a cat.')
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from chapters.world import World, check_split
from chapters.world.attributes import ATTRIBUTES
from chapters.world.facts import KINDS, Facts, SeededRandom, deal
from chapters.world.family import NOUNS, Instruction
from chapters.world.reading import well_formed, words

Combination: TypeAlias = tuple[str, str]  # the names of an attribute and of a form
MOST_OPTIONS = 4
VOCABULARY = frozenset(noun.lower() for noun in [*NOUNS, *KINDS, "yes", "no"])  # with all numbers, the words that can be values
DENIALS = frozenset(["not", "never", "nobody", "unknown", "cannot"])


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Form:
    """A way to ask.

    Attributes:
        asks: templates of the instruction. {question} is the attribute's question. {false} is a false statement, {claim} is
            true or false, and {one} and {other} are a true and a false statement in random order. {beginning} is a statement
            without its value, and {options} lists the values to choose from.
        answers: frames of the answer, templates with {statement} or {value}.
        most_options: how many answers are compared.
        judges: whether the answer says yes or no to {claim} and gives no value.
    """

    asks: list[str]
    answers: list[str]
    most_options: int = MOST_OPTIONS
    judges: bool = False


FORMS = {
    "question": Form(
        ["{question}", "Please answer: {question}", "Here is a question. {question}"],
        ["{statement}", "It is {value}.", "The answer is {value}."],
    ),
    "options": Form(
        ["{question} Choose one of {options}.", "{question} Is it {options}?", "Choose from {options}. {question}"],
        ["{statement}", "It is {value}.", "The answer is {value}."],
    ),
    "complete": Form(
        ["Complete the sentence. {beginning}", "How does this go on? {beginning}", "Write the end of this. {beginning}"],
        ["{statement}", "What is missing is {value}."],
    ),
    "true or false": Form(
        ["Is this true? {claim}", "{claim} Is it so?", "Say yes or no. {claim}"],
        ["{value}.", "The answer is {value}."],
        judges=True,
    ),
    "correct": Form(
        ["This is not true: {false} What is true?", "Correct the sentence. {false}", "{false} This is wrong. Say it right."],
        ["{statement}", "It is {value}."],
    ),
    "choose": Form(
        ["Which is true? {one} Or: {other}", "Choose the true sentence. {one} {other}", "What is right? {one} Or: {other}"],
        ["{statement}", "It is {value}."],
        most_options=2,
    ),
}


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class GridTask(Instruction):
    """A task of the grid. Its family is the combination, such as "pet/options", and its key is the subject.

    Attributes:
        options: answers in one frame with different values; the first is the right answer, `output`.
        right: the right values; a response has to give one.
        facts: values that a response may give besides, namely the attribute's right values where the answer is yes or no.
    """

    options: tuple[str, ...]
    right: tuple[str, ...]
    facts: tuple[str, ...]


def draw_task(facts: Facts, combination: Combination, split: str, rng: SeededRandom) -> GridTask:
    """A random task of one attribute in one form.  split: "train" or "test", the side of its subject."""
    attribute, form = ATTRIBUTES[combination[0]], FORMS[combination[1]]
    subject, template = attribute.draw(facts, split, rng), rng.pick(attribute.statements)
    values = [subject.right[0], *subject.wrong][:MOST_OPTIONS]

    def statement(value: str) -> str:
        return template.format(subject=subject.text, value=attribute.phrase(value))

    one, other = rng.shuffled(values[:2])
    instruction = rng.pick(form.asks).format(
        question=rng.pick(attribute.questions).format(subject=subject.text),
        options=either([attribute.phrase(value) for value in rng.shuffled(values)]),
        beginning=template.removesuffix(" {value}.").format(subject=subject.text),
        false=statement(values[1]),
        claim=statement(one),
        one=statement(one),
        other=statement(other),
    )
    frame = rng.pick(form.answers)
    if form.judges:
        verdicts = ["yes", "no"] if one == values[0] else ["no", "yes"]
        right, options = verdicts[:1], [capitalised(frame.format(value=verdict)) for verdict in verdicts]
    else:
        right = subject.right
        options = [frame.format(value=attribute.phrase(v), statement=statement(v)) for v in values[: form.most_options]]
    family = "/".join(combination)
    return GridTask(
        instruction, subject.input, options[0], family, subject.text, tuple(options), tuple(right), tuple(subject.right)
    )


def either(phrases: Sequence[str]) -> str:
    """["a", "b", "c"] as "a, b or c"."""
    *others, last = phrases
    return f"{', '.join(others)} or {last}"


def capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def draw_tasks(world: World, combinations: Sequence[Combination], split: str, n: int, seed: int) -> list[GridTask]:
    """n tasks in random order, of each combination equally often or once more.  split: "train" or "test"."""
    check_split("draw_tasks", split, ("train", "test"))
    rng = SeededRandom(f"grid/{world.seed}/{split}/{seed}")
    return [draw_task(world.facts, combination, split, rng) for combination in deal(rng, combinations, n)]


def accepts(task: GridTask, response: str) -> bool:
    """Whether the response gives the right value, in whole sentences, and no other value.

    It may repeat the subject, and after yes or no also the fact, as in "No, Mira keeps a dog."
    """
    used = f" {' '.join(words(response))} ".replace(f" {' '.join(words(task.key))} ", " ").split()
    told = {word for word in used if word in VOCABULARY or word.isdigit()}
    right, facts = ({value.lower() for value in values} for values in (task.right, task.facts))
    return well_formed(response) and not DENIALS & set(used) and bool(told & right) and told <= right | facts


# ── what tuning sees ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Division:
    """The part of the grid for tuning, and the parts that tuning never sees."""

    attributes: list[str]  # for tuning, in random order
    unseen_attributes: list[str]
    unseen_combinations: list[Combination]  # of an attribute and a form that tuning sees, but not together

    def training(self, count: int) -> list[Combination]:
        """The combinations for tuning on the first `count` attributes."""
        return [pair for pair in product(self.attributes[:count], FORMS) if pair not in self.unseen_combinations]


def divisions(seed: int, rounds: int, unseen_combinations: int) -> list[Division]:
    """A random division for each round, such that each attribute is unseen in exactly one round."""
    rng = SeededRandom(f"divisions/{seed}")
    names = rng.shuffled(list(ATTRIBUTES))
    result = []
    for i in range(rounds):
        unseen = names[i::rounds]
        seen = rng.shuffled([name for name in names if name not in unseen])
        result.append(Division(seen, unseen, rng.sample(product(seen, FORMS), unseen_combinations)))
    return result
