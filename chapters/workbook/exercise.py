"""What an exercise is: a definition of ours with a gap, calls that try it out, and hints."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from chapters.workbook.gaps import Definition, Target

Random = np.random.Generator


class Wrong(Exception):
    """A solution is wrong; the message says where."""


class WrongNumber(Wrong):
    """A result has the right shape and type, but not the right numbers."""


class Unwritten(Exception):
    """The gap is still there."""


class Ungraded(Exception):
    """This machine cannot grade the exercise."""


class Call(NamedTuple):
    """The arguments of a call that tries out a solution."""

    arguments: tuple[Any, ...]
    settings: dict[str, Any]


def call(*arguments: Any, **settings: Any) -> Call:
    """`call(x, top_k=2)` is the call f(x, top_k=2)."""
    return Call(arguments, settings)


class Gradient(NamedTuple):
    """A function of tensors whose backward pass is the reader's, and the inputs at which central differences check it."""

    function: Callable[..., Any]
    inputs: Sequence[np.ndarray]
    settings: Mapping[str, Any] = MappingProxyType({})  # settings that the function has bound; the verdict names them


def as_it_is(definition: Any) -> Any:
    """The `play` of an exercise whose definition is simply called."""
    return definition


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Args:
        title: noun phrase.
        target: our definition, "module:name"; for a kernel in CUDA, the module beside its cuda.cu.
        lesson: the lesson to read, a module of chapters such as "ch04_attention"; "" for what the book leaves out.
        calls: from a random generator to the calls on which the reader's function must agree with ours.
        results: names of the results, such as ("dx", "dweight").
        hints: from a nudge to nearly the answer.
        gaps: the functions without a body; the target alone if empty.
        forward: the forward pass that a backward pass belongs to; the exercise quotes its docstring.
        gradients: from (the reader's function, a random generator) to what is compared with central differences.
        play: from the reader's definition to the function that the check calls.
        writes: arguments that the function must change in place.
        note: sentences that belong to this exercise alone.
        grader: replaces the comparison: from (exercise, path of the reader's file) to a remark. Raises Wrong or Unwritten.
        cuda: whether the exercise is a kernel in CUDA.
        number: place in EXERCISES, from 1.
    """

    title: str
    target: str
    hints: tuple[str, ...]
    lesson: str = ""
    calls: Callable[[Random], Iterable[Call]] = lambda rng: ()
    results: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    forward: str = ""
    gradients: Callable[[Any, Random], Iterable[Gradient]] | None = None
    play: Callable[[Any], Any] = as_it_is
    writes: tuple[str, ...] = ()
    note: str = ""
    grader: Callable[["Exercise", Any], str] | None = None
    cuda: bool = False
    number: int = 0

    @property
    def place(self) -> Target:
        return Target.parse(self.target)

    @property
    def name(self) -> str:
        """The function or class in the reader's file."""
        return self.place.outer

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions without a body."""
        return self.gaps or (self.place.name,)

    @property
    def chapter(self) -> int | None:
        """The chapter of the book."""
        return int(self.lesson[2:4]) if self.lesson else None

    @cached_property
    def definition(self) -> Definition:
        return Definition(self.place)

    @property
    def ours(self) -> Any:
        """The function or class of the project."""
        return getattr(import_module(self.place.module), self.name)

    def new_calls(self) -> list[Call]:
        """The same calls each time, with arrays of their own."""
        return list(self.calls(np.random.default_rng(18)))

    def __str__(self) -> str:
        return f"exercise {self.number}, {self.title}"
