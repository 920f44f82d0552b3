import errno
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from chapters.support.command import at_least_one, command
from chapters.support.run_folder import lock_file
from chapters.support.settings_help import help_text

ROOT = Path(__file__).parents[3]


@dataclass
class Model:
    """A model for tests."""

    bias: bool = True  # add biases
    kind: Literal["small", "large"] = "small"  # size
    path: Path | None = None  # file of the model; None: a new model


@dataclass
class Settings:
    """Settings of a command for tests."""

    rows: int = 1  # rows to write
    seed: int = 0  # random seed
    model: Model = field(default_factory=Model)


@pytest.fixture
def run_failing(monkeypatch, capsys):
    """run_failing(main, *arguments): the exit status and the standard error of a command that fails."""

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
def test_an_error_that_a_user_can_cause_is_one_line(run_failing, error, sentence):
    assert run_failing(raising(error)) == (2, f"error: {sentence}\n")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        command(raising(ZeroDivisionError()), Settings)


def test_ctrl_c_says_where_it_stopped(run_failing):
    assert run_failing(raising(KeyboardInterrupt("stopped after step 3"))) == (130, "stopped after step 3\n")


def test_numbers_that_are_too_small(run_failing):
    def main(settings):
        at_least_one(settings, "rows")

    assert run_failing(main, "--rows", "0") == (2, "error: rows must be at least 1, got 0\n")
    assert run_failing(main, "--seed", "-1") == (2, "error: seed must be at least 0, got -1\n")


def test_help_names_the_command_as_it_was_called():
    shown = subprocess.run([sys.executable, "-m", "chapters", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.startswith("usage: python -m chapters [-h]")


HELP = """\
usage: python -m x [-h] [OPTIONS]

Settings of a command for tests. Defaults are in brackets.

  --rows INT                      rows to write [3]
  --seed INT                      random seed [0]

Groups of settings, which --help GROUP lists: model
"""
GROUP_HELP = """\
usage: python -m x [-h] [OPTIONS]

A model for tests. Defaults are in brackets.

  --model.[no-]bias               add biases [on]
  --model.kind {small,large}      size [small]
  --model.path PATH               file of the model; None: a new model [None]
"""


def test_help_shows_each_settings_comment_and_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert help_text(Settings(rows=3), "python -m x") + "\n" == HELP
    assert help_text(Settings(), "python -m x", "model") + "\n" == GROUP_HELP
    with pytest.raises(ValueError, match="expected a group of settings, got 'rows'"):
        help_text(Settings(), "python -m x", "rows")


def test_help_wraps_long_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, help_text(Settings(), "python -m x", "model").splitlines())) <= 60


def test_help_takes_presets_into_account(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--quick", "--help"])
    with pytest.raises(SystemExit) as exit:
        command(lambda settings: None, Settings, presets={"quick": {"rows": 7}})
    assert exit.value.code == 0 and "rows to write [7]" in capsys.readouterr().out


def test_a_reader_who_leaves_early_causes_no_error():
    called = [sys.executable, "-m", "chapters", "--list"]
    listing = subprocess.Popen(called, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert listing.stdout and listing.stderr
    listing.stdout.close()
    assert listing.stderr.read() == b"" and listing.wait() == 141


# ── what every command refuses, or survives ──


@dataclass
class Inner:
    """Nested settings for tests."""

    seed: int = 0  # random seed


@dataclass
class Outer:
    """Settings with a nested seed for tests."""

    training: Inner = field(default_factory=Inner)
    seed: int = 0  # random seed


def test_a_seed_that_another_seed_overrides_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--training.seed", "3"])
    with pytest.raises(SystemExit):
        command(lambda settings: None, Outer)
    assert "--training.seed: --seed sets this seed too" in capsys.readouterr().err


def test_output_that_the_terminal_cannot_encode_becomes_a_question_mark():
    program = "import sys; from chapters.support.command import command; from dataclasses import make_dataclass; "
    program += "command(lambda s: print('β≤1'), make_dataclass('S', [], namespace={'__doc__': 'A test.'}))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stdout.strip()) == (0, b"??1")


def test_a_second_process_in_a_run_folder_is_refused(tmp_path):
    program = "import sys; from pathlib import Path; from chapters.support.run_folder import hold; hold(Path(sys.argv[1])); "
    command = [sys.executable, "-c", program + "print('holds', flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "holds\n"
        second = subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True)
        assert f"is in use by process {first.pid}" in second.stderr.splitlines()[-1]
        first.communicate("")
    assert subprocess.run(command, cwd=ROOT, input="", text=True).returncode == 0  # the folder is free again


COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in (ROOT / "chapters").rglob("*.py")
    if "\n    command(" in path.read_text(encoding="utf-8") and path.name != "command.py"
)
# Commands without a folder of their own. Sampling appends to the samples of a model that may still be in training.
WITHOUT_FOLDER = {"chapters.ch01_tokenizer", "chapters.ch02_dataset", "chapters.ch08_sample", "chapters.ch09.decode"}
WITHOUT_FOLDER |= {"chapters.chat", "chapters.ch05_tensor_parallel", "chapters.ch09.serve", "chapters.workbook"}
FOLDER_FLAGS = dict.fromkeys(("chapters", "chapters.main_job.overview", "chapters.site"), "--out")
FOLDER_FLAGS |= {"chapters.notebooks": "--folder"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # runpy warns that the module is imported already
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_FOLDER])
def test_every_command_refuses_a_folder_in_use(name, tmp_path, monkeypatch, capsys):
    flag = FOLDER_FLAGS.get(name, "--run")
    with open(tmp_path / ".lock", "w+") as lock:
        lock_file(lock)
        lock.write("process 12345")
        lock.flush()
        monkeypatch.setattr(sys, "argv", [name, flag, str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(name, run_name="__main__")
    assert end.value.code == 2
    sentence = f"error: run folder: {tmp_path} is in use by process 12345; wait for it, or choose another folder\n"
    assert capsys.readouterr().err == sentence
    assert [path.name for path in tmp_path.iterdir()] == [".lock"], "refused before anything was written"


def test_a_start_removes_half_written_files_but_not_those_of_another_live_process(tmp_path):
    for folder in (tmp_path, tmp_path / "stage", tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        (folder / ".partial-0123").write_bytes(b"half")
    (tmp_path / "other" / ".lock").touch()
    program = "import sys; from pathlib import Path; from chapters.support.run_folder import hold; hold(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    assert [path.parent.name for path in tmp_path.rglob(".partial-*")] == ["other"]


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["in the foreground", "in the background"])
def test_sigterm_stops_a_command_as_ctrl_c_does(monkeypatch, capsys, request, ctrl_c):
    before = signal.signal(signal.SIGINT, ctrl_c)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(sys.modules["chapters.support.command"], "terminated", False)
    with pytest.raises(SystemExit) as end:
        command(lambda settings: signal.raise_signal(signal.SIGTERM), Model)
    assert end.value.code == 143 and capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_during_imports_gives_one_line():
    program = "import sys; sys.argv[0] = '-m'; import chapters; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and done.stderr == "interrupted\n"


def test_ctrl_c_names_the_flag_that_continues(monkeypatch, capsys):
    @dataclass
    class Loop:
        """A loop for tests."""

        resume: bool = False  # continue

    @dataclass
    class Whole:
        """A command with a loop for tests."""

        first_loop: Loop = field(default_factory=Loop)

    for message, suffix in {"stopped": "; the same command with --first-loop.resume continues", "it continues": ""}.items():
        monkeypatch.setattr(sys, "argv", ["command"])
        with pytest.raises(SystemExit):
            command(raising(KeyboardInterrupt(message)), Whole)
        assert capsys.readouterr().err == f"{message}{suffix}\n"
