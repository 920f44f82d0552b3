"""Kill runs and resume them: the files at the end must be those of a run that nobody killed, byte for byte.

    python -m tests.kill_cycles

Each cycle starts one of RUNS, ends it with SIGKILL, and gives the same command again until it ends by itself. Every second kill
comes at a random moment. The others come at a chosen write, fsync, rename, remove or mkdir in the run's folder; a write is torn
in the middle. The last line counts the cycles whose files agree.
"""

import argparse
import builtins
import gc
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chapters.__main__ as main_job
from chapters import ch07_train
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import dpo, reward, rlhf, sft
from chapters.ch10.constitution import stage
from chapters.main_job import first_bend, second_bend
from chapters.support.figures import loss_curve
from chapters.support.run_folder import History, Run, hold, release_all
from minigrad import processor
from tests.tiny_job import SECOND, TINY, tiny_tokenizer

TEXT = "Pack my box with five dozen liquor jugs. " * 40
TRAINING = TrainConfig(
    steps=12, batch_size=4, lr=1e-3, min_lr=1e-4, warmup_steps=1, eval_every=4, eval_batches=1, checkpoint_every=3, resume=True
)
PPO = rlhf.PPOConfig(iterations=4, prompts=4, max_new_tokens=6, minibatches=1, epochs=1, checkpoint_every=1, resume=True)
RUN, BASE, REWARD = Path("run"), Path("../base"), Path("../reward")  # seen from a cycle's folder


def pretrain() -> None:
    shape: dict[str, Any] = dict(context=16, n_layer=1, n_head=2, d_model=16, dropout=0.1, tokenizer="characters")
    training = {name: getattr(TRAINING, name) for name in TRAINING.__dataclass_fields__}
    ch07_train.pretrain(ch07_train.Settings(**training | shape | dict(run=str(RUN), data="../text.txt", keep_best=True)))


def fine_tune() -> None:
    sft.main(sft.Settings(base=BASE, run=RUN, examples=30, held_out=4, training=TRAINING))


def train_reward() -> None:
    reward.main(reward.Settings(sft=BASE, run=RUN, prompts=8, k=2, held_out=12, training=TRAINING))


def train_ppo() -> None:
    rlhf.main(rlhf.Settings(sft=BASE, reward=REWARD, run=RUN, tasks=20, held_out=8, training=PPO))


def train_dpo() -> None:
    dpo.main(dpo.Settings(sft=BASE, run=RUN, prompts=8, k=2, held_out=8, training=TRAINING))


def apply_constitution() -> None:
    stage.main(stage.Settings(sft=BASE, run=RUN, plan=SECOND.constitution))


def run_main_job() -> None:
    first_bend.PLANS, second_bend.PLANS = {"full": TINY}, {"full": SECOND}
    main_job.main(main_job.Settings(out=RUN, processes=1))


RUNS: dict[str, Callable[[], None]] = {
    "chapter 7": pretrain,
    "SFT": fine_tune,
    "reward": train_reward,
    "PPO": train_ppo,
    "DPO": train_dpo,
    "constitution": apply_constitution,
    "main job": run_main_job,
}


def prepare(folder: Path) -> None:
    """Write what the runs read: a text, an untrained base model and its reward model."""
    (folder / "text.txt").write_text(TEXT)
    tokenizer = tiny_tokenizer()
    gpt = GPT(GPTConfig(tokenizer.vocab_size, context=224, n_layer=1, n_head=2, d_model=16))
    save_model(Run(folder / "base"), gpt, tokenizer)
    reward.save_scalar(Run(folder / "reward"), reward.ScalarModel(gpt))


# ── killing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class FileOperations:
    """Counts what this process does to files under a folder, and kills the process at one of the operations.

    kill_at: the operation's number, counted from 1; None only counts.
    """

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self.folder, self.kill_at, self.count = str(folder.resolve()), kill_at, 0

    def watch(self) -> None:
        """Begin to count: from now on for the rest of this process."""
        audited = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}
        sys.addaudithook(lambda event, arguments: self.step() if event in audited and self.concerns(arguments[0]) else None)
        real_fsync, real_open = os.fsync, open

        def fsync(descriptor: Any) -> None:
            self.step()
            real_fsync(descriptor)

        def open_counted(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
            if "+" in mode or not set(mode) & set("wxa") or not self.concerns(file):
                return real_open(file, mode, buffering, *arguments, **options)
            stream = io.BufferedWriter(CountedFile(file, mode.replace("b", "").replace("t", ""), self))  # type: ignore[type-var]
            return stream if "b" in mode else io.TextIOWrapper(stream, *arguments, **options)

        os.fsync = fsync  # type: ignore[assignment]
        builtins.open = io.open = open_counted  # type: ignore[assignment]

    def concerns(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.folder)

    def step(self) -> None:
        """Count an operation; SIGKILL if it is the chosen one."""
        if self.is_next():
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def is_next(self) -> bool:
        return self.count + 1 == self.kill_at


class CountedFile(io.FileIO):
    """A file whose writes `operations` counts; the chosen write is torn: half of it reaches the file."""

    def __init__(self, path: Any, mode: str, operations: FileOperations) -> None:
        super().__init__(path, mode)
        self.operations = operations

    def write(self, data: Any) -> int:
        if self.operations.is_next():
            super().write(memoryview(data).cast("B")[: len(data) // 2])
        self.operations.step()
        return super().write(data)


@dataclass
class Ended:
    """How a process ended."""

    status: int  # as of waitpid
    seconds: float
    operations: int  # on files, 0 if it was killed

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL


def run_forked(body: Callable[[], None], folder: Path, kill_at: int | None = None, kill_after: float | None = None) -> Ended:
    """Run `body` in a forked process, whose working folder is `folder` and whose output goes to folder/output.txt.

    Args:
        kill_at: number of the file operation at which the process kills itself.
        kill_after: seconds after which this process kills it.
    """
    folder.mkdir(exist_ok=True)
    receive, send = os.pipe()
    began, child = time.monotonic(), os.fork()
    if child == 0:
        status = 1
        try:
            os.close(receive)
            os.chdir(folder)
            output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            processor.set_num_threads(1)
            operations = FileOperations(RUN, kill_at)
            operations.watch()
            body()
            os.write(send, str(operations.count).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(send)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)  # a process that has ended keeps its number until waitpid
    _, exit_status = os.waitpid(child, 0)
    with open(receive, "rb") as pipe:
        operations_done = int(pipe.read() or 0)
    return Ended(exit_status, time.monotonic() - began, operations_done)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder but timing.jsonl, which holds times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timing.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def held(body: Callable[[], None]) -> Callable[[], None]:
    """The body with the lock on its folder that a command takes."""

    def run() -> None:
        hold(RUN)
        body()
        release_all()

    return run


class Cycles:
    """Kill cycles of some runs in a folder, each compared with an uninterrupted run."""

    def __init__(self, folder: Path, names: list[str], seed: int = 0) -> None:
        self.folder, self.names, self.random = folder, names, random.Random(seed)
        loss_curve(History([1], [1.0]), folder / "loss.svg")  # loads Matplotlib once for all runs
        gc.freeze()
        self.must_end(run_forked(lambda: prepare(folder), folder / "preparation"), folder / "preparation")
        self.expected: dict[str, dict[str, bytes]] = {}
        self.uninterrupted: dict[str, Ended] = {}
        for name in names:
            place = folder / f"{name}, whole"
            self.uninterrupted[name] = self.must_end(run_forked(held(RUNS[name]), place), place)
            self.expected[name] = contents(place / RUN)

    def must_end(self, ended: Ended, place: Path) -> Ended:
        if ended.status != 0:
            raise SystemExit(f"kill cycles: expected a run that ends, got {(place / 'output.txt').read_text()[-2000:]}")
        return ended

    def cycle(self, number: int) -> str | None:
        """Kill a run and resume it; returns None if the files agree, else what differs."""
        name = self.names[number // 2 % len(self.names)]
        place, whole = self.folder / f"{name}, {number}", self.uninterrupted[name]
        killed = False
        while not killed:  # a run that was faster than its kill is no cycle
            for path in sorted(place.rglob("*"), reverse=True) if place.exists() else ():
                path.rmdir() if path.is_dir() else path.unlink()
            if number % 2:
                ended = run_forked(held(RUNS[name]), place, kill_after=self.random.uniform(0.02, whole.seconds))
            else:
                ended = run_forked(held(RUNS[name]), place, kill_at=self.random.randint(1, whole.operations))
            killed = ended.killed
            if not killed and ended.status:
                return f"{name}: failed before its kill: {(place / 'output.txt').read_text()[-500:]}"
            if not killed:
                self.uninterrupted[name] = whole = ended  # the first run may have taken longer, compiling kernels
        if run_forked(held(RUNS[name]), place).status != 0:
            return f"{name}: resuming failed: {(place / 'output.txt').read_text()[-1500:]}"
        files, expected = contents(place / RUN), self.expected[name]
        different = [path for path in sorted({*files, *expected}) if files.get(path) != expected.get(path)]
        return f"{name}: different files: {', '.join(different)}" if different else None


def main(arguments: list[str] | None = None) -> int:
    """Run the cycles that the command line asks for; returns 0 if all agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_cycles", description=__doc__.split("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=100, help="number of kills (default: 100)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="what to kill (default: everything)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kills")
    options = parser.parse_args(arguments)
    agree = 0
    with tempfile.TemporaryDirectory() as folder:
        cycles = Cycles(Path(folder), options.runs, options.seed)
        for number in range(options.kills):
            difference = cycles.cycle(number)
            agree += difference is None
            if difference:
                print(f"kill {number + 1}: {difference}", flush=True)
            elif (number + 1) % 10 == 0:
                print(f"{number + 1} kills", flush=True)
    print(f"{agree} of {options.kills} kills resumed to the same bytes")
    return 0 if agree == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
