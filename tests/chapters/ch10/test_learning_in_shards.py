"""The optimizer steps of PPO, RLOO and GRPO, cut into shards: only the rounding differs from a step in one piece."""

import numpy as np
import pytest

import minigrad as mg
from chapters.ch10 import grpo, rlhf, rloo
from chapters.ch10.harness import optimizer_step, snapshot
from chapters.ch10.reward import ScalarModel
from chapters.ch10.rollout import log_probs_of, to_rollouts
from kernels.collectives import Alone
from minigrad import distributed

LENGTHS = (1, 9, 2, 7, 3, 8, 1, 6)  # of the responses, so that shards of equally many rows differ in tokens


class Pages:
    def batch(self, step):
        ids = np.random.default_rng(step).integers(1, 50, (4, 13))  # in three shards: 2, 1 and 1 pages
        return ids[:, :-1], ids[:, 1:]


def ppo_learner(make_gpt):
    config = rlhf.PPOConfig(grad_clip=0.0, minibatches=2, epochs=1, entropy_coefficient=0.1)
    return rlhf.PPO(make_gpt(), ScalarModel(make_gpt(1), mg.Generator(0)), config, Pages())


def rloo_learner(make_gpt):
    return rloo.RLOO(make_gpt(), rloo.RLOOConfig(grad_clip=0.0, prompts=8, k=2))


def grpo_learner(make_gpt):
    return grpo.GRPO(make_gpt(), grpo.GRPOConfig(grad_clip=0.0, prompts=8, k=2))


LEARNERS = {rlhf: ppo_learner, rloo: rloo_learner, grpo: grpo_learner}


def learn(make_gpt, module, shards):
    """The changes of all parameters, and the diagnostics. With SGD, a change is as exact as its gradient."""
    rng, learner = np.random.default_rng(0), LEARNERS[module](make_gpt)
    models = [model for model, _ in learner.trained]
    optimizers = [mg.optim.SGD(model.parameters(), lr=0.0) for model in models]
    learner.optimizer, learner.optimizers = optimizers[0], optimizers
    prompts, responses = ([rng.integers(1, 50, n).tolist() for n in lengths] for lengths in ([5] * 8, LENGTHS))
    rollouts = to_rollouts(prompts, responses, [True] * 8)
    exact = log_probs_of(models[0], rollouts)
    rollouts.log_probs, reference = ((exact + 0.2 * rng.normal(size=exact.shape)) * rollouts.mask for _ in range(2))
    before = [snapshot(model) for model in models]
    with distributed.sharing(Alone(), shards):
        diagnostics = learner.learn(rollouts, rng.normal(size=8), reference, 0.5, 0.01)
    assert not any(p.hooks and p.hooks.after for model in models for p in model.parameters())  # the exchanges left none
    return [a - b for model, arrays in zip(models, before) for a, b in zip(snapshot(model), arrays)], diagnostics


def differs(a, b):
    """Whether two results of `learn` differ by more than rounding."""
    largest = max(np.abs(change).max() for change in a[0])
    return a[1] != pytest.approx(b[1], rel=1e-4) or not all(
        np.allclose(x, y, rtol=1e-4, atol=1e-4 * largest) for x, y in zip(a[0], b[0], strict=True)
    )


@pytest.mark.parametrize("module", LEARNERS, ids=lambda module: module.__name__.split(".")[-1])
def test_shards_change_only_the_rounding(make_gpt, module, monkeypatch):
    whole, thirds = learn(make_gpt, module, 1), learn(make_gpt, module, 3)
    assert all(change.any() for change in whole[0][:2]) and whole[1] != thirds[1]
    assert not differs(whole, thirds)

    def slightly_wrong(model, optimizer, batch, parts_of, *settings):
        def wrong(rows, *pages):
            loss, diagnostics = parts_of(rows, *pages)
            return loss * (1.01 if batch[0][0] in rows else 1.0), diagnostics

        return optimizer_step(model, optimizer, batch, wrong, *settings)

    monkeypatch.setattr(module, "optimizer_step", slightly_wrong)
    assert differs(whole, learn(make_gpt, module, 3))


def test_a_step_needs_a_row_for_each_shard(make_gpt):
    with pytest.raises(distributed.RankError, match="at least one row for each of 5 shards, got a batch of 4"):
        learn(make_gpt, rlhf, 5)  # two minibatches of 4 rows
    with pytest.raises(distributed.RankError, match="at least one row for each of 9 shards, got a batch of 8"):
        learn(make_gpt, rloo, 9)


@pytest.mark.parametrize("what", ["loss", "gradients"])
def test_a_shard_that_is_not_finite_stops_the_step(what):
    model = mg.nn.Linear(2, 1)
    before = snapshot(model)
    if what == "gradients":
        model.weight.register_hook(lambda gradient: gradient * np.nan)

    def parts_of(rows):
        factor = np.nan if what == "loss" and 3 in rows else 1.0  # in the second shard
        return model(mg.ones(2)).sum() * factor, {}

    with distributed.sharing(Alone(), 2), pytest.raises(FloatingPointError, match=f"expected finite {what}"):
        optimizer_step(model, mg.optim.AdamW(model.parameters()), [np.arange(4)], parts_of, 0.1, 1.0)
    assert all((a == b).all() for a, b in zip(before, snapshot(model), strict=True))
