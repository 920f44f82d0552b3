"""What the command lines share: flags made from a commented dataclass, where to compute, one sentence for an error."""

import argparse
import errno
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(kw_only=True)
class OnDevice:
    """The settings of every command that trains or samples, to be inherited; `command` sees to them."""

    device: Literal["cpu", "cuda", "emulator"] = "cpu"  # where to compute; the emulator runs a GPU's kernels on the CPU, slowly
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # of a GPU's matrix products; the last two on its tensor cores


@contextmanager
def computing_on(settings):
    """Inside the with block new models and tensors are made on settings.device, and multiplied in settings.precision.

    Raises ValueError or DeviceError, in one sentence, where that cannot be had.
    """
    import minigrad as mg

    device, precision = getattr(settings, "device", "cpu"), getattr(settings, "precision", "fp32")
    if device == "cpu" and precision != "fp32":
        raise ValueError(f"--precision {precision} is for a GPU's tensor cores; the CPU computes in fp32: add --device cuda")
    before = mg.get_default_device(), mg.get_float32_matmul_precision()
    mg.set_default_device(device)
    mg.set_float32_matmul_precision({"fp32": "highest", "tf32": "high", "bf16": "medium"}[precision])
    try:
        yield
    finally:
        mg.set_default_device(before[0])
        mg.set_float32_matmul_precision(before[1])


def command(main, settings, presets=None):
    """Read the command line into `settings`, a dataclass type (tyro makes flags and help), and call `main(settings)`.

    presets: {name: {field: value}}: what `--preset name` and `--quick` change in the defaults before the other flags
    are read, so that an explicit flag always wins and `--preset name --help` shows that preset's own values.
    An error that a user can cause (a bad value, a missing file, a full disk, a loss that became NaN) ends the program
    with one sentence and exit status 2; anything else is a fault of ours and keeps its traceback.
    """
    import tyro

    from minigrad import DeviceError, DeviceMemoryError
    from minigrad.serialization import CheckpointError

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset")
    early.add_argument("--quick", action="store_true")
    known, _ = early.parse_known_args()
    changes = {}
    for name in filter(None, [known.preset, "quick" if known.quick else None]):
        changes.update((presets or {}).get(name, {}))
    try:
        chosen = tyro.cli(settings, prog=invocation(), default=replace(settings(), **changes))
        if getattr(chosen, "seed", 0) < 0:
            raise ValueError(f"seed must be at least 0, got {chosen.seed}")
        with computing_on(chosen):
            found = main(chosen)
        sys.stdout.flush()
        return found
    except BrokenPipeError:  # nobody reads on, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would complain when it ends
        sys.exit(141)
    except (ValueError, OSError, FloatingPointError, CheckpointError, DeviceError, DeviceMemoryError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except MemoryError as error:  # NumPy's and CuPy's own say only how much was asked for
        print(f"error: out of memory: {error}; lower the batch size, the context or the model", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        sys.exit(130)


def sentence(error):
    """What an error says; of the system's own, such as "[Errno 13] Permission denied: 'a.png'", the words."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = f": {error.filename}" if error.filename else ""
    what_to_do = "; make room, and give the same command again" if error.errno == errno.ENOSPC else ""
    return error.strerror + where + what_to_do


def at_least_one(settings, *names):
    """Raise ValueError where one of these settings is below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")


def invocation():
    """How this program was called, for its --help: "python -m chapters.ch07_train"; None where it was not so."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
