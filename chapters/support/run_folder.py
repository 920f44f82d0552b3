"""A run folder: all the files that one command writes.

config.json               every setting
metrics.jsonl             a line for each step and each evaluation, without times: equal runs write equal bytes
timing.jsonl              tokens and seconds so far, a line for each checkpoint
checkpoint.safetensors    everything that resuming needs, in one file (see checkpoint.py)
model.safetensors         the trained parameters and the model's shape
tokenizer.tiktoken        the vocabulary (and tokenizer.tiktoken.json)
figures/*.png, samples.txt
"""

import atexit
import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import minigrad.nn as nn
from minigrad.serialization import CheckpointError, write_atomically


class RunError(OSError):
    """The run folder cannot be written, or it belongs to another run."""


class Run:
    """A run's folder, created if it is missing.

    Raises:
        RunError: if the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            (self.folder / "figures").mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.write_bytes(b"?")
            probe.unlink()
        except OSError as error:
            raise not_writable(folder, error) from error

    def __truediv__(self, name: str) -> Path:
        """`run / "samples.txt"` is a path inside the folder."""
        return self.folder / name

    def config(self) -> dict[str, Any]:
        """The contents of config.json, {} if there is none."""
        path = self / "config.json"
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise RunError(f"run folder: {path} is not whole JSON ({error}); delete it or choose another folder") from error

    def must_match(self, free: tuple[str, ...] = (), **sections: Any) -> None:
        """Check that config.json agrees with these sections, before anything in the folder changes.

        Args:
            free: settings that may differ.
            sections: the same as for `describe`.

        Raises:
            RunError: naming the first setting that differs.
        """
        config = self.config()
        for section, values in sections.items():
            stored = config.get(section, {})
            for name, value in json.loads(json.dumps(_plain(values), default=str)).items():
                if name in stored and stored[name] != value and name not in free:
                    raise RunError(f"resume: {self.folder} holds a run with {name} = {stored[name]}, not {value}; {WHAT_TO_DO}")

    def describe(self, **sections: Any) -> None:
        """Merge sections into config.json: `run.describe(model=gpt.config, data={"file": "…"})`."""
        config = self.config() | {name: _plain(section) for name, section in sections.items()}
        try:
            write_atomically(self / "config.json", (json.dumps(config, indent=2, default=str) + "\n").encode())
        except CheckpointError as error:
            raise RunError(str(error)) from error

    def write_scores(self, scores: Any) -> None:
        """Write scores.json."""
        (self / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")


MAIN_JOB_MODELS = ("pretrain", "sft", "sft_unmasked", "assistant", "reward", "rlhf", "constitution")


def maker_of(folder: str | Path) -> str | None:
    """The command that makes this folder of a main job, with the seed and the form that the job began with.

    None for a folder of any other run.
    """
    job = Path(folder).parent
    if Path(folder).name not in MAIN_JOB_MODELS or not (job == Path("runs/main") or (job / "job.json").exists()):
        return None
    try:
        settings = json.loads((job / "job.json").read_text())
        begun_with = f" --seed {settings['seed']}" * (settings["seed"] != 0) + " --quick" * settings["quick"]
    except (OSError, ValueError, KeyError, TypeError):  # not begun, or damaged
        begun_with = ""
    return "python -m chapters" + f" --out {job}" * (job != Path("runs/main")) + begun_with


_held: set[Path] = set()  # the folders that this process has locked


def hold(folder: Path) -> None:
    """Lock a run folder for this process until it ends, so that two runs cannot mix their files.

    Raises:
        RunError: if another process holds it, naming that process, or if the folder cannot be written.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as error:
        raise not_writable(folder, error) from error
    try:
        lock_file(file)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            release(folder, file)  # a file system without locks
            return
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RunError(f"run folder: {folder} is in use by {holder}; wait for it, or choose another folder") from None
    if not is_at(path, file):
        file.close()  # a process that has just ended removed this file, so the lock on it holds nobody off
        return hold(folder)
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    _held.add(folder)
    atexit.register(release, folder, file)


def release(folder: Path, file: Any) -> None:
    """Unlock a run folder and remove the lock's file, unless another process has put its own there."""
    _held.discard(folder)
    if is_at(folder / ".lock", file):
        with contextlib.suppress(OSError):
            (folder / ".lock").unlink()
    file.close()


def is_at(path: Path, file: Any) -> bool:
    """Whether an open file is the file at this path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def not_writable(folder: str | Path, error: OSError) -> RunError:
    return RunError(f"run folder: {folder} cannot be written ({error.strerror}); choose another folder")


def lock_file(file: Any) -> None:
    """Lock an open file; the system unlocks it when the process ends, however it ends.  Raises OSError if it is locked."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file.fileno(), 1 << 30, os.SEEK_SET)  # Windows locks bytes: one that lies beyond the text
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


WHAT_TO_DO = "use the same settings, or choose another run folder"


def stopped(where: str, run: Run, resumes: bool) -> str:
    """What Ctrl-C says; a command with a setting `resume` adds how to continue."""
    return f"stopped after {where} and saved in {run.folder}" + "; the same command continues" * resumes


def _plain(section: Any) -> Any:
    return asdict(section) if hasattr(section, "__dataclass_fields__") else section


class JsonLines:
    """A file with one JSON object per line, cut back to its first `keep` bytes (None keeps everything).

    A resumed run keeps the lines that its checkpoint knew and writes the later ones again.
    """

    def __init__(self, path: Path, keep: int | None = 0) -> None:
        self.path = path
        size = path.stat().st_size if path.exists() else 0
        keep = size if keep is None else keep
        if size < keep:
            raise RunError(
                f"resume: {path} has {size} bytes, its checkpoint knew {keep}: it was shortened by hand; choose another folder"
            )
        self.file = open(path, "ab")
        self.file.truncate(keep)
        self.file.seek(keep)

    def append(self, **record: Any) -> None:
        with self._disk():
            self.file.write((json.dumps(record) + "\n").encode())
            self.file.flush()

    def size(self) -> int:
        """Flush the file to disk; returns its length in bytes."""
        with self._disk():
            os.fsync(self.file.fileno())
        return self.file.tell()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error.strerror}); the last checkpoint is intact") from error


@dataclass
class History:
    """The loss curves in a run's metrics.jsonl."""

    steps: list[int] = field(default_factory=list)  # the step of each training loss
    losses: list[float] = field(default_factory=list)  # nats
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    tokens_per_second: float = float("nan")  # training speed of this process; evaluation does not count

    @property
    def best(self) -> float:
        """The smallest validation loss, NaN without validation."""
        return min(self.validation_losses, default=float("nan"))

    @classmethod
    def read(cls, run: Run) -> "History":
        """Read metrics.jsonl, except for an unfinished last line that a killed run may have left."""
        history = cls()
        path = run / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():
            record = json.loads(line)
            if "validation_loss" in record:
                history.validation_steps.append(record["step"])
                history.validation_losses.append(record["validation_loss"])
            else:
                history.steps.append(record["step"])
                history.losses.append(record["loss"])
        return history


def load_parameters(model: nn.Module, arrays: dict[str, Any], path: str | Path) -> None:
    """Copy {name: array} into the model's parameters.

    Raises:
        CheckpointError: if names or shapes differ; the model is then unchanged.
    """
    try:
        model.load_state_dict(arrays)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another model's parameters: {error}") from error
