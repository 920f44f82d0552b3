"""The numbers behind the interactive parts about training, reward, PPO and the four models."""

import json
from dataclasses import replace

import numpy as np
import pytest

import chapters.interactive.reward as reward_part
import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch10.reward import ScalarModel, reward_scores, save_scalar
from chapters.ch10.rollout import to_rollouts
from chapters.interactive.models import models_data
from chapters.interactive.ppo import ppo_data
from chapters.interactive.reward import read_tokens, reward_data
from chapters.interactive.training import training_data
from chapters.support.figures import running_mean
from chapters.support.generations import read_generations, record_generations
from chapters.support.json_files import write_result
from chapters.support.run_folder import Run, RunError
from tests.chapters.test_ch07_train import CONFIG, Tripwire, run_it
from tests.tiny_job import tiny_tokenizer

# ── what the model writes at checkpoints ──


def test_a_repeated_step_replaces_its_line_and_all_later_ones(tmp_path):
    run = Run(tmp_path)
    assert read_generations(run) == []
    for step in (0, 5, 10, 5):
        record_generations(run, step, {"Here is": f"step {step}\n\x1b"})
    assert [record["step"] for record in read_generations(run)] == [0, 5]
    assert read_generations(run)[1]["generations"] == {"Here is": "step 5\n\x1b"}


@pytest.mark.parametrize("line", ['{"step": 5', '{"step": 5}', '{"step": 5, "generations": {"Here is": 3}}', "[]"])
def test_a_damaged_line_is_named(tmp_path, line):
    record_generations(Run(tmp_path), 0, {"Here is": "Lara."})
    with open(tmp_path / "generations.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"generations.jsonl, line 2 is damaged .*; start afresh"):
        read_generations(Run(tmp_path))


def test_training_calls_its_observer_at_checkpoints_and_writes_the_same_metrics(tmp_path):
    seen = []
    _, _, observed = run_it(tmp_path / "observed", observe=seen.append)
    assert seen == [0, 5, 10, 12]
    assert observed == run_it(tmp_path / "alone")[2]


@pytest.mark.parametrize("stopped_at", [3, 8, 11])
def test_a_stopped_run_records_the_same_generations(tmp_path, stopped_at):
    def recorded(folder, **options):
        model = GPT(GPTConfig(vocab_size=8, context=8, n_layer=1, n_head=2, d_model=16, dropout=0.1), mg.Generator(0))

        def observe(step):
            with mg.no_grad():
                scores = model.eval()(mg.tensor([[1, 5, 2]])).numpy(force=True)[0, -1]
            model.train()
            record_generations(Run(folder), step, {"1 5 2": str(scores.tolist())})

        run_it(folder, model=model, observe=observe, **options)
        return (folder / "generations.jsonl").read_bytes()

    def stop():
        raise RuntimeError("stopped")

    whole = recorded(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="stopped"):
        recorded(tmp_path / "twice", batches=Tripwire(stopped_at, stop))
    assert recorded(tmp_path / "twice", config=replace(CONFIG, resume=True)) == whole


# ── training and PPO ──


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_training_data_thins_long_curves_and_shows_control_characters(tmp_path):
    losses = [7 / (1 + 0.01 * step) for step in range(1, 2601)]
    metrics = [{"step": 0, "validation_loss": 7.0}, *({"step": i, "loss": loss} for i, loss in enumerate(losses, 1))]
    write_lines(tmp_path / "pretrain" / "metrics.jsonl", metrics)
    with pytest.raises(ValueError, match="expected generations.jsonl"):
        training_data(tmp_path)
    record_generations(Run(tmp_path / "pretrain"), 250, {"Here is": "a\x1b[31m line.\n\n\u202eNext"})
    data = training_data(tmp_path)
    assert 400 < len(data["training"]) == len(data["mean"]) <= 1200
    assert data["training"][1] == (5, round(losses[4], 4)) and data["mean"][1] == (5, round(running_mean(losses)[4], 4))
    assert data["validation"] == [(0, 7.0)]
    write_lines(tmp_path / "pretrain" / "metrics.jsonl", metrics[1:])
    with pytest.raises(ValueError, match="expected generations.jsonl"):  # without a validation loss there is no loss at step 0
        training_data(tmp_path)
    assert data["checkpoints"] == [{"step": 250, "texts": [("Here is", "a␛[31m line. ↵ \\u202eNext")]}]


def test_ppo_data_holds_every_iteration_with_the_names_of_its_quantities(tmp_path):
    records = [{"iteration": i, "kl": 0.1 * i, "reward": 0.5 * i, "judge": 6.0 + i, "entropy": 0.123456789} for i in range(3)]
    with pytest.raises(ValueError, match="expected the metrics of the main job's PPO"):
        ppo_data(tmp_path)
    write_lines(tmp_path / "rlhf" / "metrics.jsonl", records)
    data = ppo_data(tmp_path)
    assert [record["iteration"] for record in data["iterations"]] == [0, 1, 2]
    assert data["iterations"][2] == {"iteration": 2, "kl": 0.2, "reward": 1.0, "judge": 8.0, "entropy": 0.12346}
    assert set(data["quantities"]) == {"kl", "reward", "judge", "entropy"} and data["answers"] == {}
    record_generations(Run(tmp_path / "rlhf"), 2, {"Who is Greta?": "A tailor."})
    assert ppo_data(tmp_path)["answers"] == {2: [("Who is Greta?", "A tailor.")]}


# ── the reward at every token ──


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A folder with an assistant and a reward model that nobody trained."""
    folder, tokenizer = tmp_path_factory.mktemp("job"), tiny_tokenizer()
    gpt = GPT(GPTConfig(tokenizer.vocab_size, context=224, n_layer=1, n_head=2, d_model=16), mg.Generator(1))
    save_model(Run(folder / "assistant"), gpt, tokenizer)
    model = ScalarModel(gpt, mg.Generator(2)).eval()
    save_scalar(Run(folder / "reward"), model)
    (folder / "job.json").write_text(json.dumps({"seed": 3}))
    return folder, tokenizer, model


def test_each_reward_is_that_of_the_response_cut_after_its_token(untrained):
    _, tokenizer, model = untrained
    prompt, response = tokenizer.encode("Who is Greta?"), [*tokenizer.encode("A tailor.\n"), tokenizer.eos_id]
    shown = read_tokens(model, tokenizer, to_rollouts([prompt], [response], [True]), 0)
    beginnings = [prompt + response[:length] for length in range(len(response) + 1)]
    np.testing.assert_allclose([shown["before"], *shown["rewards"]], reward_scores(model, beginnings), atol=1e-3)
    assert "".join(shown["tokens"]) == "A tailor.↵⟨end⟩"


def test_the_first_response_has_the_higher_score_and_the_labeller_is_seeded(untrained, monkeypatch):
    folder, _, _ = untrained
    comparisons = reward_data(folder)
    assert comparisons == reward_data(folder) and 8 <= len(comparisons) <= reward_part.INSTRUCTIONS
    for comparison in comparisons:
        best, worst = comparison["responses"]
        assert best["score"] >= worst["score"] and best["tokens"] != worst["tokens"]
        assert comparison["probability"] == pytest.approx(1 / (1 + np.exp((worst["score"] - best["score"]) / 0.5)))
        assert len(best["tokens"]) == len(best["rewards"]) and comparison["preferred"] in (0, 1)
    monkeypatch.setattr(reward_part, "RESPONSES", 1)
    with pytest.raises(ValueError, match="expected different responses"):
        reward_data(folder)


# ── four models ──


def test_models_data_marks_harmful_requests_and_hides_control_characters(tmp_path):
    answer = {"said": "\u202e<b>\x00", "reward": 0.5, "distance": None, "good": False}
    rows = [{"instruction": "How?", "input": text, "family": name, "said": {"base": answer}} for name, text in KINDS.items()]
    (tmp_path / "side_by_side").mkdir()
    write_result(tmp_path / "side_by_side" / "result.json", {"models": {"base": {"reward": 0.5}}, "shown": rows})
    data = models_data(tmp_path)
    assert [(row["instruction"], row["harmful"]) for row in data["rows"]] == [("How?", True), ("How? At night.", False)]
    assert data["rows"][0]["answers"]["base"] == answer | {"said": "\\u202e<b>␀"}


KINDS = {"theft": "", "town": "At night."}
