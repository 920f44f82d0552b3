import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import (
    Settings,
    TrainConfig,
    as_floats,
    evaluate,
    forward_and_backward,
    make_optimizer,
    next_token_loss,
    pretrain,
    schedule,
    train,
    train_plainly,
)
from chapters.support.run_folder import Run, RunError
from minigrad.serialization import CheckpointError
from tests.kill_cycles import contents

ROOT = Path(__file__).parents[2]
TOKENS = np.tile([1, 5, 2, 7, 3, 0, 6, 4], 40)  # (320,)  each token always has the same successor
CONFIG = TrainConfig(steps=12, batch_size=4, lr=1e-2, warmup_steps=2, eval_every=4, eval_batches=2, checkpoint_every=5, seed=3)


def small_gpt(**changes):
    return GPT(GPTConfig(**{**dict(vocab_size=8, context=8, n_layer=1, n_head=2, d_model=16), **changes}), mg.Generator(0))


def small_batches(seed=3):
    return NextTokenBatches(TOKENS, 8, 4, seed)


def run_it(folder, config=CONFIG, model=None, batches=None, **options):
    """Train the small model; returns the model, its history and the bytes of its metrics."""
    model, run = model or small_gpt(dropout=0.1), Run(folder)
    options.setdefault("validation", small_batches(seed=9))
    history = train(model, batches or small_batches(), config, run, log=lambda line: None, **options)
    return model, history, (run / "metrics.jsonl").read_bytes()


def steps_in(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines if "validation" not in line]


class Tripwire:
    """Batches that call `act` once, when the loop first asks for the batch of step `at`."""

    signature = small_batches().signature

    def __init__(self, at, act):
        self.at, self.act = at, act

    def batch(self, step):
        if step == self.at and self.act:
            act, self.act = self.act, None
            act()
        return small_batches().batch(step)


# ── learning ──


def test_training_learns_a_predictable_text(tmp_path):
    config = replace(CONFIG, steps=80, eval_every=40)
    model, history, _ = run_it(tmp_path, config, small_gpt())
    assert history.losses[0] == pytest.approx(math.log(8), abs=0.1)
    assert history.best == history.validation_losses[-1] < 0.1
    every = EveryTokenOnce(TOKENS, 8, 4)
    assert evaluate(model, every, len(every)) < 0.1


def test_with_everything_switched_off_the_loop_is_the_plain_loop(tmp_path):
    plain = small_gpt()
    losses = train_plainly(plain, small_batches(), steps=12, lr=1e-2)
    config = replace(CONFIG, min_lr=1e-2, warmup_steps=0, weight_decay=0.0, grad_clip=0.0, beta2=0.999)
    model, history, _ = run_it(tmp_path, config, small_gpt(), validation=None)
    np.testing.assert_allclose(history.losses, losses, rtol=1e-6)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_the_files_of_a_run(tmp_path):
    _, history, metrics = run_it(tmp_path)
    records = [json.loads(line) for line in metrics.decode().splitlines()]
    assert [r["step"] for r in records if "validation_loss" in r] == [0, 4, 8, 12] == history.validation_steps
    assert steps_in(tmp_path) == list(range(1, 13)) == history.steps
    assert {"loss", "lr", "grad_norm"} < set(records[1])
    assert json.loads((tmp_path / "config.json").read_text())["training"]["steps"] == 12
    clock = [json.loads(line)["step"] for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert clock == [5, 10, 12]
    assert (tmp_path / "figures" / "loss.svg").stat().st_size > 1000
    assert history.tokens_per_second > 0


def test_a_loss_curve_that_cannot_be_drawn_does_not_cost_the_model(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise ValueError("no font")

    monkeypatch.setattr("chapters.support.checkpoint.loss_curve", fail)
    _, history, _ = run_it(tmp_path)  # the caller saves the model after it
    assert history.steps == list(range(1, 13))
    assert "loss.svg is missing (no font)" in capsys.readouterr().err


def test_only_matrices_decay():
    model = small_gpt()
    decaying, free = make_optimizer(model, CONFIG).param_groups
    assert decaying["weight_decay"] == CONFIG.weight_decay and free["weight_decay"] == 0
    assert all(len(p.shape) == 2 for p in decaying["params"]) and all(len(p.shape) == 1 for p in free["params"])
    assert len(decaying["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_muon_trains_the_matrices_of_the_blocks():
    model = small_gpt()
    hidden, decaying, free = make_optimizer(model, replace(CONFIG, muon_lr=0.02)).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    layers = "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"
    assert {names[id(p)] for p in hidden["params"]} == {f"h.0.{layer}.weight" for layer in layers}
    assert {names[id(p)] for p in decaying["params"]} == {"wte.weight", "wpe.weight"}
    assert len(hidden["params"]) + len(decaying["params"]) + len(free["params"]) == len(names)
    assert hidden["lr"] == 0.02 and decaying["lr"] == free["lr"] == CONFIG.lr


def test_a_run_with_muon_learns_and_resumes_to_the_same_bytes(tmp_path):
    config = replace(CONFIG, steps=60, eval_every=20, muon_lr=0.02)
    _, history, whole = run_it(tmp_path / "whole", config)
    assert history.losses[-1] < 0.5 * history.losses[0]

    def stop():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run_it(tmp_path / "twice", config, batches=Tripwire(33, stop))
    _, _, resumed = run_it(tmp_path / "twice", replace(config, resume=True))
    assert resumed == whole


def test_schedule_is_never_zero_and_never_below_its_floor():
    rates = [schedule(step, CONFIG) for step in range(CONFIG.steps)]
    assert 0 < rates[0] < rates[1] == CONFIG.lr
    assert min(rates[2:]) >= CONFIG.lr / 10 and rates[-1] == pytest.approx(CONFIG.lr / 10)
    assert all(later <= earlier for earlier, later in zip(rates[2:], rates[3:], strict=False))


def test_accumulated_batches_are_one_large_batch():
    class Halves:
        def batch(self, step):
            inputs, targets = small_batches().batch(0)
            return inputs[2 * step : 2 * step + 2], targets[2 * step : 2 * step + 2]

    whole, halves = small_gpt(), small_gpt()
    once, tokens = forward_and_backward(whole, small_batches(), 0, CONFIG, next_token_loss)
    twice, tokens_of_halves = forward_and_backward(halves, Halves(), 0, replace(CONFIG, grad_accumulation=2), next_token_loss)
    assert sum(as_floats(*once)) == pytest.approx(sum(as_floats(*twice)), rel=1e-5) and tokens == tokens_of_halves == 32
    for (name, a), b in zip(whole.named_parameters(), halves.parameters(), strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


def test_evaluation_puts_the_mode_back_and_leaves_no_gradients():
    model = small_gpt(dropout=0.5).train()
    losses = {evaluate(model, small_batches(), 3) for _ in range(2)}
    assert len(losses) == 1 and model.training and all(p.grad is None for p in model.parameters())


def test_best_parameters_come_back(tmp_path):
    def bad_end(model, inputs, targets):  # learns for eight steps, then unlearns
        upwards = model.training and len(steps_in(tmp_path)) >= 8
        return next_token_loss(model, inputs, targets) * (-1.0 if upwards else 1.0)

    model, history, _ = run_it(tmp_path, replace(CONFIG, steps=24, keep_best=True), small_gpt(), loss_fn=bad_end)
    reached = evaluate(model, small_batches(seed=9), 2)
    assert reached == pytest.approx(history.best, rel=1e-5) and history.best < history.validation_losses[-1]


def test_fully_masked_rows_have_no_effect(tmp_path):
    class Masked:
        def batch(self, step):
            inputs, targets = small_batches().batch(step)
            return inputs, np.full_like(targets, -100)

    _, history, _ = run_it(tmp_path, model=small_gpt(), batches=Masked())
    assert history.losses == [0.0] * 12


# ── killed, interrupted, resumed ──


def test_equal_runs_write_equal_bytes(tmp_path):
    assert run_it(tmp_path / "a")[2] == run_it(tmp_path / "b")[2]
    assert run_it(tmp_path / "c", replace(CONFIG, seed=4))[2] != run_it(tmp_path / "a")[2]


CLI = "--context 16 --n-layer 1 --n-head 2 --d-model 16 --dropout 0.1 --batch-size 2 --tokenizer characters".split()
CLI += "--steps 200 --warmup-steps 5 --eval-every 40 --eval-batches 2 --checkpoint-every 25".split()
PROCESS = {
    "cwd": ROOT,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.PIPE,
    "text": True,
    "env": {**os.environ, "NUMBA_NUM_THREADS": "1"},
}


def command_line(folder, *arguments):
    """Chapter 7's command on a short text, with a run folder named "run", which the figure's title shows."""
    text = folder / "text.txt"
    text.write_text("Pack my box with five dozen liquor jugs. " * 40)
    return [sys.executable, "-m", "chapters.ch07_train", "--data", text, *CLI, "--run", folder / "run", *arguments]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The files of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run(command_line(folder), check=True, **PROCESS)
    return trained_files(folder)


def trained_files(folder):
    """The run's files but config.json, which names the command's flags."""
    return {name: data for name, data in contents(folder / "run").items() if name != "config.json"}


@pytest.mark.parametrize(
    "sent, after, status",
    [
        (signal.SIGKILL, 1, -signal.SIGKILL),
        (signal.SIGKILL, 130, -signal.SIGKILL),
        (signal.SIGINT, 60, 130),
        (signal.SIGTERM, 60, 143),
    ],
    ids=["killed early", "killed late", "Ctrl-C", "SIGTERM"],
)
def test_stopped_by_a_signal_and_resumed_writes_the_same_bytes(tmp_path, uninterrupted, sent, after, status):
    """The signal comes at some step after `after` lines. SIGKILL leaves no time for cleaning up; the others save first."""
    metrics = tmp_path / "run" / "metrics.jsonl"
    child = subprocess.Popen(command_line(tmp_path), **PROCESS)
    deadline = time.monotonic() + 200  # the first process may have to compile kernels
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < after:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    child.send_signal(sent)
    _, error = child.communicate(timeout=100)
    assert child.returncode == status
    assert metrics.read_bytes().count(b"\n") < 200, "the process was not stopped in the middle"
    if sent != signal.SIGKILL:
        step = steps_in(tmp_path / "run")[-1]
        sentence = f"stopped after step {step} and saved in {tmp_path / 'run'}; the same command with --resume continues"
        assert error.splitlines()[-1] == sentence
        assert (tmp_path / "run" / "checkpoint.safetensors").exists() and not (tmp_path / "run" / ".lock").exists()

    subprocess.run(command_line(tmp_path, "--resume"), check=True, **PROCESS)
    assert trained_files(tmp_path) == uninterrupted


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    wire = Tripwire(at=6, act=lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped after step 7"):
        run_it(tmp_path / "stopped", batches=wire)
    assert steps_in(tmp_path / "stopped")[-1] == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = run_it(tmp_path / "stopped", replace(CONFIG, resume=True))
    assert resumed[2] == run_it(tmp_path / "whole")[2]


def test_a_finished_run_resumes_to_its_own_end(tmp_path):
    model, history, metrics = run_it(tmp_path)
    again, same, same_metrics = run_it(tmp_path, replace(CONFIG, resume=True))
    assert same_metrics == metrics and same.losses == history.losses
    np.testing.assert_array_equal(again.wte.weight.detach().numpy(), model.wte.weight.detach().numpy())


def test_starting_afresh_puts_the_old_checkpoint_aside(tmp_path):
    first = run_it(tmp_path)[2]
    old = (tmp_path / "checkpoint.safetensors").read_bytes()
    second = run_it(tmp_path, replace(CONFIG, seed=8))[2]
    assert (tmp_path / "checkpoint.safetensors.1").read_bytes() == old
    assert (tmp_path / "metrics.jsonl.1").read_bytes() == first != second


@pytest.mark.parametrize(
    "config, model, batches, sentence",
    [
        (replace(CONFIG, lr=2e-2), {}, None, "a run with lr = 0.01, not 0.02"),
        (CONFIG, {"d_model": 32}, None, "a run with parameters"),
        (CONFIG, {}, NextTokenBatches(TOKENS[::-1], 8, 4, 3), "a run with data = 320 tokens"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, config, model, batches, sentence):
    run_it(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes(), (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=sentence):
        run_it(tmp_path, replace(config, resume=True), small_gpt(dropout=0.1, **model), batches)
    assert before == ((tmp_path / "checkpoint.safetensors").read_bytes(), (tmp_path / "metrics.jsonl").read_bytes())


def test_damaged_files_are_refused(tmp_path):
    run_it(tmp_path)
    resume, path = replace(CONFIG, resume=True), tmp_path / "checkpoint.safetensors"
    whole, metrics = path.read_bytes(), (tmp_path / "metrics.jsonl").read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="checkpoint.safetensors"):
        run_it(tmp_path, resume)
    path.write_bytes(whole)
    (tmp_path / "metrics.jsonl").write_bytes(metrics[:-1])
    with pytest.raises(RunError, match="shortened by hand"):
        run_it(tmp_path, resume)
    mg.serialization.save(path, {"a": np.zeros(3)})
    with pytest.raises(RunError, match="not a checkpoint of this loop"):
        run_it(tmp_path, resume)


# ── errors that stop a run ──


def test_a_planted_nan_stops_training_and_is_named(tmp_path):
    model = small_gpt()

    def plant():
        model.h[0].mlp.c_fc.weight.array[3, 5] = np.nan

    with pytest.raises(FloatingPointError) as caught:
        run_it(tmp_path, model=model, batches=Tripwire(at=7, act=plant))
    message = str(caught.value)
    assert "stopped at step 8 with loss nan" in message and "the parameter h.0.mlp.c_fc.weight" in message
    assert "The last good checkpoint, of step 5" in message
    assert steps_in(tmp_path)[-1] == 7  # the bad step left no line
    resumed = run_it(tmp_path, replace(CONFIG, resume=True), small_gpt())
    assert resumed[2] == run_it(tmp_path / "whole", model=small_gpt())[2]


def test_the_operation_that_made_infinity_is_named(tmp_path):
    calls = []

    def loss_that_fails(model, inputs, targets):
        calls.append(1)
        loss = next_token_loss(model, inputs, targets)
        return loss + (loss - loss).log() if len(calls) >= 5 else loss  # log 0 = -inf

    with pytest.raises(FloatingPointError, match=r"step 5 with loss -inf.*: Log made NaN or infinity"):
        run_it(tmp_path, model=small_gpt(), loss_fn=loss_that_fails, validation=None)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_gradient_that_is_not_a_number_stops_training(tmp_path):
    def harmless_value_bad_gradient(model, inputs, targets):
        zero = (model.wte.weight * 0).sum()
        return next_token_loss(model, inputs, targets) + zero.sqrt() * 0  # √ has no slope at 0: 0 · inf

    with (
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match=r"step 1 with loss [0-9.]+ and gradient norm nan"),
    ):
        run_it(tmp_path, model=small_gpt(), loss_fn=harmless_value_bad_gradient)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """A limit on the size of files stands in for a disk that is full after step 7."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    wire = Tripwire(at=7, act=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1])))
    try:
        with pytest.raises(RunError, match="checkpoint of step 10 could not be written, the previous one .* is intact"):
            run_it(tmp_path, batches=wire)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run_it(tmp_path, replace(CONFIG, resume=True))[2] == run_it(tmp_path / "whole")[2]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(steps=0), "steps must be at least 1"),
        (dict(lr=1e-5, min_lr=1e-4), "min_lr <= lr"),
        (dict(lr=-1.0), "lr must be above 0"),
        (dict(grad_accumulation=0), "grad_accumulation must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(CONFIG, **changes)


# ── the command line ──


def run_command(*arguments):
    command = [sys.executable, "-m", "chapters.ch07_train", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})


def test_the_command_line(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("too short")
    refused = run_command("--data", text, "--tokenizer", "characters", "--run", tmp_path / "run")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "8 tokens to train on and 1 to validate on" in refused.stderr and "context + 1 = 257" in refused.stderr

    text.write_text("")
    assert "is empty" in run_command("--data", text, "--run", tmp_path / "run").stderr
    assert "cannot be written" in run_command("--quick", "--run", text / "inside").stderr

    text.write_text("Pack my box with five dozen liquor jugs. " * 20)
    arguments = ["--data", text, "--run", tmp_path / "run", *CLI, "--steps", 3]
    assert run_command(*arguments).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    refused = run_command(*arguments, "--resume", "--lr", "0.5")
    assert refused.returncode == 2 and "a run with lr = 0.001, not 0.5" in refused.stderr
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}

    shown = run_command("--preset", "nanogpt-cpu", "--help")
    assert shown.returncode == 0 and "0.99" in shown.stdout and "characters" in shown.stdout


def test_the_loop_accepts_another_loss_and_other_targets(tmp_path):
    """The loop accepts chapter 10's own loss and targets, (B,) labels."""

    class Labelled:
        def batch(self, step):
            inputs, targets = small_batches().batch(step)
            return inputs, targets[:, -1]

    def last_position(model, inputs, labels):
        return F.cross_entropy(model(inputs)[:, -1, :], labels)

    _, history, _ = run_it(
        tmp_path, replace(CONFIG, steps=100), small_gpt(), Labelled(), loss_fn=last_position, validation=None
    )
    assert history.losses[-1] < 0.5 and history.validation_losses == []


def test_the_loss_on_every_token_does_not_depend_on_the_batch_size():
    model, losses = small_gpt(), []
    for batch_size in (1, 3, 4, 31):
        every = EveryTokenOnce(TOKENS[:250], 8, batch_size)
        losses.append(evaluate(model, every, len(every)))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_resuming_on_another_text_changes_nothing(tmp_path):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the cat sat on the mat, and the dog sat on the log. " * 60)
    shape = dict(context=8, n_layer=1, n_head=2, d_model=16, batch_size=4)
    settings = Settings(data=str(text), run=str(run), tokenizer="characters", steps=2, **shape)
    pretrain(settings)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    text.write_text(text.read_text() + "another line. " * 9)
    with pytest.raises(RunError, match="was trained on another text"):
        pretrain(replace(settings, resume=True))
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
