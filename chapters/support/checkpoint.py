"""Exact resumption: one file holds everything that a training loop needs, written whole or not at all.

Parameters, AdamW's moments, the step, the generator's state, and the length and checksum of metrics.jsonl share one file,
so no two of them can disagree. A resumed run cuts off the lines that metrics.jsonl gained after the checkpoint, and
writes the same bytes again. `TrainingCheckpoint` serves chapter 7's loop, `LoopCheckpoint` chapter 10's RLHF.
"""

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.support.figures import loss_curve
from chapters.support.json_files import check_fields
from chapters.support.run_folder import WHAT_TO_DO, History, JsonLines, Run, RunError, load_parameters, read_metrics
from minigrad import distributed, processor
from minigrad.checked_json import parse_json
from minigrad.serialization import CheckpointError, short

# What the constructor needs of the state beside the counter.
STATE: dict[str, Any] = {"metrics_bytes": int, "metrics_crc": int, "generator": dict, "settings": dict}
STATE |= {"best": float | None, "numbers": dict[str, float]}
FREE = ("resume", "checkpoint_every", "shard_optimizer")  # may change on resuming, since they leave no trace in the metrics
DEFAULTS_OF_OLD_CHECKPOINTS = {"shards": 1}  # settings that earlier versions did not write, and what they were


class Checkpoint:
    """The checkpoint file of a loop, and the metrics.jsonl beside it.

    The constructor restores models, optimizers and generator if `resume` is set and the folder holds a checkpoint;
    `state` then holds the values that `write` stored. A fresh start renames an old checkpoint and its metrics,
    so it loses nothing.

    Args:
        counter: name under which the file counts the loop's progress, "step" or "iteration".
        models: {prefix of names in the file: (model, its optimizer or None)}.
        settings: JSON-able; a checkpoint written under other settings is refused.

    Raises:
        RunError: if the checkpoint belongs to another run, naming the first setting that differs.
        CheckpointError: if the file is damaged.
    """

    def __init__(
        self,
        run: Run,
        counter: str,
        models: dict[str, tuple[nn.Module, mg.optim.AdamW | None]],
        generator: mg.Generator,
        settings: dict[str, Any],
        resume: bool,
    ) -> None:
        self.run, self.counter, self.models, self.generator = run, counter, models, generator
        self.path = run / "checkpoint.safetensors"
        settings = settings | {"shards": distributed.current().shards}
        self.settings = json.loads(json.dumps(settings))  # as the file will have them: tuples become lists
        self.state: dict[str, Any] = {}
        if self.path.exists() and resume:
            self.state = self._read()
        elif self.path.exists():
            move_aside(self.path.parent)
        self.metrics = JsonLines(run / "metrics.jsonl", self.state.get("metrics_bytes", 0), self.state.get("metrics_crc"))

    def _read(self) -> dict[str, Any]:
        arrays, metadata = mg.serialization.load(self.path)
        not_ours = f"resume: {self.path} is not a checkpoint of this loop"
        try:
            state = parse_json(metadata.get("state", "{}"))
            check_fields(state, STATE | {self.counter: int}, "state", optional=("best", "numbers", "metrics_crc"))
            if min(state[self.counter], state["metrics_bytes"]) < 0:
                raise ValueError("state: expected counts of at least 0")
        except ValueError as error:
            raise RunError(f"{not_ours} ({error}); delete it or choose another run folder") from None
        for name, value in self.settings.items():
            stored = state["settings"].get(name, DEFAULTS_OF_OLD_CHECKPOINTS.get(name))
            if stored != value:
                raise RunError(f"resume: {self.path} belongs to a run with {name} = {short(stored)}, not {value}; {WHAT_TO_DO}")
        try:
            for prefix, (model, optimizer) in self.models.items():
                load_parameters(model, strip_prefix(f"{prefix}parameters.", arrays), self.path)
                if optimizer:
                    load_optimizer_arrays(optimizer, strip_prefix(f"{prefix}optimizer.", arrays))
            self.generator.set_state(state["generator"])
        except ValueError as error:
            raise CheckpointError(f"{self.path} is damaged: {error}; delete it or choose another run folder") from None
        threads = state.get("threads", processor.get_num_threads())
        if threads != processor.get_num_threads() and mg.get_default_device() == "cpu":
            print(
                f"resume: {self.path} was written with {threads} threads, and this process has {processor.get_num_threads()}; "
                "sums take another order, so the last digits will differ from an uninterrupted run's",
                file=sys.stderr,
            )
        return state

    def write(self, count: int, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> None:
        """Replace the file whole or not at all.

        Args:
            count: steps or iterations done.
            before, after: further JSON-able state of the loop; the file lists it before and after the metrics' length
                and the generator's state.

        Raises:
            RunError: if the disk refuses; the previous checkpoint then stays.
        """
        arrays: dict[str, Any] = {}
        for prefix, (model, optimizer) in self.models.items():
            arrays |= {f"{prefix}parameters.{name}": parameter for name, parameter in model.named_parameters()}
            if optimizer:  # every rank helps to collect the state of a sharded optimizer
                arrays |= {f"{prefix}optimizer.{name}": moment for name, moment in optimizer_arrays(optimizer).items()}
        if not distributed.current().leads:
            return
        state = {self.counter: count, **(before or {}), "metrics_bytes": self.metrics.size()}
        state |= {"metrics_crc": self.metrics.crc, "threads": processor.get_num_threads()}
        state |= {"generator": self.generator.get_state(), **(after or {}), "settings": self.settings}
        try:
            mg.serialization.save(self.path, arrays, metadata={"state": json.dumps(state)})
        except (OSError, CheckpointError) as error:
            previous = f"the previous one ({self.path}) is intact" if self.path.exists() else "there is no earlier one"
            raise RunError(f"the checkpoint of {self.counter} {count} could not be written, {previous}: {error}") from error


class TrainingCheckpoint(Checkpoint):
    """The bookkeeping of chapter 7's loop: counts steps, writes metrics, saves checkpoints and the best parameters.

    config: a TrainConfig.  data: text that identifies the run's data and loss.
    """

    def __init__(self, model: nn.Module, optimizer: mg.optim.AdamW, config: Any, run: Run, data: str) -> None:
        self.model, self.config = model, config
        settings = _comparable(config)
        settings["data"] = data
        settings["parameters"] = {name: list(p.shape) for name, p in model.named_parameters()}
        super().__init__(run, "step", {"": (model, optimizer)}, mg.default_generator, settings, config.resume)
        self.step: int = self.state.get("step", 0)
        self.best: float | None = self.state.get("best")
        self.first_step = self.step  # where this process began
        self.saved_step = self.step if self.state else None
        self.tokens, self.seconds = 0, 1e-9
        self.clock = JsonLines(run / "timing.jsonl", keep=None if self.state else 0)
        run.describe(training=config)

    def due(self, every: int) -> bool:
        """Whether an action that runs every `every` steps, and after the last step, is due now."""
        return self.step % every == 0 or self.step == self.config.steps

    def count_step(self, tokens: int, seconds: float, **numbers: float) -> None:
        """Count a finished step and write its line."""
        if self.step > self.first_step:  # a process's first step also waits for kernels to be compiled or loaded
            self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
        self.step += 1
        self.metrics.append(step=self.step, **numbers)

    def validated(self, loss: float, log: Callable[[str], None]) -> None:
        """Write an evaluation's line, and store the parameters if they are the best so far and the config asks for it."""
        self.metrics.append(step=self.step, validation_loss=loss)
        log(f"step {self.step:5d}: validation loss {loss:.4f}")
        if self.best is None or loss < self.best:
            self.best = loss
            if self.config.keep_best:
                mg.serialization.save(self.run / "best.safetensors", dict(self.model.named_parameters()))

    def save(self) -> None:
        self.write(self.step, before={"best": self.best})
        self.saved_step = self.step
        self.clock.append(step=self.step, tokens=self.tokens, seconds=self.seconds)

    def last_good(self) -> str:
        """A sentence about the checkpoint that a stopped run can return to."""
        if self.saved_step is None:
            return "No checkpoint has been written yet"
        return f"The last good checkpoint, of step {self.saved_step}, is {self.path}"

    def finish(self) -> History:
        """Draw the loss curve, restore the best parameters if the config asks for it, and return the History."""
        best = self.run / "best.safetensors"
        if self.config.keep_best and self.best is not None:
            load_parameters(self.model, mg.serialization.load(best)[0], best)
        history = History.read(self.run)
        history.tokens_per_second = self.tokens / self.seconds if self.tokens else float("nan")
        try:
            loss_curve(history, self.run / "figures" / "loss.svg", title=f"{self.run.folder.name}: loss")
        except Exception as error:  # the caller saves the model next, and a picture must not cost it
            print(f"figure: loss.svg is missing ({error}); its numbers are in {self.metrics.path}", file=sys.stderr)
        return history


class LoopCheckpoint(Checkpoint):
    """The bookkeeping of chapter 10's RLHF loop, with as many models and optimizers as the learner trains.

    `iteration` is the next iteration, `records` has a dict for each finished iteration. The learner may have
    `trained`, [(model, optimizer)], and `numbers`, {name: number}; without `trained` the policy alone is stored.
    """

    def __init__(self, run: Run, policy: nn.Module, learner: Any, generator: mg.Generator, config: Any) -> None:
        self.learner, self.checkpoint_every = learner, config.checkpoint_every
        models = {f"{i}.": pair for i, pair in enumerate(getattr(learner, "trained", [(policy, None)]))}
        super().__init__(run, "iteration", models, generator, _comparable(config), config.resume)
        self.iteration: int = self.state.get("iteration", 0)
        if self.state.get("numbers"):
            learner.numbers = self.state["numbers"]
        self.records: list[dict[str, Any]] = [*read_metrics(run / "metrics.jsonl")]

    def record(self, record: dict[str, Any]) -> None:
        """Write the line of a finished iteration, and a checkpoint every config.checkpoint_every iterations."""
        self.metrics.append(**record)
        self.records.append(record)
        self.iteration += 1
        if self.iteration % self.checkpoint_every == 0:
            self.save()

    def save(self) -> None:
        self.write(self.iteration, after={"numbers": getattr(self.learner, "numbers", {})})

    def close(self) -> None:
        self.metrics.file.close()


def _comparable(config: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in FREE}


def move_aside(folder: Path) -> None:
    """Rename a folder's checkpoint and metrics.jsonl to name.1, name.2, …, whichever is free first."""
    for path in (folder / "checkpoint.safetensors", folder / "metrics.jsonl"):
        if path.exists():
            number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.{n}").exists())
            os.replace(path, path.with_name(f"{path.name}.{number}"))


def strip_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays whose names begin with the prefix, under the rest of their names.

    >>> strip_prefix("a.", {"a.x": 1, "b.x": 2})
    {'x': 1}
    """
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def optimizer_arrays(optimizer: mg.optim.AdamW) -> dict[str, Any]:
    """AdamW's state under flat names: {"7.exp_avg": …, "7.exp_avg_sq": …, "7.step": …}."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, moments in state.items() for key, value in moments.items()}


def load_optimizer_arrays(optimizer: mg.optim.AdamW, flat: dict[str, Any]) -> None:
    """Restore the state that `optimizer_arrays` returned.  Raises ValueError if the entries do not fit the optimizer."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in flat.items():
        i, _, key = name.partition(".")
        if not i.isdecimal() or value.dtype.kind not in "fi" or not np.isfinite(value).all() or key == "step" and value.shape:
            raise ValueError(f"optimizer: expected finite moments and a step for each parameter, got {short(name)}")
        state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@contextmanager
def deferred_interrupt() -> Iterator[list[int]]:
    """Yield a list that Ctrl-C fills, so that the loop can finish its step; a second Ctrl-C interrupts at once."""
    pressed: list[int] = []

    def on_interrupt(signum: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(signum)

    try:
        before = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # only the main thread may set a handler
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
