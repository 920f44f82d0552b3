"""How long the main job will take on this machine: the time of a training step, times what each stage costs in such steps."""

import time
from collections.abc import Mapping, Sequence, Set

import numpy as np

import minigrad as mg
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import train_plainly
from chapters.main_job.first_bend import Job

# What each stage costs in steps of pretraining, in the full and the quick form. Measured on two Zen 3 cores (AVX2), where two
# stages at a time have one thread each.
COSTS = {
    "world": (22, 6),
    "tokenizer": (48, 18),
    "pretrain": (4400, 1300),
    "sample": (34, 51),
    "classify": (299, 377),
    "sft": (2070, 1190),
    "evaluate": (135, 64),
    "assistant": (2080, 680),
    "reward": (2780, 467),
    "rlhf": (1820, 411),
    "constitution": (5700, 877),
    "side_by_side": (241, 97),
}


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


class Clock:
    """The time until the job ends, corrected by the time of every stage that has ended.

    Args:
        seconds: the time of a training step.
        quick: whether it is the quick form.
        needs: the stages that share the processor, in order, each with the stages it needs.
        processes: how many of them run at once; with one process, all stages run one after the other.
    """

    def __init__(self, seconds: float, quick: bool, needs: Mapping[str, Sequence[str]], processes: int):
        self.seconds, self.needs, self.processes = seconds, needs, processes
        self.costs = {name: costs[quick] for name, costs in COSTS.items()}
        self.expected = self.taken = 0.0  # seconds of all stages that have ended

    def ended(self, name: str, seconds: float) -> None:
        """Learn from the time that a stage took. Longer stages count for more."""
        self.expected += self.costs[name] * self.seconds
        self.taken += seconds

    def left(self, missing: Set[str], running: Mapping[str, float] | None = None) -> float:
        """Seconds until the missing stages have ended; running: the seconds that some of them have run already."""
        correction = self.taken / self.expected if self.expected else 1.0
        times = {name: self.costs[name] * self.seconds * correction for name in missing}
        for name, seconds in (running or {}).items():
            times[name] = max(0.0, times[name] - seconds)
        together = [name for name in self.needs if name in missing] if self.processes > 1 else []
        return sum(times[name] for name in missing - set(together)) + self._side_by_side(together, times)

    def _side_by_side(self, waiting: list[str], times: Mapping[str, float]) -> float:
        """Play the pool of processes: when does its last stage end?"""
        now, ends = 0.0, dict[str, float]()
        while waiting or ends:
            blocked = {*waiting, *ends}
            ready = [name for name in waiting if blocked.isdisjoint(self.needs[name])]
            for name in ready[: self.processes - len(ends)]:
                waiting.remove(name)
                ends[name] = now + times[name]
            now = ends.pop(min(ends, key=ends.__getitem__))
        return now


def text_of(seconds: float) -> str:
    """A time in words, as precise as an estimate deserves.

    >>> text_of(1344), text_of(100), text_of(20)
    ('about 22 minutes', 'about 2 minutes', 'less than a minute')
    """
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'s' * (minutes > 1)}" if seconds >= 50 else "less than a minute"
