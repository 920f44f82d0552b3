"""The grid: every attribute goes with every form, the rule accepts right answers alone, and tuning and tests share nothing."""

from dataclasses import replace
from itertools import product

import pytest

from chapters.world import World
from chapters.world.attributes import ATTRIBUTES
from chapters.world.facts import KINDS, SeededRandom, is_held_out
from chapters.world.grid import FORMS, accepts, divisions, draw_task, draw_tasks
from chapters.world.reading import mentioned, words

WORLD = World(0)
COMBINATIONS = [*product(ATTRIBUTES, FORMS)]
TRAIN, TEST = (draw_tasks(WORLD, COMBINATIONS, split, 20 * len(COMBINATIONS), 1) for split in ("train", "test"))


def named(*combination, split="train", seed=0):
    return draw_task(WORLD.facts, combination, split, SeededRandom(seed))


def test_the_grid_is_large_enough():
    assert len(ATTRIBUTES) >= 12 and len(FORMS) >= 6
    for attribute in ATTRIBUTES.values():
        assert len(attribute.questions) >= 3 and len(attribute.statements) >= 3
        assert all(statement.endswith(" {value}.") for statement in attribute.statements)
    assert all(len(form.asks) >= 3 and len(form.answers) >= 2 for form in FORMS.values())


@pytest.mark.parametrize("form", FORMS)
def test_the_rule_accepts_the_right_option_alone(form):
    tasks = [task for task in TRAIN + TEST if task.family.endswith(f"/{form}")]
    assert len(tasks) == 40 * len(ATTRIBUTES)
    for task in tasks:
        assert task.output == task.options[0] and 2 <= len(task.options) <= 4
        assert [accepts(task, option) for option in task.options] == [True] + [False] * (len(task.options) - 1), task


def test_the_options_of_a_task_differ_in_the_value_alone():
    for task in TEST:
        right, *others = (words(option.replace(" an ", " a ")) for option in task.options)
        for other in others:
            assert len(other) == len(right)
            assert sum(a != b for a, b in zip(right, other, strict=True)) == 1, task.options


def test_every_option_of_the_options_form_stands_in_the_question():
    for task in TRAIN:
        if task.family in ("pet/options", "price/options", "member/options"):
            for option in task.options:
                assert option.removesuffix(".").split()[-1] in task.instruction


def test_yes_is_right_for_true_claims():
    verdicts = []
    for seed in range(60):
        task = named("pet", "true or false", seed=seed)
        claims = mentioned(task.instruction, [WORLD.facts.people[task.key].pet])
        assert task.right == (("yes",) if claims else ("no",))
        verdicts.append(task.right[0])
    assert 15 < verdicts.count("yes") < 45


def test_the_sentence_to_correct_is_false_and_one_of_the_sentences_to_choose_from_is_true():
    for seed in range(30):
        wrong, choice = named("town", "correct", seed=seed), named("town", "choose", seed=seed)
        assert WORLD.facts.people[wrong.key].town not in wrong.instruction
        assert WORLD.facts.people[choice.key].town in choice.instruction


def test_the_rule_reads_the_whole_answer():
    task = replace(named("pet", "question"), key="Mira", right=("dog",), facts=("dog",))
    for response in ("A dog.", "It is a dog.", "At home Mira keeps a dog.", "Mira has a dog!"):
        assert accepts(task, response), response
    for response in ("A cat.", "A dog or a cat.", "It is not a dog.", "At home Otto keeps a dog.", "A dog", "Is it a dog?", ""):
        assert not accepts(task, response), response
    verdict = replace(task, right=("no",))
    for response, good in {
        "No.": True,
        "No, Mira keeps a dog.": True,
        "No, Mira keeps a cat.": False,
        "Yes and no.": False,
        "Mira keeps a dog.": False,
    }.items():
        assert accepts(verdict, response) == good, response


def test_a_sum_may_be_repeated_and_other_numbers_may_not():
    task = replace(named("sum", "question"), key="3 + 4", right=("7",), facts=("7",))
    assert accepts(task, "The sum is 3 + 4 = 7.") and accepts(task, "It is 7.")
    assert not accepts(task, "The sum is 3 + 5 = 7.") and not accepts(task, "It is 7 or 8.")


def test_any_member_of_a_group_is_right():
    task = named("member", "question")
    assert len(task.right) > 1 and all(accepts(task, f"It is {name}.") for name in task.right)
    assert set(task.right) <= set(WORLD.facts.train["person"])


def test_tuning_and_tests_share_no_subject():
    def subjects(tasks):
        return {(task.family.split("/")[0], *sorted(words(task.key)), task.input) for task in tasks}

    assert not subjects(TRAIN) & subjects(TEST)
    for task in TRAIN:
        attribute = task.family.split("/")[0]
        if attribute in ("town", "trade", "food", "pet"):
            assert task.key in WORLD.facts.train["person"]
        if task.input:
            assert not is_held_out(task.input.removeprefix("The list is ").removesuffix("."))


def test_tasks_are_balanced_and_reproducible():
    chosen = [("pet", "question"), ("sum", "choose"), ("kind", "options")]
    tasks = draw_tasks(WORLD, chosen, "test", 30, 5)
    families = [task.family for task in tasks]
    assert all(families.count("/".join(combination)) == 10 for combination in chosen)
    assert families != sorted(families)
    assert draw_tasks(WORLD, chosen, "test", 30, 5) == tasks != draw_tasks(WORLD, chosen, "test", 30, 6)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="draw_tasks: expected a split among train, test, got 'test_families'"):
        draw_tasks(WORLD, COMBINATIONS, "test_families", 3, 0)


def test_each_attribute_is_unseen_in_one_round():
    rounds = divisions(3, 3, 12)
    assert sorted(name for division in rounds for name in division.unseen_attributes) == sorted(ATTRIBUTES)
    for division in rounds:
        assert len(set(division.unseen_combinations)) == 12
        assert sorted(division.attributes + division.unseen_attributes) == sorted(ATTRIBUTES)
        training = division.training(len(division.attributes))
        assert sorted(training + division.unseen_combinations) == sorted(product(division.attributes, FORMS))
        assert {attribute for attribute, _ in division.training(2)} == set(division.attributes[:2])
    assert rounds == divisions(3, 3, 12) != divisions(4, 3, 12)


def test_a_kind_takes_its_article():
    options = {option for seed in range(20) for option in named("kind", "question", seed=seed).options}
    assert any(" an animal." in option for option in options) and not any(" a animal" in option for option in options)
    assert set(KINDS) >= {option.removesuffix(".").split()[-1] for option in options}
