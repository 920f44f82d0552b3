"""Comparing a result with the expected one: the first difference becomes a sentence with its place and both values."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from chapters.workbook.exercise import Wrong, WrongNumber
from minigrad import Tensor
from minigrad.serialization import short

TOLERANCE = {"float64": 1e-7, "float32": 1e-4}  # largest error allowed, relative to the largest expected number


def compare(expected: Any, got: Any, name: str, results: Sequence[str] = ()) -> None:
    """Raise Wrong unless a result is as expected, WrongNumber if only its numbers are not.

    Args:
        expected: our result: an array, a tensor, a number, a text, or a tuple, list or dictionary of them.
        got: the reader's result.
        name: what the sentence calls it.
        results: names of the parts of a tuple.
    """
    if got is None and expected is not None:
        raise Wrong(f"{name}: expected {kind_of(expected)}, got None; does the body end in a return?")
    if isinstance(expected, tuple):
        compare_tuples(expected, got, name, results)
    elif isinstance(expected, Tensor):
        if not isinstance(got, Tensor):
            raise Wrong(f"{name}: expected a tensor of minigrad, got {kind_of(got)}")
        compare_arrays(expected.array, got.array, name)
    elif isinstance(expected, np.ndarray):
        if not isinstance(got, (np.ndarray, np.generic)):
            raise Wrong(f"{name}: expected {kind_of(expected)}, got {kind_of(got)}")
        compare_arrays(expected, np.asarray(got), name)
    elif isinstance(expected, dict):
        compare_dictionaries(expected, got, name)
    elif isinstance(expected, list):
        compare_lists(expected, got, name)
    elif isinstance(expected, float):
        compare_numbers(expected, got, name)
    elif not (isinstance(got, (type(expected), numbers.Integral)) and got == expected):
        raise Wrong(f"{name}: expected {short(expected)}, got {short(got)}")


def compare_tuples(expected: tuple, got: Any, name: str, results: Sequence[str]) -> None:
    names = list(results) if len(results) == len(expected) else [f"{name}, result {i}" for i in range(len(expected))]
    if not isinstance(got, (tuple, list)) or len(got) != len(expected):
        count = f"{len(got)} results" if isinstance(got, (tuple, list)) else kind_of(got)
        raise Wrong(f"{name}: expected {len(expected)} results ({', '.join(names)}), got {count}")
    for part, expected_part, got_part in zip(names, expected, got):
        compare(expected_part, got_part, part)


def compare_lists(expected: list, got: Any, name: str) -> None:
    if not isinstance(got, (list, tuple)):
        raise Wrong(f"{name}: expected a list, got {kind_of(got)}")
    for i, (expected_item, got_item) in enumerate(zip(expected, got)):
        compare(expected_item, got_item, f"{name}[{i}]")
    if len(got) != len(expected):
        raise Wrong(f"{name}: expected {len(expected)} items, got {len(got)}")


def compare_dictionaries(expected: dict, got: Any, name: str) -> None:
    if not isinstance(got, dict):
        raise Wrong(f"{name}: expected a dictionary, got {kind_of(got)}")
    for key, value in expected.items():
        if key not in got:
            raise Wrong(f"{name}: expected the key {short(key)}, which is not there")
        compare(value, got[key], f"{name}[{short(key)}]")
    if extra := [key for key in got if key not in expected]:
        raise Wrong(f"{name}: expected {len(expected)} keys, got {short(extra[0])} besides")


def compare_numbers(expected: float, got: Any, name: str) -> None:
    got = got.item() if isinstance(got, (np.ndarray, Tensor)) and got.ndim == 0 else got
    if isinstance(got, bool) or not isinstance(got, numbers.Real):
        raise Wrong(f"{name}: expected a number, got {kind_of(got)}")
    number = float(got)
    if not abs(number - expected) <= TOLERANCE["float64"] * max(abs(expected), 1e-6):
        raise WrongNumber(f"{name}: expected {expected:.9g}, got {number:.9g}")


def compare_arrays(expected: np.ndarray, got: np.ndarray, name: str) -> None:
    """The shape first, then the dtype, then the numbers: the index of the largest difference."""
    if got.shape != expected.shape:
        raise Wrong(f"{name}: expected the shape {expected.shape}, got {got.shape}")
    if got.dtype != expected.dtype:
        raise Wrong(f"{name}: expected {expected.dtype}, got {got.dtype}")
    if expected.dtype.kind != "f":
        if (different := got != expected).any():
            i = first_index(different)
            raise WrongNumber(f"{name}{bracketed(i)}: expected {expected[i]}, got {got[i]}")
        return
    if (strange := ~np.isfinite(got) & np.isfinite(expected)).any():
        i = first_index(strange)
        raise Wrong(f"{name}{bracketed(i)}: expected {expected[i]:.9g}, got {got[i]}, which is not finite")
    if not expected.size or np.array_equal(got, expected, equal_nan=True):
        return
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        gap = np.where(got == expected, 0, np.nan_to_num(np.abs(got - expected), nan=np.inf))
    largest = np.abs(expected[finite]).max(initial=1e-9)
    if gap.max() > TOLERANCE[expected.dtype.name] * largest:
        i = first_index(gap == gap.max())
        wrong = int((gap > TOLERANCE[expected.dtype.name] * largest).sum())
        count = f"; {wrong} of {gap.size} numbers differ" if gap.size > 1 else ""
        raise WrongNumber(f"{name}{bracketed(i)}: expected {expected[i]:.9g}, got {got[i]:.9g}{count}")


def first_index(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(n) for n in np.unravel_index(int(where.argmax()), where.shape))


def bracketed(index: tuple[int, ...]) -> str:
    """The index as in code: "[2, 1]"; "" for a single number."""
    return str(list(index)) if index else ""


def kind_of(value: Any) -> str:
    """What a value is, in a few words.

    >>> kind_of(np.zeros((2, 3))), kind_of((1, 2)), kind_of(0.5)
    ('an array of shape (2, 3)', '2 results', '0.5')
    """
    if isinstance(value, (np.ndarray, Tensor)):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"{len(value)} results"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__}"
    return short(value)
