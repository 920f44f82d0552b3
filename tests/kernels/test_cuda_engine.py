"""The engine and the chapters on the CUDA kernels, run by the emulator: the same numbers as on the CPU."""

import subprocess
import sys

import numpy as np
import pytest

import kernels
import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch08_sample import generate
from chapters.ch10_classify import GPTClassifier, label_loss
from kernels import emulator

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


def small_gpt(**changes):
    config = dict(vocab_size=61, context=24, n_layer=2, n_head=2, d_model=32) | changes
    return GPT(GPTConfig(**config), mg.Generator(0))


def losses_of_training(which, steps=20):
    with kernels.use(which):
        mg.manual_seed(0)
        model, rng = small_gpt(dropout=0.1), np.random.default_rng(1)
        optimiser = mg.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(steps):
            ids = rng.integers(0, 61, (4, 25))
            inputs, targets = (mg.from_numpy(np.ascontiguousarray(a)) for a in (ids[:, :-1], ids[:, 1:]))
            loss = F.cross_entropy(model(inputs).view(-1, 61), targets.view(-1))
            optimiser.zero_grad()
            loss.backward()
            mg.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
    return np.array(losses)


def test_twenty_steps_of_training_give_the_cpus_losses():
    on_cpu, emulated = losses_of_training("reference"), losses_of_training("emulator")
    assert on_cpu[-1] < on_cpu[0]
    assert np.abs(on_cpu - emulated).max() < 1e-3


def test_a_step_of_the_class_head_of_chapter_10():
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 61, (4, 12)), rng.integers(0, 3, 4)
    grads = {}
    for which in ("reference", "emulator"):
        with kernels.use(which):
            model = GPTClassifier(small_gpt(), 32, 3, generator=mg.Generator(1))
            loss = label_loss(model, mg.from_numpy(ids), mg.from_numpy(labels))
            loss.backward()
            grads[which] = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    assert grads["reference"].keys() == grads["emulator"].keys()
    for name, grad in grads["reference"].items():
        assert np.abs(grad - grads["emulator"][name]).max() <= 1e-4 * max(np.abs(grad).max(), 1e-3), name


@pytest.mark.parametrize("use_cache", [True, False])
def test_decoding_gives_the_cpus_tokens(use_cache):
    prompts = [[1, 2, 3, 4, 5], [7, 8]]
    texts = []
    for which in ("reference", "emulator"):
        with kernels.use(which):
            model = small_gpt().eval()
            texts.append(
                generate(model, prompts, 8, temperature=0, stop_ids=(), generator=mg.Generator(0), use_cache=use_cache)
            )
    assert texts[0] == texts[1]


def test_gradcheck_through_the_cuda_kernels():
    command = [sys.executable, "-m", "minigrad.gradcheck", "--kernels", "emulator"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_check_for_gpu_machines_runs_without_one(tmp_path):
    command = [sys.executable, "-m", "kernels.check", "--device", "emulator", "--out", str(tmp_path), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "0 failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "check.json").exists()


def test_without_a_gpu_one_sentence_says_what_is_missing():
    done = subprocess.run([sys.executable, "-m", "kernels.check", "--device", "cuda"], capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.stderr.startswith("device 'cuda' ") and "Traceback" not in done.stderr
