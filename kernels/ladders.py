"""What a ladder is: one operation, written from the plainest loop to the engine's kernel, one idea a rung.

    python -m kernels.bench softmax         # checks every rung of kernels/softmax/ladder.py, and times it

A rung is a short function. The benchmark prints its name and the first line of its docstring, which says what the rung adds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

import numba
import numpy as np


@dataclass
class Ladder:
    """An operation on one set of arrays, with the functions that compute it."""

    operation: str  # its folder in kernels/
    direction: str  # "forward" or "backward"
    shape: tuple[int, ...]  # sizes, from which PyTorch and NumPy make the same task
    rungs: Sequence[Callable]  # from the plainest to the fastest: each returns the result, or fills its last argument
    arguments: tuple[np.ndarray, ...]  # what every rung is called with
    amount: int  # operations or bytes of one call
    limit: str  # the limit of the machine to compare with: "gflops", "read" or "copy"
    exact: np.ndarray | None = None  # the float64 result; None if rungs compute different things
    tolerance: float = 1e-4  # largest error allowed, relative to the largest value
    remark: str = ""  # added to the title

    @property
    def unit(self) -> str:
        return "GFLOP/s" if self.limit == "gflops" else "GB/s"

    def result_of(self, rung: Callable) -> np.ndarray:
        """What a rung computes from copies of the arguments; some rungs update theirs in place."""
        arguments = [a.copy() for a in self.arguments]
        result = rung(*arguments)
        return arguments[-1] if result is None else result


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def double(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in float64, for an exact result."""
    return [a.astype(np.float64) for a in arrays]


def on_one_thread(rung: Callable) -> Callable:
    """Run a rung on one thread, so that the next rung shows what the other threads buy."""

    @wraps(rung)
    def alone(*arguments):
        threads = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return rung(*arguments)
        finally:
            numba.set_num_threads(threads)

    return alone
