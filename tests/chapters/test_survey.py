"""`python -m chapters.bench all` and `table`: the lines, the file and the table."""

import subprocess
import sys
from argparse import Namespace
from collections import Counter

import pytest

from chapters.bench import survey
from chapters.support.json_files import write_result
from kernels.bench import contest, tasks


def entry(rate, torch, limit=100.0, kind="multiplying", **others):
    rates = {"minigrad": rate, "torch": torch, **others}
    return {"group": "a product", "arguments": [], "kind": kind, "limit": limit, "rates": rates}


def test_another_process_finds_every_task_by_name():
    lines = list(survey.lines())
    for line in lines:
        maker = line.task[0]
        assert getattr(sys.modules[maker.__module__], maker.__name__) is maker
    assert Counter(line.group for line in lines)[survey.PRODUCTS] == 24
    assert Counter(line.group for line in lines)[survey.ONE_ROW] == 8


def test_a_line_has_geometric_means_and_the_best_of_pytorch():
    line = survey.line_of([entry(80.0, 20.0, numpy=40.0), entry(20.0, 20.0, numpy=40.0)])
    assert "2.00x PyTorch  1.00x NumPy   40% of the limit" in line
    assert "1.00x PyTorch" in survey.line_of([entry(80.0, 20.0, **{"torch-avx512": 80.0})])
    assert "30% of the limit of 16 floats with vectors of 8" in survey.line_of([entry(80.0, 20.0, **{"minigrad-8": 30.0})])


def test_a_share_above_the_limit_of_arithmetic_is_a_fault_of_the_measurement():
    assert "1 of 2 above the limit, a fault of the measurement" in survey.line_of([entry(101.0, 50.0), entry(50.0, 20.0)])
    assert "fault" not in survey.line_of([entry(101.0, 50.0, kind="copying")])


def test_the_table_is_printed_from_files(tmp_path, capsys):
    path = tmp_path / "zen.json"
    write_result(path, {"machine": "Zen 3", "versions": {"torch": "2", "numpy": "2"}, "entries": [entry(50.0, 25.0)] * 2})
    survey.print_table([path, path])
    out = capsys.readouterr().out
    assert out.count("Zen 3; PyTorch 2, NumPy 2") == 2 and out.count("a product") == 2
    path.write_text(path.read_text().replace("50.0", "60.0", 1))
    command = [sys.executable, "-m", "chapters.bench", "table", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "expected contents that fit the line 'checksum'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_writes_what_the_table_reads(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    product = survey.Line(survey.PRODUCTS, (tasks.matmul, 64, 48, 32, False, True), "multiplying", 2 * 64 * 48 * 32, 0.0)
    gelu = survey.Line("gelu", (tasks.row_operation, "gelu", "forward", 8, 64), "copying", 8 * 8 * 64, 0.0)
    monkeypatch.setattr(survey, "lines", lambda: iter([product, gelu]))
    monkeypatch.setattr(contest, "REST", 0.0)
    survey.run(Namespace(json=str(tmp_path / "this.json")))
    measured = capsys.readouterr().out
    survey.print_table([tmp_path / "this.json"])
    table = capsys.readouterr().out
    product_line, gelu_line = measured.splitlines()[1:3]
    assert product_line.startswith("  64 48 32 False True ") and product_line[52:] in table and gelu_line in table
    assert "x NumPy" in table.splitlines()[1] and "x NumPy" not in table.splitlines()[2]
