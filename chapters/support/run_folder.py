"""A run folder: all the files that one command writes.

config.json               every setting
metrics.jsonl             a line for each step and each evaluation, without times: equal runs write equal bytes
generations.jsonl         what the model wrote at each checkpoint of a main job (see generations.py)
timing.jsonl              tokens and seconds so far, a line for each checkpoint
checkpoint.safetensors    everything that resuming needs, in one file (see checkpoint.py)
model.safetensors         the trained parameters and the model's shape
tokenizer.tiktoken        the vocabulary (and tokenizer.tiktoken.json)
figures/*.svg, samples.txt
"""

import atexit
import contextlib
import errno
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import minigrad.nn as nn
from chapters.support.json_files import check_fields, fits
from minigrad.checked_json import parse_json
from minigrad.serialization import PARTIAL, CheckpointError, check_weights, short, write_atomically


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
            with TemporaryFile(dir=self.folder) as probe:
                probe.write(b"?")
        except OSError as error:
            raise not_writable(folder, error) from error

    def __truediv__(self, name: str) -> Path:
        """`run / "samples.txt"` is a path inside the folder."""
        return self.folder / name

    def config(self) -> dict[str, Any]:
        """The contents of config.json, {} if there is none."""
        path, advice = self / "config.json", "delete it or choose another folder"
        try:
            config = parse_json(path.read_bytes()) if path.exists() else {}
        except ValueError as error:
            raise RunError(f"run folder: {path} is not whole JSON ({error}); {advice}") from None
        if not fits(config, dict[str, dict]):
            raise RunError(f"run folder: {path}: expected an object of objects, got {short(config)}; {advice}")
        return config

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
                    theirs = short(stored[name])
                    raise RunError(f"resume: {self.folder} holds a run with {name} = {theirs}, not {value}; {WHAT_TO_DO}")

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


_held: dict[Path, Any] = {}  # the folders that this process has locked, and the open files that carry the locks


def hold(folder: Path) -> None:
    """Lock a run folder for this process until it ends, so that two runs cannot mix their files.

    It also removes the half-written files that a killed run left there.

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
    _held[folder] = file
    atexit.register(release, folder, file)
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in this folder and below, except in folders with a lock of their own."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.exists(os.path.join(place, name, ".lock"))]
        for name in files:
            if name.startswith(PARTIAL):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(place, name))


def release_all() -> None:
    """Unlock every folder that this process holds."""
    for folder, file in list(_held.items()):
        release(folder, file)


def release(folder: Path, file: Any) -> None:
    """Unlock a run folder and remove the lock's file, unless another process has put its own there."""
    _held.pop(folder, None)
    if file.closed:
        return
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

    Args:
        path: the file.
        keep: length in bytes.
        crc: CRC-32 of these bytes, if the checkpoint knew it.

    Raises:
        RunError: if the file is shorter, or the bytes are others.
    """

    def __init__(self, path: Path, keep: int | None = 0, crc: int | None = None) -> None:
        self.path = path
        size = path.stat().st_size if path.exists() else 0
        keep = size if keep is None else keep
        if size < keep:
            raise RunError(
                f"resume: {path} has {size} bytes, its checkpoint knew {keep}: it was shortened by hand; choose another folder"
            )
        self.crc = zlib.crc32(path.read_bytes()[:keep]) if keep else 0
        if crc is not None and crc != self.crc:
            raise RunError(f"resume: {path} is not as its checkpoint knew it: a line was changed; start afresh")
        self.file = open(path, "ab")
        self.file.truncate(keep)
        self.file.seek(keep)

    def append(self, **record: Any) -> None:
        line = (json.dumps(record) + "\n").encode()
        with self._disk():
            self.file.write(line)
            self.file.flush()
        self.crc = zlib.crc32(line, self.crc)

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
        """Read metrics.jsonl.  Raises RunError at a line without a step and a loss."""
        history = cls()
        path = run / "metrics.jsonl"
        for number, record in enumerate(read_metrics(path), 1):
            loss = "validation_loss" if "validation_loss" in record else "loss"
            steps, losses = history.steps, history.losses
            if loss == "validation_loss":
                steps, losses = history.validation_steps, history.validation_losses
            try:
                check_fields(record, {"step": int, loss: float}, f"{path}, line {number}")
            except ValueError as error:
                raise RunError(f"{error}; start afresh") from None
            if steps and record["step"] <= steps[-1]:
                raise RunError(f"{path}, line {number}: expected a step after {steps[-1]}, got {record['step']}; start afresh")
            steps.append(int(record["step"]))
            losses.append(record[loss])
        return history


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, except for an unfinished last line that a killed run may have left; [] without a file.

    Raises RunError, with the line's number, at a line that does not map names to finite numbers.
    """
    records = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise RunError(f"{path}, line {number} is damaged ({error}); start afresh") from None
        if not fits(record, dict[str, float]) or not all(map(math.isfinite, record.values())):
            raise RunError(f"{path}, line {number}: expected numbers by name, got {short(record)}; start afresh")
        records.append(record)
    return records


def load_parameters(model: nn.Module, arrays: dict[str, Any], path: str | Path) -> None:
    """Copy {name: array} into the model's parameters.

    Raises:
        CheckpointError: if names or shapes differ, or an array does not hold finite float numbers; the model is then
            unchanged.
    """
    for name, array in arrays.items():
        check_weights(path, name, array)
    try:
        model.load_state_dict(arrays)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another model's parameters: {error}") from error
