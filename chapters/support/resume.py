"""Chapter 10, a stopped second bend goes on: everything that the loop of ch10/rlhf is, in one file.

The same as chapters/checkpoint.py does for chapter 7's loop, for a loop with several models and optimisers: parameters,
AdamW's moments, the learner's numbers, the state of the dice, and how long metrics.jsonl was. Killed at any iteration and
started again, a run ends in the same bytes.
"""

import json
from dataclasses import asdict

import minigrad as mg
from chapters.support.checkpoint import load_optimizer_arrays, move_aside, optimizer_arrays, strip_prefix
from chapters.support.run_folder import JsonLines, RunError, load_parameters
from minigrad.serialization import CheckpointError

FREE = ("resume", "checkpoint_every")  # settings that may change when a run goes on: neither leaves a trace


class LoopCheckpoint:
    """Where the loop is.  policy: the model that learns; learner: as in ch10/rlhf; it is asked for `trained`, [(model,
    optimiser)], and `numbers`, {name: number}, and may have neither.

    After construction `iteration` is the next one, `records` are those before it, and the dice, the models and the
    optimisers are as they were: all at the start, unless config.resume is set and the run's folder holds a checkpoint.
    """

    def __init__(self, run, policy, learner, generator, config):
        self.run, self.config, self.generator, self.learner = run, config, generator, learner
        self.trained = getattr(learner, "trained", [(policy, None)])
        self.path, self.iteration, self.records = run / "checkpoint.safetensors", 0, []
        settings = {name: value for name, value in asdict(config).items() if name not in FREE}
        self.settings = json.loads(json.dumps(settings))
        kept = 0
        if self.path.exists() and config.resume:
            kept = self.load()
        elif self.path.exists():  # a fresh start puts aside what an hour may have gone into
            move_aside(self.path)
            move_aside(run / "metrics.jsonl")
        self.metrics = JsonLines(run / "metrics.jsonl", keep=kept)
        if kept:
            lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            self.records = [json.loads(line) for line in lines]

    def record(self, record):
        """An iteration is done: write its line; every config.checkpoint_every-th is kept."""
        self.metrics.append(**record)
        self.records.append(record)
        self.iteration += 1
        if self.iteration % self.config.checkpoint_every == 0:
            self.save()

    def save(self):
        """Write the checkpoint.  Raises RunError where it cannot be written; the one before then stays."""
        arrays = {}
        for i, (model, optimizer) in enumerate(self.trained):
            arrays.update({f"{i}.parameters.{name}": p for name, p in model.named_parameters()})
            if optimizer:
                arrays.update({f"{i}.optimizer.{name}": moment for name, moment in optimizer_arrays(optimizer).items()})
        state = {
            "iteration": self.iteration,
            "metrics_bytes": self.metrics.size(),
            "generator": self.generator.get_state(),
            "numbers": getattr(self.learner, "numbers", {}),
            "settings": self.settings,
        }
        try:
            mg.serialization.save(self.path, arrays, metadata={"state": json.dumps(state)})
        except (OSError, CheckpointError) as error:
            raise RunError(f"the checkpoint of iteration {self.iteration} could not be written: {error}") from error

    def load(self):
        """Put everything back as the checkpoint has it; returns the bytes of metrics.jsonl that it knew."""
        arrays, metadata = mg.serialization.load(self.path)
        state = json.loads(metadata.get("state", "{}"))
        if "iteration" not in state:
            raise RunError(f"{self.path} is not a checkpoint of this loop; delete it or choose another run folder")
        for name, now in self.settings.items():
            then = state["settings"].get(name)
            if then != now:
                raise RunError(
                    f"{self.path} belongs to a run with {name} = {then}, not {now}: "
                    "use its settings, choose another run folder, or do without resume"
                )
        for i, (model, optimizer) in enumerate(self.trained):
            load_parameters(model, strip_prefix(f"{i}.parameters.", arrays), self.path)
            if optimizer:
                load_optimizer_arrays(optimizer, strip_prefix(f"{i}.optimizer.", arrays))
        if state["numbers"]:
            self.learner.numbers = state["numbers"]
        self.generator.set_state(state["generator"])
        self.iteration = state["iteration"]
        return state["metrics_bytes"]

    def close(self):
        self.metrics.file.close()
