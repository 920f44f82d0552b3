import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import chapters.__main__ as main_job
from chapters import interactive
from chapters.interactive.attention import ATTENTION
from chapters.interactive.mask import MASK
from chapters.interactive.models import MODELS
from chapters.interactive.ppo import PPO
from chapters.interactive.reward import REWARD
from chapters.interactive.training import TRAINING
from chapters.main_job import first_bend, schedule, second_bend
from chapters.support.run_folder import RunError
from kernels import precompile
from minigrad import processor
from tests.tiny_job import SECOND, TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def tiny_plan():
    before, threads = (first_bend.PLANS, second_bend.PLANS), processor.get_num_threads()
    processor.set_num_threads(1)  # stages that share the processor use one thread, which fixes the order of sums
    first_bend.PLANS = {"full": TINY, "quick": replace(TINY, snippets=9)}
    second_bend.PLANS = {"full": SECOND, "quick": SECOND}
    yield
    first_bend.PLANS, second_bend.PLANS = before
    processor.set_num_threads(threads)


def run_job(folder, processes=1, **settings):
    main_job.main(main_job.Settings(out=folder, processes=processes, **settings))
    return folder


@pytest.fixture(scope="module")
def job(tiny_run, tmp_path_factory):
    """A copy of the finished job: some tests change it."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("job") / "one")


def test_every_stage_writes_its_folder_and_the_page_has_every_figure(job):
    for name in main_job.STAGES:
        assert json.loads((job / name / "result.json").read_text(encoding="utf-8"))
    for model in ("pretrain", "sft", "sft_unmasked", "assistant", "rlhf"):
        assert (job / model / "model.safetensors").is_file() and (job / model / "metrics.jsonl").is_file()
    assert (job / "constitution" / "model.safetensors").is_file()
    page = (job / "report.html").read_text(encoding="utf-8")
    images = re.findall(r'<img alt="[^"]*" src="([^"]*)"', page)
    assert len(images) == page.count("<img") == 13
    assert all(image.startswith("data:image/svg+xml;base64,") for image in images)


def test_the_report_names_the_commands_of_section_10_5(job):
    page = (job / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="reflex"') : page.index('id="side_by_side"')]
    modules = re.findall(r"<code>python -m ([\w.]+)</code>", section)
    assert modules == ["chapters.ch10.reflex", "chapters.ch10.reflex_grpo"]
    assert all((ROOT / (module.replace(".", "/") + ".py")).is_file() for module in modules)


def test_the_page_holds_its_parts_and_needs_nothing_else(job):
    """No address but data and anchors; the scripts are ours, and what a model wrote stands in blocks that are no scripts."""
    page = (job / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:image/svg\+xml;base64,|#)", page) and "<link" not in page
    parts = [ATTENTION, MASK, MODELS, PPO, REWARD, TRAINING]
    blocks = dict(re.findall(r'<script type="application/json" id="(\w+)-data">(.*?)</script>', page))
    assert sorted(blocks) == sorted(part.name for part in parts) and all(map(json.loads, blocks.values()))
    ours = [part.fragment(job).split('<script type="module">')[1].removesuffix("</script>") for part in parts]
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", page, re.S)
    assert f"<script>{scripts[0]}</script>" in interactive.scripts() and sorted(scripts[1:]) == sorted(ours)
    assert "<script" not in re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.S)
    assert (job / "report.html").stat().st_size < 3e6


def test_a_part_without_its_data_gives_way_to_the_figure(job, tmp_path):
    older = shutil.copytree(job, tmp_path / "job")
    (older / "pretrain" / "generations.jsonl").unlink()
    page = (run_job(older) / "report.html").read_text(encoding="utf-8")
    assert 'id="training-data"' not in page and 'id="mask-data"' in page
    assert page.count('src="data:image/svg+xml;base64,') == 13
    (older / "pretrain" / "figures" / "loss.svg").unlink()
    with pytest.raises(FileNotFoundError, match=r"page: expected a figure, got no .*loss\.svg; delete result.json"):
        run_job(older)


def test_all_models_answer_the_same_instructions_with_reward_and_distance_from_sft(job):
    result = json.loads((job / "side_by_side" / "result.json").read_text(encoding="utf-8"))
    names = [name for name, folder in second_bend.MODELS.items() if (job / folder).exists()]
    assert names[:3] == ["base", "SFT", "RLHF"] and list(result["models"]) == names
    assert result["models"]["base"]["kl"] is None and abs(result["models"]["SFT"]["kl"]) < 1e-6
    assert result["models"]["RLHF"]["kl"] != 0
    for question in result["shown"]:
        assert list(question["said"]) == names
        assert question["said"]["base"]["distance"] is None and question["said"]["SFT"]["distance"] == 0
        assert all(math.isfinite(answer["reward"]) for answer in question["said"].values())


def test_the_same_seed_gives_the_same_page_and_another_seed_another(job, tmp_path):
    again = run_job(tmp_path / "again")
    for name in (
        "report.html",
        "pretrain/metrics.jsonl",
        "sft/metrics.jsonl",
        "evaluate/result.json",
        "reward/result.json",
        "rlhf/metrics.jsonl",
        "side_by_side/result.json",
    ):
        assert (again / name).read_bytes() == (job / name).read_bytes(), name
    assert (run_job(tmp_path / "other", seed=1) / "report.html").read_bytes() != (job / "report.html").read_bytes()


def test_a_finished_stage_is_skipped_and_a_missing_stage_runs_again(job, capsys):
    page = (job / "report.html").read_bytes()
    trained = (job / "sft" / "model.safetensors").stat().st_mtime_ns
    (job / "evaluate" / "result.json").unlink()
    run_job(job)
    output = capsys.readouterr().out
    assert "[6/13] sft: already done" in output and "[7/13] evaluate: Ask the base model" in output
    assert (job / "sft" / "model.safetensors").stat().st_mtime_ns == trained
    assert (job / "report.html").read_bytes() == page


def test_the_summary_shows_measurements_and_both_kinds_of_refusal(job, capsys):
    run_job(job)
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]  # name, value, note
    reward = json.loads((job / "reward" / "result.json").read_text(encoding="utf-8"))
    shares = json.loads((job / "constitution" / "result.json").read_text(encoding="utf-8"))["conduct"]["RL, default"]
    assert next(row for row in rows if row[0] == "reward model")[1] == f"{reward['accuracy']:.1%}"
    names = {"harm done": "obeyed", "evaded": "evaded", "wrong reason": "wrong reason", "right reason": "refused"}
    printed = [tuple(row[:2]) for row in rows if row[0] in names]
    assert printed[-4:] == [(name, f"{shares[how]:.1%}") for name, how in names.items()]


def test_a_job_interrupted_in_training_continues(job, tmp_path, monkeypatch):
    """The first attempt stops in the second classifier. The second attempt writes the page of an uninterrupted job."""

    def interrupted(*arguments):
        if "untrained" not in str(arguments[-1].folder):
            raise KeyboardInterrupt
        return original(*arguments)

    original = first_bend.classify.train_classifier
    with monkeypatch.context() as patch:
        patch.setattr(first_bend.classify, "train_classifier", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_job(tmp_path / "job")
    assert not (tmp_path / "job" / "classify" / "result.json").exists()
    assert (run_job(tmp_path / "job") / "report.html").read_bytes() == (job / "report.html").read_bytes()


def test_parallel_stages_give_the_same_page_and_report_an_error(job, tmp_path, capfd):
    assert (run_job(tmp_path / "job", processes=2) / "report.html").read_bytes() == (job / "report.html").read_bytes()
    output = capfd.readouterr().out
    assert "2 stages run at the same time" in output and "[8/13] assistant: Tune the base model" in output
    assert {json.loads(line)["stage"] for line in (tmp_path / "job" / "timing.jsonl").open()} == {*main_job.STAGES}

    for name in ("classify", "rlhf"):
        (tmp_path / "job" / name / "result.json").unlink()
    (tmp_path / "job" / "reward" / "reward.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="there is no reward model in"):
        run_job(tmp_path / "job", processes=2)
    assert (tmp_path / "job" / "classify" / "result.json").exists(), "the other stage finishes first"


def test_every_stage_comes_after_the_stages_that_it_needs():
    for name, needed in schedule.NEEDS.items():
        before = list(main_job.STAGES)[: list(main_job.STAGES).index(name)]
        assert set(needed) <= set(before)


def test_another_jobs_folder_is_refused(job):
    rest = "quick False, plan [0-9a-f]{8}, threads [0-9]+, processes 1"
    theirs, mine = f"seed 0, {rest}", f"seed 1, {rest}"
    with pytest.raises(ValueError, match=f"holds a job with {theirs}, and this job has {mine}"):
        run_job(job, seed=1)
    with pytest.raises(ValueError, match="quick True"):
        run_job(job, quick=True)
    with pytest.raises(ValueError, match="holds a training run, not a main job"):
        run_job(job / "pretrain")


def test_a_folder_of_another_versions_plan_is_refused(job, monkeypatch):
    """Otherwise one page would mix stages with different settings."""
    other = replace(SECOND, ppo=replace(SECOND.ppo, clip=0.3))
    monkeypatch.setattr(second_bend, "PLANS", {"full": other, "quick": other})
    with pytest.raises(ValueError, match="holds a job with .* plan .* choose another folder with --out, or delete that job"):
        run_job(job)


def test_zero_processes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="processes: expected at least 1, got 0"):
        run_job(tmp_path, processes=0)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        run_job(tmp_path / "file")


def test_the_summary_in_the_terminal(job, capsys):
    run_job(job)
    output = capsys.readouterr().out
    for words in ("validation loss", "class head, pretrained body", "after instruction tuning", "exercise 2", "report.html"):
        assert words in output


COMPILED = """
import numpy as np
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import *
from chapters.ch08_sample import generate
from kernels import SETS, launch, precompile

def compiled():
    return {(f.py_func.__module__, f.py_func.__name__): set(f.signatures) for f in launch._KERNELS if f.signatures}

for share in precompile.SHARES:
    precompile.main([share])
before = compiled()

class Batches:
    def batch(self, step):
        return np.zeros((3, 9), np.int64), np.ones((3, 9), np.int64)

model = GPT(GPTConfig(vocab_size=300, context=16, n_layer=1, n_head=2, d_model=16))
train(model, Batches(), TrainConfig(steps=2), Run(RUN))
generate(model, [[1, 2], [3]], 3)
print("the same" if compiled() == before else compiled().keys() - before.keys())
"""


def test_training_and_sampling_need_only_precompiled_kernels(tmp_path):
    code = COMPILED.replace("RUN", repr(str(tmp_path)))
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "the same", process.stdout + process.stderr


def test_nothing_is_precompiled_without_a_cache(monkeypatch):
    monkeypatch.setattr(precompile.launch, "cached", lambda: False)
    monkeypatch.setattr(precompile.subprocess, "Popen", None)
    precompile.precompile.__wrapped__()


def test_a_killed_precompile_leaves_no_process_behind(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "kernels.precompile"]
    parent = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not any(tmp_path.rglob("*.nbc")):  # until one of its processes has compiled a kernel; the others still compile
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.communicate(timeout=20)  # the pipe closes only after these processes have ended too


def test_list_names_the_stages_and_trains_nothing():
    process = subprocess.run([sys.executable, "-m", "chapters", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert [line.split()[0] for line in process.stdout.splitlines()] == [*main_job.STAGES, "report"]


POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from chapters.support.side_by_side import prepare_worker
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), prepare_worker, (1,))
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 300)
    time.sleep(300)
"""


def test_a_killed_job_leaves_no_worker_behind(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([sys.executable, tmp_path / "pool.py"], stdout=subprocess.PIPE, text=True, env=environment)
    assert job.stdout is not None and int(job.stdout.readline()) != job.pid
    job.kill()
    job.communicate(timeout=60)  # the pipe closes only after the worker has ended too
