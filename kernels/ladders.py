"""A ladder: one operation, from the plainest loop to the engine's kernel, one idea per rung.

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
    """An operation on one set of arrays, with the functions that compute it, from the plainest to the fastest.

    A rung returns its result, or fills its last argument. Every rung must agree with the first rung in float64.
    """

    operation: str  # its folder in kernels/
    direction: str  # "forward", "backward" or "update"
    shape: tuple[int, ...]  # sizes, from which PyTorch and NumPy make the same task
    rungs: Sequence[Callable]
    arguments: tuple[np.ndarray, ...]  # the arguments of every rung
    amount: int  # operations or bytes of one call
    limit: str  # the machine's limit to compare with: "multiplying", "reading" or "copying"
    tolerance: float | None = 1e-4  # largest error, relative to the largest value; None if rungs compute different things
    remark: str = ""  # added to the title

    @property
    def unit(self) -> str:
        return "GFLOP/s" if self.limit == "multiplying" else "GB/s"

    def result_of(self, rung: Callable, double: bool = False) -> np.ndarray:
        """The result of a rung on copies of the arguments, since some rungs update theirs in place; `double`: in float64."""
        with np.errstate(invalid="ignore"):  # the array for the result is not initialized, and may hold a signalling NaN
            arguments = [a.astype(np.float64) if double and a.dtype == np.float32 else a.copy() for a in self.arguments]
        result = rung(*arguments)
        return arguments[-1] if result is None else result


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def copying_ladder(reference: Callable, rungs: Sequence[Callable], kernel: Callable, *arrays: np.ndarray, **settings) -> Ladder:
    """The ladder of a forward pass, measured against the time to copy the first array to the last.

    Args:
        reference, rungs, kernel: reference.py's function, the rungs in between, and cpu.py's function. The two functions get
            `settings`, and all arrays but the last.
        arrays: the inputs, then the array for the result.
    """

    def array_of(result):
        return result[0] if isinstance(result, tuple) else result

    def whole_arrays(*arguments):
        """NumPy, one array per step"""
        return array_of(reference(*arguments[:-1], **settings))

    def threads(*arguments):
        """all cores: the engine's kernel"""
        return array_of(kernel(*arguments[:-1], out=arguments[-1], **settings))

    operation, amount = reference.__module__.split(".")[-2], arrays[0].nbytes + arrays[-1].nbytes
    return Ladder(operation, "forward", arrays[0].shape, (whole_arrays, *rungs, threads), arrays, amount, "copying")


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
