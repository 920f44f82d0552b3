"""Commands that several processes run together: the same bytes with any number of ranks, and one sentence where they cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kill_cycles import prepare
from tests.mpi import mpiexec

ROOT = Path(__file__).parents[3]
MPIEXEC = mpiexec()

TRAINING = "--quick --steps 12 --batch-size 8 --checkpoint-every 4 --eval-every 6 --dropout 0.1 --shards 4".split()
SMALL = "--n-layer 1 --d-model 16 --context 16 --tokenizer characters --data text.txt".split()
PRETRAIN = ["chapters.ch07_train", *TRAINING, *SMALL]
LOOP = [f"--training.{s}" for s in ("steps=6", "batch-size=6", "warmup-steps=1", "eval-every=3", "eval-batches=1")]
STAGES = {
    "sft": ["--base", "base", "--examples", "40", "--held-out", "6", *LOOP],
    "classify": ["--body", "base", "--snippets", "20", "--held-out", "8", *LOOP],
    "reward": ["--sft", "base", "--prompts", "12", "--k", "2", "--held-out", "6", *LOOP],
    "dpo": ["--sft", "base", "--prompts", "12", "--k", "2", "--held-out", "6", *LOOP],
    "rlhf": ["--sft", "base", "--reward", "reward", "--tasks", "20", "--held-out", "6"],
    "best_of_n": ["--sft", "base", "--reward", "reward", "--held-out", "8", "--ns", "1", "2"],
}
RL = [f"--training.{s}" for s in ("iterations=2", "prompts=8", "max-new-tokens=6", "minibatches=1", "epochs=1")]
STAGES["rlhf"] += RL
STAGES["grpo"] = ["--sft", "base", "--tasks", "20", "--held-out", "8", *RL[:3], "--training.k=2"]
STAGES["rloo"] = ["--sft", "base", "--reward", "reward", "--tasks", "20", "--held-out", "6", *RL[:3], "--training.k=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text, an untrained base model and a reward model."""
    folder = tmp_path_factory.mktemp("ranks")
    prepare(folder)
    return folder


def command(size, *arguments, program=(sys.executable, "-m")):
    return [MPIEXEC, "-n", str(size), *program, *arguments]


def environment(**changes):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI"))}
    return inherited | {"NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | changes


def start(folder, *arguments, **changes):
    """Start a command, in a process group of its own."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    return subprocess.Popen(arguments, cwd=folder, env=environment(**changes), **pipes)


def call(folder, *arguments, status=0, **changes):
    """Run a command to its end; returns what it printed."""
    process = start(folder, *arguments, **changes)
    try:
        out, err = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == status, out + err
    return out, err


def results(folder):
    """The files of a run that must not depend on the number of ranks."""
    files = [
        path for kind in ("metrics.jsonl", "scores.json", "samples.txt", "model.*", "reward.*") for path in folder.rglob(kind)
    ]
    assert files, list(folder.iterdir())
    return {path.relative_to(folder): path.read_bytes() for path in files}


# ── the same bytes ──


def test_pretraining_writes_the_same_bytes_with_any_number_of_ranks(folder):
    for size in (1, 2, 4):
        out, err = call(folder, *command(size, *PRETRAIN, "--run", f"pretrain{size}"))
        assert out.count("validation loss") == 3  # only rank 0 prints
        assert not [line for line in err.splitlines() if not line.startswith("compiling")], err
    assert results(folder / "pretrain1") == results(folder / "pretrain2") == results(folder / "pretrain4")
    call(folder, *command(2, *PRETRAIN, "--run", "sharded", "--shard-optimizer"))
    assert results(folder / "sharded") == results(folder / "pretrain1")
    assert not list(Path(folder).glob("**/.lock"))


def test_shards_change_the_rounding_but_not_the_training(folder):
    call(folder, sys.executable, "-m", *PRETRAIN, "--shards", "1", "--dropout", "0", "--run", "whole")
    call(folder, *command(2, *PRETRAIN, "--shards", "3", "--dropout", "0", "--run", "thirds"))  # 8 rows: 3, 3 and 2
    whole, thirds = ([json.loads(line) for line in (folder / name / "metrics.jsonl").open()] for name in ("whole", "thirds"))
    assert whole != thirds
    for a, b in zip(whole, thirds, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_the_same_bytes_with_any_number_of_ranks(folder, stage):
    arguments = [f"chapters.ch10.{stage}", *STAGES[stage], "--shards", "3"]
    for size in (1, 2):
        call(folder, *command(size, *arguments, "--run", f"{stage}{size}"))
    assert results(folder / f"{stage}1") == results(folder / f"{stage}2")


def test_a_constitution_is_the_same_with_any_number_of_ranks(folder):
    program = "from chapters.ch10.constitution.stage import Settings, main\nfrom chapters.support.command import command\n"
    program += "from tests.tiny_job import SECOND\ncommand(main, Settings, {'quick': {'plan': SECOND.constitution}})"
    (folder / "constitution.py").write_text(program)
    for size in (1, 2):
        arguments = ["constitution.py", "--quick", "--sft", "base", "--shards", "2", "--run", f"constitution{size}"]
        call(folder, *command(size, *arguments, program=(sys.executable,)))
    assert results(folder / "constitution1") == results(folder / "constitution2")


# ── ranks that end early ──


def wait_for(path, text, process):
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks_of(process):
    """The process ids of the ranks that an mpiexec has started."""
    with_parents = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True).stdout
    table = [line.split(None, 2) for line in with_parents.splitlines()]
    family = {str(process.pid)}
    for _ in range(3):
        family |= {pid for pid, parent, _ in table if parent in family}
    is_rank = [
        pid in family and "-m chapters.ch07_train" in arguments and "mpiexec" not in arguments for pid, _, arguments in table
    ]
    return [int(pid) for (pid, _, _), rank in zip(table, is_rank, strict=True) if rank]


LONG = [*PRETRAIN, "--steps", "400", "--checkpoint-every", "10", "--eval-every", "200"]


def test_a_killed_rank_ends_the_job_and_another_number_of_ranks_resumes_it(folder):
    call(folder, sys.executable, "-m", *LONG, "--run", "long")
    process = start(folder, *command(2, *LONG, "--run", "killed"))
    wait_for(folder / "killed" / "metrics.jsonl", '"step": 25,', process)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - killed < 10
    for rank in (0, 1):
        assert (
            err.count(f"rank {rank}: stopped before its work was done, because this or another rank was killed; the same") == 1
        )
    assert not ranks_of(process)
    process = start(folder, *command(3, *LONG, "--run", "killed", "--resume"))
    wait_for(folder / "killed" / "metrics.jsonl", '"step": 90,', process)
    os.kill(ranks_of(process)[0], signal.SIGTERM)  # any rank may be asked to stop
    out, err = process.communicate(timeout=60)
    assert "stopped after step" in err, out + err
    call(folder, *command(1, *LONG, "--run", "killed", "--resume"))
    assert results(folder / "killed") == results(folder / "long")


def test_a_run_without_shards_resumes_with_the_number_of_its_processes(folder):
    run, by_default = ["--run", "default"], [*PRETRAIN, "--shards", "0"]
    call(folder, *command(2, *by_default, *run))
    before = results(folder / "default")
    message = refusal(folder, sys.executable, "-m", *by_default, *run, "--resume", status=2)
    assert "belongs to a run with shards = 2, not 1" in message
    call(folder, sys.executable, "-m", *PRETRAIN, "--shards", "2", "--shard-optimizer", *run, "--resume")
    assert results(folder / "default") == before


def test_the_run_folder_may_be_the_present_one(folder):
    here = folder / "here"
    here.mkdir()
    (here / "text.txt").write_text((folder / "text.txt").read_text())
    call(here, *command(2, *PRETRAIN, "--run", "."))
    assert (here / "model.safetensors").exists()


def test_a_bug_on_one_rank_ends_all_ranks(folder):
    program = "import os\nfrom chapters import ch07_train\nschedule = ch07_train.schedule\n"
    program += "def fail(*arguments):\n    if os.environ.get('PMI_RANK', '1') == '1':\n        raise KeyError('a bug')\n"
    program += "    return schedule(*arguments)\n"
    program += "ch07_train.schedule = fail\nch07_train.command(ch07_train.pretrain, ch07_train.Settings, ch07_train.PRESETS)"
    (folder / "bug.py").write_text(program)
    out, err = call(folder, *command(2, "bug.py", *PRETRAIN[1:], "--run", "bug", program=(sys.executable,)), status=1)
    assert "KeyError: 'a bug'" in err


# ── ranks that cannot work together ──


def refusal(folder, *arguments, status=1, **changes):
    """The one line of a refusal."""
    out, err = call(folder, *arguments, status=status, **changes)
    lines = [line for line in (out + err).splitlines() if "error:" in line]
    assert len(lines) == 1 and "Traceback" not in err, out + err
    return lines[0]


def test_ranks_with_other_settings_are_named(folder):
    first, second = command(1, *PRETRAIN, "--run", "differ"), command(1, *PRETRAIN, "--seed", "1", "--run", "differ")
    message = refusal(folder, *first, ":", *second[1:])
    assert message.startswith(
        "error: mpiexec: expected seed = 0 on rank 1 as on rank 0, got 1; start all ranks with the same command"
    )
    assert "expected threads = 1 on rank 1 as on rank 0, got 2" in refusal(
        folder, *first, ":", "-n", "1", "env", "NUMBA_NUM_THREADS=2", *second[3:-4], "--run", "differ"
    )


def test_ranks_with_other_data_are_named(folder):
    other = folder / "elsewhere"
    other.mkdir()
    (other / "text.txt").write_text((folder / "text.txt").read_text().replace("five", "four"))
    run = ["--run", str(folder / "other_data")]
    second = ["-n", "1", "-wdir", str(other), sys.executable, "-m", *PRETRAIN, *run]
    message = refusal(folder, *command(1, *PRETRAIN, *run), ":", *second)
    assert message.startswith("error: mpiexec: expected data = ")


def test_a_batch_smaller_than_the_number_of_ranks_is_refused(folder):
    few = ["--batch-size", "1", "--shards", "0", "--run", "few"]
    assert "expected at least one row for each of 2 shards, got a batch of 1" in refusal(folder, *command(2, *PRETRAIN, *few))
    message = refusal(folder, *command(2, *PRETRAIN, "--shards", "1", "--run", "few"))
    assert message == "error: shards: expected at least one for each of 2 processes, got 1; give 2 or more, or 0 for one each"


def test_a_run_folder_that_a_rank_does_not_see_is_refused(folder):
    seen, unseen = command(1, *PRETRAIN, "--run", "unseen"), [sys.executable, "-m", *PRETRAIN, "--run", "unseen"]
    elsewhere = folder / "nowhere"
    elsewhere.mkdir()
    shutil.copy(folder / "text.txt", elsewhere)
    message = refusal(folder, *seen, ":", "-n", "1", "-wdir", str(elsewhere), *unseen)
    assert (
        "error: run folder: rank 1 on " in message and "which rank 0 writes; choose a folder that all machines share" in message
    )


def test_a_mistake_that_all_ranks_make_is_reported_once(folder):
    message = refusal(folder, *command(2, *PRETRAIN, "--data", "none.txt"), status=2)
    assert message == "error: there is no file none.txt; expected a UTF-8 text file"


def test_other_commands_run_in_one_process(folder):
    message = refusal(folder, *command(2, "chapters.ch08_sample", "--run", "base"))
    assert message == "error: mpiexec: this command runs in one process; start it without mpiexec"


def test_mpiexec_without_mpi4py_is_refused(folder):
    (folder / "mpi4py.py").write_text("raise ImportError")
    try:
        out, err = call(folder, *command(2, *PRETRAIN), status=1, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}")
    finally:
        (folder / "mpi4py.py").unlink()
    assert err.count("error: mpiexec: expected the package mpi4py, and it is missing; install both") == 1
