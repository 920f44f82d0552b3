import json
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.support.figures import loss_curve, new_figure, save_figure
from chapters.support.run_folder import History, Run, RunError, maker_of
from minigrad.serialization import CheckpointError


@pytest.fixture
def saved(tmp_path):
    """A run folder, and the model and tokenizer that were saved in it."""
    config = GPTConfig(vocab_size=8, context=8, n_layer=1, n_head=2, d_model=16)
    model, tokenizer = GPT(config, mg.Generator(0)).eval(), Tokenizer.characters("abcdefg")
    save_model(Run(tmp_path), model, tokenizer)
    return tmp_path, model, tokenizer


def test_a_saved_model_comes_back(saved):
    folder, model, tokenizer = saved
    again, same = load_model(folder)
    ids = mg.tensor([[1, 5, 2]])
    np.testing.assert_array_equal(again(ids).detach().numpy(), model(ids).detach().numpy())
    assert again.config == model.config and not again.training and again.lm_head.weight is again.wte.weight
    assert same.encode("cab") == tokenizer.encode("cab")


def test_a_missing_or_damaged_model_is_refused(saved):
    folder, _, _ = saved
    with pytest.raises(FileNotFoundError, match="no trained model in"):
        load_model(folder / "nowhere")
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError):
        load_model(folder)


def test_a_model_of_an_unknown_shape_is_refused(tmp_path):
    mg.serialization.save(tmp_path / "model.safetensors", {"a": np.zeros(3)}, metadata={"config": '{"n_experts": 8}'})
    with pytest.raises(CheckpointError, match="does not know.*n_experts"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.astype(np.int32), "to hold float numbers, got int32"),
        (lambda a: np.where(a == a.max(), np.nan, a), "holds NaN or infinity"),
        (lambda a: a.T, "expected h.0.attn.c_attn.weight of shape .48, 16., got .16, 48."),
    ],
)
def test_weights_that_are_no_weights_are_refused(saved, change, message):
    path = saved[0] / "model.safetensors"
    arrays, metadata = mg.serialization.load(path)
    arrays["h.0.attn.c_attn.weight"] = change(arrays["h.0.attn.c_attn.weight"])
    mg.serialization.save(path, arrays, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved[0])


@pytest.mark.parametrize("size", [{"d_model": 2**20}, {"n_layer": 10**9}, {"vocab_size": 2**40}, {"context": 2**40}])
def test_a_small_file_of_a_huge_model_takes_no_memory(saved, size):
    path = saved[0] / "model.safetensors"
    arrays, metadata = mg.serialization.load(path)
    mg.serialization.save(path, arrays, {"config": json.dumps(json.loads(metadata["config"]) | size)})
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="holds another model's parameters"):
        load_model(saved[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_missing_or_mismatched_tokenizer_is_refused(saved):
    folder, _, _ = saved
    Tokenizer.characters("abc").save(folder / "tokenizer.tiktoken")
    with pytest.raises(CheckpointError, match="has 4 ids, but the model beside it has 8"):
        load_model(folder)
    (folder / "tokenizer.tiktoken").unlink()
    with pytest.raises(FileNotFoundError, match="there is no tokenizer .*tokenizer.tiktoken"):
        load_model(folder)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        Run(tmp_path / "file" / "run")


def test_two_commands_can_start_in_one_folder_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        assert {run.folder for run in threads.map(Run, [tmp_path] * 400)} == {tmp_path}
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_config_json_that_is_cut_short_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model": {')
    with pytest.raises(RunError, match="config.json is not whole JSON"):
        Run(tmp_path).describe(training={"steps": 1})


def test_history_ignores_an_unfinished_last_line(tmp_path):
    lines = [{"step": 0, "validation_loss": 3.0}, {"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 3, "lo')
    history = History.read(Run(tmp_path))
    assert (history.steps, history.losses) == ([1, 2], [2.5, 2.0])
    assert (history.validation_steps, history.validation_losses, history.best) == ([0], [3.0], 3.0)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"step": 2, "loss": }', "metrics.jsonl, line 2 is damaged"),
        ("[" * 5000, "line 2 is damaged .more than 32 levels of nesting"),
        ('{"step": 2, "loss": 1e999}', "line 2 is damaged .the number 1e999 is too large"),
        ('{"step": 2, "loss": "low"}', "line 2: expected numbers by name"),
        ('{"step": 2.5, "loss": 2.0}', "line 2: expected step of type int, got 2.5"),
        ('{"step": 2}', "line 2: expected 'loss', got only step"),
        ('{"step": 1, "loss": 2.0}', "line 2: expected a step after 1, got 1"),
    ],
)
def test_a_damaged_line_of_the_metrics_is_named(tmp_path, line, message):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n' + line + '\n{"step": 3, "loss": 1.5}\n')
    with pytest.raises(RunError, match=message):
        History.read(Run(tmp_path))


def test_dollar_signs_do_not_begin_a_formula(tmp_path):
    assert loss_curve(History([1, 2], [2.5, 2.0]), tmp_path / "loss.svg", title="$100 to $5^").stat().st_size > 0
    figure, axes = new_figure()
    axes.bar(["$x^", "$y_{"], [1, 2], label="$a^ b$")
    axes.legend(title="$\\frac$")
    axes.set(ylabel="$_$ in $^", yscale="log")
    assert save_figure(figure, tmp_path / "bars.svg").stat().st_size > 0
    powers = [text for text in axes.get_yticklabels() if "10" in text.get_text()]
    assert powers and all(text.get_parse_math() for text in powers)


@pytest.mark.skipif(not hasattr(os, "umask") or os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o077, 0o002, 0o022])
def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        mg.serialization.save(tmp_path / "a.safetensors", {"a": np.zeros(3)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_command_that_makes_a_folder_of_a_main_job_has_the_jobs_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert maker_of("runs/main/sft") == "python -m chapters"
    assert maker_of(tmp_path / "sft") is None and maker_of("runs/main/mine") is None
    (tmp_path / "job.json").write_text('{"seed": 3, "quick": true}')
    assert maker_of(tmp_path / "assistant") == f"python -m chapters --out {tmp_path} --seed 3 --quick"
    (tmp_path / "job.json").write_text("[")
    assert maker_of(tmp_path / "assistant") == f"python -m chapters --out {tmp_path}"
