"""Grading: the reader's function beside ours, on the same random inputs, and its gradients beside central differences.

A verdict is one sentence. It names the first thing that is wrong: a line that does not run, a result of another shape, an input
that was changed, or a number, with its index and the expected value.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

import minigrad as mg
from chapters.support.command import error_text
from chapters.workbook.compare import bracketed, compare, compare_arrays
from chapters.workbook.exercise import Call, Exercise, Ungraded, Unwritten, Wrong, WrongNumber
from chapters.workbook.files import is_text, listed, path_of, text_of
from chapters.workbook.loading import load, reporting
from minigrad import Tensor
from minigrad.gradcheck import TOLERANCE, measure
from minigrad.serialization import short


class Verdict(NamedTuple):
    """The result of grading an exercise; "ungraded": this machine lacks a program for it."""

    state: Literal["untouched", "wrong", "right", "ungraded"]
    sentence: str


def untouched(exercise: Exercise, folder: Path) -> bool:
    """Whether the reader's file is not there yet, or as it was written."""
    path = path_of(exercise, folder)
    return not path.is_file() or is_text(path, text_of(exercise))


def grade(exercise: Exercise, folder: Path) -> Verdict:
    """Grade the reader's solution in this process."""
    path = path_of(exercise, folder)
    unwritten = f"{path} waits for {' and '.join(exercise.functions)}; write your solution there, and check again"
    if untouched(exercise, folder):
        return Verdict("untouched", unwritten)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the verdict says what is wrong
            remark = (exercise.grader or compare_with_ours)(exercise, path)
    except Unwritten as gap:
        return Verdict("untouched", str(gap))
    except Wrong as fault:
        return Verdict("wrong", str(fault))
    except (Ungraded, OSError) as obstacle:
        return Verdict("ungraded", error_text(obstacle))
    return Verdict("right", remark)


def compare_with_ours(exercise: Exercise, path: Path) -> str:
    """Compare results, gradients and arguments with ours, then gradients with central differences. Returns a remark."""
    definition = load(exercise, path)
    with reporting(path):
        ours, theirs = exercise.play(exercise.ours), exercise.play(definition)
    try:
        for number, calls in enumerate(zip(*(exercise.new_calls() for _ in range(3)))):
            compare_call(exercise, path, ours, theirs, calls, np.random.default_rng(number))
    except WrongNumber:
        check_gradients(exercise, path, theirs)  # central differences do not depend on our backward pass, so they come first
        raise
    check_gradients(exercise, path, theirs)
    same = f"{len(exercise.new_calls())} calls give the results of our own {exercise.name}"
    return f"{same}, and central differences agree" if exercise.gradients else same


# ── beside our own function ──────────────────────────────────────────────────────────────────────────────────────────


def compare_call(
    exercise: Exercise, path: Path, ours: Callable, theirs: Callable, calls: Sequence[Call], rng: np.random.Generator
) -> None:
    """Make the same call of both functions, and compare results, gradients and what became of the arguments.

    calls: three times the same call, with arrays of their own: for our function, for the reader's, and to be left alone.
    """
    own, other, before = calls
    during = f", {described(ours, own)}"
    expected = ours(*own.arguments, **own.settings)
    with reporting(path, during):
        got = theirs(*other.arguments, **other.settings)
    function = exercise.functions[0].split(".")[-1]
    try:
        name = exercise.results[0] if len(exercise.results) == 1 else f"the result of {function}"
        compare(expected, got, name, exercise.results)
        names = list(inspect.signature(ours).parameters)
        compare_arguments(exercise, names, own, other, before)
        compare_tensor_gradients(path, names, expected, got, own, other, rng)
    except Wrong as fault:
        raise type(fault)(f"{fault}{during}") from None


def compare_arguments(exercise: Exercise, names: list[str], own: Call, other: Call, before: Call) -> None:
    """Both calls changed the arguments that exercise.writes names in the same way, and no others."""
    for name, expected, got, old in zip(names, own.arguments, other.arguments, before.arguments):
        if not isinstance(expected, (np.ndarray, Tensor, list)):
            continue
        try:
            compare(expected, got, name)
        except Wrong as fault:
            if name not in exercise.writes:
                raise Wrong(f"the argument {name} was changed in place, and its caller needs it; work on a copy") from fault
            if agree(old, got):
                way = "write into its arrays, as in x[...] = y or x *= y; x = y changes nothing for the caller"
                raise Wrong(f"{name}: expected a change in place, got the same numbers as before; {way}") from None
            raise


def agree(expected: Any, got: Any) -> bool:
    try:
        compare(expected, got, "")
    except Wrong:
        return False
    return True


def compare_tensor_gradients(path: Path, names: list[str], expected: Any, got: Any, own: Call, other: Call, rng: Any) -> None:
    """Where results are tensors: compare the gradients of the arguments that require one, for a random upstream gradient."""
    graded = [i for i, a in enumerate(own.arguments) if isinstance(a, Tensor) and a.requires_grad]
    if not graded:
        return
    outputs = [pair for pair in zip(tensors(expected), tensors(got)) if pair[0].requires_grad]
    upstreams = [rng.standard_normal(e.shape) for e, _ in outputs]
    if not all(g.requires_grad for _, g in outputs):
        raise Wrong("the result has no gradient: a part was computed outside the graph; use minigrad's operations throughout")
    with reporting(path):
        for side in range(2):
            for pair, upstream in zip(outputs, upstreams):
                pair[side].backward(mg.as_tensor(upstream), retain_graph=True)
    for i in graded:
        compare_arrays(gradient_of(own.arguments[i]), gradient_of(other.arguments[i]), f"the gradient of {names[i]}")


def gradient_of(tensor: Tensor) -> np.ndarray:
    """The gradient after backward(); zeros if none reached the tensor."""
    return np.zeros(tensor.shape, tensor.dtype) if tensor.grad is None else tensor.grad.array


def tensors(result: Any) -> list[Tensor]:
    return [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, Tensor)]


def check_gradients(exercise: Exercise, path: Path, theirs: Any) -> None:
    """Compare the reader's backward pass with central differences of the forward pass, in float64."""
    for function, inputs, settings in exercise.gradients(theirs, np.random.default_rng(0)) if exercise.gradients else ():
        with reporting(path):
            disagreements = measure(function, inputs)
        for d in disagreements:
            if not d.error <= TOLERANCE["float64"]:
                name = exercise.results[d.input] if d.input < len(exercise.results) else f"the gradient of input {d.input}"
                expected = f"expected {d.numeric:.9g} by central differences, got {d.analytic:.9g}"
                given = [f"an input {in_words(inputs[d.input])}", *(f"{key} {in_words(v)}" for key, v in settings.items())]
                raise Wrong(f"{name}{bracketed(d.element)}: {expected}, with {', '.join(given)}")


def described(function: Callable, call: Call) -> str:
    """A call in a few words: "with dy and y of shape (2, 5), top_k = 2"."""
    values = [*zip(inspect.signature(function).parameters, call.arguments), *call.settings.items()]
    pairs = [(name, in_words(value)) for name, value in values if not callable(value)]
    groups = [(listed([name for name, _ in group]), words) for words, group in groupby(pairs, key=lambda pair: pair[1])]
    return f"with {', '.join(f'{names} {words}' for names, words in groups)}"


def in_words(value: Any) -> str:
    """An argument: arrays by their shapes, anything else as in code."""
    if isinstance(value, (np.ndarray, Tensor)):
        return f"of shape {tuple(value.shape)}"
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return f"of shapes {', '.join(str(array.shape) for array in value)}"
    return f"= {short(repr(value), 80)}"
