"""Tasks in a pool of processes: their order, their share of the threads, and an error in one of them."""

import time
from functools import partial
from pathlib import Path

import pytest

from chapters.support.side_by_side import number_of_processes, run_side_by_side
from minigrad import processor


def note(folder: Path, name: str, needed: list[str], seconds: float = 0.0) -> None:
    """Write a file with the number of threads; every needed file must be there already."""
    assert all((folder / need).exists() for need in needed)
    time.sleep(seconds)
    (folder / name).write_text(str(processor.get_num_threads()))


def fail() -> None:
    raise FileNotFoundError("there is no model")


def test_a_task_starts_when_its_needs_have_ended(tmp_path):
    needs = {"last": ["slow", "quick"], "quick": ["made earlier"], "unknown": ["nothing"]}
    tasks = {
        "last": partial(note, tmp_path, "last", ["slow", "quick"]),
        "slow": partial(note, tmp_path, "slow", [], 0.5),
        "quick": partial(note, tmp_path, "quick", []),
    }
    ended = []
    run_side_by_side(tasks, needs, 2, lambda name, seconds, running: ended.append((name, sorted(running))))
    assert [name for name, _ in ended] in (["slow", "quick", "last"], ["quick", "slow", "last"])
    assert all("last" not in running for name, running in ended)
    share = str(max(1, processor.get_num_threads() // 2))
    assert [(tmp_path / name).read_text() for name in tasks] == [share] * 3


def test_an_error_waits_for_the_tasks_beside_it_and_starts_no_other(tmp_path, capsys):
    tasks = {"fails": fail, "slow": partial(note, tmp_path, "slow", [], 1.0), "later": partial(note, tmp_path, "later", [])}
    with pytest.raises(FileNotFoundError, match="there is no model"):
        run_side_by_side(tasks, {"later": ["slow"]}, 2, lambda *_: None)
    assert (tmp_path / "slow").exists() and not (tmp_path / "later").exists()
    assert "fails failed; waiting for slow" in capsys.readouterr().err


def test_the_number_of_processes():
    assert number_of_processes(3, "cpu") == 3 and number_of_processes(None, "cuda") == 1 == number_of_processes(1, "cuda")
    assert number_of_processes(None, "cpu") == min(2, processor.get_num_threads())
    for processes, device, message in ((0, "cpu", "expected at least 1, got 0"), (2, "cuda", "leave out --processes")):
        with pytest.raises(ValueError, match=message):
            number_of_processes(processes, device)
