"""Learning-rate schedulers: objects that set the learning rate of an optimizer's groups after each step.

    scheduler = CosineAnnealingLR(optimizer, T_max=1000)
    for ids, targets in batches:
        …
        optimizer.step()
        scheduler.step()

As in PyTorch, most schedulers compute a learning rate from the previous one, so two schedulers on one optimizer multiply.
"""

import math
import typing as _typing
from bisect import bisect_right
from typing import Any, Callable, Iterable, Mapping, Sequence

from minigrad.ops.operands import as_float
from minigrad.optim.optimizer import Optimizer

__all__ = ["ConstantLR", "CosineAnnealingLR", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR"]
__all__ += ["SequentialLR", "StepLR"]


class LRScheduler:
    """Base of all schedulers. A subclass defines `get_lr`.

    Args:
        optimizer: the optimizer whose learning rates change. Each group's learning rate now is its base learning rate.
        last_epoch: the number of the last step; −1 starts from the beginning.

    Attributes:
        last_epoch: how often step() has been called. PyTorch counts epochs; most training loops count optimizer steps.
        base_lrs: the base learning rate of each group.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an optimizer, got {type(optimizer).__name__}")
        for group in optimizer.param_groups:
            if last_epoch != -1 and "initial_lr" not in group:
                raise KeyError(
                    f"{type(self).__name__}: expected an optimizer with 'initial_lr' in its groups to continue from "
                    f"last_epoch={last_epoch}; load the optimizer's state first"
                )
            group.setdefault("initial_lr", group["lr"])
        self.optimizer, self.last_epoch = optimizer, last_epoch
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._start()

    def get_lr(self) -> list[float]:
        """The learning rate of each group for step `last_epoch`; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__}: get_lr() is not defined")

    def step(self) -> None:
        """Set the learning rates of the next step."""
        self.last_epoch += 1
        self._set_lr(self.get_lr())

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group that the last step() set."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions."""
        return {name: value for name, value in vars(self).items() if name != "optimizer" and not callable(value)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state_dict(). The optimizer's own state holds the learning rates."""
        vars(self).update(state_dict)

    # ── for subclasses and SequentialLR ──

    def _current_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set_lr(self, rates: Sequence[float]) -> None:
        groups = self.optimizer.param_groups
        if len(rates) != len(groups):
            raise ValueError(
                f"{type(self).__name__}: expected {len(rates)} parameter groups, as when it was made, got {len(groups)}; "
                "make the scheduler after add_param_group()"
            )
        for group, lr in zip(groups, rates):
            group["lr"] = lr
        self._last_lr = self._current_lr()

    def _start(self) -> None:
        """The step before all others. To continue from a last_epoch, it keeps the learning rates of the optimizer."""
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _take_over(self) -> None:
        """Begin at step 0, after another scheduler."""
        self.last_epoch = 0
        self._set_lr(self.get_lr())

    def _undo(self) -> None:
        """Take back the count of the step that __init__ made."""
        self.last_epoch -= 1


class LambdaLR(LRScheduler):
    """The base learning rate times a function of the step.

    lr_lambda: step -> factor, for all groups, or a list with one function for each group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable | Sequence[Callable], last_epoch: int = -1):
        groups = len(optimizer.param_groups)
        if not callable(lr_lambda) and not isinstance(lr_lambda, Sequence):
            raise TypeError(f"LambdaLR: expected a function or a list of functions, got {type(lr_lambda).__name__}")
        functions = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(functions) != groups:
            raise ValueError(f"LambdaLR: expected {groups} functions, one for each group, got {len(functions)}")
        self.lr_lambdas = functions
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * function(self.last_epoch) for lr, function in zip(self.base_lrs, self.lr_lambdas)]

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "lr_lambdas"}


class _Chainable(LRScheduler):
    """Base of the schedulers that change the learning rate they find."""

    def _take_over(self) -> None:
        self._set_lr(self.base_lrs)
        self.last_epoch = -1
        self._start()

    def _positive(self, name: str, value: float) -> None:
        if not as_float(value, type(self).__name__, name) > 0:
            raise ValueError(f"{type(self).__name__}: expected {name} above 0, got {value}")


class StepLR(_Chainable):
    """Multiply the learning rate by gamma every step_size steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self._positive("step_size", step_size)
        self.step_size, self.gamma = step_size, as_float(gamma, "StepLR", "gamma")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        decays = self.last_epoch != 0 and self.last_epoch % self.step_size == 0
        return [lr * self.gamma if decays else lr for lr in self._current_lr()]


class MultiStepLR(_Chainable):
    """Multiply the learning rate by gamma at each of the milestones."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        if not isinstance(milestones, Iterable):
            raise TypeError(f"MultiStepLR: expected a list of steps as milestones, got {type(milestones).__name__}")
        self.milestones = sorted(milestones, key=lambda step: as_float(step, "MultiStepLR", "milestone"))
        self.gamma = as_float(gamma, "MultiStepLR", "gamma")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * self.gamma ** self.milestones.count(self.last_epoch) for lr in self._current_lr()]


class ExponentialLR(_Chainable):
    """Multiply the learning rate by gamma at every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = as_float(gamma, "ExponentialLR", "gamma")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr if self._is_initial else lr * self.gamma for lr in self._current_lr()]


class LinearLR(_Chainable):
    """A factor on the learning rate that goes from start_factor to end_factor in total_iters equal steps: a warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        start_factor, end_factor = (
            as_float(factor, "LinearLR", name) for factor, name in ((start_factor, "start_factor"), (end_factor, "end_factor"))
        )
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR: expected start_factor above 0 and at most 1, got {start_factor:g}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: expected end_factor between 0 and 1, got {end_factor:g}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self, step: int) -> float:
        left = self.total_iters - step
        return (self.start_factor * left + self.end_factor * step) / self.total_iters

    def get_lr(self) -> list[float]:
        change = 1.0
        if self.last_epoch == 0:
            change = self.start_factor
        elif self.last_epoch <= self.total_iters and not self._is_initial:
            change = self._factor(self.last_epoch) / self._factor(self.last_epoch - 1)
        return [lr * change for lr in self._current_lr()]


class ConstantLR(_Chainable):
    """A factor on the learning rate for the first total_iters steps, and none afterwards."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1):
        factor = as_float(factor, "ConstantLR", "factor")
        if not 0 < factor <= 1:
            raise ValueError(f"ConstantLR: expected a factor above 0 and at most 1, got {factor:g}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [lr * self.factor for lr in self._current_lr()]
        return [lr / self.factor if self.last_epoch == self.total_iters else lr for lr in self._current_lr()]


class CosineAnnealingLR(_Chainable):
    """Half a cosine from the base learning rate down to eta_min in T_max steps, then up again, and so on.

    Source: Loshchilov, Hutter 2016 (arXiv:1608.03983), eq. 5.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self._positive("T_max", T_max)
        self.T_max, self.eta_min = T_max, as_float(eta_min, "CosineAnnealingLR", "eta_min")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return self._current_lr()
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # the step before was at the bottom, at eta_min
            half = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * half for lr, base in zip(self._current_lr(), self.base_lrs)]
        height, height_before = (1 + math.cos(math.pi * (self.last_epoch - back) / self.T_max) for back in (0, 1))
        return [self.eta_min + (lr - self.eta_min) * height / height_before for lr in self._current_lr()]


class SequentialLR(LRScheduler):
    """One scheduler after the other: scheduler i + 1 takes over at milestones[i], and counts its steps from 0.

    As in PyTorch, a SequentialLR within another can only come first, and reaches its own milestones one step earlier.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ):
        if last_epoch != -1:
            raise NotImplementedError("SequentialLR: last_epoch is not implemented; use load_state_dict")
        if len(schedulers) != len(milestones) + 1:
            raise ValueError(
                f"SequentialLR: expected one milestone between two schedulers, got {len(schedulers)} schedulers "
                f"and {len(milestones)} milestones"
            )
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"SequentialLR: expected schedulers, got {type(scheduler).__name__}")
            if scheduler.optimizer is not optimizer:
                raise ValueError("SequentialLR: expected schedulers of the same optimizer, got several optimizers")
            if i and isinstance(scheduler, SequentialLR):
                raise NotImplementedError(f"SequentialLR: expected a SequentialLR as the first scheduler only, got one at {i}")
        self.optimizer, self.last_epoch = optimizer, 0
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self._undo()
        first = self.schedulers[bisect_right(self.milestones, 0)]
        first._start()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:
        self.last_epoch += 1
        scheduler = self.schedulers[bisect_right(self.milestones, self.last_epoch)]
        if self.last_epoch in self.milestones:
            scheduler._take_over()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def _undo(self) -> None:
        for scheduler in self.schedulers:
            scheduler._undo()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "schedulers"})
        for scheduler, state in zip(self.schedulers, state_dict["schedulers"]):
            scheduler.load_state_dict(state)


if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.optim.lr_scheduler has no {name!r}; it has {', '.join(__all__)}")
