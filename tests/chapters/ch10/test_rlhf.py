import copy
import json
import math
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import load_model
from chapters.ch07_train import next_token_loss
from chapters.ch10.assess import assess, assessment_text, bootstrap_interval, sample_responses
from chapters.ch10.harness import LoopConfig, draw_tasks, judge_scorer, optimise, reward_scorer, snapshot
from chapters.ch10.reward import ScalarModel
from chapters.ch10.rlhf import PPO, PPOConfig, optimise_plainly
from chapters.ch10.rollout import log_probs_of, roll_out
from chapters.support.batches import RaggedBatches
from chapters.support.run_folder import Run, RunError
from chapters.world.judge import Judge

# ── the loop ──

QUICK: dict[str, Any] = dict(iterations=3, prompts=8, max_new_tokens=8, lr=1e-3, value_lr=1e-3, warmup=1, ptx_coefficient=0.0)


def setting(make_gpt, tokenizer, tmp_path, **changes):
    config = PPOConfig(**{**QUICK, **changes})
    policy = make_gpt()
    value_model = ScalarModel(make_gpt(1), mg.Generator(0))
    return config, policy, make_gpt(), PPO(policy, value_model, config), Run(tmp_path)


def test_two_equal_runs_log_the_same_bytes(make_gpt, assistant_tokenizer, world, tasks, tmp_path):
    logs = []
    for name in "ab":
        config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path / name)
        reward = reward_scorer(ScalarModel(make_gpt(2), mg.Generator(0)))
        records = optimise(policy, reference, assistant_tokenizer, reward, tasks, config, run, learner, Judge(world))
        logs.append((run / "metrics.jsonl").read_bytes())
        assert (run / "figures" / "watch.svg").stat().st_size > 1000
    assert logs[0] == logs[1]
    assert [json.loads(line) for line in logs[0].splitlines()] == records and len(records) == 4
    watched = "kl ratio clip_fraction approx_kl entropy explained_variance reward judge length kl_coefficient"
    assert set(watched.split()) <= set(records[0])
    assert abs(records[0]["kl"]) < 1e-4 and abs(records[0]["first_ratio"] - 1) < 1e-5
    assert all(abs(record["first_ratio"] - 1) < 1e-4 for record in records[:-1])
    assert records[-1]["kl"] != 0
    saved, _ = load_model(run.folder)
    for a, b in zip(snapshot(saved), snapshot(policy), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_iteration_equals_the_plainest_loop(make_gpt, assistant_tokenizer, tasks, tmp_path):
    def score(batch, rollouts):
        rollouts.ended[:] = True  # the plain loop has no `missing_end`
        return rollouts.inputs.sum(axis=1) / 100

    changes = dict(iterations=1, epochs=1, minibatches=1, warmup=0, grad_clip=0.0)
    config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path, **changes)
    records = optimise(policy, reference, assistant_tokenizer, score, tasks, config, run, learner)
    plain, value_model = make_gpt(), ScalarModel(make_gpt(1), mg.Generator(0))
    batch = draw_tasks(tasks, config, 0)
    args = plain, reference, value_model, assistant_tokenizer, score, batch, 1, config.lr, config.kl_coefficient
    assert optimise_plainly(*args, max_new_tokens=config.max_new_tokens) == [records[0]["reward"]]
    rollouts = roll_out(reference, assistant_tokenizer, batch, 8, mg.Generator(1))
    before, ours, theirs = (log_probs_of(model, rollouts) for model in (reference, policy, plain))
    assert np.abs(theirs - before).max() > 0.01
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize("killed_in", [2, 3])
def test_a_killed_and_resumed_run_writes_the_same_bytes(killed_in, make_gpt, assistant_tokenizer, tasks, tmp_path, monkeypatch):
    """The process dies in the middle of iteration killed_in, after checkpoints at 1 and 2 or at 1, 2 and 3."""
    reward = reward_scorer(ScalarModel(make_gpt(2), mg.Generator(0)))

    class Killed(BaseException):
        pass

    def run(folder, dies_in=None, resume=False):
        changes = dict(iterations=4, checkpoint_every=1, resume=resume, ptx_coefficient=0.5)
        config, policy, reference, _, run = setting(make_gpt, assistant_tokenizer, tmp_path / folder, ptx_coefficient=0)
        config = PPOConfig(**{**QUICK, **changes})
        pages = RaggedBatches([[1, 2, 3, 4]] * 8, [[2, 3, 4, 5]] * 8, 2, 0)
        learner = PPO(policy, ScalarModel(make_gpt(1), mg.Generator(0)), config, pages)
        learn, calls = learner.learn, []

        def dying(*args):
            calls.append(1)
            if dies_in is not None and len(calls) == dies_in + 1:
                raise Killed
            return learn(*args)

        monkeypatch.setattr(learner, "learn", dying)
        optimise(policy, reference, assistant_tokenizer, reward, tasks, config, run, learner)
        return (run / "metrics.jsonl").read_bytes(), (run / "model.safetensors").read_bytes()

    whole = run("whole")
    with pytest.raises(Killed):
        run("cut", dies_in=killed_in)
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 99}\n')  # resuming cuts off all lines after the last checkpoint
    assert run("cut", resume=True) == whole
    with pytest.raises(RunError, match="iterations = 4, not 3"):
        config, policy, reference, learner, folder = setting(make_gpt, assistant_tokenizer, tmp_path / "cut", resume=True)
        optimise(policy, reference, assistant_tokenizer, reward, tasks, config, folder, learner)


def test_ppo_raises_the_reward(make_gpt, assistant_tokenizer, tasks, tmp_path):
    """The reward is the number of the response's tokens with an even id."""

    def score(asked, rollouts):
        rollouts.ended[:] = True  # an untrained model hardly ever ends a response, so every response counts as ended
        return np.array([sum(token % 2 == 0 for token in response) for response in rollouts.responses], float)

    changes = dict(iterations=10, prompts=32, lr=2e-2, value_lr=2e-2, epochs=4, kl_coefficient=0, kl_horizon=0)
    config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path, **changes)
    records = optimise(policy, reference, assistant_tokenizer, score, tasks, config, run, learner)
    assert 3 < records[0]["reward"] < 5 and records[-1]["reward"] > records[0]["reward"] + 2
    assert records[-1]["kl"] > 1


@pytest.mark.parametrize("what", ["kl", "reward"])
def test_a_failed_run_saves_the_last_good_policy(what, make_gpt, assistant_tokenizer, tasks, tmp_path):
    changes = dict(lr=0.3, kl_limit=0.5, warmup=0) if what == "kl" else {}
    config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path, **changes)
    calls = []

    def score(asked, rollouts):
        calls.append(1)
        return np.full(len(asked), np.nan if what == "reward" and len(calls) == 2 else 1.0) * rollouts.lengths

    before = snapshot(policy)
    complaint = "beyond kl_limit=0.5" if what == "kl" else "expected finite scores, got NaN"
    with pytest.raises(FloatingPointError, match=f"(?s)stopped at iteration 1: .*{complaint}.*the last good policy is in"):
        optimise(policy, reference, assistant_tokenizer, score, tasks, config, run, learner)
    saved, _ = load_model(run.folder)
    for a, b in zip(snapshot(saved), before, strict=True):  # the first update was bad, so the last good policy is the first
        np.testing.assert_array_equal(a, b)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_judge_that_returns_nan_stops_the_loop(make_gpt, assistant_tokenizer, world, tasks, tmp_path):
    class Broken(Judge):
        def score(self, task, response):
            return math.nan

    config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path)
    reward = judge_scorer(Broken(world), assistant_tokenizer)
    with pytest.raises(FloatingPointError, match="a judge must give a finite number"):
        optimise(policy, reference, assistant_tokenizer, reward, tasks, config, run, learner)
    load_model(run.folder)


def test_ctrl_c_ends_after_the_iteration_and_resume_goes_on(make_gpt, assistant_tokenizer, tasks, tmp_path):
    def optimised(name, score, resume=False):
        config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path / name, resume=resume)
        try:
            optimise(policy, reference, assistant_tokenizer, score, tasks, config, run, learner)
        finally:
            for a, b in zip(snapshot(load_model(run.folder)[0]), snapshot(policy), strict=True):
                np.testing.assert_array_equal(a, b)
        return (run / "metrics.jsonl").read_bytes()

    def length(asked, rollouts):
        return rollouts.lengths.astype(float)

    def interrupted(asked, rollouts):
        signal.raise_signal(signal.SIGINT)
        return length(asked, rollouts)

    with pytest.raises(KeyboardInterrupt, match="stopped after iteration 0 and saved in"):
        optimised("cut", interrupted)
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 1
    assert optimised("cut", length, resume=True) == optimised("whole", length)


def test_pretraining_is_mixed_in(make_gpt, assistant_tokenizer, tasks):
    class Batches:
        def batch(self, step):
            return np.arange(12).reshape(2, 6), np.arange(1, 13).reshape(2, 6)

    with pytest.raises(ValueError, match="PPO: expected pretraining batches"):
        PPO(make_gpt(), ScalarModel(make_gpt(1)), PPOConfig(ptx_coefficient=1.0))
    config = replace(PPOConfig(**QUICK), ptx_coefficient=5.0, epochs=4)
    policy = make_gpt()
    batch = [mg.from_numpy(a) for a in Batches().batch(0)]
    before = next_token_loss(policy, *batch).item()
    learner = PPO(policy, ScalarModel(make_gpt(1)), config, Batches())
    rollouts = roll_out(policy, assistant_tokenizer, tasks[:8], 8, mg.Generator(0))
    learner.learn(rollouts, np.zeros(8), rollouts.old_log_probs, 0.0, 1e-2)
    assert next_token_loss(policy, *batch).item() < before - 0.5


def test_every_epoch_takes_every_row_once(make_gpt):
    learner = PPO(make_gpt(), ScalarModel(make_gpt(1)), PPOConfig(epochs=2, minibatches=3, ptx_coefficient=0.0))
    parts = [part.tolist() for part in learner.minibatches(8)]
    assert len(parts) == 6 and sorted(sum(parts[:3], [])) == sorted(sum(parts[3:], [])) == list(range(8))


def test_the_tasks_of_an_iteration(tasks):
    config = LoopConfig(prompts=8)
    one = draw_tasks(tasks, config, 3)
    assert one == draw_tasks(tasks, config, 3) != draw_tasks(tasks, config, 4) and len(one) == 8
    pairs = draw_tasks(tasks, config, 3, repeat=4)
    assert len(pairs) == 8 and pairs[:4] == [pairs[0]] * 4 != pairs[4:]


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"prompts": 0}, {"kl_coefficient": -1}, {"kl_limit": math.nan}])
def test_invalid_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PPOConfig(**wrong)


# ── assessing ──


def test_assess_compares_with_the_sft_model(make_gpt, assistant_tokenizer, world, tasks):
    policy, reference = make_gpt(0), make_gpt(0)
    reward_model = ScalarModel(make_gpt(2), mg.Generator(0))
    before = sample_responses(reference, assistant_tokenizer, tasks, 0, 8)
    after = sample_responses(policy, assistant_tokenizer, tasks, 0, 8)
    result = assess(Judge(world), tasks, after, before, assistant_tokenizer, reference, policy, reward_model)
    assert result["wins"] == 0.5 and result["interval"] == [0.5, 0.5] and result["kl"] == 0
    assert result["judge"] == result["before"]["judge"] and result["reward"] == result["before"]["reward"]
    text = assessment_text(result, "PPO")
    assert "prefers PPO to SFT on 50.0% of held-out tasks" in text and "in all +0.00 of 8 points" in text
    assert result["criteria"] == result["before"]["criteria"]
    assert sum(result["criteria"].values()) == pytest.approx(result["judge"])


def test_the_interval_holds_the_mean():
    values = np.random.default_rng(0).random(400) < 0.7
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.21 / 400), rel=0.15)


def test_copies_are_independent(make_gpt):
    """A deep copy of a model shares no parameter with it."""
    gpt = make_gpt()
    other = copy.deepcopy(gpt)
    other.wte.weight.array += 1
    assert not np.allclose(gpt.wte.weight.array, other.wte.weight.array)
