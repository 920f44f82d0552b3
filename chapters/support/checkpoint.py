"""Exact resumption: one file that holds all a training run is, written whole or not at all.

Parameters, AdamW's moments, the step, the state of the generator, the best loss and the length of metrics.jsonl stand
in the same safetensors file, so that no two of them can disagree. What was written to metrics.jsonl after the
checkpoint is cut off when the run resumes, and is then written again, the same.
"""

import itertools
import json
import os
from dataclasses import asdict
from pathlib import Path

import minigrad as mg
from chapters.support.figures import loss_curve
from chapters.support.run_folder import History, JsonLines, RunError, load_parameters
from minigrad.serialization import CheckpointError


class TrainingCheckpoint:
    """The loop's memory: counts steps, writes metrics, keeps checkpoints and the best parameters."""

    def __init__(self, model, optimizer, config, run, data):
        """data: text that tells this run's data and loss from others'."""
        self.model, self.optimizer, self.config, self.run = model, optimizer, config, run
        self.step, self.best, metrics_bytes = 0, None, 0
        self.checkpointed = None  # the step of the newest checkpoint
        self.path = run / "checkpoint.safetensors"
        free_to_change = ("resume", "checkpoint_every")  # neither leaves a trace in the metrics
        self.settings = {name: value for name, value in asdict(config).items() if name not in free_to_change}
        self.settings["data"] = data
        self.settings["parameters"] = {name: list(p.shape) for name, p in model.named_parameters()}
        if self.path.exists() and config.resume:
            state = load_checkpoint(self.path, model, optimizer, self.settings)
            self.step, self.best, metrics_bytes = state["step"], state["best"], state["metrics_bytes"]
            self.checkpointed = self.step
            mg.default_generator.set_state(state["generator"])
        elif self.path.exists():  # hours of work may lie in it: a fresh start puts it aside
            move_aside(self.path)
            move_aside(run / "metrics.jsonl")
        self.metrics = JsonLines(run / "metrics.jsonl", keep=metrics_bytes)
        self.clock = JsonLines(run / "timing.jsonl", keep=None if metrics_bytes else 0)
        run.describe(training=config)

    def due(self, every):
        """Whether something done every so many steps, and at the end, is done now."""
        return self.step % every == 0 or self.step == self.config.steps

    def stepped(self, **numbers):
        """A step is done: count it and write its line."""
        self.step += 1
        self.metrics.append(step=self.step, **numbers)

    def validated(self, loss, log):
        """Write an evaluation's line, and keep the parameters where they are the best so far."""
        self.metrics.append(step=self.step, validation_loss=loss)
        log(f"step {self.step:5d}: validation loss {loss:.4f}")
        if self.best is None or loss < self.best:
            self.best = loss
            if self.config.keep_best:
                mg.serialization.save(self.run / "best.safetensors", dict(self.model.named_parameters()))

    def checkpoint(self, **timing):
        """Write all that resuming needs.  Raises RunError where the disk refuses; the file before it then stays."""
        state = {
            "step": self.step,
            "best": self.best,
            "metrics_bytes": self.metrics.size(),
            "generator": mg.default_generator.get_state(),
            "settings": self.settings,
        }
        save_checkpoint(self.path, self.model, self.optimizer, state)
        self.checkpointed = self.step
        self.clock.append(step=self.step, **timing)

    def last_good(self):
        """One clause about what a stopped run can go back to."""
        if self.checkpointed is None:
            return "No checkpoint had been written yet."
        return f"The last good checkpoint, of step {self.checkpointed}, is {self.path}."

    def finish(self, tokens_per_second):
        """Draw the loss curve, put the best parameters back where that was asked for, and return the History."""
        best = self.run / "best.safetensors"
        if self.config.keep_best and self.best is not None:
            load_parameters(self.model, mg.serialization.load(best)[0], best)
        history = History.read(self.run)
        history.tokens_per_second = tokens_per_second
        loss_curve(history, self.run / "figures" / "loss.png", title=f"{self.run.folder.name}: loss")
        return history


def move_aside(path):
    """Rename a file to name.1, name.2, …, the first that is free, so that nothing is lost; do nothing if it is not there."""
    path = Path(path)
    if path.exists():
        number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.{n}").exists())
        os.replace(path, path.with_name(f"{path.name}.{number}"))


def save_checkpoint(path, model, optimizer, state):
    """state: what else must survive (the step, the generator, …), JSON-able.  The file is replaced whole or not at all.

    Raises RunError where it cannot be written.
    """
    arrays = {f"parameters.{name}": parameter for name, parameter in model.named_parameters()}
    arrays |= {f"optimizer.{name}": moment for name, moment in optimizer_arrays(optimizer).items()}
    try:
        mg.serialization.save(path, arrays, metadata={"state": json.dumps(state)})
    except (OSError, CheckpointError) as error:
        kept = f"the one before ({path}) is intact" if Path(path).exists() else "there is none yet"
        raise RunError(f"the checkpoint of step {state['step']} could not be written, {kept}: {error}") from error


def load_checkpoint(path, model, optimizer, settings):
    """Put the checkpoint's numbers into model and optimizer; returns the rest of its state.

    Raises RunError where it was written under other settings, naming the first that differs.
    """
    arrays, metadata = mg.serialization.load(path)
    if "state" not in metadata:
        raise RunError(f"{path} is not a training checkpoint")
    state = json.loads(metadata["state"])
    for name, now in json.loads(json.dumps(settings)).items():
        then = state["settings"].get(name)
        if then != now:
            raise RunError(
                f"{path} belongs to a run with {name} = {then}, not {now}: "
                "use its settings, choose another run folder, or do without resume"
            )
    load_parameters(model, strip_prefix("parameters.", arrays), path)
    load_optimizer_arrays(optimizer, strip_prefix("optimizer.", arrays))
    return state


def strip_prefix(prefix, arrays):
    """{name: array} of those whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def optimizer_arrays(optimizer):
    """AdamW's memory under flat names, as a file has them: {"7.exp_avg": …, "7.exp_avg_sq": …, "7.step": …}."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, moments in state.items() for key, value in moments.items()}


def load_optimizer_arrays(optimizer, flat):
    """Put back what moments_of gave."""
    state = {}
    for name, value in flat.items():
        i, key = name.split(".")
        state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
