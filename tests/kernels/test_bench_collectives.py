"""`python -m kernels.bench collectives`, on two small processes and without mpiexec."""

import builtins
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from kernels.bench import collectives
from kernels.collectives.reference import run
from tests.mpi import OPEN_MPI, mpiexec

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "kernels.bench", "collectives"]


def needs_mpi4py():
    if find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed: pip install -e '.[mpi]'")


def test_two_processes_measure_and_rank_0_prints_and_writes(tmp_path):
    path, environment = tmp_path / "machine.json", os.environ | OPEN_MPI
    command = [mpiexec(), "-n", "2", *COMMAND, "--size", "4", "--threads", "1", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("latency α of a message") == 1  # one rank prints
    result = json.loads(path.read_text())
    assert result["ranks"] == 2 and result["machines"] == 1 and "1 threads" in result["machine"]
    assert [row["bytes"] for row in result["seconds"]] == [1000, 4000, 16000]
    assert {tuple(row) for row in result["seconds"]} == {("bytes", "all_reduce", "reduce_scatter", "all_gather")}
    assert all(result[name] > 0 for name in ("alpha_s", "beta_s_per_byte", "copy_bytes_per_s", "flops_per_s"))


def test_alone_it_asks_for_mpiexec():
    needs_mpi4py()
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "start it with mpiexec -n 2 python -m kernels.bench collectives" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_mpi4py_it_says_how_to_install_it(monkeypatch, capsys):
    real = builtins.__import__

    def without_mpi4py(name, *arguments):
        if name == "mpi4py":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_mpi4py)
    with pytest.raises(SystemExit) as exit:
        collectives.join(None)
    assert exit.value.code == 2 and "pip install -e '.[mpi]'" in capsys.readouterr().err


def test_alpha_and_beta_are_those_of_the_formula():
    alpha, beta, ranks = 1e-7, 1e-9, 4
    rows = [{"bytes": n, "all_reduce": collectives.all_reduce_seconds(n, ranks, alpha, beta)} for n in (4.0, 1e6, 4e6)]
    assert collectives.fit(rows, ranks) == pytest.approx((alpha, beta), rel=0.02)
    assert collectives.fit([*rows, {"bytes": 6e7, "all_reduce": 100.0}], ranks) == collectives.fit(rows, ranks)


def test_all_ranks_know_the_slowest_ranks_time_and_call_equally_often():
    calls = [0, 0, 0]

    def measure(group):
        def call():
            calls[group.rank] += 1
            time.sleep(0.001 * group.rank)  # without waiting for the others, so each rank has its own time

        return collectives.medians(group, {"sleep": call})

    figures = run(3, measure)
    assert len(set(calls)) == 1 and len({figure["sleep"] for figure in figures}) == 1
