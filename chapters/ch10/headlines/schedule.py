"""The order in which rows, and the models that they share, are made in one world or in several, two or more at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from chapters.ch10.headlines.experiment import Experiment, Measurement, Row
from chapters.ch10.headlines.settings import Models
from chapters.support.side_by_side import at_the_same_time, run_side_by_side
from minigrad import processor


@dataclass(frozen=True)
class Replicate:
    """Everything that a process needs to measure rows in one world."""

    world: int
    folder: Path
    models: Models
    main: Path | None  # folder of a main job with this world, see Experiment
    settings: Mapping[str, Any]  # by the rows' names
    registered: Mapping[str, str | None]  # digests of the rows' registrations, None outside the test worlds

    def experiment(self) -> Experiment:
        return Experiment(self.world, self.folder, self.models, self.main)

    def measure(self, row: Row, experiment: Experiment | None = None) -> Measurement:
        """The row's result, from its file if an earlier run has measured it."""
        experiment = experiment or self.experiment()
        return experiment.measurement(row, self.settings[row.name], self.registered[row.name])

    def make_tokenizer(self) -> None:
        _ = self.experiment().tokenizer

    def make_model(self, size: str, assistant: bool) -> None:
        """Train the base model of a size, and the assistant too if several rows may start from it."""
        experiment = self.experiment()
        (experiment.assistant if assistant else experiment.base)(size)

    def size(self, row: Row) -> str:
        """The size of the assistant that the row starts from: its settings may choose one."""
        return getattr(self.settings[row.name], "size", "main")


def measure_side_by_side(replicates: Sequence[Replicate], rows: Sequence[Row], processes: int) -> None:
    """Measure the rows that have no result yet, several at a time: first the models that rows share, then the longest rows."""
    tasks: dict[str, Callable[[], Any]] = {}
    needs: dict[str, list[str]] = {}
    for replicate in replicates:
        here = f"world {replicate.world}, "
        missing = [row for row in rows if not (replicate.folder / f"{row.name}.json").exists()]
        if missing:
            tasks[here + "tokenizer"] = replicate.make_tokenizer
        sizes = {row.name: {*row.sizes, replicate.size(row)} for row in missing}
        for size in ("large", "main", "small"):
            if any(size in of_row for of_row in sizes.values()):
                assistant = any(size == replicate.size(row) for row in missing)
                tasks[f"{here}{size} model"] = partial(replicate.make_model, size, assistant)
                needs[f"{here}{size} model"] = [here + "tokenizer"]
        for row in sorted(missing, key=lambda row: -row.minutes):
            tasks[here + row.name] = partial(replicate.measure, row)
            needs[here + row.name] = [f"{here}{size} model" for size in sizes[row.name]]
    if not tasks:
        return

    def ended(name: str, seconds: float, running: Mapping[str, float]) -> None:
        print(f"{name}: {seconds / 60:.1f} minutes", flush=True)

    processor.precompile()
    print(f"Up to {processes} rows or models {at_the_same_time(processes)}.", flush=True)
    run_side_by_side(tasks, needs, processes, ended)
