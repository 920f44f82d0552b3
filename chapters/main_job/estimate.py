"""Estimates the main job's time: the seconds of a training step, times the cost of each stage in such steps."""

import time
from collections.abc import Mapping, Sequence, Set

import numpy as np

import minigrad as mg
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import train_plainly
from chapters.main_job.first_bend import Job

# The cost of each stage in AdamW steps of the full or the quick form's model, as measured on two Zen 3 or Zen 4 cores.
# Pretraining had both threads; where two stages run at the same time, each had one.
COSTS = {
    "full": dict(
        world=75,
        tokenizer=170,
        pretrain=3100,
        sample=105,
        classify=340,
        sft=1370,
        evaluate=100,
        assistant=1750,
        reward=1650,
        rlhf=1280,
        critic=3100,
        constitution=1870,
        side_by_side=330,
    ),
    "quick": dict(
        world=20,
        tokenizer=80,
        pretrain=1350,
        sample=65,
        classify=390,
        sft=1000,
        evaluate=75,
        assistant=960,
        reward=450,
        rlhf=420,
        critic=1370,
        constitution=1120,
        side_by_side=145,
    ),
}
SECOND_THREAD = 1.4  # how much faster a second thread makes a stage


def seconds_of_a_step(job: Job, measure_for: float = 1.0) -> float:
    """The time of a training step of the job's model on random tokens: the median of several measurements."""
    random_state = mg.default_generator.get_state()
    model = GPT(GPTConfig(vocab_size=job.plan.vocab_size, **job.plan.model), generator=mg.Generator(0))
    tokens = np.random.default_rng(0).integers(0, job.plan.vocab_size, 10_000)
    batches = NextTokenBatches(tokens, model.config.context, job.plan.pretrain.batch_size, 0)
    train_plainly(model, batches, 2)  # warms up
    times: list[float] = []
    while len(times) < 3 or 2 * sum(times) < measure_for:
        begin = time.perf_counter()
        train_plainly(model, batches, 2)
        times.append((time.perf_counter() - begin) / 2)
    mg.default_generator.set_state(random_state)
    return float(np.median(times))


class TimeEstimate:
    """The time until the job ends, corrected by the time of every stage that has ended.

    Args:
        costs: one of COSTS.
        step_seconds: the time of a training step.
        needs: the stages that share the processor, in order, each with the stages that it needs.
        processes: how many of them run at once. With one process every stage runs alone, with all threads.
        resumed: the stages that an earlier run has begun. They count in full, since nobody knows how much of them is done, and
            their times correct nothing.
    """

    def __init__(
        self,
        costs: Mapping[str, float],
        step_seconds: float,
        needs: Mapping[str, Sequence[str]],
        processes: int,
        resumed: Set[str] = frozenset(),
    ):
        self.step_seconds, self.needs, self.processes, self.resumed = step_seconds, needs, processes, resumed
        self.seconds = {name: cost * step_seconds for name, cost in costs.items()}
        if processes == 1:
            self.seconds |= {name: self.seconds[name] / SECOND_THREAD for name in needs}
        self.estimated_seconds = self.measured_seconds = 0.0  # of all stages that have ended

    def record(self, stage: str, seconds: float) -> None:
        """Correct the estimate by the time that a stage took. Longer stages count for more."""
        if stage not in self.resumed:
            self.estimated_seconds += self.seconds[stage]
            self.measured_seconds += seconds

    def seconds_left(self, missing: Set[str], running: Mapping[str, float] | None = None) -> float:
        """Seconds until the missing stages have ended.

        running: those that run at the moment, with the seconds since their start.
        """
        running = running or {}
        correction = self.measured_seconds / self.estimated_seconds if self.estimated_seconds else 1.0
        times = {name: max(0.0, self.seconds[name] * correction - running.get(name, 0.0)) for name in missing}
        shared = {name for name in missing if name in self.needs and self.processes > 1}
        waiting = [name for name in self.needs if name in shared]
        waiting.sort(key=lambda name: name not in running)  # those that run keep their process
        return sum(times[name] for name in missing - shared) + self._pool_seconds(waiting, times)

    def _pool_seconds(self, waiting: list[str], times: Mapping[str, float]) -> float:
        """Play the pool of processes: when does its last stage end?"""
        now, ends = 0.0, dict[str, float]()
        while waiting or ends:
            not_done = {*waiting, *ends}
            ready = [name for name in waiting if not_done.isdisjoint(self.needs[name])]
            for name in ready[: self.processes - len(ends)]:
                waiting.remove(name)
                ends[name] = now + times[name]
            now = ends.pop(min(ends, key=ends.__getitem__))
        return now


def in_words(seconds: float) -> str:
    """A time in words, as precise as an estimate deserves.

    >>> in_words(1344), in_words(100), in_words(20)
    ('about 22 minutes', 'about 2 minutes', 'less than a minute')
    """
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'s' * (minutes > 1)}" if seconds >= 50 else "less than a minute"
