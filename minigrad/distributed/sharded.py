"""ZeRO, stage 1: each rank keeps the optimizer's state for its own part of the parameters.

AdamW keeps two numbers for every parameter, as much memory again as parameters and gradients together, and N ranks with equal
models keep N equal copies. Instead rank r updates part r of the parameters, for which it alone keeps the state. It needs the
gradient of its own part only (a reduce_scatter), and then sends the new parameters to all others (an all_gather). These are the
two halves of the all_reduce that the ranks would do anyway, so nothing more is sent.

Source: Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models (arXiv:1910.02054),
section 5.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import kernels
from kernels.adamw.reference import SPAN
from minigrad.distributed import Sharing
from minigrad.distributed.gradients import Bucket, GradientExchange
from minigrad.optim.optimizer import Optimizer
from minigrad.tensor import Tensor


class ShardedOptimizer:
    """An optimizer that keeps the state of this rank's part of the parameters, and steps like the whole one, byte for byte.

    A rank's part begins at a multiple of SPAN numbers of a parameter, so that all ranks add up squares in the same spans.
    Muon's matrices are not cut.

    Args:
        optimizer: the whole optimizer, which has made no step and now changes this rank's part alone.
        parameters: all parameters, in the same order on every rank.
        sharing, terms: as for GradientExchange.

    Attributes:
        exchange: the GradientExchange that fills .grad. `step` and `clip_grad_norm_` need its finish().
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor], sharing: Sharing, terms: int):
        self.optimizer, self.group, self.parameters = optimizer, sharing.group, list(parameters)
        groups = optimizer.param_groups
        uncut = {id(p) for group in groups if group.get("use_muon") for p in group["params"]}
        ends = ends_of_parts(parameters, uncut, self.group.size)
        self.exchange = GradientExchange(parameters, sharing, terms, lambda bucket: bounds_in(bucket, parameters, ends))
        self.own = self._own_parts()
        self.whole = [list(group["params"]) for group in groups]
        for group in groups:
            group["params"] = [self.own[id(p)][0] for p in group["params"] if id(p) in self.own]

    def _own_parts(self) -> dict[int, tuple[Tensor, slice]]:
        """id(parameter) -> this rank's part of it as a leaf of its own, and its place in the flattened parameter."""
        parts, rank = {}, self.group.rank
        for bucket, bounds in zip(self.exchange.buckets, self.exchange.bounds):
            for p, inside, _ in bucket.overlaps(*bounds[rank : rank + 2]):
                cut = Tensor(p.array.reshape(-1)[inside], requires_grad=True)  # shares the parameter's memory
                parts[id(p)] = (p if cut.numel() == p.numel() else cut), inside
        return parts

    def _give_gradients(self) -> None:
        for p in self.parameters:
            part, inside = self.own.get(id(p), (p, None))
            if part is not p:
                part.grad = None if p.grad is None else Tensor(p.grad.array.reshape(-1)[inside])

    # ── what a training loop calls ──

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups with their settings, such as the learning rate."""
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        """Drop every parameter's gradient."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Update this rank's part, and fetch the others' parts."""
        self._give_gradients()
        self.optimizer.step()
        self.exchange.gather_parameters()

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """minigrad.optim.clip_grad_norm_ for gradients of which each rank has a part; returns the norm before scaling."""
        self._give_gradients()
        parts = [self.own[id(p)][0] if id(p) in self.own and p.grad is not None else None for p in self.parameters]
        gradients = [part.grad.array for part in parts if part is not None]
        square_sums = [_square_sums(part.grad.array) if part is not None else [] for part in parts]
        every = zip(*self.group.gather_objects(square_sums))  # parameter by parameter, the sums of all ranks
        norm = math.sqrt(np.array([s for sums in every for theirs in sums for s in theirs]).sum())
        factor = min(max_norm / (norm + 1e-6), 1)
        if factor != 1 and gradients:  # NaN too
            kernels.serving(gradients[0]).scale_arrays(gradients, factor)
        return Tensor(np.asarray(norm, self.parameters[0].dtype))

    # ── the state, which a checkpoint stores whole ──

    def state_dict(self) -> dict[str, Any]:
        """The whole optimizer's state_dict(), the same with any number of ranks, on rank 0; the other ranks get no "state".

        Every rank must call it. Only rank 0 needs the memory of the whole state.
        """
        state, own_groups = {}, self.optimizer.state_dict()["param_groups"]
        numbered = [p for params in self.whole for p in params]
        for i, p in enumerate(numbered):
            mine = self.optimizer.state.get(id(self.own[id(p)][0])) if id(p) in self.own else None
            parts = [part for part in self.group.gather_objects(mine) if part]
            if parts and self.group.rank == 0:
                state[i] = {name: _joined([part[name] for part in parts], p.shape) for name in parts[0]}
        numbers = iter(range(len(numbered)))
        groups = [{**group, "params": [next(numbers) for _ in params]} for group, params in zip(own_groups, self.whole)]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state_dict() of an optimizer of the same parameters, sharded among any number of ranks or whole."""
        numbered = [p for params in self.whole for p in params]
        own_numbers = {id(p): i for i, p in enumerate(q for group in self.optimizer.param_groups for q in group["params"])}
        state = {}
        for number, values in state_dict["state"].items():
            p = numbered[int(number)] if int(number) < len(numbered) else None
            if p is None or id(p) not in self.own:
                continue
            part, inside = self.own[id(p)]
            state[own_numbers[id(part)]] = {name: _cut(value, part, inside) for name, value in values.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def ends_of_parts(parameters: Sequence[Tensor], uncut: set[int], size: int) -> list[int]:
    """Where each rank's part ends, counted in numbers from the last parameter to the first: nearly equal parts, (size,).

    uncut: ids of the parameters that belong to one rank.

    >>> import minigrad as mg
    >>> ends_of_parts([mg.zeros(100_000), mg.zeros(100_000)], set(), 2)  # the second parameter, and one span or none
    [100000, 200000]
    """
    total = sum(p.numel() for p in parameters)
    ends, done = [0] * size, 0
    for p in reversed(parameters):
        span = max(1, p.numel()) if id(p) in uncut else SPAN
        for first in range(0, p.numel(), span):
            length = min(span, p.numel() - first)
            ends[min(size - 1, int((done + length / 2) * size / total))] = done + length
            done += length
    return np.maximum.accumulate(ends).tolist()


def bounds_in(bucket: Bucket, parameters: Sequence[Tensor], ends: Sequence[int]) -> list[int]:
    """The ends of the ranks' parts as bounds in a bucket, (size + 1,)."""
    before = 0
    for p in reversed(parameters):
        if p is bucket.parameters[0]:
            break
        before += p.numel()
    return np.clip([0, *(end - before for end in ends)], 0, bucket.size).tolist()


def _square_sums(gradient: Any) -> list[float]:
    return kernels.serving(gradient).square_sums([gradient]).tolist()


def _joined(parts: Sequence[Any], shape: tuple[int, ...]) -> Any:
    """One array from the ranks' parts of it, as a tensor; a number, such as AdamW's step, is the same on every rank."""
    if not hasattr(parts[0], "dtype"):
        return parts[0]
    return Tensor(np.concatenate([np.asarray(part).reshape(-1) for part in parts]).reshape(shape))


def _cut(value: Any, part: Tensor, inside: slice) -> Any:
    """This rank's part of one array of a parameter's state."""
    array = getattr(value, "array", value)
    if getattr(array, "shape", ()) == ():
        return value
    return array if array.shape == part.shape else array.reshape(-1)[inside]
