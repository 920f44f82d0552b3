"""Modes: whether operations record a graph, and whether they look for NaN. Every thread has its own."""

import inspect
import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any


class _Mode(threading.local):
    """Two switches that change how operations run. Every thread has its own."""

    grad_enabled = True
    detect_anomaly = False


mode = _Mode()


class Switched:
    """Sets one of this thread's switches: inside a `with` block, or while a decorated function runs."""

    def __init__(self, name: str, value: bool):
        self.name, self.value = name, value
        self.values_before: list[bool] = []

    def __enter__(self) -> None:
        self.values_before.append(getattr(mode, self.name))
        setattr(mode, self.name, self.value)

    def __exit__(self, *exception: object) -> None:
        setattr(mode, self.name, self.values_before.pop())

    def __call__(self, function: Callable) -> Callable:
        @wraps(function)
        def in_block(*args, **kwargs):
            with Switched(self.name, self.value):
                return function(*args, **kwargs)

        @wraps(function)
        def generate(*args, **kwargs):  # the switch is set while the generator runs, not while its caller does
            switched = Switched(self.name, self.value)(lambda resume: resume())
            generator = function(*args, **kwargs)
            resume: Callable = partial(next, generator)
            try:
                while True:
                    value = switched(resume)
                    try:
                        resume = partial(generator.send, (yield value))
                    except GeneratorExit:
                        switched(generator.close)
                        raise
                    except BaseException as error:
                        resume = partial(generator.throw, error)
            except StopIteration as stop:
                return stop.value

        return generate if inspect.isgeneratorfunction(function) else in_block


def no_grad(function: Callable | None = None) -> Any:
    """Inside `with no_grad():` operations build no graph: for evaluation, sampling and parameter updates.

    Also a decorator, with or without parentheses. Like enable_grad and detect_anomaly, it changes only the running thread.
    """
    block = Switched("grad_enabled", False)
    return block if function is None else block(function)


def inference_mode(function: Callable | bool = True) -> Any:
    """no_grad under PyTorch's other name; inference_mode(False) changes nothing."""
    if isinstance(function, bool):
        return no_grad() if function else Switched("grad_enabled", mode.grad_enabled)
    return no_grad(function)


def enable_grad(function: Callable | None = None) -> Any:
    """Inside `with enable_grad():` operations build the graph, even within a no_grad block."""
    block = Switched("grad_enabled", True)
    return block if function is None else block(function)


def is_grad_enabled() -> bool:
    """Whether operations build the graph."""
    return mode.grad_enabled


def detect_anomaly() -> Switched:
    """Inside `with detect_anomaly():` the first operation that makes NaN or infinity raises FloatingPointError with its name.

    Forward results and gradients are both checked. An operation whose inputs were not finite is not blamed.
    """
    return Switched("detect_anomaly", True)
