"""Chapter 7's step when several ranks share it: each batch is cut into shards, and each shard has a backward pass of its own.

The mean loss of a batch is the weighted mean of its shards' losses; a shard weighs as much as it has graded tokens (or rows, or
comparisons). So the sum of the shards' gradients is the batch's gradient, up to rounding.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.support.batches import IGNORE_INDEX, Batches
from chapters.support.ranks import compare_with_rank_0
from minigrad import Tensor, distributed
from minigrad.distributed.gradients import GradientExchange
from minigrad.distributed.sharded import ShardedOptimizer

Shard = tuple[Sequence[np.ndarray], float]  # arrays, as a batch has them, and the shard's weight


def cut_into_shards(batches: Batches, step: int, count: int) -> list[Shard]:
    """The shards of batch(step), whose weights add up to 1: rows in order, as equal in number as possible.

    Batches that are no table of rows have a method `shards(step, count)` of their own.

    Raises:
        RankError: if the batch has fewer rows than shards.
    """
    if hasattr(batches, "shards"):
        return batches.shards(step, count)
    arrays = batches.batch(step)
    check_enough(len(arrays[0]), count)
    parts = list(zip(*(np.array_split(array, count) for array in arrays)))
    graded = [np.count_nonzero(part[-1] != IGNORE_INDEX) for part in parts]
    return [(part, n / max(1, sum(graded))) for part, n in zip(parts, graded)]


def shards_of(numbers: np.ndarray, arrays_of: Callable[[np.ndarray], Sequence[np.ndarray]], count: int) -> list[Shard]:
    """The shards of a batch that is made of examples, (B,) numbers, each of which fills several rows."""
    check_enough(len(numbers), count)
    return [(arrays_of(part), len(part) / len(numbers)) for part in np.array_split(numbers, count)]


def check_enough(size: int, count: int) -> None:
    """Raise RankError if a batch of this size cannot fill `count` shards."""
    if size < count:
        raise distributed.RankError(
            f"shards: expected at least one row for each of {count} shards, got a batch of {size}; give fewer shards, "
            "or start fewer processes"
        )


class SharedTraining:
    """Computes the gradients of chapter 7's steps together with the other ranks, inside a with block.

    optimizer: the whole optimizer.  config: a TrainConfig.

    Attributes:
        optimizer: the optimizer to step with; with config.shard_optimizer, a ShardedOptimizer.
    """

    def __init__(self, model: nn.Module, optimizer: mg.optim.Optimizer, config: Any):
        self.model, self.sharing, self.accumulation = model, distributed.current(), config.grad_accumulation
        self.optimizer: Any = optimizer
        parameters = [p for p in model.parameters() if p.requires_grad]
        terms = self.accumulation * self.sharing.shards
        if config.shard_optimizer:
            self.optimizer = ShardedOptimizer(optimizer, parameters, self.sharing, terms)
            self.exchange = self.optimizer.exchange
        else:
            self.exchange = GradientExchange(parameters, self.sharing, terms)

    def forward_and_backward(
        self, batches: Batches, step: int, loss_of: Callable[[Sequence[np.ndarray]], Tensor]
    ) -> tuple[list[float], int]:
        """Make .grad the gradient of a step's mean loss, over all ranks' shards.

        loss_of: the mean loss of a shard's arrays.

        Returns:
            The shards' parts of the mean loss, which add up to it, and the number of tokens in the step.
        """
        seed, losses, tokens = mg.default_generator.draw_seed(), [], 0
        random_state = mg.default_generator.get_state()
        latest, shards = -1, list[Shard]()  # the number of the latest batch, and its shards
        for i, term in enumerate(self.exchange.own_terms):
            micro, shard = divmod(term, self.sharing.shards)
            if micro != latest:
                latest, shards = micro, cut_into_shards(batches, step * self.accumulation + micro, self.sharing.shards)
            arrays, weight = shards[shard]
            mg.manual_seed(seed + term)  # dropout depends on the shard and not on the rank
            with self.exchange.collect(i):
                loss = loss_of(arrays) * (weight / self.accumulation)
                if weight:  # the mean over no graded tokens is NaN
                    loss.backward()
            losses.append(loss.item() if weight else 0.0)
            tokens += math.prod(arrays[0].shape)
        mg.default_generator.set_state(random_state)
        notes = self.exchange.finish((losses, tokens))
        return [loss for theirs, _ in notes for loss in theirs], sum(n for _, n in notes)

    def __enter__(self) -> "SharedTraining":
        return self

    def __exit__(self, *error: Any) -> None:
        self.exchange.close()

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip the gradients' common norm; returns the norm before it."""
        if isinstance(self.optimizer, ShardedOptimizer):
            return self.optimizer.clip_grad_norm_(max_norm)
        return mg.optim.clip_grad_norm_(self.model.parameters(), max_norm)


def share_training(model: nn.Module, optimizer: mg.optim.Optimizer, config: Any, data: str) -> SharedTraining | None:
    """The training of a model that has made no step, shared with the other ranks; None if a batch is a single shard.

    data: a text that identifies the batches.

    Raises RankError if the ranks differ in data or model.
    """
    if distributed.current().shards == 1:
        return None
    compare_with_rank_0({"data": data, "initial parameters": checksum_of(model)})
    return SharedTraining(model, optimizer, config)


def checksum_of(model: nn.Module) -> str:
    """A checksum of all parameters."""
    crc = 0
    for p in model.parameters():
        crc = zlib.crc32(np.ascontiguousarray(p.numpy(force=True)).data, crc)
    return f"{crc:08x}"
