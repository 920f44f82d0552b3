"""What a run leaves behind: a folder that explains itself.

config.json               every setting
metrics.jsonl             a line a step and a line an evaluation, without a clock: equal runs write equal bytes
timing.jsonl              the clock, a line a checkpoint
checkpoint.safetensors    all that resuming needs, in one file (see checkpoint.py)
model.safetensors         the trained parameters and the model's shape
tokenizer.tiktoken        the vocabulary (and tokenizer.tiktoken.json)
figures/*.png, samples.txt
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from minigrad.serialization import CheckpointError


class RunError(OSError):
    """A run folder that cannot be written or that belongs to another run."""


class Run:
    """A run's folder, made where it is missing.  Raises RunError in one sentence where it cannot be written."""

    def __init__(self, folder):
        self.folder = Path(folder)
        try:
            (self.folder / "figures").mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.write_bytes(b"?")
            probe.unlink()
        except OSError as error:
            raise RunError(f"the run folder {folder} cannot be written ({error.strerror}): choose another one") from error

    def __truediv__(self, name):
        """`run / "samples.txt"`: a path inside the folder."""
        return self.folder / name

    def config(self):
        """What config.json says, {} where there is none."""
        path = self / "config.json"
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise RunError(f"{path} is not whole JSON ({error}): delete it or choose another run folder") from error

    def must_match(self, free=(), **sections):
        """Refuse to go on in a folder whose config.json says otherwise, before anything in it is touched.

        sections: as for describe.  free: settings that may change.  Raises RunError naming the first that differs.
        """
        known = self.config()
        for section, values in sections.items():
            then = known.get(section, {})
            for name, now in json.loads(json.dumps(_plain(values), default=str)).items():
                if name in then and then[name] != now and name not in free:
                    raise RunError(
                        f"{self.folder} holds a run with {name} = {then[name]}, not {now}: "
                        "use its settings, choose another run folder, or do without resume"
                    )

    def describe(self, **sections):
        """Merge sections into config.json: `run.describe(model=gpt.config, data={"file": "…"})`."""
        path, known = self / "config.json", self.config()
        known.update({name: _plain(section) for name, section in sections.items()})
        unfinished = self / "config.json.unfinished"
        try:
            unfinished.write_text(json.dumps(known, indent=2, default=str) + "\n")
            os.replace(unfinished, path)
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error.strerror})") from error


def _plain(section):
    return asdict(section) if hasattr(section, "__dataclass_fields__") else section


class JsonLines:
    """metrics.jsonl: appended to, and cut back to what a checkpoint knew when a run resumes."""

    def __init__(self, path, keep=0):
        """keep: bytes to keep of what is there, None for all; a resumed run writes again what came later."""
        self.path = path
        size = path.stat().st_size if path.exists() else 0
        keep = size if keep is None else keep
        if size < keep:
            raise RunError(f"{path} has {size} bytes but its checkpoint knew {keep}: it was shortened by hand; start afresh")
        self.file = open(path, "ab")
        self.file.truncate(keep)
        self.file.seek(keep)

    def append(self, **record):
        try:
            self.file.write((json.dumps(record) + "\n").encode())
            self.file.flush()
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error.strerror}): the last checkpoint is intact") from error

    def size(self):
        """Bytes so far, after making sure that they reached the disk."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error.strerror}): the last checkpoint is intact") from error
        return self.file.tell()


@dataclass
class History:
    """The curves of a run, as metrics.jsonl holds them."""

    steps: list = field(default_factory=list)  # step of each training loss
    losses: list = field(default_factory=list)
    validation_steps: list = field(default_factory=list)
    validation_losses: list = field(default_factory=list)
    tokens_per_second: float = float("nan")  # of this process, evaluation left out

    @property
    def best(self):
        """The smallest validation loss, NaN where there was no validation."""
        return min(self.validation_losses, default=float("nan"))

    @classmethod
    def read(cls, run):
        """The curves in a run's folder; a last line that a killed run left unfinished is passed over."""
        history = cls()
        path = run / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():
            record = json.loads(line)
            kind = "validation_" if "validation_loss" in record else ""
            getattr(history, kind + "steps").append(record["step"])
            getattr(history, kind + "losses").append(record[kind + "loss"])
        return history


def load_parameters(model, arrays, path):
    """Copy {name: array} into the model's parameters; CheckpointError, before any is changed, where they do not match."""
    try:
        model.load_state_dict(arrays)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another model's parameters: {error}") from error
