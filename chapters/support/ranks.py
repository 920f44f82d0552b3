"""A command that several processes run together: `mpiexec -n 2 python -m chapters.ch07_train`.

Rank 0 does what the only process does otherwise: it prints, shows the progress and writes the run folder. The other ranks run
the same code, muted, each in a folder of its own that is removed at the end. So no stage needs to ask which rank it is.

All ranks must take the same steps, or they would wait for each other for ever. They compare their settings, versions and data
at the start. A rank that fails ends them all.
"""

import atexit
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from chapters.support.run_folder import hold
from kernels.collectives import Alone, Group
from minigrad import __version__, distributed
from minigrad.distributed import RankError
from minigrad.serialization import short, write_atomically

PATIENCE = 2.0  # seconds that a failing rank waits, because rank 0 may be about to report the same error
errors: Any = sys.stderr  # where a rank reports the error that ends it
group: Group = Alone()  # the ranks of this command


# ── the beginning ────────────────────────────────────────────────────────────────────────────────────────────────────


def mute_followers() -> None:
    """Let only rank 0 print. The others keep their standard error for the error that ends them."""
    global errors
    errors = sys.stderr
    if distributed.launched_rank() > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")


@contextmanager
def working_together(settings: Any, writes: str | None, on_ranks: bool) -> Iterator[Any]:
    """In the with block, this process is a rank of the group that mpiexec has started; yields the settings for it.

    Args:
        writes: the setting with the folder that the command writes.
        on_ranks: whether several processes can run this command.

    Raises:
        RankError: if the ranks differ in settings, versions or processors, or do not see the same folder.
    """
    global group
    if not on_ranks:
        if distributed.launched():
            raise RankError("mpiexec: this command runs in one process; start it without mpiexec")
        hold_folder(settings, writes)
        yield settings
        return
    group = distributed.join()
    if settings.device == "emulator" and group.size > 1:
        raise RankError("mpiexec: the emulator runs in one process; start the command without mpiexec, or with --device cpu")
    scratch = Path()
    if group.size > 1:
        scratch = Path(tempfile.mkdtemp(prefix="minigrad-rank-"))
        start_watcher(scratch)
        sys.excepthook = end_with_traceback
        share_threads()
        compare_with_rank_0(facts(settings))
        if settings.device == "cuda":
            group = distributed.on_gpus(group)
    shards, any_order = getattr(settings, "shards", 0), getattr(settings, "any_order", False)
    if shards < 0:
        raise ValueError(f"shards must be at least 0, got {shards}")
    with distributed.sharing(group, shards, not any_order):
        folder = hold_folder(settings, writes)
        if folder is not None and writes is not None and group.size > 1:
            check_that_all_see(folder)
            if group.rank:
                path_type = type(getattr(settings, writes))  # Path or str
                settings = replace(settings, **{writes: path_type(shadow_of(folder, scratch))})
            group.barrier()  # rank 0 changes nothing in the folder until the others have read it
        yield settings


def hold_folder(settings: Any, writes: str | None) -> Path | None:
    """The folder that the command writes, held by rank 0; None if it writes none."""
    folder = getattr(settings, writes, None) if writes else None
    if folder is None:
        return None
    if group.rank == 0:
        hold(Path(folder))
    return Path(folder)


def share_threads() -> None:
    """Give each rank an equal part of the cores that it shares with other ranks, and all ranks equally many threads.

    NUMBA_NUM_THREADS takes precedence. A launcher that binds ranks to cores of their own has divided them already.
    """
    from minigrad import processor

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    places = group.gather_objects((platform.node(), cores))
    threads = max(1, processor.get_num_threads() // places.count((platform.node(), cores)))
    fewest = min(group.gather_objects(threads))
    if "NUMBA_NUM_THREADS" not in os.environ:
        processor.set_num_threads(fewest)


def facts(settings: Any) -> dict[str, Any]:
    """What must be equal on all ranks: versions, the processor's kind, the number of threads and every setting."""
    from minigrad import processor

    versions = {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "minigrad": __version__,
        "code": checksum_of_code(),
    }
    machine = {"threads": processor.get_num_threads(), "processor": processor.cpu_name()} if settings.device == "cpu" else {}
    return versions | machine | asdict(settings)


def checksum_of_code() -> str:
    """A checksum of the project's source files."""
    root, crc = Path(distributed.__file__).parents[2], 0
    for path in sorted(path for floor in ("kernels", "minigrad", "chapters") for path in (root / floor).rglob("*.py")):
        crc = zlib.crc32(path.read_bytes(), crc)
    return f"{crc:08x}"


def compare_with_rank_0(values: dict[str, Any]) -> None:
    """Raise RankError on every rank if one has other values than rank 0, naming the first that differs."""
    everything = group.gather_objects(values)
    for rank, theirs in enumerate(everything):
        for name, value in everything[0].items():
            if theirs.get(name) != value:
                raise RankError(
                    f"mpiexec: expected {name} = {short(value)} on rank {rank} as on rank 0, got {short(theirs.get(name))}; "
                    "start all ranks with the same command, code and data, on processors of one kind"
                )


def check_that_all_see(folder: Path) -> None:
    """Raise RankError on every rank if one does not see the run folder that rank 0 holds."""
    path, mark = folder / ".seen-by-all-ranks", secrets.token_bytes(16)
    if group.rank == 0:
        write_atomically(path, mark)  # on disk, so that other machines see it
    mark = group.gather_objects(mark)[0]
    answers = group.gather_objects((platform.node(), path.exists() and path.read_bytes() == mark))
    if group.rank == 0:
        path.unlink(missing_ok=True)
    group.barrier()
    for rank, (host, sees) in enumerate(answers):
        if not sees:
            raise RankError(
                f"run folder: rank {rank} on {host} does not see {folder.absolute()}, which rank 0 writes; choose a folder "
                "that all machines share"
            )


def shadow_of(folder: Path, scratch: Path) -> Path:
    """A copy of the run folder in `scratch`, for a rank that writes nothing of its own.

    Large files are links. Whatever rewrites them replaces the link and not the file.
    """

    def link_or_copy(source: str, target: str) -> None:
        large = source.endswith((".safetensors", ".bin"))
        os.symlink(os.path.abspath(source), target) if large else shutil.copyfile(source, target)

    ignored = shutil.ignore_patterns(".*", "figures")  # no lock, and nothing that rank 0 removes now
    return shutil.copytree(folder, scratch / folder.resolve().name, copy_function=link_or_copy, ignore=ignored)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────

watcher: subprocess.Popen | None = None
WATCHER = """
import shutil, sys
ended_by_itself = sys.stdin.read()
shutil.rmtree(sys.argv[1], ignore_errors=True)
ended_by_itself or print(sys.argv[2], file=sys.stderr)
"""


def start_watcher(scratch: Path) -> None:
    """Start a small process that outlives this one, removes its scratch folder, and prints a sentence if this one is killed.

    mpiexec kills the other ranks as soon as one has died, and a process that is killed can print nothing itself.
    """
    global watcher
    sentence = (
        f"rank {group.rank}: stopped before its work was done, because this or another rank was killed; "
        "the same command with --resume continues from the last checkpoint"
    )
    command = [sys.executable, "-S", "-c", WATCHER, str(scratch), sentence]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=sys.__stderr__, start_new_session=True)
    atexit.register(dismiss_watcher)


def dismiss_watcher() -> None:
    if watcher is not None and watcher.stdin is not None and not watcher.stdin.closed:
        watcher.stdin.write(b"this rank ends by itself")
        watcher.stdin.close()
        watcher.wait()


def end(message: str, status: int) -> NoReturn:
    """Print the message and exit with the status. With several ranks, end all of them, after a single message.

    All ranks often fail for the same reason. So rank 0 reports at once, and another rank only if rank 0 has not done so.
    """
    if group.size == 1:
        print(message, file=sys.stderr)
        sys.exit(status)
    if group.rank:
        time.sleep(PATIENCE)
        message = f"rank {group.rank}: {message}"
    abort(message, status)


def end_with_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """What an error that is a bug does: it ends all ranks."""
    abort(f"rank {group.rank}: " + "".join(traceback.format_exception(kind, error, trace)), 1)


def abort(message: str, status: int) -> NoReturn:
    print(message, file=errors, flush=True)
    dismiss_watcher()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI's own message would follow
    group.abort(status)
    raise SystemExit(status)
