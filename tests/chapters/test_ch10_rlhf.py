import copy
import json
import math
import signal

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn.functional as F
from chapters import ch10_ppo as ppo
from chapters.ch07_train import Run, load_model, next_token_loss
from chapters.ch08_sample import generate
from chapters.ch10_assess import assess, bootstrap_interval, kl_between, sampled, shown
from chapters.ch10_ragged import IGNORE_INDEX, RaggedBatches
from chapters.ch10_reward import ScalarModel
from chapters.ch10_rlhf import PPO, LoopConfig, PPOConfig, draw_tasks, judged_by, optimise, scored_by, snapshot
from chapters.ch10_rollout import PAD, chosen_log_probs, lay_out, log_probs_of, roll_out, roll_out_many, sequence_kl
from chapters.ch10_sft import format_prompt
from chapters.run_folder import RunError
from chapters.world.judge import Judge

# ── the grid ──


def test_the_grid_marks_the_seam_and_ends_with_the_response():
    rollouts = lay_out([[1, 2, 3], [4]], [[5, 6], [7, 8, 9]], [True, False], [[-0.5, -0.25], [-1, -2, -3]])
    assert rollouts.inputs.tolist() == [[1, 2, 3, 5, 6], [4, 7, 8, 9, PAD]]
    assert rollouts.mask.tolist() == [[False, False, True, True], [True, True, True, False]]
    assert rollouts.targets.tolist() == [[IGNORE_INDEX] * 2 + [5, 6], [7, 8, 9, IGNORE_INDEX]]
    assert rollouts.log_probs.tolist() == [[0, 0, -0.5, -0.25], [-1, -2, -3, 0]]
    assert rollouts.last.tolist() == [3, 2] and rollouts.lengths.tolist() == [2, 3]


def test_padding_is_not_the_end_of_text(assistant_tokenizer):
    """An end-of-text token that the policy chose is graded; padding never is, whatever its id."""
    assert PAD != assistant_tokenizer.eos_id
    end = assistant_tokenizer.eos_id
    rollouts = lay_out([[1], [1, 2, 3]], [[5, end], [6, 7]], [True, False])
    assert rollouts.targets[0].tolist() == [5, end, IGNORE_INDEX, IGNORE_INDEX]


# ── step 1: rollouts ──


def test_log_probs_recomputed_equal_those_recorded_at_sampling(make_gpt, assistant_tokenizer, tasks):
    gpt = make_gpt()
    rollouts = roll_out(gpt, assistant_tokenizer, tasks[:8], 12, mg.Generator(3))
    assert len(set(map(len, rollouts.prompts))) > 1  # padding on the left at sampling, on the right when recomputed
    np.testing.assert_allclose(log_probs_of(gpt, rollouts, batch_size=3), rollouts.log_probs, atol=2e-5)
    assert (rollouts.log_probs[rollouts.mask] < 0).all() and (rollouts.log_probs[~rollouts.mask] == 0).all()


def test_rollouts_are_what_chapter_8_generates(make_gpt, assistant_tokenizer, tasks):
    gpt, end = make_gpt(), assistant_tokenizer.eos_id
    rollouts = roll_out(gpt, assistant_tokenizer, tasks[:6], 10, mg.Generator(1))
    prompts = [assistant_tokenizer.encode(format_prompt(t.instruction, t.input)) for t in tasks[:6]]
    assert rollouts.prompts == prompts
    said = generate(gpt, prompts, 10, stop_ids=(end,), generator=mg.Generator(1))
    assert [r[:-1] if e else r for r, e in zip(rollouts.responses, rollouts.ended, strict=True)] == said


def ending_gpt(gpt, end):
    """A model that often chooses the end-of-text token: its row of the (tied) table is made to stand out."""
    gpt.wte.weight.array[end] = 0.6 * gpt.ln_f.weight.array * np.sign(gpt.wte.weight.array[end])
    return gpt


def test_the_end_is_chosen_recorded_and_nothing_comes_after_it(make_gpt, assistant_tokenizer, tasks):
    end = assistant_tokenizer.eos_id
    gpt = ending_gpt(make_gpt(), end)
    rollouts = roll_out(gpt, assistant_tokenizer, tasks * 2, 30, mg.Generator(0))
    assert rollouts.ended.any()
    for response, ended in zip(rollouts.responses, rollouts.ended, strict=True):
        assert response.count(end) == ended and (not ended or response[-1] == end)
    np.testing.assert_allclose(log_probs_of(gpt, rollouts), rollouts.log_probs, atol=2e-5)
    after = np.arange(rollouts.mask.shape[1]) > rollouts.last[:, None]
    assert not rollouts.mask[after].any() and (rollouts.targets[after] == IGNORE_INDEX).all()


def test_many_rollouts_come_back_in_the_order_of_their_tasks(make_gpt, assistant_tokenizer, tasks):
    gpt = make_gpt()
    rollouts = roll_out_many(gpt, assistant_tokenizer, tasks, 5, mg.Generator(0), batch_size=7)
    assert rollouts.prompts == [assistant_tokenizer.encode(format_prompt(t.instruction, t.input)) for t in tasks]
    assert len(rollouts.texts(assistant_tokenizer)) == len(tasks)


def test_a_prompt_that_fills_the_context_is_refused(make_gpt, assistant_tokenizer, tasks):
    with pytest.raises(ValueError, match="leaves no room for a response in a context of 16"):
        roll_out(make_gpt(context=16), assistant_tokenizer, tasks[:2], 5, mg.Generator(0))


# ── step 2: KL ──


def test_kl_is_zero_from_oneself_and_on_average_not_negative(make_gpt, assistant_tokenizer, tasks):
    policy, reference = make_gpt(0, d_model=16), make_gpt(1, d_model=16)
    for model in (policy, reference):
        model.wte.weight.array *= 8  # opinions
    rollouts = roll_out(policy, assistant_tokenizer, tasks * 8, 12, mg.Generator(0))
    assert kl_between(policy, policy, rollouts) == 0
    estimate = sequence_kl(rollouts.log_probs, log_probs_of(reference, rollouts), rollouts.mask)
    assert estimate.mean() > 0
    with mg.no_grad():  # the exact KL at each chosen position, summed over the responses
        log_p, log_q = (F.log_softmax(m(mg.from_numpy(rollouts.inputs[:, :-1].copy())), dim=-1).numpy()
                        for m in (policy, reference))  # fmt: skip
    exact = ((np.exp(log_p) * (log_p - log_q)).sum(-1) * rollouts.mask).sum(axis=1)
    assert estimate.mean() == pytest.approx(exact.mean(), rel=0.15)


# ── steps 3 to 5: rewards and advantages ──

MASK = np.array([[False, True, True, True, False], [False, False, True, True, True]])


def test_the_score_is_earned_at_the_end_and_nothing_after_it():
    final = ppo.final_rewards(np.array([2.0, 3.0]), np.array([True, False]), -4.0)
    assert final.tolist() == [2, -4]
    ours, theirs = np.full((2, 5), -1.0), np.full((2, 5), -1.5)
    rewards = ppo.token_rewards(final, ours, theirs, MASK, np.array([3, 4]), 0.1)
    np.testing.assert_allclose(rewards, [[0, -0.05, -0.05, 1.95, 0], [0, 0, -0.05, -0.05, -4.05]])


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (0.97, 0.0), (1.0, 1.0)])
def test_gae_equals_its_closed_form(gamma, lam):
    """A_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V_{t+1} − V_t, over the response alone."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 5)) * MASK, rng.normal(size=(2, 5)) * MASK
    advantages, returns = ppo.gae(rewards, values, MASK, gamma, lam)
    for b in range(2):
        steps = np.flatnonzero(MASK[b])
        v = np.append(values[b, steps], 0.0)
        delta = rewards[b, steps] + gamma * v[1:] - v[:-1]
        for i, t in enumerate(steps):
            closed = sum((gamma * lam) ** k * d for k, d in enumerate(delta[i:]))
            assert advantages[b, t] == pytest.approx(closed, abs=1e-12)
            assert returns[b, t] == pytest.approx(closed + values[b, t], abs=1e-12)
            if lam == 1:
                total = sum(gamma**k * r for k, r in enumerate(rewards[b, steps[i:]]))
                assert returns[b, t] == pytest.approx(total, abs=1e-12)
    assert (advantages[~MASK] == 0).all() and (returns[~MASK] == 0).all()


def test_whitening():
    values = np.random.default_rng(0).normal(3, 5, (2, 5))
    white = ppo.whiten(values, MASK)
    assert white[MASK].mean() == pytest.approx(0, abs=1e-12) and white[MASK].std() == pytest.approx(1, abs=1e-6)
    assert (white[~MASK] == 0).all()


# ── steps 6 to 10 ──


def test_the_clip_stops_a_token_that_has_moved_far_enough():
    old, mask = np.zeros((1, 4)), np.ones((1, 4), bool)
    ratios, advantages = np.array([[1.5, 0.5, 1.5, 0.5]]), np.array([[1.0, 1.0, -1.0, -1.0]])
    log_probs = mg.tensor(np.log(ratios), dtype=mg.float64, requires_grad=True)
    loss = ppo.policy_loss(log_probs, mg.from_numpy(old), mg.from_numpy(advantages), mask, 0.2)
    assert loss.item() == pytest.approx(-np.mean([1.2, 0.5, -1.5, -0.8]))
    loss.backward()
    np.testing.assert_allclose(log_probs.grad.numpy(), [[0, -0.5 / 4, 1.5 / 4, 0]])


def test_ppos_losses_and_gradients_equal_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    B, T, V = 3, 6, 11
    mask = rng.random((B, T)) < 0.6
    logits, old_logits = rng.normal(size=(B, T, V)), rng.normal(size=(B, T, V))
    values, old_values, returns, advantages = (rng.normal(size=(B, T)) for _ in range(4))
    targets = rng.integers(0, V, (B, T))
    graded = np.where(mask, targets, IGNORE_INDEX)

    ours, our_values = (mg.tensor(a, dtype=mg.float64, requires_grad=True) for a in (logits, values))
    with mg.no_grad():
        old = chosen_log_probs(mg.from_numpy(old_logits), mg.from_numpy(graded))
    policy = ppo.policy_loss(chosen_log_probs(ours, mg.from_numpy(graded)), old, mg.from_numpy(advantages), mask, 0.2)
    value = ppo.value_loss(our_values, mg.from_numpy(old_values), mg.from_numpy(returns), mask, 0.3)
    undecided = ppo.entropy(ours, mask)
    (policy + 0.5 * value - 0.1 * undecided).backward()

    theirs, their_values = (torch.tensor(a, requires_grad=True) for a in (logits, values))
    m, A, R, V0 = (torch.tensor(a) for a in (mask, advantages, returns, old_values))
    chosen = torch.tensor(targets)[..., None]
    log_p = torch.distributions.Categorical(logits=theirs)
    new = torch.log_softmax(theirs, -1).gather(-1, chosen)[..., 0]
    before = torch.log_softmax(torch.tensor(old_logits), -1).gather(-1, chosen)[..., 0]
    ratio = (new - before).exp()
    their_policy = -torch.min(ratio * A, ratio.clip(0.8, 1.2) * A)[m].mean()
    clipped = torch.clip(their_values, V0 - 0.3, V0 + 0.3)
    their_value = 0.5 * torch.max((their_values - R) ** 2, (clipped - R) ** 2)[m].mean()
    their_entropy = log_p.entropy()[m].mean()
    (their_policy + 0.5 * their_value - 0.1 * their_entropy).backward()

    for a, b in [(policy, their_policy), (value, their_value), (undecided, their_entropy)]:
        assert a.item() == pytest.approx(b.item(), abs=1e-6)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(our_values.grad.numpy(), their_values.grad.numpy(), atol=1e-6)
    assert np.abs(ours.grad.numpy()[mask]).min() > 0 and (ours.grad.numpy()[~mask] == 0).all()


def test_entropy_of_the_uniform_and_of_the_certain():
    logits = np.zeros((1, 2, 5))
    logits[0, 1, 2] = 1000
    assert ppo.entropy(mg.from_numpy(logits), np.array([[True, False]])).item() == pytest.approx(math.log(5))
    assert ppo.entropy(mg.from_numpy(logits), np.array([[False, True]])).item() == pytest.approx(0)


def test_the_kl_coefficient_rises_above_its_target_and_falls_below():
    assert ppo.adapted_kl_coefficient(0.1, 6.0, 6.0, 64, 1000) == 0.1
    # never by more than 0.2 · 100 / 1000
    assert ppo.adapted_kl_coefficient(0.1, 60.0, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)
    assert ppo.adapted_kl_coefficient(0.1, 0.0, 6.0, 100, 1000) == pytest.approx(0.1 * 0.98)


def test_what_is_watched():
    old, new = np.zeros((1, 3)), np.log([[1.0, 1.5, 9.0]])
    seen = ppo.watch(new, old, np.array([[True, True, False]]), 0.2)
    assert seen["ratio"] == pytest.approx(1.25) and seen["clip_fraction"] == 0.5
    assert seen["approx_kl"] == pytest.approx((0.5 - math.log(1.5)) / 2)
    returns = np.array([[1.0, 3.0, 5.0]])
    assert ppo.explained_variance(returns, returns, np.ones((1, 3), bool)) == 1
    assert ppo.explained_variance(np.full((1, 3), 3.0), returns, np.ones((1, 3), bool)) == 0
    assert ppo.explained_variance(returns, np.ones((1, 3)), np.ones((1, 3), bool)) == 0


# ── the loop ──

QUICK = dict(iterations=3, prompts=8, max_new_tokens=8, lr=1e-3, value_lr=1e-3, warmup=1, ptx_coefficient=0.0)


def setting(make_gpt, tokenizer, tmp_path, **changes):
    config = PPOConfig(**{**QUICK, **changes})
    policy = make_gpt()
    value_model = ScalarModel(make_gpt(1), mg.Generator(0))
    return config, policy, make_gpt(), PPO(policy, value_model, config), Run(tmp_path)


def test_the_loop_runs_logs_and_repeats_itself_byte_for_byte(make_gpt, assistant_tokenizer, world, tasks, tmp_path):
    logs = []
    for name in "ab":
        config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path / name)
        reward = scored_by(ScalarModel(make_gpt(2), mg.Generator(0)))
        records = optimise(policy, reference, assistant_tokenizer, reward, tasks, config, run, learner, Judge(world))
        logs.append((run / "metrics.jsonl").read_bytes())
        assert (run / "figures" / "watch.png").stat().st_size > 1000
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


@pytest.mark.parametrize("killed_in", [2, 3])
def test_killed_and_continued_it_ends_in_the_same_bytes(killed_in, make_gpt, assistant_tokenizer, tasks, tmp_path):
    """The process dies in the middle of iteration killed_in, after checkpoints at 1 and 2 or at 1, 2 and 3."""
    reward = scored_by(ScalarModel(make_gpt(2), mg.Generator(0)))

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

        learner.learn = dying
        optimise(policy, reference, assistant_tokenizer, reward, tasks, config, run, learner)
        return (run / "metrics.jsonl").read_bytes(), (run / "model.safetensors").read_bytes()

    whole = run("whole")
    with pytest.raises(Killed):
        run("cut", dies_in=killed_in)
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 99}\n')  # what was written after the last checkpoint is written again
    assert run("cut", resume=True) == whole
    with pytest.raises(RunError, match="iterations = 4, not 3"):
        config, policy, reference, learner, folder = setting(make_gpt, assistant_tokenizer, tmp_path / "cut", resume=True)
        optimise(policy, reference, assistant_tokenizer, reward, tasks, config, folder, learner)


def test_it_learns_to_say_what_is_rewarded(make_gpt, assistant_tokenizer, tasks, tmp_path):
    """A reward that any reader can check: how many of the response's tokens have an even id."""

    def score(asked, rollouts):
        rollouts.ended[:] = True  # an untrained model hardly ever ends a response: a full one is as good as ended
        return np.array([sum(token % 2 == 0 for token in response) for response in rollouts.responses], float)

    changes = dict(iterations=10, prompts=32, lr=2e-2, value_lr=2e-2, epochs=4, kl_coefficient=0, kl_horizon=0)
    config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path, **changes)
    records = optimise(policy, reference, assistant_tokenizer, score, tasks, config, run, learner)
    assert 3 < records[0]["reward"] < 5 and records[-1]["reward"] > records[0]["reward"] + 2
    assert records[-1]["kl"] > 1


@pytest.mark.parametrize("what", ["kl", "reward"])
def test_when_it_goes_wrong_the_last_good_policy_is_kept(what, make_gpt, assistant_tokenizer, tasks, tmp_path):
    changes = dict(lr=0.3, kl_limit=0.5, warmup=0) if what == "kl" else {}
    config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path, **changes)
    calls, good = [], []

    def score(asked, rollouts):
        calls.append(1)
        good[:] = snapshot(policy)
        return np.full(len(asked), np.nan if what == "reward" and len(calls) == 2 else 1.0) * rollouts.lengths

    before = snapshot(policy)
    complaint = "beyond kl_limit=0.5" if what == "kl" else "scores hold NaN"
    with pytest.raises(FloatingPointError, match=f"(?s)stopped at iteration 1: .*{complaint}.*is kept in"):
        optimise(policy, reference, assistant_tokenizer, score, tasks, config, run, learner)
    saved, _ = load_model(run.folder)
    for a, b in zip(snapshot(saved), before, strict=True):  # after the first update all went wrong: the start was good
        np.testing.assert_array_equal(a, b)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_judge_that_returns_nan_stops_the_loop(make_gpt, assistant_tokenizer, world, tasks, tmp_path):
    class Broken(Judge):
        def score(self, task, response):
            return math.nan

    config, policy, reference, learner, run = setting(make_gpt, assistant_tokenizer, tmp_path)
    reward = judged_by(Broken(world), assistant_tokenizer)
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

    with pytest.raises(ValueError, match="needs pretraining batches"):
        PPO(make_gpt(), ScalarModel(make_gpt(1)), PPOConfig(ptx_coefficient=1.0))
    config = PPOConfig(**{**QUICK, "ptx_coefficient": 5.0, "epochs": 4})
    policy = make_gpt()
    batch = [mg.from_numpy(a) for a in Batches().batch(0)]
    before = next_token_loss(policy, *batch).item()
    learner = PPO(policy, ScalarModel(make_gpt(1)), config, Batches())
    rollouts = roll_out(policy, assistant_tokenizer, tasks[:8], 8, mg.Generator(0))
    learner.learn(rollouts, np.zeros(8), rollouts.log_probs, 0.0, 1e-2)
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
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PPOConfig(**wrong)


# ── assessing ──


def test_assess_compares_with_where_it_started(make_gpt, assistant_tokenizer, world, tasks):
    policy, reference = make_gpt(0), make_gpt(0)
    reward_model = ScalarModel(make_gpt(2), mg.Generator(0))
    before = sampled(reference, assistant_tokenizer, tasks, 0, 8)
    after = sampled(policy, assistant_tokenizer, tasks, 0, 8)
    found = assess(Judge(world), tasks, after, before, assistant_tokenizer, reference, policy, reward_model)
    assert found["wins"] == 0.5 and found["interval"] == [0.5, 0.5] and found["kl"] == 0
    assert found["judge"] == found["before"]["judge"] and found["reward"] == found["before"]["reward"]
    assert "prefers PPO to SFT on 50.0% of held-out tasks" in shown(found, "PPO")


def test_the_interval_holds_the_mean():
    values = np.random.default_rng(0).random(400) < 0.7
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.21 / 400), rel=0.15)


def test_copies_are_independent(make_gpt):
    """PPO keeps a frozen reference beside the policy: a deep copy shares nothing."""
    gpt = make_gpt()
    other = copy.deepcopy(gpt)
    other.wte.weight.array += 1
    assert not np.allclose(gpt.wte.weight.array, other.wte.weight.array)
