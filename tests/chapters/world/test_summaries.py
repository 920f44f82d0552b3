"""Summaries: the paragraphs, the reference writers' faults, and a judge that reads a summary against its paragraph alone."""

import numpy as np
import pytest

from chapters.world.facts import FOODS, KINDS, PEOPLE, Person, SeededRandom
from chapters.world.family import Instruction
from chapters.world.judge import score_of
from chapters.world.reading import mentioned, words
from chapters.world.summaries import (
    LIMIT,
    RAMBLINGS,
    VALUES,
    SummaryJudge,
    accuracy,
    coherence,
    coverage,
    paragraph,
    person_of,
    reference,
    references,
    summary_tasks,
)

MIRA = Person("Mira", "Arden", "baker", "bread", "dog")


@pytest.fixture(scope="module")
def tasks():
    return summary_tasks("train", 400, 0)


@pytest.fixture
def task():
    """A task about Mira whose paragraph also has a lemon."""
    told = "By trade Mira is a baker. Mira eats bread every day. Yesterday Mira sold the lemon. Mira has a dog."
    key = "/".join(vars(MIRA).values())
    return Instruction("Write at most 12 words about Mira.", f"{told} Mira lives in Arden.", "", "summary", key)


# ── paragraphs ──


def test_a_paragraph_tells_the_four_facts_of_its_key_and_nobody_elses(tasks):
    for task in tasks:
        person = person_of(task)
        assert mentioned(task.input, PEOPLE) == [person.name] and person.name in task.instruction
        for fact, values in VALUES.items():
            assert mentioned(task.input, values) == [getattr(person, fact)], task.input


def test_facts_are_drawn_afresh_for_each_paragraph(tasks):
    people = [person_of(task) for task in tasks]
    towns = {name: {p.town for p in people if p.name == name} for name in PEOPLE}
    assert sum(len(of_name) > 1 for of_name in towns.values()) > 70  # of 80 names


def test_no_paragraph_is_on_both_sides_and_equal_seeds_give_equal_tasks(tasks):
    tests = summary_tasks("test", 200, 0)
    assert not {task.input for task in tests} & {task.input for task in tasks}
    assert summary_tasks("test", 200, 0) == tests != summary_tasks("test", 200, 1)
    assert paragraph(MIRA, SeededRandom(0)) == paragraph(MIRA, SeededRandom(0)) != paragraph(MIRA, SeededRandom(1))


def test_the_good_summary_of_every_task_has_full_marks_within_the_limit(tasks):
    judge = SummaryJudge()
    assert {score_of(judge, task, task.output) for task in tasks} == {8.0}
    assert max(len(words(task.output)) for task in tasks) == LIMIT


# ── criteria ──


def test_coverage_counts_the_facts_told_in_words_that_tell_them(task):
    assert coverage(task, "The baker Mira lives in Arden, likes bread and keeps a dog.") == 1
    assert coverage(task, "Mira is a baker and has a dog. Mira eats bread.") == 0.75
    assert coverage(task, "The baker Mira lives in Holt and likes bread.") == 0.5
    assert coverage(task, "Mira: Arden, baker, bread, dog.") == coverage(task, "") == 0


@pytest.mark.parametrize(
    "response",
    [
        "The baker Mira lives in Holt.",  # another town
        "The baker Mira likes cheese.",  # another food
        "The baker Mira keeps a lemon.",  # a thing of the paragraph, but nothing that it says
        "The baker Mira lives in Arden with Paul.",  # somebody else
        "The baker Mira does not live in Wick but lives in Arden.",  # a denial
        "The baker lives in Arden.",  # nobody
        "",
    ],
)
def test_accuracy_refuses_whatever_the_paragraph_does_not_say(task, response):
    assert accuracy(task, response) == 0


def test_accuracy_accepts_the_facts_and_the_aside(task):
    assert accuracy(task, "The baker Mira lives in Arden.") == accuracy(task, "Yesterday Mira sold the lemon.") == 1


def test_coherence_wants_whole_sentences_within_the_limit_that_repeat_nothing(task):
    good = "The baker Mira lives in Arden, likes bread and keeps a dog."
    assert coherence(task, good) == 1
    assert coherence(task, good.removesuffix(".")) == coherence(task, "Mira likes bread and likes bread.") == 0
    assert coherence(task, f"{good} That is all.") == pytest.approx(0.7)


# ── writers and labeller ──


def test_the_writers_omit_err_and_ramble_at_their_rates():
    tasks = summary_tasks("train", 4000, 1)
    texts = references(tasks, 1)
    omitted = [len(mentioned(text, FOODS)) + len(mentioned(text, KINDS["animal"])) < 2 for text in texts]
    wrong = [accuracy(task, text) == 0 for task, text in zip(tasks, texts, strict=True)]
    rambling = [len(words(text)) > LIMIT for text in texts]
    assert np.mean(omitted) == pytest.approx(0.6, abs=0.03)
    assert np.mean(wrong) == pytest.approx(0.2, abs=0.03)
    assert np.mean(rambling) == pytest.approx(0.2, abs=0.03)
    assert not any(len(words(text)) > LIMIT for text in texts if not text.endswith(tuple(RAMBLINGS)))


def test_every_fault_costs_points_and_so_comparisons(task):
    judge, good = SummaryJudge(), "The baker Mira lives in Arden, likes bread and keeps a dog."
    omission, error = "The baker Mira lives in Arden and keeps a dog.", good.replace("Arden", "Holt")
    scores = [score_of(judge, task, text) for text in (good, omission, f"{good} {RAMBLINGS[0]}", error)]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert judge.explain(task, error) == {"coverage": 0.75, "accuracy": 0.0, "coherence": 1.0}
    assert judge.probability(task, good, omission) == pytest.approx(1 / (1 + np.exp(-0.75 / 0.5)))
    assert judge.probability(task, good, good) == 0.5 and SummaryJudge(0).probability(task, good, omission) == 1


def test_a_reference_depends_on_the_seed_alone(tasks):
    assert references(tasks, 3) == references(tasks, 3) != references(tasks, 4)
    assert reference(tasks[0], SeededRandom(0)) == reference(tasks[0], SeededRandom(0))


def test_mistakes_get_one_sentence():
    with pytest.raises(ValueError, match="summary_tasks: expected the split train or test, got 'dev'"):
        summary_tasks("dev", 1, 0)
    with pytest.raises(ValueError, match="SummaryJudge: expected a finite noise of at least 0, got -1"):
        SummaryJudge(-1)
