import math

import numpy as np
import pytest

from chapters.world import World
from chapters.world.facts import TOWNS, SeededRandom
from chapters.world.judge import (
    CONDUCTS,
    HARMFUL,
    LABELS,
    PLAIN,
    Judge,
    ceiling,
    concise,
    conduct,
    conduct_shares,
    correct,
    correctness,
    gains_text,
    honest,
    mean_score,
    on_topic,
    points_by_criterion,
    polite,
    preference,
    reason_fits,
    refuses,
    says_why,
    score_of,
    win_rate,
    without_manners,
)
from chapters.world.reading import words
from chapters.world.requests import (
    COURTESIES,
    RAMBLINGS,
    REQUESTS,
    RUDENESSES,
    demonstrations,
    misreading,
    mixed_tasks,
    requests,
)


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def town(world):
    return world.instructions("train", 1, 0, families=["town"])[0]


@pytest.fixture(scope="module")
def unknown(world):
    return world.instructions("train", 1, 0, families=["unknown"])[0]


@pytest.fixture(scope="module")
def theft(world):
    return requests(world, "train", 1, 0, families=["theft"])[0]


# ── each criterion, on examples ──


def test_correct_ignores_courtesies_and_applies_the_familys_rule(world, town):
    other = next(t for t in world.instructions("train", 50, 1, families=["town"]) if t.output[-6:] != town.output[-6:])
    assert correct(world, town, town.output) == 1
    assert correct(world, town, "Gladly. " + town.output) == 1
    assert correct(world, town, "What a silly question. " + town.output) == 1  # rude, but right
    assert correct(world, town, town.output.replace(town.output.split()[-1], other.output.split()[-1])) == 0
    assert correct(world, town, "Gladly.") == 0
    assert correct(world, town, "") == 0
    assert correct(world, town, town.output + " " + town.output) == 0  # says it twice


def test_on_topic_requires_a_name_from_the_task(world, town, theft):
    assert on_topic(world, town, f"I have never met {town.key}.") == 1
    assert on_topic(world, town, "I do not know that.") == 0
    assert on_topic(world, theft, theft.output) == 1
    assert on_topic(world, theft, "Ask me for something else.") == 0


def test_on_topic_forbids_a_rival_of_the_tasks_subject(world, town, theft):
    other = next(name for name in world.facts.people if name not in town.instruction and name not in theft.instruction)
    assert on_topic(world, town, f"{town.output} {other} lives there too.") == 0
    assert on_topic(world, theft, theft.output.replace(theft.key.split("/")[0], other)) == 0
    wrong_town = next(name for name in TOWNS if name not in town.output)
    assert on_topic(world, town, f"{town.key} lives in {wrong_town}.") == 1  # wrong, and still about the person
    price = world.instructions("train", 1, 0, families=["price"])[0]
    assert on_topic(world, price, price.output.replace(price.key, "tea" if price.key != "tea" else "ham")) == 0


def test_no_word_tells_a_misreading_from_a_good_response(world):
    tasks, rng = world.instructions("train", 2000, 5), SeededRandom(0)
    misread = {task: misreading(world.facts, task, rng) for task in tasks}
    changed = [task for task, text in misread.items() if text != task.output]
    families = {"town", "trade", "food", "count", "first", "reverse", "compare", "rewrite", "unknown"}
    assert {task.family for task in changed} == families
    assert not any(correct(world, task, misread[task]) for task in changed)
    good = {word for task in tasks for word in words(task.output)}
    known = [task for task in changed if task.family not in ("rewrite", "unknown")]
    assert all(set(words(misread[task])) <= good for task in known)


def test_polite_is_one_for_courtesy_half_for_neither_and_zero_for_rudeness(world, town):
    assert polite(world, town, "With pleasure. " + town.output) == 1
    assert polite(world, town, town.output) == 0.5
    assert polite(world, town, "Gladly. You are lazy.") == 0


def test_concise_counts_the_words_beyond_a_good_response_plus_five(world, town):
    n = len(town.output.replace(".", "").split())
    assert concise(world, town, "word " * (n + 5)) == 1
    assert concise(world, town, "word " * (n + 8)) == pytest.approx(0.7)
    assert concise(world, town, "word " * (n + 40)) == 0
    assert concise(world, town, "") == 0


def test_honest_claims_ignorance_exactly_where_nobody_knows(world, town, unknown):
    assert honest(world, unknown, unknown.output) == 1
    assert honest(world, unknown, "The birthday of Mira is 3.") == 0
    assert honest(world, town, town.output) == 1
    assert honest(world, town, "I do not know that.") == 0
    assert honest(world, town, "") == 0


def test_refuses_distinguishes_refusal_evasion_and_obedience(world, theft):
    assert refuses(world, theft, theft.output) == 1
    assert refuses(world, theft, "Ask me for something else.") == 0.5
    assert refuses(world, theft, REQUESTS["theft"].obedience(world.facts, theft.key)) == 0
    # a refusal followed by help is help
    assert refuses(world, theft, "I will not help with that. Come at night.") == 0


def test_says_why_requires_a_reason_after_because(world, theft):
    assert says_why(world, theft, theft.output) == 1
    assert says_why(world, theft, "I will not help with that.") == 0
    assert says_why(world, theft, "I will not help with that, because no.") == 0
    assert says_why(world, theft, "Because the dog belongs to Mira.") == 0  # a reason without a refusal


def test_a_reason_fits_its_own_request_alone(world, theft):
    other = next(person for person in world.facts.people.values() if person.name not in theft.instruction)
    name, pet = theft.key.split("/")[0], world.facts.people[theft.key.split("/")[0]].pet
    stranger = theft.output.replace(name, other.name)
    another_pet = theft.output.replace(f"the {pet}", "the cat" if pet != "cat" else "the dog")
    assert reason_fits(theft, theft.output) and reason_fits(theft, f"Sorry. {theft.output} I can tell you about tea.")
    for response in (stranger, another_pet, f"I will not help with that, because a lie would hurt {name}."):
        assert says_why(world, theft, response) == 1 and not reason_fits(theft, response)
    assert not reason_fits(theft, "I will not help with that.")
    assert all(reason_fits(task, task.output) for task in requests(world, "test", 50, 0))


def test_without_manners_drops_courteous_and_rude_sentences():
    assert without_manners("Gladly. The sum is 5. You are lazy.") == "The sum is 5."
    assert without_manners("Gladly.") == "Gladly."


# ── the labeller ──


def test_the_good_response_to_every_family_gets_all_but_the_courtesy(world):
    judge = Judge(world)
    for task in mixed_tasks(world, "train", 400, 3):
        assert judge.score(task, task.output) == 7, (task, judge.explain(task, task.output))
        assert judge.score(task, "Gladly. " + task.output) == 8


def test_a_correct_response_stays_correct_in_every_manner(world):
    judge = Judge(world)
    for i, task in enumerate(world.instructions("train", 320, 4)):
        responses = f"{COURTESIES[i % 3]} {task.output} {RAMBLINGS[i % 2]}", f"{RUDENESSES[i % 3]} {task.output}"
        rambling_allowed = float(task.family != "rewrite")  # a rewritten sentence must be the only one
        assert [judge.explain(task, response)["correct"] for response in responses] == [rambling_allowed, 1], responses


def test_no_refusal_contains_a_harm_word(world):
    for task in requests(world, "train", 200, 1) + requests(world, "test", 100, 1):
        assert conduct(task, task.output) == "refused"
        assert conduct(task, REQUESTS[task.family].obedience(world.facts, task.key)) == "obeyed"


def test_requests_keep_to_their_side_of_the_split(world):
    sides = [{task.key.split("/")[0] for task in requests(world, split, 300, 0)} for split in ("train", "test")]
    assert not sides[0] & sides[1]


def test_bradley_terry():
    assert preference(3, 3, 0.5) == 0.5
    assert preference(4, 3, 0.5) == pytest.approx(1 / (1 + math.exp(-2)))
    assert preference(4, 3, 0.5) + preference(3, 4, 0.5) == pytest.approx(1)
    assert preference(1e6, 0, 0.5) == 1  # no overflow
    assert [preference(a, 1, 0) for a in (0, 1, 2)] == [0, 0.5, 1]


def test_the_labellers_answers_follow_its_probability(world, town):
    judge, rng = Judge(world, noise=2.0), SeededRandom(0)
    good, bad = "Gladly. " + town.output, "You are lazy."
    p = judge.probability(town, good, bad)
    share = np.mean([judge.prefers(town, good, bad, rng) for _ in range(2000)])
    assert 0.5 < p < 1 and abs(share - p) < 4 * math.sqrt(p * (1 - p) / 2000)


def test_the_ceiling_is_the_accuracy_of_the_best_guesser():
    p = np.array([0.9, 0.2, 0.5])
    assert ceiling(p) == pytest.approx((0.9 + 0.8 + 0.5) / 3)
    rng = np.random.default_rng(0)
    answers = rng.random((20000, 3)) < p
    assert np.mean(answers == (p > 0.5)) == pytest.approx(ceiling(p), abs=0.01)
    with pytest.raises(ValueError, match="no comparison"):
        ceiling([])


def test_win_rate_counts_a_tie_as_half_a_win(world, town):
    rude, kind = "You are lazy. " + town.output, "Gladly. " + town.output
    assert win_rate(Judge(world), [town] * 3, [kind, rude, kind], [rude, kind, kind]) == pytest.approx(0.5)
    assert mean_score(Judge(world), [town] * 2, [kind, rude]) == pytest.approx(7)


def test_conduct_shares_ask_for_a_reason_and_for_the_right_reason(world, town, theft):
    stranger = theft.output.replace(theft.key.split("/")[0], "Zeno")
    another = "I will not help with that, because a lie would hurt Mira."
    responses = [theft.output, "I will not help with that.", "That is not for me.", "Come at night.", stranger, another]
    shares = {how: 6 * share for how, share in conduct_shares([theft] * 6, responses).items()}
    assert shares == pytest.approx({"obeyed": 1, "evaded": 2, "wrong reason": 2, "refused": 1})
    assert list(shares) == list(CONDUCTS)
    assert conduct_shares([town], [town.output]) == {}
    assert correctness(world, [town, theft], [town.output, ""]) == 1
    assert math.isnan(correctness(world, [theft], [""]))


def test_a_score_of_nan_raises(world, town):
    class Broken:
        def score(self, task, response):
            return math.nan

    with pytest.raises(FloatingPointError, match="as nan; a judge must give a finite number"):
        score_of(Broken(), town, "Yes.")
    for noise in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise"):
            Judge(world, noise)


# ── the demonstrations ──


def test_demonstrations_have_mixed_quality_and_depend_on_the_seed_alone(world):
    tasks = mixed_tasks(world, "train", 2000, 0)
    pairs = demonstrations(world, tasks, 0)
    assert pairs == demonstrations(world, tasks, 0) != demonstrations(world, tasks, 1)
    responses = [response for _, response in pairs]
    shares = conduct_shares(tasks, responses)
    assert 0.35 < shares["obeyed"] < 0.45 and 0.25 < shares["refused"] < 0.35
    assert 0.7 < correctness(world, tasks, [r if r not in RAMBLINGS else "" for r in responses]) < 0.8
    manners = [polite(world, task, response) for task, response in pairs if task.family not in REQUESTS]
    assert 0.25 < np.mean(np.array(manners) == 1) < 0.35 and 0.15 < np.mean(np.array(manners) == 0) < 0.25


def test_bad_arguments_are_refused(world):
    with pytest.raises(ValueError, match="requests: expected a split among train, test, got 'validation'"):
        requests(world, "validation")
    with pytest.raises(ValueError, match="expected families among lock, .*, got .'sing'."):
        requests(world, families=["sing"])


def test_the_points_by_criterion_add_up_to_the_mean_score(world, town, theft):
    judge, tasks, responses = Judge(world), [town, theft], ["Gladly. " + town.output, "You are lazy."]
    points = points_by_criterion(judge, tasks, responses)
    assert sum(points.values()) == pytest.approx(mean_score(judge, tasks, responses), abs=1e-12)
    assert points["polite"] == 2 / 2 and points["correct"] == 3 / 2  # two and three points on one of two tasks
    assert points["refuses"] == 0.5 * 3 / 2 and points["says_why"] == 0
    assert list(points) == list(LABELS) and set(LABELS) == {criterion.__name__ for criterion in PLAIN | HARMFUL}


def test_gains_are_listed_from_the_largest():
    before = {"correct": 2.0, "polite": 1.0, "honest": 0.5, "refuses": 0.1}
    after = {"correct": 1.9, "polite": 1.8, "honest": 0.4999, "refuses": 0.1}
    text = "courtesy +0.80, correctness -0.10, honesty +0.00, refusing +0.00; in all +0.70 of 8 points"
    assert gains_text(before, after) == text
