"""Christiano's row: rewards of one spread, a penalty that held-out comparisons set, KL that meets its target, equal KL."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chapters.ch06_gpt import save_model
from chapters.ch10.bag_of_words import log_loss
from chapters.ch10.headlines import christiano
from chapters.ch10.headlines import settings as shared
from chapters.ch10.headlines.christiano import (
    QUICK,
    RATIO,
    REWARDS,
    SHARE,
    ChristianoSettings,
    SteeredRLOO,
    between,
    gain_ratio,
)
from chapters.ch10.headlines.experiment import Experiment
from chapters.ch10.headlines.online_reward import OnlineConfig, OnlineReward, Responses, TrueReward, fit_member, readings_of
from chapters.ch10.rloo import RLOOConfig
from chapters.ch10.rollout import to_rollouts
from chapters.support.run_folder import Run
from chapters.world import Instruction


@pytest.fixture
def experiment(tmp_path, make_gpt, assistant_tokenizer):
    """A world whose assistant is untrained."""
    experiment = Experiment(1, tmp_path / "world1", shared.QUICK)
    save_model(Run(experiment.model_folder("main_assistant")), make_gpt(), assistant_tokenizer, "instruction")
    (experiment.model_folder("main_assistant") / "done").touch()
    return experiment


def test_the_row_measures_three_rewards_at_equal_samples(experiment, capsys):
    measured = christiano.measure(experiment, QUICK)
    again = christiano.measure(experiment, QUICK)
    assert measured == again and capsys.readouterr().out.count("christiano_") == len(REWARDS)
    assert list(measured.quantities)[0] == RATIO and np.isfinite(list(measured.quantities.values())).all()
    assert 0 < measured.quantities[SHARE] < QUICK.share
    runs = [measured.details[f"3 prompts, {label}"] for label in REWARDS.values()]
    assert [run["samples"] for run in runs] == [32, 32, 32] and [run["compared"] for run in runs] == [0, 12, 12]
    for label, curve in measured.series.items():
        assert curve[0] == [pytest.approx(0, abs=1e-6), 0.0], label  # all begin at the SFT model


def test_the_registered_settings_compare_less_than_one_percent():
    for prompts in (63, 126, 252):
        settings = ChristianoSettings(prompts=(prompts,))
        samples = settings.iterations(prompts) * settings.training.prompts
        assert 0.0098 < prompts * settings.training.k / samples < 0.01
        plan = settings.plan(prompts)
        assert sum(plan.values()) == prompts and max(plan) <= settings.iterations(prompts) / 2 + 1
        assert plan[0] == pytest.approx(prompts / 4, abs=1)


def test_bad_settings_are_refused():
    for wrong, message in (
        (dict(prompts=()), "expected at least one prompt"),
        (dict(prompts=(63, 0)), "expected at least one prompt"),
        (dict(prompts=(300,), online=OnlineConfig(rounds=1)), "expected at most the 64 prompts of a batch in a round, got 300"),
        (dict(share=0.0), "share must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ChristianoSettings(**wrong)
    for wrong, message in ((dict(members=0), "members must be at least 1"), (dict(error=1.0), "error must be below 1")):
        with pytest.raises(ValueError, match=message):
            OnlineConfig(**wrong)


# ── rewards ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def rollouts_of(texts, tokenizer) -> Any:
    """A stand-in for rollouts with these texts."""
    return SimpleNamespace(texts=lambda _: list(texts))


def online_reward(experiment, plan=None) -> OnlineReward:
    """A bag of words, for two responses to each prompt."""
    _, tokenizer = experiment.assistant()
    return OnlineReward(experiment.judge, tokenizer, OnlineConfig(members=3), plan or {}, k=2, seed=1, reads=False)


def test_true_and_learned_rewards_have_one_spread_over_the_first_responses(experiment):
    tasks = [task for task in experiment.tests[:8] for _ in range(2)]
    texts = [text for task in tasks[::2] for text in (f"Gladly. {task.output}", "You are lazy.")]
    rollouts, plan = rollouts_of(texts, None), {0: 8}
    for score in (TrueReward(experiment.judge, None, 2), online_reward(experiment, plan=plan)):
        first = score(tasks, rollouts)
        assert first.std() == pytest.approx(1), type(score).__name__
        assert (first[::2] > first[1::2]).all(), type(score).__name__
        np.testing.assert_allclose(first.reshape(-1, 2).mean(axis=1), 0, atol=1e-12)
    judge = TrueReward(experiment.judge, None, 2)
    judge(tasks, rollouts)
    milder = [text if i % 2 == 0 else text.removeprefix("Gladly. ") for i, text in enumerate(np.repeat(texts[::2], 2))]
    assert judge(tasks, rollouts_of(milder, None)).std() < 0.5  # in units of the first call's spread


def test_the_labeller_sees_each_prompts_different_responses(experiment):
    online = online_reward(experiment)
    tasks = [task for task in experiment.tests[:2] for _ in range(2)]
    texts = ["Gladly.", "Gladly.", "You are lazy.", f"With pleasure. {tasks[2].output}"]
    online.ask(tasks, Responses(texts, np.zeros((4, 0))), np.array([0, 1]))
    assert [len(compared.texts) for compared in online.compared] == [2, 2]
    assert [list(compared.pairs) for compared in online.compared] == [[], [(1, 0)]]


def test_the_labeller_sees_the_prompts_with_the_most_different_responses(experiment):
    responses = Responses(["a", "a", "b", "c", "d", "d", "e", "f"], np.zeros((8, 0)))
    assert list(online_reward(experiment).varied(responses, 3)) == [1, 3, 0]


def test_readings_hold_the_log_probabilities_and_the_words_of_the_prompt():
    rollouts = to_rollouts([[5, 6], [5]], [[7, 8, 9], [7]], [True, True])
    rollouts.reference_log_probs = np.array([[0, -1.0, -4.0, -1.0], [-0.5, 0, 0, 0]])
    tasks = [Instruction("Where does Mira live?", "", "", "", "")] * 2
    readings = readings_of(tasks, rollouts, ["Mira lives in Oak.", "Where, in Oak?"])
    assert readings.tolist() == [[-6, -2, -4, 3, 1, 3], [-0.5, -0.5, -0.5, 1, 1, 2]]


def test_held_out_comparisons_set_the_penalty():
    rng, config = np.random.default_rng(0), OnlineConfig(error=0.0)
    truth = rng.normal(size=30)

    def prompts(n: int, noise: float) -> list[np.ndarray]:
        differences = rng.normal(size=(n, 6, 30))
        gaps = differences @ truth + noise * rng.normal(size=(n, 6))
        return list(np.where(gaps[..., None] > 0, differences, -differences))

    def fit(prompts: list[np.ndarray]) -> tuple[np.ndarray, float]:
        return fit_member(prompts, config, np.random.default_rng(1))

    informative = prompts(60, 0.0)
    weights, low = fit(informative)
    assert np.corrcoef(weights, truth)[0, 1] > 0.9
    drawn = np.random.default_rng(1).integers(0, 60, 60)
    fitting, held_out = (np.concatenate([informative[i] for i in rows]) for rows in (drawn, set(range(60)) - set(drawn)))
    losses = [log_loss(part, weights) / len(part) for part in (held_out, fitting)]
    assert 1.1 <= losses[0] / losses[1] <= 1.5
    assert fit(prompts(600, 0.0))[1] < low < fit(prompts(10, 100.0))[1]  # many comparisons bear more weight, random ones less
    alone, penalty = fit(informative[:1])  # nothing is held out
    assert penalty == 1.0 and np.isfinite(alone).all()
    nothing, _ = fit([np.zeros((0, 4))] * 3)  # all responses were equal
    assert nothing.tolist() == [0.0] * 4


# ── KL ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_kl_coefficient_rises_above_the_target_and_falls_below(experiment):
    policy, _ = experiment.assistant()
    rollouts = to_rollouts([[5, 6]] * 4, [[7, 8], [7], [9], [8, 7]], [True] * 4, [[-1.0, -1], [-1], [-1], [-1, -1]])
    for kl, direction in ((9.0, 1), (0.5, -1)):
        learner = SteeredRLOO(policy, RLOOConfig(prompts=4, kl_coefficient=0.2), kl_target=2.0, kl_horizon=20.0)
        record = learner.learn(rollouts, np.arange(4.0), rollouts.old_log_probs, kl, 1e-4)
        assert record["kl_coefficient"] == 0.2
        assert learner.config.kl_coefficient == pytest.approx(0.2 * (1 + direction * 0.2 * 4 / 20))


def test_the_way_back_to_the_sft_model_is_straight(make_gpt):
    start, end, model = make_gpt(), make_gpt(), make_gpt()
    for parameter in end.parameters():
        parameter.array += 1.0
        parameter.changed()
    for share in (0.0, 0.25, 1.0):
        for a, b in zip(start.parameters(), between(start, end, share, model).parameters(), strict=True):
            np.testing.assert_allclose(b.array - a.array, share, atol=1e-6)


def test_gains_are_compared_at_the_largest_kl_that_both_reach():
    ours, theirs = [[0.0, 0.0], [0.5, 0.6], [1.0, 0.8]], [[0.0, 0.0], [2.0, 2.0]]
    assert gain_ratio(ours, theirs) == pytest.approx(0.8 / 2**0.5)  # theirs has 2 · √(1 / 2) at 1 nat
    assert gain_ratio(theirs, ours) == pytest.approx(2**0.5 / 0.8)
    assert gain_ratio(ours, [[0.0, 0.0], [2.0, -1.0]]) == 0.0
