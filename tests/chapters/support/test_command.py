import errno
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from chapters.support.command import at_least_one, command

ROOT = Path(__file__).parents[3]


@dataclass
class Settings:
    """Settings of a command that does what it is told to."""

    rows: int = 1  # how many
    seed: int = 0  # of everything random


@pytest.fixture
def ended(monkeypatch, capsys):
    """ended(main, *arguments): exit status and standard error of a command that fails."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(SystemExit) as exit:
            command(main, Settings)
        return exit.value.code, capsys.readouterr().err

    return run


def raising(error):
    def main(settings):
        raise error

    return main


@pytest.mark.parametrize(
    "error, sentence",
    [
        (ValueError("rows must be even, got 3"), "rows must be even, got 3"),
        (FileNotFoundError("there is no file a.txt"), "there is no file a.txt"),
        (PermissionError(errno.EACCES, "Permission denied", "a.txt"), "Permission denied: a.txt"),
        (OSError(errno.ENOSPC, "No space left"), "No space left; make room, and give the same command again"),
    ],
)
def test_an_error_that_a_user_can_cause_is_one_sentence(ended, error, sentence):
    assert ended(raising(error)) == (2, f"error: {sentence}\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        command(raising(ZeroDivisionError()), Settings)


def test_ctrl_c_says_where_it_stopped(ended):
    assert ended(raising(KeyboardInterrupt("stopped after step 3"))) == (130, "stopped after step 3\n")


def test_numbers_that_are_too_small(ended):
    def main(settings):
        at_least_one(settings, "rows")

    assert ended(main, "--rows", "0") == (2, "error: rows must be at least 1, got 0\n")
    assert ended(main, "--seed", "-1") == (2, "error: seed must be at least 0, got -1\n")


def test_help_names_the_command_as_it_was_called():
    shown = subprocess.run([sys.executable, "-m", "chapters", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.startswith("usage: python -m chapters [-h]")


def test_a_reader_who_leaves_early_is_no_error():
    called = [sys.executable, "-m", "chapters", "--list"]
    listing = subprocess.Popen(called, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    listing.stdout.close()
    assert listing.stderr.read() == b"" and listing.wait() == 141
