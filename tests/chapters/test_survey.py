"""`python -m chapters.bench all` and `table`: the lines, the file and the table."""

import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

import chapters.bench
from chapters.bench import survey
from chapters.support.json_files import write_result
from kernels.bench import contest, tasks


def entry(rate, torch, limit=100.0, kind="multiplying", limits=None, **others):
    rates = {"minigrad": rate, "torch": torch, **others}
    return {"group": "a product", "arguments": [], "kind": kind, "limits": {"limit": limit} | (limits or {}), "rates": rates}


def test_another_process_finds_every_task_by_name():
    lines = list(survey.lines())
    for line in lines:
        maker = line.task[0]
        assert getattr(sys.modules[maker.__module__], maker.__name__) is maker
    assert Counter(line.group for line in lines)[survey.PRODUCTS] == 24
    assert Counter(line.group for line in lines)[survey.ONE_ROW] == 8


def test_a_line_has_means_the_worst_and_the_best_of_pytorch():
    line = survey.line_of([entry(80.0, 20.0, numpy=40.0), entry(20.0, 20.0, numpy=40.0)])
    assert line.split()[2:] == ["2.00", "1.00", "0.50", "50%", "20%"]
    assert survey.line_of([entry(80.0, 20.0, **{"torch-avx512": 80.0})]).split()[2:] == ["1.00*", "80%", "80%"]


def test_avx2_code_and_a_single_thread_have_limits_of_their_own():
    rates, limits = {"minigrad-8": 30.0, "minigrad-1": 40.0}, {"limit-8": 60.0, "limit-1": 50.0}
    assert survey.line_of([entry(80.0, 20.0, limits=limits, **rates)]).split()[3:] == ["80%", "80%", "50%", "80%"]
    line = survey.line_of([entry(30.0, 20.0, kind="copying", **{"minigrad-8": 90.0})])
    assert line.split()[3:] == ["30%", "30%", "90%"], "memory has one limit"


def test_a_share_above_the_limit_of_arithmetic_is_a_fault_of_the_measurement():
    line = survey.line_of([entry(101.0, 50.0), entry(50.0, 20.0)])
    assert line.endswith("50%     50%                 1 of 2 faulty")
    assert "fault" not in survey.line_of([entry(101.0, 50.0, kind="copying")])
    assert "faulty" in survey.line_of([entry(50.0, 50.0, limits={"limit-8": 20.0}, **{"minigrad-8": 21.0})])


def test_numpy_one_thread_and_avx2s_limit_take_part_where_they_count():
    lines = {line.group: line for line in survey.lines()}
    step, gelu = lines[survey.ON_ONE_THREAD[0]], lines["gelu forward"]
    assert survey.takes_part("limit-1", step) and not survey.takes_part("minigrad-1", gelu)
    assert survey.takes_part("numpy", lines[survey.PRODUCTS]) and not survey.takes_part("numpy", step)
    assert survey.takes_part("limit-8", step) and not survey.takes_part("limit-8", gelu)
    assert survey.takes_part("minigrad-8", gelu) and survey.takes_part("limit", gelu)


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


def test_the_documented_tables_are_those_of_our_files(capsys):
    files = sorted(Path(survey.__file__).parent.glob("*.json"))
    survey.print_table(files)
    lines = [line for line in capsys.readouterr().out.replace(survey.NOTES, "").splitlines() if line]
    documented = {line.strip() for line in str(chapters.bench.__doc__).splitlines()}
    assert len(files) == 2 and len(lines) > 40
    assert not [line for line in lines if line.strip() not in documented]


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
    product_line, gelu_line = measured.splitlines()[2:4]
    assert product_line.startswith("  64 48 32 False True ") and product_line[54:] in table and gelu_line in table
    assert measured.splitlines()[1] == table.splitlines()[1] == survey.HEAD
