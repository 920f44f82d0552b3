"""What all commands share: flags and help made from a commented dataclass, a device to compute on, one-line errors."""

import argparse
import errno
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from chapters.support.settings_help import help_text
from kernels.terminal import USER_ERROR, guard_streams, unguarded

if TYPE_CHECKING:
    from tqdm import tqdm

S = TypeVar("S")


@dataclass(kw_only=True)
class OnDevice:
    """Base class of the settings of every command that trains or samples; `command` applies them."""

    device: Literal["cpu", "cuda", "emulator"] = "cpu"  # device; the emulator runs GPU kernels on the CPU, slowly
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # precision of GPU matrix products; tf32 and bf16 use tensor cores


@contextmanager
def computing_on(settings: Any) -> Iterator[None]:
    """In the with block, create models and tensors on settings.device and multiply matrices in settings.precision.

    Raises ValueError or DeviceError if the device or the precision is not available.
    """
    import minigrad as mg

    device, precision = getattr(settings, "device", "cpu"), getattr(settings, "precision", "fp32")
    if device == "cpu" and precision != "fp32":
        raise ValueError(f"--precision {precision} needs a GPU's tensor cores, and the CPU computes in fp32; add --device cuda")
    before = mg.get_default_device(), mg.get_float32_matmul_precision()
    mg.set_default_device(device)
    mg.set_float32_matmul_precision({"fp32": "highest", "tf32": "high", "bf16": "medium"}[precision])
    try:
        yield
    finally:
        mg.set_default_device(before[0])
        mg.set_float32_matmul_precision(before[1])


@dataclass(kw_only=True)
class OnRanks(OnDevice):
    """Base class of the settings of every command that several processes can run together: `mpiexec -n 2 python -m …`."""


@dataclass(kw_only=True)
class InShards(OnRanks):
    """Base class of the settings of every command whose batches are shared out to the processes."""

    shards: int = 0  # parts of every batch, which mpiexec's processes share; results depend on it (0 = one for each process)
    any_order: bool = False  # add gradients in the order that is fastest, though the last digits then depend on the processes


terminated = False  # whether SIGTERM has asked this process to stop


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """In the with block, SIGTERM does what Ctrl-C does: a training loop finishes its step and saves.

    A shell script starts background jobs with SIGINT ignored; SIGTERM interrupts them all the same.
    """

    def interrupt(signum: int, frame: Any) -> None:
        global terminated
        terminated = True
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may set a handler
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def command(
    main: Callable[[S], Any], settings: type[S], presets: dict[str, dict[str, Any]] | None = None, writes: str | None = "run"
) -> Any:
    """Parse the command line into a settings dataclass and call main with it.

    An error that a user can cause (a bad value, a missing file, a full disk, a loss that became NaN) ends the program
    with one line and exit status 2, which is also the status of bad usage: all of the project's commands share it.
    Processes of mpiexec that cannot work together end with one line and status 1. Any other exception is a bug and keeps
    its traceback. Ctrl-C ends a command with status 130, SIGTERM with 143; both save
    first, where the command can resume. Control characters in any output are shown, not obeyed.

    Args:
        main: the command.
        settings: a dataclass; each field becomes a flag, and the comment on its line becomes the flag's help.
        presets: {name: {field: value}}, the defaults that `--preset name` and `--quick` change. Explicit flags still win,
            and `--preset name --help` shows that preset's values.
        writes: the setting with the folder that the command writes; no other command may write there meanwhile.

    Returns:
        The result of main.
    """
    import tyro

    guard_streams()
    from chapters.support import ranks
    from minigrad import DeviceError, DeviceMemoryError
    from minigrad.distributed import RankError
    from minigrad.serialization import CheckpointError

    ranks.mute_followers()
    defaults, help_group = read_ahead(settings(), presets or {})
    chosen = defaults
    try:
        if help_group is not None:
            print(help_text(defaults, invocation() or sys.argv[0], help_group))
            sys.exit(0)
        chosen = tyro.cli(settings, prog=invocation(), default=defaults)
        if getattr(chosen, "seed", 0) < 0:
            raise ValueError(f"seed must be at least 0, got {getattr(chosen, 'seed', 0)}")
        refuse_inner_seeds(chosen)
        with (
            ranks.working_together(chosen, writes, isinstance(chosen, OnRanks)) as own,
            sigterm_interrupts(),
            computing_on(own),
        ):
            result = main(own)
        sys.stdout.flush()
        return result
    except BrokenPipeError:  # the reader left early, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it exits
        sys.exit(141)
    except (ValueError, OSError, FloatingPointError, CheckpointError, DeviceError, DeviceMemoryError) as error:
        ranks.end(f"error: {error_text(error)}", USER_ERROR)
    except RankError as error:
        ranks.end(f"error: {error}", 1)
    except MemoryError as error:  # the messages of NumPy and CuPy give only the size of the request
        ranks.end(f"error: out of memory: {error}; lower the batch size, the context or the model", USER_ERROR)
    except KeyboardInterrupt as stop:
        flags = " ".join(resume_flags(chosen)) if str(stop) and "continues" not in str(stop) else ""
        advice = f"; the same command with {flags} continues" if flags else ""
        ranks.end((str(stop) or "interrupted") + advice, 143 if terminated else 130)


def progress_bar(total: int, initial: int, unit: str) -> "tqdm":
    """A bar on standard error, where that is a terminal; in a notebook, a bar below the cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets, a notebook shows a bar of text
        from tqdm.auto import tqdm
    disable = False if in_notebook() else None
    return tqdm(total=total, initial=initial, unit=unit, disable=disable, file=unguarded(sys.stderr))


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


def resume_flags(settings: Any, prefix: str = "--") -> Iterator[str]:
    """The flags that let a command continue from its checkpoints, such as --training.resume."""
    for name, value in ((field.name, getattr(settings, field.name)) for field in fields(settings)):
        if name == "resume":
            yield f"{prefix}resume"
        elif is_dataclass(value):
            yield from resume_flags(value, f"{prefix}{name.replace('_', '-')}.")


def refuse_inner_seeds(settings: Any) -> None:
    """Raise ValueError for `--training.seed` and the like, if `--seed` is there and overrides them."""
    for field in fields(settings):
        inner = getattr(settings, field.name)
        if hasattr(settings, "seed") and is_dataclass(inner) and getattr(inner, "seed", 0) != 0:
            raise ValueError(f"--{field.name}.seed: --seed sets this seed too; give --seed alone")


def read_ahead(settings: Any, presets: dict[str, dict[str, Any]]) -> tuple[Any, str | None]:
    """Read the flags that change the defaults of other flags.

    Returns:
        The settings changed by `--preset NAME` and `--quick`, and the group after `--help` ("" for none), None without
        `--help`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-h", "--help", nargs="?", const="")
    flags, _ = parser.parse_known_args()
    changes = presets.get(flags.preset, {}) | (presets.get("quick", {}) if flags.quick else {})
    return replace(settings, **changes), flags.help


def error_text(error: Exception) -> str:
    """An error's message; "[Errno 13] Permission denied: 'a.svg'" becomes "Permission denied: a.svg"."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = f": {error.filename}" if error.filename else ""
    advice = "; make room, and give the same command again" if error.errno == errno.ENOSPC else ""
    return error.strerror + where + advice


def at_least_one(settings: Any, *names: str) -> None:
    """Raise ValueError if a setting with one of these names is below 1."""
    at_least(settings, 1, *names)


def at_least(settings: Any, low: float, *names: str) -> None:
    """Raise ValueError if a setting with one of these names is below `low`, or NaN."""
    for name in names:
        if not getattr(settings, name) >= low:
            raise ValueError(f"{name} must be at least {low}, got {getattr(settings, name)}")


def above(settings: Any, low: float, *names: str) -> None:
    """Raise ValueError unless the settings with these names are above `low` and finite."""
    for name in names:
        if not low < getattr(settings, name) < math.inf:
            raise ValueError(f"{name} must be above {low} and finite, got {getattr(settings, name)}")


def invocation() -> str | None:
    """How this program was called, such as "python -m chapters.ch07_train"; None if not with -m."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
