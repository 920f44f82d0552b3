"""The second bend's commands, one after the other, on a small untrained base; each starts from the previous result."""

import json
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import load_model, save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import best_of_n, demonstrations, dpo, frontier, grpo, rlhf, rloo
from chapters.ch10 import reward as reward_lesson
from chapters.ch10.demonstrations import sharpen
from chapters.ch10.grpo import GRPOConfig
from chapters.ch10.harness import restore, snapshot
from chapters.ch10.rlhf import PPOConfig
from chapters.ch10.rloo import RLOOConfig
from chapters.support.run_folder import Run

FEW = TrainConfig(steps=2, batch_size=4, lr=1e-3, warmup_steps=1)
PPO = PPOConfig(iterations=2, prompts=4)
RLOO = RLOOConfig(iterations=2, prompts=4, k=2)
GRPO = GRPOConfig(iterations=2, prompts=4, k=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def assistant(runs, make_gpt, assistant_tokenizer, capsys):
    if not (runs / "assistant").exists():
        save_model(Run(runs / "base"), make_gpt(), assistant_tokenizer)
        settings = dict(base=runs / "base", run=runs / "assistant", examples=40, held_out=8, training=FEW)
        demonstrations.main(demonstrations.Settings(**settings))
        assert "held out, sampled at temperature 1: the simulated judge's mean score" in capsys.readouterr().out
    return runs / "assistant"


@pytest.fixture
def reward(runs, assistant, capsys):
    if not (runs / "reward").exists():
        settings = dict(sft=assistant, prompts=6, k=3, held_out=6, training=FEW)
        for name in ("reward", "again"):
            reward_lesson.main(reward_lesson.Settings(**settings, run=runs / name))
        out = capsys.readouterr().out
        assert "of the ceiling" in out and "simulated labeller" in out and "a bag of " in out
    return runs / "reward"


def test_two_equal_reward_commands_write_the_same_bytes(runs, reward):
    for name in ("scores.json", "metrics.jsonl", "reward.safetensors", "figures/calibration.svg", "figures/tokens.svg"):
        assert (reward / name).read_bytes() == (runs / "again" / name).read_bytes(), name
    result = json.loads((reward / "scores.json").read_text())
    assert 0.5 <= result["ceiling"] <= 1 and result["comparisons"] > 0
    bag, gains = result["bag of words"], result["best of n"]
    assert bag["comparisons"] == result["comparisons"] and bag["ceiling"] == result["ceiling"] and bag["words"] > 0
    assert gains["n"] == 3 and gains["judge"] >= max(gains["reward model"], gains["bag of words"])


def test_the_reward_command_on_a_file_of_pairs(runs, assistant, capsys):
    record = {"instruction": "Say {}.", "input": "", "chosen": "Yes {}.", "rejected": "No {}."}
    pairs = [{key: text.format(i) for key, text in record.items()} for i in range(12)]
    pairs += [{**record, "rejected": record["chosen"]}, {**record, "rejected": "No. " * 200}]
    (runs / "pairs.json").write_text(json.dumps(pairs))
    reward_lesson.main(reward_lesson.Settings(sft=assistant, data=runs / "pairs.json", run=runs / "file", training=FEW))
    out = capsys.readouterr().out
    assert "12 pairs; left out: 1 with equal responses, 1 longer than 128 tokens" in out and "ceiling" not in out
    assert "a bag of 13 words: 100.00% of the same comparisons right" in out  # yes, no, and the numbers of 11 pairs
    assert "best of n" not in json.loads((runs / "file" / "scores.json").read_text())
    settings = dict(sft=assistant, data=runs / "pairs.json", held_out=4, training=FEW)
    dpo.main(dpo.Settings(**settings, run=runs / "dpo_file"))
    assert "prefers DPO to SFT" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["PPO", "RLOO"])
def test_the_commands_that_train_against_the_reward_model(name, runs, assistant, reward, capsys):
    module, config = {"PPO": (rlhf, PPO), "RLOO": (rloo, RLOO)}[name]
    run = runs / name
    module.main(module.Settings(sft=assistant, reward=reward, run=run, tasks=12, held_out=8, training=config))
    assert f"prefers {name} to SFT" in capsys.readouterr().out
    result = json.loads((run / "scores.json").read_text())
    assert {"judge", "wins", "interval", "kl", "reward", "criteria", "before"} <= set(result)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    load_model(run)


def test_several_seeds_are_pooled(runs, assistant, reward, capsys):
    settings = dict(sft=assistant, reward=reward, run=runs / "seeds", tasks=12, held_out=6, training=PPO)
    rlhf.main(rlhf.Settings(**settings, seed=3, seeds=2))
    out = capsys.readouterr().out
    assert "2 seeds: the simulated judge prefers PPO to SFT on" in out
    results = [json.loads((runs / "seeds" / f"seed_{seed}" / "scores.json").read_text()) for seed in (3, 4)]
    assert all(len(result["of each task"]) == 6 for result in results)
    share = sum(sum(result["of each task"]) for result in results) / 12
    assert f"on {share:.1%} of held-out tasks" in out
    mean_gain = sum(result["judge"] - result["before"]["judge"] for result in results) / 2
    assert f"in all {mean_gain:+.2f} of 8 points" in out.splitlines()[-1]
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        rlhf.main(rlhf.Settings(**settings, seeds=0))


def test_grpo_from_start_to_scores(runs, assistant, capsys):
    grpo.main(grpo.Settings(sft=assistant, run=runs / "grpo", tasks=12, held_out=6, training=GRPO))
    scores = json.loads((runs / "grpo" / "scores.json").read_text())
    assert scores["SFT model"]["kl"] == 0 and 0 <= scores["GRPO"]["right"] <= 1
    assert (runs / "grpo" / "figures" / "watch.svg").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "of held-out tasks right" in out and "gain by criterion" in out


def test_best_of_n_and_the_frontier(runs, assistant, reward, capsys):
    settings = dict(sft=assistant, reward=reward, held_out=6)
    best_of_n.main(best_of_n.Settings(**settings, run=runs / "best", ns=(1, 2)))
    assert [point["n"] for point in json.loads((runs / "best" / "scores.json").read_text())] == [1, 2]
    methods: dict[str, Any] = dict(ppo=PPO, rloo=RLOO, grpo=GRPO, dpo=FEW, betas=(0.1,), comparisons=6, ns=(1, 2))
    frontier.main(frontier.Settings(**settings, **methods, run=runs / "frontier", tasks=12, every=1))
    result = json.loads((runs / "frontier" / "scores.json").read_text())
    assert list(result) == ["PPO", "RLOO", "GRPO", "DPO", "best of n"]
    assert result["PPO"][0]["wins"] == 0.5 and abs(result["PPO"][0]["kl"]) < 1e-6  # the SFT model itself
    assert (runs / "frontier" / "figures" / "frontier.svg").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "best of 2" in out and "gain by criterion, best of 2 over 1" in out


def test_every_third_batch_is_a_rehearsal_and_none_is_skipped():
    class Numbered:
        def __init__(self, name):
            self.name = self.signature = name

        def batch(self, step):
            return self.name, step

    batches = demonstrations.RehearsalBatches(Numbered("new"), Numbered("old"), 3)
    names, steps = zip(*(batches.batch(i) for i in range(7)), strict=True)
    assert " ".join(names) == "new new old new new old new" and steps == (0, 1, 0, 2, 3, 1, 4)
    assert "new" in batches.signature and "old" in batches.signature
    with pytest.raises(ValueError, match="expected every >= 2, got 1"):
        demonstrations.RehearsalBatches(Numbered("new"), Numbered("old"), 1)


def test_a_temperature_built_in_divides_the_logits(make_gpt):
    model, ids = make_gpt(), mg.tensor([[1, 2, 3, 4]])
    with mg.no_grad():
        before = model(ids).numpy().copy()
        sharpen(model, 0.5)
        np.testing.assert_allclose(model(ids).numpy(), before / 0.5, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="expected a number above 0, got 0"):
        sharpen(model, 0)


def test_pretrainings_batches_are_pages_of_the_world(world, assistant_tokenizer):
    batches = demonstrations.pretraining_batches(world, assistant_tokenizer, 32, 4, 0, n_bytes=5000)
    inputs, targets = batches.batch(0)
    assert inputs.shape == (4, 32) and (inputs[:, 1:] == targets[:, :-1]).all()
    text = "\n".join(world.documents(5000, 0))
    assert assistant_tokenizer.decode(inputs[0].tolist()).split("<|endoftext|>")[0].strip() in text


def test_a_snapshot_is_a_copy(make_gpt):
    gpt = make_gpt()
    copies = snapshot(gpt)
    gpt.wte.weight.array += 1
    restore(gpt, copies)
    for a, b in zip(copies, snapshot(make_gpt()), strict=True):
        np.testing.assert_array_equal(a, b)
