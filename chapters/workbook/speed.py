"""The exercise about speed: a matrix product that must be right and faster than the plain loop."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from chapters.workbook.compare import compare_arrays
from chapters.workbook.exercise import Exercise, Ungraded, Wrong
from chapters.workbook.loading import load, reporting

SHAPES = ((16, 32, 48), (96, 64, 160))  # M, K and N
SIDE, ROUNDS = 256, 15  # of the timed product, and how often both take their turn
MARGIN = 1.5  # least ratio of the plain loop's time to the reader's; a good loop is several times as fast


def grade_product(exercise: Exercise, path: Path) -> str:
    """Compare the product with NumPy's, then the time with the plain loop's."""
    from kernels.launch import DISABLED  # not at the top: it imports Numba, which the list of exercises does not need

    if DISABLED:
        raise Ungraded("check: expected Numba's compiler, got NUMBA_DISABLE_JIT=1; unset it to grade this exercise")
    theirs = load(exercise, path)
    rng = np.random.default_rng(0)
    for M, K, N in SHAPES:
        a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
        c = np.full((M, N), np.nan, np.float32)  # a number that is left out, or added to, stays NaN
        with reporting(path):
            theirs(a, b, c)
        compare_arrays(a @ b, c, "c")
    ratio = time_ratio(theirs)
    measured = f"{ratio:.1f} times as fast as the plain loop, the median of {ROUNDS} rounds with {SIDE} rows and columns"
    if ratio < MARGIN:
        raise Wrong(f"the product is right, but only {measured}; expected a factor of at least {MARGIN}")
    return f"right, and {measured}"


def time_ratio(theirs: Any) -> float:
    """The plain loop's time over the reader's. Both take turns, so that a busy moment slows both."""
    from kernels.matmul.ladder import plain

    a, b = (np.random.default_rng(i).standard_normal((SIDE, SIDE), np.float32) for i in range(2))
    c = np.empty_like(a)
    plain(a, b, c)  # compiles it
    ratios = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        plain(a, b, c)
        middle = time.perf_counter()
        theirs(a, b, c)
        ratios.append((middle - begin) / (time.perf_counter() - middle))
        if ratios[0] < 0.1:
            break  # without a compiler a single round takes long
    return float(np.median(ratios))
