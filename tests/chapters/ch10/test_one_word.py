"""One word: PPO and GRPO reach the level that theory predicts, and a broken method does not."""

import itertools
import json

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import load_model
from chapters.ch10 import grpo, one_word, ppo
from chapters.ch10.one_word import Settings, count_in_samples, grpo_share, learn_the_word, main, ppo_share
from chapters.support.run_folder import Run

# ── the predicted level ──


@pytest.mark.parametrize("p, beta", [(0.125, 0.5), (0.3, 2.0), (0.6, 0.2)])
def test_the_best_policy_maximises_reward_less_the_kl_penalty(p, beta):
    q = np.linspace(1e-4, 1 - 1e-4, 200_001)
    objective = q - beta * (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))
    assert ppo_share(p, beta) == pytest.approx(q[objective.argmax()], abs=1e-4)


def expected_gradients(p, q, beta, k):
    """The gradients of PPO's and of GRPO's loss with respect to the word's logit, averaged over all groups of k one-word
    responses; the policy says the word with probability q, the reference with probability p."""
    totals = np.zeros(2)
    for outcome in itertools.product([0, 1], repeat=k):
        logit = mg.tensor([np.log(q / (1 - q))], dtype=mg.float64, requires_grad=True)
        says = np.array(outcome)[:, None]  # (k, 1)
        signs = mg.tensor(2.0 * says - 1, dtype=mg.float64)  # (k, 1)
        log_probs = -mg.log(1 + mg.exp(-signs * logit))  # (k, 1)
        old, reference = log_probs.numpy(force=True), np.log(np.where(says == 1, p, 1 - p))  # (k, 1) each
        mask, last = np.ones((k, 1), bool), np.zeros(k, int)
        rewards = ppo.token_rewards(says[:, 0].astype(float), old, reference, mask, last, beta)  # (k, 1)
        advantages = grpo.group_advantages(says[:, 0].astype(float), k, divide=False)  # (k,)
        old_t, reference_t, rewards_t, advantages_t = map(mg.as_tensor, (old, reference, rewards, advantages))
        losses = (
            ppo.policy_loss(log_probs, old_t, rewards_t, mask),
            grpo.grpo_loss(log_probs, old_t, reference_t, advantages_t, mask, 0.2, beta, 1),
        )
        for i, loss in enumerate(losses):
            logit.grad = None
            loss.backward(retain_graph=True)
            totals[i] += np.exp(old.sum()) * logit.grad.item()
    return totals


def test_each_loss_has_no_gradient_at_its_own_level():
    p, beta, k = 0.2, 0.4, 3
    levels = ppo_share(p, beta), grpo_share(p, beta, k)
    assert abs(levels[0] - levels[1]) > 0.02
    for i, level in enumerate(levels):
        at, below, above = (expected_gradients(p, q, beta, k)[i] for q in (level, level - 0.05, level + 0.05))
        assert at == pytest.approx(0, abs=1e-9)
        assert below < -1e-3 and above > 1e-3  # from both sides, descent leads to the level


# ── the lesson itself ──


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """The folder of the shipped lesson, run with its default settings."""
    folder = tmp_path_factory.mktemp("one_word")
    main(Settings(run=folder))
    return folder


def rewards_of(folder):
    return np.array([json.loads(line)["reward"] for line in (folder / "metrics.jsonl").read_text().splitlines()])


@pytest.mark.parametrize("name", ["PPO", "GRPO"])
def test_the_word_rises_to_the_predicted_level_and_no_further(lesson, name):
    scores, rewards = json.loads((lesson / "scores.json").read_text()), rewards_of(lesson / name.lower())
    level = scores[name]["predicted"]
    assert scores["before"] == pytest.approx(1, abs=0.15) and rewards[0] < 1.5
    assert scores[name]["after"] == pytest.approx(level, abs=0.3)
    means = np.convolve(rewards, np.ones(10) / 10, mode="valid")
    assert means[0] < level - 0.8 and means.max() < level + 0.4  # from below, and not past it
    assert scores["GRPO"]["after"] > scores["PPO"]["after"]
    assert (lesson / "figures" / "one_word.svg").stat().st_size > 1000


BREAKS = {
    "PPO": lambda patch: patch.setattr(ppo, "whiten", lambda values, mask, whiten=ppo.whiten: -whiten(values, mask)),
    "GRPO": lambda patch: patch.setattr(
        grpo, "group_advantages", lambda *a, advantages=grpo.group_advantages, **k: -advantages(*a, **k)
    ),
}


def count_after(lesson, name, folder, **changes):
    """How often the word is said after training by this method."""
    babbler, tokenizer = load_model(lesson / "babbler")
    policy, _ = learn_the_word(babbler, tokenizer, name, Settings(**changes), Run(folder))
    return count_in_samples(policy, tokenizer, 200, 0).mean()


@pytest.mark.parametrize("name", BREAKS)
def test_with_negated_advantages_the_word_disappears(lesson, name, tmp_path, monkeypatch):
    BREAKS[name](monkeypatch)
    assert count_after(lesson, name, tmp_path, iterations=15, responses=32) < 0.5


@pytest.mark.parametrize("name", ["PPO", "GRPO"])
def test_a_weaker_penalty_lets_the_word_rise_beyond_the_level(lesson, name, tmp_path):
    assert count_after(lesson, name, tmp_path, iterations=20, responses=32, lr=3e-3, kl_coefficient=0.05) > 6


def test_only_whole_words_count():
    assert one_word.count_word(["tea tea", "steam teas", "", "tea sun tea"]).tolist() == [2, 0, 0, 2]
