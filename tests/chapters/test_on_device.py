"""The chapters with `--device emulator`: GPU kernels give the CPU's numbers and copy no more than they must."""

import json
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch09.decoder import Decoder
from chapters.ch10 import sft as sft_lesson
from chapters.ch10.classify import train_classifier
from chapters.ch10.comparisons import Ranking
from chapters.ch10.constitution import critic as critic_lesson
from chapters.ch10.constitution.stage import supervise
from chapters.ch10.dpo import train_dpo
from chapters.ch10.grpo import GRPO, GRPOConfig
from chapters.ch10.harness import optimise, reward_scorer
from chapters.ch10.lora import add_lora, merge_lora
from chapters.ch10.reward import ScalarModel, train_reward
from chapters.ch10.rlhf import PPO, PPOConfig
from chapters.ch10.rloo import RLOO, RLOOConfig
from chapters.ch10.rollout import log_probs_of, roll_out
from chapters.support.command import OnDevice, computing_on
from chapters.support.run_folder import Run
from chapters.world import LABELS
from kernels import emulator
from kernels.emulator.memory import counting

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")

TWO_STEPS = TrainConfig(steps=2, batch_size=4, lr=1e-3, warmup_steps=1, eval_batches=1)
RANKINGS = [
    Ranking([[5, 6, 7, 11], [5, 6, 8, 9, 11], [5, 6, 4, 11]], [(0, 1), (0, 2), (2, 1)], []),
    Ranking([[3, 2, 1, 1, 1], [3, 2, 9]], [(1, 0)], []),
]


class Windows:
    """Random token ids as chapter 7's batches."""

    def __init__(self, vocab_size=61, T=24):
        self.vocab_size, self.T = vocab_size, T

    def batch(self, step):
        ids = np.random.default_rng(step).integers(0, self.vocab_size, (4, self.T + 1))
        return ids[:, :-1], ids[:, 1:]


def small_gpt(**changes):
    return GPT(GPTConfig(**dict(vocab_size=61, context=24, n_layer=2, n_head=2, d_model=32) | changes), mg.Generator(0))


# ── the same numbers ─────────────────────────────────────────────────────────────────────────────────────────────────


def classify(make_gpt, tokenizer, world, run):
    texts = [("The miller sells", LABELS[0]), ("flour to the baker.", LABELS[1]), ("Anna and", LABELS[2])] * 2
    _, scores = train_classifier(make_gpt(), texts, texts, LABELS, tokenizer, TWO_STEPS, run)
    return [scores["accuracy"]]


def sft(make_gpt, tokenizer, world, run):
    sft_lesson.fine_tune(make_gpt(), tokenizer, world.instructions("train", 8, seed=0), TWO_STEPS, run)


def lora(make_gpt, tokenizer, world, run):
    gpt = make_gpt()
    gpt.checkpoint_activations = True
    add_lora(gpt, 2, 4.0, generator=mg.Generator(1))
    train(gpt, Windows(), TWO_STEPS, run)
    merge_lora(gpt)
    return [float(p.numpy(force=True).sum()) for p in gpt.parameters()]


def reward(make_gpt, tokenizer, world, run):
    model = train_reward(make_gpt(), RANKINGS, RANKINGS[0].rows, TWO_STEPS, run)
    return model.head.bias.tolist()


def dpo(make_gpt, tokenizer, world, run):
    train_dpo(make_gpt(), make_gpt(1), tokenizer, RANKINGS, TWO_STEPS, run)


def ppo(make_gpt, tokenizer, world, run):
    config = PPOConfig(iterations=1, prompts=4, max_new_tokens=4, epochs=1, minibatches=1, ptx_coefficient=0.1, warmup=0)
    learner = PPO(make_gpt(), ScalarModel(make_gpt(2), mg.Generator(2)), config, Windows())
    score = reward_scorer(ScalarModel(make_gpt(3), mg.Generator(3)))
    optimise(learner.policy, make_gpt(), tokenizer, score, world.instructions("train", 8, seed=0), config, run, learner)


def rloo(make_gpt, tokenizer, world, run):
    policy, tasks = make_gpt(), [task for task in world.instructions("train", 4, seed=0) for _ in range(2)]
    learn_twice(RLOO(policy, RLOOConfig(prompts=8, k=2)), policy, tokenizer, tasks, run)


def grpo(make_gpt, tokenizer, world, run):
    policy, tasks = make_gpt(), [task for task in world.instructions("train", 4, seed=0) for _ in range(2)]
    learn_twice(GRPO(policy, GRPOConfig(prompts=8, k=2, steps=1)), policy, tokenizer, tasks, run)


def learn_twice(learner, policy, tokenizer, tasks, run):
    rollouts = roll_out(policy, tokenizer, tasks, 4, mg.Generator(0))
    rewards = np.arange(8) % 3 / 2  # (B,)  siblings differ
    records = [learner.learn(rollouts, rewards, log_probs_of(policy, rollouts), 0.0, 1e-3) for _ in range(2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def critic(make_gpt, tokenizer, world, run):
    critic_lesson.train_critic(make_gpt(context=160), tokenizer, world, 8, TWO_STEPS, run)


def constitution(make_gpt, tokenizer, world, run):
    tasks = world.instructions("train", 4, seed=0)
    supervise(make_gpt(), tokenizer, world, tasks, 4, TWO_STEPS, run)


STAGES = [classify, sft, lora, reward, dpo, ppo, rloo, grpo, critic, constitution]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_stage_of_chapter_10_gives_the_cpus_numbers(stage, make_gpt, assistant_tokenizer, world, tmp_path):
    measured = {}
    for device in ("cpu", "emulator"):
        with mg.device(device):
            run = Run(tmp_path / device)
            results = stage(make_gpt, assistant_tokenizer, world, run) or []
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) >= 2
        measured[device] = [v for line in lines for v in line.values()] + results
    np.testing.assert_allclose(measured["emulator"], measured["cpu"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use_cache", [True, False])
def test_decoding_gives_the_cpus_tokens(use_cache):
    outputs = []
    for device in ("cpu", "emulator"):
        model = small_gpt().to(device).eval()
        prompts = [[1, 2, 3, 4, 5], [7, 8], [9] * 12]
        outputs.append(generate(model, prompts, 14, temperature=0, stop_ids=(11,), use_cache=use_cache))
    assert outputs[0] == outputs[1] and max(map(len, outputs[0])) == 14


LATER = dict(n_kv_head=1, rotary=1e4, rms_eps=1e-5, d_gated=64, tied=False)


@pytest.mark.parametrize("later", [{}, LATER], ids=["gpt2", "later"])
def test_a_decoder_on_a_device_goes_through_the_forward_pass(later):
    """The cached decoder writes the CPU's tokens, past the context too; 8-bit weights run on the CPU only."""
    written = []
    for device in ("cpu", "emulator"):
        decoder = Decoder(small_gpt(**later).to(device))
        written.append(list(decoder.write([1, 2, 3], 30, temperature=0)))
    assert written[0] == written[1] and len(written[0]) == 30
    with pytest.raises(mg.DeviceError, match="eight bits"):
        Decoder(small_gpt().to("emulator"), int8=True)


# ── copies between host and device ───────────────────────────────────────────────────────────────────────────────────


def test_a_training_step_copies_its_batch_in_and_one_line_of_numbers_out(tmp_path):
    """In each step of chapter 7's loop the batch goes to the device; the loss and the norm come back together."""
    with mg.device("emulator"):
        model, batches = small_gpt(dropout=0.1), Windows()
        devices, open_counters = [], []

        class Watching:
            def batch(self, step):
                for traffic in open_counters:  # the previous step's traffic
                    traffic.__exit__(None, None, None)
                devices.append({p.device for p in model.parameters()})
                open_counters.clear()
                step_traffic = counting()
                counted.append(step_traffic.__enter__())
                open_counters.append(step_traffic)
                return batches.batch(step)

        counted = []
        train(model, Watching(), TrainConfig(steps=5, warmup_steps=1, checkpoint_every=100), Run(tmp_path))
        open_counters.pop().__exit__(None, None, None)
    assert devices == [{"emulator"}] * 5
    for traffic in counted[:-1]:  # the last step also writes the checkpoint
        assert traffic.to_host == {"tolist": 1}
    # Inputs, targets and positions; also AdamW's and clipping's tables of addresses, if an array has moved.
    assert all(2 <= sum(traffic.to_device.values()) <= 11 for traffic in counted[1:-1])


def test_activations_gradients_and_moments_stay_on_the_device():
    with mg.device("emulator"):
        model = small_gpt()
        optimizer = mg.optim.AdamW(model.parameters(), lr=1e-3)
        ids = mg.tensor(Windows().batch(0)[0])
        logits = model(ids)
        (logits * logits).mean().backward()
        optimizer.step()
    assert {logits.device, ids.device} == {"emulator"} == {p.grad.device for p in model.parameters()}
    moments = [m for state in optimizer.state_dict()["state"].values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    assert {m.device for m in moments} == {"emulator"}


def test_sampling_brings_one_row_of_logits_a_token_to_the_host():
    model = small_gpt().to("emulator").eval()
    for new in (4, 9):
        with counting() as traffic:
            generate(model, [[1, 2, 3], [4]], new, temperature=0, stop_ids=())
        assert traffic.to_host == {"get": new}
        # Each step sends the new ids, their positions and key_start, a few numbers each; the cache is made on the device.
        assert sum(traffic.to_device.values()) <= 3 * new + 12


def test_the_counter_counts_each_copy():
    x = mg.ones(3, device="emulator")
    with counting() as traffic:
        assert float((x * 2).sum()) == 6 and bool(x[0] > 0) and x.tolist() == [1, 1, 1] and x[x > 0].shape == (3,)
        x.numpy(force=True)
    assert traffic.to_host == {"item": 2, "tolist": 1, "x[mask]": 1, "get": 1}
    with pytest.raises(TypeError, match="one of shape .3,. on the host"):
        x.array + np.ones(3, np.float32)
    with pytest.raises(TypeError, match="NumPy: expected an array on the host, got one on the device"):
        np.asarray(x.array)
    with pytest.raises(RuntimeError, match="different devices"):
        x + mg.ones(3)
    with pytest.raises(RuntimeError, match="on the CPU"):
        x.numpy()


# ── the command lines ────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS = [
    "ch07_train ch07_muon ch08_sample ch09.gpt2 ch09.smollm2 ch09.decode chat __main__ ch10.classify ch10.sft",
    "ch10.lora ch10.demonstrations ch10.reward ch10.rlhf ch10.constitution.stage ch10.reflex ch10.dpo ch10.rloo ch10.best_of_n",
    "ch10.exercises ch10.frontier ch10.grpo ch10.headlines.__main__",
]


@pytest.mark.parametrize("name", " ".join(COMMANDS).split())
def test_every_command_that_trains_or_samples_has_a_device_flag(name):
    assert issubclass(import_module(f"chapters.{name}").Settings, OnDevice)


def run_command(*arguments):
    return subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, timeout=250)


def test_without_a_gpu_a_chapter_says_in_one_sentence_what_is_missing(tmp_path):
    done = run_command("chapters.ch07_train", "--device", "cuda", "--run", tmp_path / "run")
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.returncode == 2 and done.stderr.startswith("error: device 'cuda' ") and done.stderr.count("\n") == 1
    done = run_command("chapters.ch08_sample", "--precision", "tf32")
    assert done.returncode == 2 and "add --device cuda" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_sampler_on_the_emulated_device(precision, make_gpt, assistant_tokenizer, tmp_path):
    save_model(Run(tmp_path), make_gpt(), assistant_tokenizer)
    arguments = f"--quick --max-new-tokens 5 --device emulator --precision {precision}".split()
    done = run_command("chapters.ch08_sample", "--run", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "samples.txt").read_text()) > 0


def test_the_settings_hold_inside_the_command_alone():
    with computing_on(OnDevice(device="emulator", precision="tf32")):
        assert mg.zeros(2).device == mg.tensor([1.0]).device == small_gpt().wte.weight.device == "emulator"
        assert mg.get_float32_matmul_precision() == "high"
        assert mg.from_numpy(np.ones(2)).device == "cpu"  # it shares memory, which a device cannot
    assert mg.zeros(2).device == "cpu" and mg.get_float32_matmul_precision() == "highest"
