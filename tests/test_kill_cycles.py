"""A few kill cycles, and the proof that a difference would show; `python -m tests.kill_cycles` runs a hundred."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
import minigrad as mg
from chapters.support import checkpoint
from tests import kill_cycles
{omission}
sys.exit(kill_cycles.main(["1", "--seed", "9", "--runs", "chapter 7"]))
"""


@pytest.mark.timeout(900)  # the first run of a new checkout compiles kernels
def test_killed_runs_resume_to_the_same_bytes():
    command = [sys.executable, "-m", "tests.kill_cycles", "5", "--seed", "9", "--runs", "chapter 7", "SFT", "PPO"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "5 of 5 kills resumed to the same bytes"


@pytest.mark.parametrize(
    "omission",
    ["checkpoint.load_optimizer_arrays = lambda *arguments: None", "mg.Generator.set_state = lambda *arguments: None"],
    ids=["moments", "generator"],
)
def test_a_state_that_is_not_restored_gives_other_bytes(omission):
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(omission=omission)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    different, figure = done.stdout.splitlines()
    assert different.startswith("kill 1: chapter 7: different files:") and "model.safetensors" in different
    assert figure == "0 of 1 kills resumed to the same bytes"
