import math

import numpy as np
import pytest

import minigrad as mg
from chapters.ch10 import ppo
from chapters.ch10.rlhf import PPOConfig
from chapters.ch10.rollout import chosen_log_probs
from chapters.support.batches import IGNORE_INDEX

# ── steps 3 to 5: rewards and advantages ──

MASK = np.array([[False, True, True, True, False], [False, False, True, True, True]])


def test_the_last_token_earns_the_score_and_later_columns_nothing():
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
    for b, row in enumerate(MASK):
        steps = np.flatnonzero(row)
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


def test_a_clipped_token_has_no_gradient():
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
    entropy = ppo.entropy(ours[mg.tensor(mask)])
    (policy + 0.5 * value - 0.1 * entropy).backward()

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

    for a, b in [(policy, their_policy), (value, their_value), (entropy, their_entropy)]:
        assert a.item() == pytest.approx(b.item(), abs=1e-6)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(our_values.grad.numpy(), their_values.grad.numpy(), atol=1e-6)
    assert np.abs(ours.grad.numpy()[mask]).min() > 0 and (ours.grad.numpy()[~mask] == 0).all()


def test_entropy_of_a_uniform_and_of_a_certain_policy():
    uniform, certain = np.zeros((1, 5)), np.array([[0.0, 0.0, 1000.0, 0.0, 0.0]])
    assert ppo.entropy(mg.from_numpy(uniform)).item() == pytest.approx(math.log(5))
    assert ppo.entropy(mg.from_numpy(certain)).item() == pytest.approx(0)


def test_the_kl_coefficient_rises_above_its_target_and_falls_below():
    assert ppo.adapted_kl_coefficient(0.1, 6.0, 6.0, 64, 1000) == 0.1
    assert ppo.adapted_kl_coefficient(0.1, 60.0, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)  # clipped to 0.2 · 100 / 1000
    assert ppo.adapted_kl_coefficient(0.1, 0.0, 6.0, 100, 1000) == pytest.approx(0.1 * 0.98)


def test_diagnostics():
    old, new = np.zeros((1, 3)), np.log([[1.0, 1.5, 9.0]])
    statistics = ppo.ratio_statistics(new, old, np.array([[True, True, False]]), 0.2)
    assert statistics["ratio"] == pytest.approx(1.25) and statistics["clip_fraction"] == 0.5
    assert statistics["approx_kl"] == pytest.approx((0.5 - math.log(1.5)) / 2)
    returns = np.array([[1.0, 3.0, 5.0]])
    assert ppo.explained_variance(returns, returns, np.ones((1, 3), bool)) == 1
    assert ppo.explained_variance(np.full((1, 3), 3.0), returns, np.ones((1, 3), bool)) == 0
    assert ppo.explained_variance(returns, np.ones((1, 3)), np.ones((1, 3), bool)) == 0


def test_the_kl_coefficient_stays_positive_whatever_the_horizon():
    assert ppo.adapted_kl_coefficient(0.2, kl=0.0, target=3.0, responses=64, horizon=0.5) == pytest.approx(0.16)
    slow = ppo.adapted_kl_coefficient(0.2, kl=90.0, target=3.0, responses=64, horizon=2000)
    assert slow == pytest.approx(0.2 * (1 + 0.2 * 64 / 2000))


@pytest.mark.parametrize("setting", [{"kl_target": 0}, {"lr": -1e-4}, {"grad_clip": -1}, {"kl_horizon": -1}, {"lam": 1.5}])
def test_settings_that_would_climb_the_loss_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        PPOConfig(**setting)
