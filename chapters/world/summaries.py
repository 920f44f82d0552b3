"""Summaries: a paragraph stands in the prompt, and the response tells it in at most twelve words.

    python -m chapters.world.summaries       # a few paragraphs with a reference and its marks

The paragraph's facts about a person are drawn afresh for each task and agree with the world's only by chance, so a model that
recalls what pretraining taught it about this person is mostly wrong. It has to read. A summary is judged against its paragraph
alone, on the axes of Stiennon et al. 2020 (arXiv:2009.01325, section 4.1): coverage, accuracy and coherence.

The reference writers have the faults that real writers have, at fixed rates:

- six in ten omit a fact: half of these the food, half the pet. After the town "and" is then likelier than a comma, so even a
  perfect imitator omits a fact at temperature 0;
- two in ten make a mistake: they write another town, trade, food or pet than the paragraph says;
- two in ten ramble beyond the limit.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chapters.world.documents import FOLLOWING, OPENING
from chapters.world.facts import FOODS, KINDS, PEOPLE, THINGS, TOWNS, TRADES, VERBS, Person, SeededRandom, is_held_out
from chapters.world.family import Instruction
from chapters.world.judge import preference, score_of
from chapters.world.reading import denies, mentioned, well_formed, words
from kernels.terminal import guard_streams

LIMIT = 12  # words
VALUES = {"town": TOWNS, "trade": TRADES, "food": FOODS, "pet": KINDS["animal"]}  # a fact: the values it can have
CLAUSES = {"town": "lives in {town}", "food": "likes {food}", "pet": "keeps a {pet}"}
TELLING = {  # a fact: the wordings that tell it
    "town": ["lives in {town}", "{name} of {town}", "{name} from {town}", "has a house in {town}"],
    "trade": ["{trade} {name}", "{name} the {trade}", "is a {trade}", "works as a {trade}"],
    "food": ["likes {food}", "eats {food}"],
    "pet": ["keeps a {pet}", "has a {pet}"],
}
RAMBLINGS = ["And so it is, and so it will be.", "That is all there is to say about it."]
ASIDES = [thing for thing in THINGS if thing not in VALUES["pet"]]  # things that a paragraph may mention beside the facts

# ── the tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def summary_tasks(split: str, n: int, seed: int) -> list[Instruction]:
    """n paragraphs to summarise. No paragraph is on both sides of the split ("train" or "test").

    A task's `output` is a good summary, and its key the facts: "Mira/Arden/baker/bread/dog".
    """
    if split not in ("train", "test"):
        raise ValueError(f"summary_tasks: expected the split train or test, got {split!r}")
    rng = SeededRandom(f"summaries/{split}/{seed}")
    tasks: list[Instruction] = []
    while len(tasks) < n:
        task = summary_task(rng)
        if is_held_out(task.input) == (split == "test"):
            tasks.append(task)
    return tasks


def summary_task(rng: SeededRandom) -> Instruction:
    """A task about a random person with random facts."""
    person = Person(rng.pick(PEOPLE), *(rng.pick(values) for values in VALUES.values()))
    key = "/".join(vars(person).values())
    return Instruction(
        f"Write at most {LIMIT} words about {person.name}.", paragraph(person, rng), tell(person, list(CLAUSES)), "summary", key
    )


def paragraph(person: Person, rng: SeededRandom) -> str:
    """A paragraph in pretraining's words, with the four facts in random order and something that no summary needs."""
    first, *others = rng.shuffled(list(VALUES))
    told = [rng.pick(OPENING[first]), *(rng.pick(FOLLOWING[fact]) for fact in others)]
    deed = f"Yesterday {{name}} {rng.pick(list(VERBS.values()))} the {rng.pick(ASIDES)}."
    told.insert(1 + rng.below(len(told)), deed)
    return " ".join(told).format(**vars(person))


def tell(person: Person, facts: Sequence[str]) -> str:
    """One sentence with the person's name, trade, and these facts.

    >>> tell(Person("Mira", "Arden", "baker", "bread", "dog"), ["town", "pet"])
    'The baker Mira lives in Arden and keeps a dog.'
    """
    *clauses, last = (CLAUSES[fact] for fact in facts)
    return "The {trade} {name} ".format(**vars(person)) + " and ".join([", ".join(clauses), last]).format(**vars(person)) + "."


def person_of(task: Instruction) -> Person:
    """The person as the paragraph describes them."""
    return Person(*task.key.split("/"))


# ── the reference writers ────────────────────────────────────────────────────────────────────────────────────────────


def reference(task: Instruction, rng: SeededRandom) -> str:
    """The summary of a simulated writer, with the faults that the top of this file lists."""
    person, facts, number = person_of(task), list(CLAUSES), rng.random()
    if number < 0.6:
        facts.remove("food" if number < 0.3 else "pet")
    if rng.chance(0.2):
        wrong = rng.pick(["trade", *facts])
        person = replace(person, **{wrong: rng.pick([value for value in VALUES[wrong] if value != getattr(person, wrong)])})
    text = tell(person, facts)
    return f"{text} {rng.pick(RAMBLINGS)}" if rng.chance(0.2) else text


def references(tasks: Sequence[Instruction], seed: int) -> list[str]:
    """A simulated writer's summary of each paragraph."""
    rng = SeededRandom(f"references/{seed}")
    return [reference(task, rng) for task in tasks]


# ── the criteria: (task, response) -> a number from 0 to 1 ───────────────────────────────────────────────────────────

Criterion = Callable[[Instruction, str], float]


def coverage(task: Instruction, response: str) -> float:
    """The share of the paragraph's four facts that the summary tells, with the right value, in one of the wordings TELLING."""
    person = vars(person_of(task))
    wordings = ([wording.format(**person) for wording in TELLING[fact]] for fact in TELLING)
    return sum(bool(mentioned(response, options)) for options in wordings) / len(TELLING)


def accuracy(task: Instruction, response: str) -> float:
    """1 if the summary is about the person alone, denies nothing, and says nothing that the paragraph does not say; else 0."""
    person, aside = person_of(task), mentioned(task.input, ASIDES)
    true = [*vars(person).values(), *(thing for thing in aside if f"the {thing}" in response.lower())]
    others = set(mentioned(response, [*PEOPLE, *TOWNS, *TRADES, *FOODS, *THINGS])) - set(true)
    return float(bool(mentioned(response, [person.name])) and not others and not denies(response))


def coherence(task: Instruction, response: str) -> float:
    """0 unless the summary consists of whole sentences and repeats no value; else 1, less 0.1 for each word above LIMIT."""
    used = words(response)
    repeated = any(used.count(value.lower()) > 1 for value in vars(person_of(task)).values())
    return float(well_formed(response) and not repeated) * min(max(1 - (len(used) - LIMIT) / 10, 0.0), 1.0)


WEIGHTS: dict[Criterion, float] = {coverage: 3.0, accuracy: 3.0, coherence: 2.0}

# ── the labeller ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class SummaryJudge:
    """A simulated labeller of summaries, in the manner of `judge.Judge`."""

    noise: float = 0.5  # labeller noise (0 = always prefers the higher score)

    def __post_init__(self) -> None:
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(f"SummaryJudge: expected a finite noise of at least 0, got {self.noise}")

    def explain(self, task: Instruction, response: str) -> dict[str, float]:
        """The value of each criterion, from 0 to 1, by name."""
        return {criterion.__name__: criterion(task, response) for criterion in WEIGHTS}

    def score(self, task: Instruction, response: str) -> float:
        """The weighted sum of the criteria, from 0 to 8."""
        return sum(weight * criterion(task, response) for criterion, weight in WEIGHTS.items())

    def probability(self, task: Instruction, a: str, b: str) -> float:
        """The probability that this labeller prefers response a to response b."""
        return preference(score_of(self, task, a), score_of(self, task, b), self.noise)


def main() -> None:
    judge, tasks = SummaryJudge(), summary_tasks("train", 8, 0)
    for task, text in zip(tasks, references(tasks, 0), strict=True):
        marks = ", ".join(f"{name} {value:g}" for name, value in judge.explain(task, text).items())
        print(f"{task.instruction}\n  {task.input}\n  -> {text}\n  {judge.score(task, text):.2f} of 8: {marks}\n")


if __name__ == "__main__":
    guard_streams()
    argparse.ArgumentParser(
        prog="python -m chapters.world.summaries",
        description="Print a few paragraphs, each with a simulated writer's summary and its marks.",
    ).parse_args()
    main()
