"""DPO, RLOO and best of n, the alternatives to PPO."""

import math
from itertools import combinations

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import load_model
from chapters.ch07_train import TrainConfig
from chapters.ch10.best_of_n import best_of_n, best_of_n_kl, curve
from chapters.ch10.comparisons import Ranking
from chapters.ch10.dpo import DPOBatches, dpo_loss, loss_with, shared, train_dpo
from chapters.ch10.grpo import GRPO, GRPOConfig, group_advantages, grpo_loss, kl_by_token, verified
from chapters.ch10.harness import optimise, snapshot
from chapters.ch10.reward import ScalarModel, reward_scores
from chapters.ch10.rloo import RLOO, RLOOConfig, leave_one_out, rloo_loss
from chapters.ch10.rollout import log_probs_of, to_rollouts
from chapters.support.batches import IGNORE_INDEX
from chapters.support.run_folder import Run
from chapters.world.judge import Judge

RANKINGS = [
    Ranking([[5, 6, 7, 11], [5, 6, 8, 9, 11], [5, 6, 4, 11]], [(0, 1), (0, 2), (2, 1)], []),
    Ranking([[3, 2, 1, 1, 1], [3, 2, 9]], [(1, 0)], []),
]


# ── DPO ──


def test_dpos_loss_and_gradients_equal_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=5) for _ in range(4)]
    ours = [mg.tensor(a, dtype=mg.float64, requires_grad=True) for a in arrays]
    loss = dpo_loss(*ours, 0.3)
    loss.backward()
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    c, r, ref_c, ref_r = theirs
    their_loss = torch.nn.functional.binary_cross_entropy_with_logits(
        0.3 * (c - r - ref_c + ref_r), torch.ones(5, dtype=torch.float64)
    )
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-6)


def test_dpos_loss_is_log_2_if_policy_and_reference_are_equal(make_gpt):
    batches = DPOBatches(RANKINGS, make_gpt(), 4)
    batch = [mg.from_numpy(a) for a in batches.batch(0)]
    assert loss_with(0.5)(make_gpt(), *batch).item() == pytest.approx(math.log(2), abs=1e-5)


def test_dpos_batches_hold_each_comparison_once_and_mask_the_prompt(make_gpt):
    gpt = make_gpt()
    batches = DPOBatches(RANKINGS, gpt, 4)
    inputs, targets, reference = batches.batch(0)
    assert inputs.shape[0] == targets.shape[0] == len(reference) == 8
    pairs = set()
    for b in range(4):
        rows = []
        for i in (b, b + 4):
            graded = np.flatnonzero(targets[i] != IGNORE_INDEX)
            assert graded[0] == 1 and (np.diff(graded) == 1).all()  # the prompt has two tokens
            row = [*inputs[i, :2].tolist(), *targets[i, graded].tolist()]
            assert inputs[i, 1 : len(row)].tolist() == row[1:]
            rollouts = to_rollouts([row[:2]], [row[2:]], [True])
            assert reference[i] == pytest.approx(log_probs_of(gpt, rollouts).sum(), abs=1e-4)
            rows.append(tuple(row))
        pairs.add(tuple(rows))
    assert pairs == {(tuple(k.rows[a]), tuple(k.rows[b])) for k in RANKINGS for a, b in k.pairs}


def test_a_shared_prefix_leaves_each_row_a_token_of_its_own():
    assert shared([[1, 2, 3], [1, 2, 4]]) == [1, 2]
    assert shared([[1, 2], [1, 2, 3]]) == [1]


def test_dpo_makes_chosen_responses_likelier(make_gpt, assistant_tokenizer, tmp_path):
    policy, reference = make_gpt(), make_gpt()
    config = TrainConfig(steps=15, batch_size=4, lr=3e-3, warmup_steps=2)
    history = train_dpo(policy, reference, assistant_tokenizer, RANKINGS, config, Run(tmp_path), beta=0.5)
    assert history.losses[0] == pytest.approx(math.log(2), abs=1e-4) and history.losses[-1] < 0.4
    gains = []
    for ranking in RANKINGS:
        prompts, responses = zip(*((row[:2], row[2:]) for row in ranking.rows), strict=True)
        rollouts = to_rollouts(list(prompts), list(responses), [True] * len(prompts))
        gain = (log_probs_of(policy, rollouts) - log_probs_of(reference, rollouts)).sum(axis=1)
        gains += [gain[a] - gain[b] for a, b in ranking.pairs]
    assert min(gains) > 0
    load_model(tmp_path)


def test_dpo_refuses_no_comparisons_and_beta_0(make_gpt, assistant_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="DPOBatches: expected at least one comparison"):
        DPOBatches([], make_gpt(), 4)
    with pytest.raises(ValueError, match="train_dpo: expected beta > 0"):
        train_dpo(make_gpt(), make_gpt(), assistant_tokenizer, RANKINGS, TrainConfig(), Run(tmp_path), beta=0)


# ── RLOO ──


def test_leave_one_out_is_the_reward_less_the_mean_of_the_others():
    rewards = np.random.default_rng(0).normal(size=12)
    for b, advantage in enumerate(leave_one_out(rewards, 4)):
        group = [i for i in range(b - b % 4, b - b % 4 + 4) if i != b]
        assert advantage == pytest.approx(rewards[b] - rewards[group].mean())


def test_rloos_loss_and_gradient():
    log_probs = mg.tensor([[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]], dtype=mg.float64, requires_grad=True)
    loss = rloo_loss(log_probs, mg.tensor([2.0, -1.0], dtype=mg.float64))
    assert loss.item() == pytest.approx(-(2 * -3 + -1 * -3) / 2)
    loss.backward()
    np.testing.assert_allclose(log_probs.grad.numpy(), [[-1.0] * 3, [0.5] * 3])


def test_rloo_raises_the_reward_and_starts_at_ratio_1(make_gpt, assistant_tokenizer, tasks, tmp_path):
    def score(asked, rollouts):
        rollouts.ended[:] = True  # an untrained model hardly ever ends a response, so every response counts as ended
        return np.array([sum(token % 2 == 0 for token in response) for response in rollouts.responses], float)

    config = RLOOConfig(iterations=20, prompts=24, max_new_tokens=8, lr=2e-2, warmup=1, kl_coefficient=0.0)
    policy, run = make_gpt(), Run(tmp_path)
    args = policy, make_gpt(), assistant_tokenizer, score, tasks, config, run, RLOO(policy, config)
    records = optimise(*args, repeat=config.k)
    assert records[-1]["reward"] > records[0]["reward"] + 2
    assert all(abs(record["first_ratio"] - 1) < 1e-4 for record in records[:-1])


def test_rloo_refuses_groups_that_do_not_divide_the_prompts():
    for k, prompts in ((1, 64), (3, 16)):
        with pytest.raises(ValueError, match="RLOOConfig: expected k >= 2"):
            RLOOConfig(k=k, prompts=prompts)


# ── GRPO ──


def test_advantages_of_a_group_have_mean_0_and_variance_1():
    rewards = np.random.default_rng(0).normal(size=12)
    groups = group_advantages(rewards, 4).reshape(3, 4)
    np.testing.assert_allclose(groups.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(groups.std(axis=1), 1, atol=1e-5)
    expected = rewards.reshape(3, 4) - rewards.reshape(3, 4).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(group_advantages(rewards, 4, divide=False).reshape(3, 4), expected)
    assert not group_advantages(np.ones(8), 4).any()  # a group that agrees teaches nothing


@pytest.mark.parametrize("length", [None, 7])
def test_grpos_loss_and_gradient_equal_pytorchs(length):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    mask = np.arange(6) < np.array([[6], [2], [4], [1]])  # (4, 6)
    log_probs, old, reference = (rng.normal(-1, 0.4, (4, 6)) * mask for _ in range(3))
    advantages = rng.normal(size=4)
    ours = mg.tensor(log_probs, dtype=mg.float64, requires_grad=True)
    constants = [mg.tensor(a, dtype=mg.float64) for a in (old, reference, advantages)]
    loss = grpo_loss(ours, *constants, mask, 0.2, 0.3, length)
    loss.backward()
    theirs = torch.tensor(log_probs, requires_grad=True)
    t_old, t_reference, t_advantages = (torch.tensor(a) for a in (old, reference, advantages))
    ratio = torch.exp(theirs - t_old)
    clipped = torch.clip(ratio, 0.8, 1.2)
    kl = torch.exp(t_reference - theirs) - (t_reference - theirs) - 1
    tokens = torch.minimum(ratio * t_advantages[:, None], clipped * t_advantages[:, None]) - 0.3 * kl
    lengths = torch.tensor(mask.sum(axis=1) if length is None else np.full(4, length))
    their_loss = -((tokens * torch.tensor(mask)).sum(dim=1) / lengths).mean()
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-6)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-6)
    assert np.abs(ours.grad.numpy()).max() > 1e-2 and not ours.grad.numpy()[~mask].any()


def test_the_kl_estimate_is_the_kl_on_average():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), 2)
    sampled = rng.choice(5, 400_000, p=p)
    estimate = kl_by_token(*(mg.tensor(np.log(d[sampled]), dtype=mg.float64) for d in (p, q))).numpy()
    assert estimate.min() >= 0
    assert estimate.mean() == pytest.approx((p * np.log(p / q)).sum(), rel=0.02)


@pytest.mark.parametrize("dr", [False, True])
def test_grpo_learns_to_repeat_a_word(dr, make_gpt, assistant_tokenizer, tasks, tmp_path):
    word = 7

    def score(asked, rollouts):
        rollouts.ended[:] = True
        return np.array([response.count(word) for response in rollouts.responses], float)

    config = GRPOConfig(iterations=25, prompts=24, k=4, max_new_tokens=8, lr=2e-2, warmup=1, kl_coefficient=0.0, dr=dr)
    policy = make_gpt()
    args = policy, make_gpt(), assistant_tokenizer, score, tasks, config, Run(tmp_path), GRPO(policy, config)
    records = optimise(*args, repeat=config.k)
    assert records[0]["reward"] < 1 and records[-1]["reward"] > 6
    assert all(abs(record["first_ratio"] - 1) < 1e-4 for record in records[:-1])


def test_a_response_is_verified_by_the_worlds_own_rule(assistant_tokenizer, world):
    tasks = world.instructions("train", 20, 0)
    texts = [text for task in tasks[:10] for text in (task.output, "That is not for me.")]
    responses = [[*assistant_tokenizer.encode(text), assistant_tokenizer.eos_id] for text in texts]
    rollouts = to_rollouts([[1]] * 20, responses, [True] * 20)
    asked = [task for task in tasks[:10] for _ in range(2)]
    assert verified(world, assistant_tokenizer)(asked, rollouts).tolist() == [1, 0] * 10


def test_grpo_refuses_groups_that_do_not_divide_the_prompts():
    for k, prompts in ((1, 64), (3, 16)):
        with pytest.raises(ValueError, match="GRPOConfig: expected k >= 2"):
            GRPOConfig(k=k, prompts=prompts)


# ── best of n ──


def test_best_of_n_averages_over_all_draws():
    rng = np.random.default_rng(0)
    proxy, values = rng.normal(size=6), rng.normal(size=6)
    assert best_of_n(proxy, values, 1) == pytest.approx(values.mean())
    assert best_of_n(proxy, values, 6) == pytest.approx(values[proxy.argmax()])
    for n in (2, 3, 5):
        every = [values[max(draw, key=lambda i: proxy[i])] for draw in combinations(range(6), n)]
        assert best_of_n(proxy, values, n) == pytest.approx(np.mean(every))
    for n in (0, 7):
        with pytest.raises(ValueError, match="between 1 and the 6"):
            best_of_n(proxy, values, n)


def test_best_of_n_kl():
    assert best_of_n_kl(1) == 0
    # Among many equally likely responses, compare the distribution of the best of n with the uniform one.
    N, n = 2000, 8
    ranks = np.arange(N)
    p = ((ranks + 1) / N) ** n - (ranks / N) ** n
    assert best_of_n_kl(n) == pytest.approx((p * np.log(p * N)).sum(), abs=0.01)


def test_the_curve_rises_with_n_for_the_proxy(make_gpt, assistant_tokenizer, world, tasks):
    reward_model = ScalarModel(make_gpt(2), mg.Generator(0))
    args = make_gpt(), assistant_tokenizer, reward_model, Judge(world), tasks[:6], (1, 2, 4)
    points = curve(*args, max_new_tokens=6)
    assert points == curve(*args, max_new_tokens=6)
    rewards = [point["reward"] for point in points]
    assert rewards == sorted(rewards) and rewards[0] < rewards[-1]
    assert [point["n"] for point in points] == [1, 2, 4] and points[0]["kl"] == 0
    assert [sum(point["criteria"].values()) for point in points] == pytest.approx([point["judge"] for point in points])
    assert reward_scores(reward_model, [[1, 2]]).shape == (1,)


def test_dpo_leaves_the_reference_unchanged(make_gpt, assistant_tokenizer, tmp_path):
    reference = make_gpt()
    before = snapshot(reference)
    config = TrainConfig(steps=2, batch_size=4, lr=1e-2, warmup_steps=1)
    train_dpo(make_gpt(), reference, assistant_tokenizer, RANKINGS, config, Run(tmp_path))
    for a, b in zip(before, snapshot(reference), strict=True):
        np.testing.assert_array_equal(a, b)
