"""The bag of words: its fit against closed forms, what it can and cannot learn, and what choosing by it earns."""

import math

import numpy as np
import pytest

from chapters.ch10.bag_of_words import (
    PENALTIES,
    baseline_text,
    bradley_terry,
    count_differences,
    fit,
    gain_by_choosing,
    log_loss,
    vocabulary_of,
    word_counts,
)


def test_one_word_gets_the_log_odds_of_being_preferred():
    differences = np.array([[1.0]] * 30 + [[-1.0]] * 10)  # the response with the word is preferred 30 times of 40
    assert bradley_terry(differences, 1e-9) == pytest.approx([math.log(3)], abs=1e-8)
    assert 0 < bradley_terry(differences, 100.0)[0] < bradley_terry(differences, 10.0)[0] < math.log(3)


def test_no_neighbouring_weights_have_a_lower_objective():
    rng = np.random.default_rng(0)
    differences, penalty = rng.integers(-2, 3, (200, 6)).astype(float), 0.7
    weights = bradley_terry(differences, penalty)

    def objective(weights):
        return log_loss(differences, weights) + penalty / 2 * weights @ weights

    by_hand = sum(math.log(1 + math.exp(-row @ weights)) for row in differences)
    assert log_loss(differences, weights) == pytest.approx(by_hand, rel=1e-12)
    for direction in rng.normal(size=(20, 6)):
        slope = (objective(weights + 1e-4 * direction) - objective(weights - 1e-4 * direction)) / 2e-4
        assert abs(slope) < 1e-5
        assert objective(weights + 0.01 * direction) > objective(weights)


def test_the_fit_recovers_the_labellers_weights():
    rng = np.random.default_rng(1)
    truth, differences = np.array([2.0, -1.0, 0.5]), rng.integers(-2, 3, (20000, 3)).astype(float)
    preferred = rng.random(20000) < 1 / (1 + np.exp(-differences @ truth))
    np.testing.assert_allclose(bradley_terry(np.where(preferred[:, None], differences, -differences), 1e-6), truth, atol=0.1)


def test_a_word_that_always_wins_gets_a_finite_weight_only_by_the_penalty():
    always = np.ones((50, 1))
    (weight,) = bradley_terry(always, 1.0)
    assert weight == pytest.approx(50 / (1 + math.exp(weight)), rel=1e-6)  # the gradient is zero
    assert np.isfinite(bradley_terry(1000 * always, 1e-6)).all()  # a full step from zero would overshoot
    for penalty in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="bradley_terry: expected penalty > 0, got"):
            bradley_terry(always, penalty)


def test_a_labeller_who_sometimes_tosses_a_coin_is_believed_less():
    rng = np.random.default_rng(2)
    differences, penalty, error = rng.integers(-2, 3, (200, 6)).astype(float), 0.7, 0.2
    weights = bradley_terry(differences, penalty, error=error)
    by_hand = sum(math.log(0.1 + 0.8 / (1 + math.exp(-row @ weights))) for row in differences)
    assert log_loss(differences, weights, error) == pytest.approx(-by_hand, rel=1e-12)
    for direction in rng.normal(size=(20, 6)):
        ends = [weights + side * 1e-4 * direction for side in (1, -1)]
        up, down = (log_loss(differences, end, error) + penalty / 2 * end @ end for end in ends)
        assert abs(up - down) / 2e-4 < 1e-4
    slip = np.array([[3.0]] * 30 + [[-3.0]])  # one choice in 31 contradicts the others
    believed, excused = (bradley_terry(slip, 0.01, error=error)[0] for error in (0.0, 0.2))
    assert excused > 1.5 * believed


def test_the_vocabulary_holds_the_common_words_in_alphabetical_order():
    texts = ["The dog, the dog!", "A dog sleeps.", "the cat"]
    assert vocabulary_of(texts) == ["dog", "the"]
    assert vocabulary_of(texts, least=1) == ["a", "cat", "dog", "sleeps", "the"]
    assert vocabulary_of(texts, least=1, most=2) == ["dog", "the"]
    assert word_counts(texts, ["dog", "the"]).tolist() == [[2, 2], [1, 0], [0, 1]]
    assert count_differences([(texts[0], texts[2])], ["dog", "the"]).tolist() == [[2, 1]]


GROUPS = [[(f"Gladly. Item {i} is here.", f"You are lazy. Item {i} is here.")] for i in range(40)]


def test_a_fit_learns_which_words_please_and_not_which_order():
    bag = fit(GROUPS, 0)
    assert set(bag.heaviest(4)) == {"gladly", "you", "are", "lazy"} and bag.penalty in PENALTIES
    assert (bag.gaps([pair for group in GROUPS for pair in group]) > 0).all()
    first, second, unknown, empty = bag.rewards(["Gladly. It is here.", "here is it gladly", "zebra", ""])
    assert first == second > 0 and unknown == empty == 0
    again = fit(GROUPS, 0)
    assert again.vocabulary == bag.vocabulary and (again.weights == bag.weights).all()


def test_the_penalty_is_chosen_on_prompts_that_were_set_aside():
    def noise(n):
        rng = np.random.default_rng(2)
        word = [" ".join(f"w{j}" for j in rng.choice(30, 3)) for _ in range(2 * n)]
        return [[(word[2 * i], word[2 * i + 1])] for i in range(n)]

    assert fit(noise(200), 0).penalty == max(PENALTIES)  # nothing to learn, so the strongest
    assert fit([group * 5 for group in GROUPS], 0).penalty == min(PENALTIES)  # no noise, so the weakest
    assert fit(GROUPS[:4], 0).penalty == 1.0  # too few prompts to set any aside


def test_responses_without_a_common_word_give_an_empty_bag():
    bag = fit([[("one", "two")]], 0)
    assert bag.vocabulary == [] and bag.rewards(["one", "two"]).tolist() == [0, 0] and bag.heaviest(3) == {}


def test_equal_rewards_share_the_choice():
    values = np.array([[0.0, 4.0, 8.0], [3.0, 3.0, 6.0]])
    assert gain_by_choosing(values, values) == pytest.approx((4 + 2) / 2)
    assert gain_by_choosing(np.zeros((2, 3)), values) == 0
    assert gain_by_choosing(-values, values) == pytest.approx((-4 - 1) / 2)
    assert gain_by_choosing(np.array([[1.0, 2, 2], [5, 0, 0]]), values) == pytest.approx((2 - 1) / 2)


def test_the_baselines_text():
    bag = {"words": 3, "accuracy": 0.5, "heaviest words": {"gladly": 1.25}}
    assert baseline_text({"bag of words": bag}) == "a bag of 3 words: 50.00% of the same comparisons right (gladly +1.2)"
    gains = {"n": 4, "reward model": 1.0, "bag of words": 0.5, "judge": 1.5}
    text = baseline_text({"bag of words": bag | {"ceiling": 0.9, "share of the ceiling": 0.8}, "best of n": gains})
    assert "80.0% of the ceiling" in text and "best of 4 responses gains +1.00" in text and "+0.50 if the bag" in text
