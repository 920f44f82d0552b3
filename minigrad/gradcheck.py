"""Checks every hand-written backward pass against finite differences: `python -m minigrad.gradcheck`.

For a function y = f(x₁, x₂, …) and a random upstream gradient u, shaped like y, backward() gives the gradient of the number
L = Σ u · y. The central difference approximates the same gradient with forward passes alone:

    dL/dx_i ≈ (L(x + h e_i) − L(x − h e_i)) / 2h,      wrong by about h²/6 times the third derivative.

In float64 both must agree to many digits. The upstream gradient is random because special ones hide faults: under all ones,
the gradient of a softmax is zero, whatever its backward pass computes.

Small inputs are checked element by element. For large inputs that would be slow, so the derivative along random directions d is
compared with grad · d, which takes two forward passes each. If they disagree, the input is halved again and again until one
faulty element is left.

The relative error of an input is its largest disagreement over the largest entry of its gradient; along directions, over the
gradient's norm.

Change a sign in a backward pass and run it again: it names the operation, the input and the element. gradcheck() checks your
own Functions too:

    >>> import minigrad as mg
    >>> class Cube(mg.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save(x)
    ...         return x**3
    ...
    ...     @staticmethod
    ...     def backward(ctx, dy):  # y = x³:  dx = dy 3x²
    ...         (x,) = ctx.saved
    ...         return dy * 3 * x**2
    >>> worst = gradcheck(Cube.apply, [np.random.default_rng(0).standard_normal((3, 5))])
"""

import argparse
import sys
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

import kernels
from kernels.arrays import require
from kernels.terminal import fail, guard_streams, whole_number
from minigrad.gradcases import CASES
from minigrad.modes import no_grad
from minigrad.tensor import Tensor

STEP = 1e-5  # h
DIRECTIONS = 4  # random directions for a large input
ELEMENTWISE_UP_TO = 300  # elements; larger inputs are checked along directions
TOLERANCE = {"float64": 1e-6, "float32": 2e-4}  # float32 gradients are compared with float64 differences
SMALLEST = {"float64": 1e-8, "float32": 1e-3}  # the error of a smaller gradient is taken relative to this

Loss = Callable[[list[np.ndarray]], float]


class GradcheckError(AssertionError):
    """A backward pass disagrees with its forward pass; the message names the input and the element."""


class Disagreement(NamedTuple):
    """The largest disagreement for one input.

    input: its number.  element: the index of the element; () for a large input that agrees.  analytic, numeric: the results of
    backward() and of central differences there, or along the worst direction.  error: the relative error of the input.
    """

    input: int
    element: tuple[int, ...]
    analytic: float
    numeric: float
    error: float

    @property
    def place(self) -> str:
        """The input and the element in words, such as "input 0[2, 1]"."""
        return f"input {self.input}{list(self.element) if self.element else ''}"

    def __str__(self) -> str:
        return f"{self.place}: backward gives {self.analytic:.9g}, central differences {self.numeric:.9g}"


def gradcheck(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    tolerance: float | None = None,
    dtype: str = "float64",
    kernel_set: str | None = None,
    seed: int = 0,
) -> bool:
    """Return True if backward() agrees with central differences.

    Args:
        function: takes one tensor per input, returns a tensor or a tuple of them; must be deterministic.
        inputs: float64 arrays or tensors.
        tolerance: the largest relative error allowed; 1e-6 in float64 and 2e-4 in float32 if None.
        dtype: backward() runs in "float64" or "float32". The differences are always taken in float64.
        kernel_set: backward() runs through these kernels ("cpu", "emulator", "cuda"); the default ones if None. The
            differences always use the reference kernels.
        seed: random seed for the upstream gradient and the directions.

    Raises:
        GradcheckError: if they disagree.

    >>> gradcheck(lambda x: x.exp(), [np.array([0.5, 1.0])])
    True
    """
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    worst = worst_of(measure(function, inputs, dtype=dtype, kernel_set=kernel_set, seed=seed))
    if not worst.error <= tolerance:
        raise GradcheckError(f"{worst}: a relative error of {worst.error:.1e}, more than {tolerance:.0e}")
    return True


def measure(
    function: Callable[..., Any], inputs: Sequence[Any], *, dtype: str = "float64", kernel_set: str | None = None, seed: int = 0
) -> list[Disagreement]:
    """Compare backward() with central differences, and return the largest disagreement for each input.

    The arguments are those of gradcheck.
    """
    rng = np.random.default_rng([seed, 1])  # not the inputs' random numbers: an upstream parallel to x would hide faults too
    arrays = [np.array(x.array if isinstance(x, Tensor) else x, dtype=np.float64) for x in inputs]
    if dtype == "float32":  # both gradients must be taken at the same point
        arrays = [a.astype(np.float32).astype(np.float64) for a in arrays]
    upstream = [rng.standard_normal(np.shape(y)) for y in _outputs(function, arrays)]
    grads = _analytic(function, arrays, upstream, dtype, kernel_set)

    def loss(arrays: list[np.ndarray]) -> float:
        return sum(float((u * y).sum()) for u, y in zip(upstream, _outputs(function, arrays)))

    return [_compare(loss, arrays, i, grad, rng, SMALLEST[dtype]) for i, grad in enumerate(grads)]


def worst_of(disagreements: Sequence[Disagreement]) -> Disagreement:
    """The disagreement with the largest error; NaN is the largest of all."""
    return max(disagreements, key=lambda d: np.nan_to_num(d.error, nan=np.inf))


def _outputs(function, arrays):
    with kernels.use("reference"), no_grad():
        y = function(*(Tensor(a) for a in arrays))
    return [t.array for t in (y if isinstance(y, tuple) else (y,))]


def _analytic(function, arrays, upstream, dtype, kernel_set):
    device = kernel_set if kernel_set in ("cuda", "emulator") else "cpu"
    tensors = [Tensor(kernels.to_device(a.astype(dtype), device), requires_grad=True) for a in arrays]
    with kernels.use("cpu" if kernel_set == "cuda" else kernel_set or ("reference" if dtype == "float64" else "cpu")):
        y = function(*tensors)
        loss: Any = 0
        for output, u in zip(y if isinstance(y, tuple) else (y,), upstream):
            loss = loss + (output * Tensor(kernels.to_device(u.astype(dtype), device))).sum()
        loss.backward()
    # No gradient means that the input has no influence; the differences show whether that is so.
    grads = [np.zeros(t.shape) if t.grad is None else kernels.to_device(t.grad.array, "cpu") for t in tensors]
    return [grad.astype(np.float64) for grad in grads]


def _compare(loss: Loss, arrays, i, grad, rng, smallest):
    x = arrays[i]

    def difference(direction):
        """The central difference of the loss along a direction of input i."""
        above, below = ([x + h * direction if j == i else a for j, a in enumerate(arrays)] for h in (STEP, -STEP))
        return (loss(above) - loss(below)) / (2 * STEP)

    if not x.size:
        return Disagreement(i, (), 0.0, 0.0, 0.0)
    if x.size > ELEMENTWISE_UP_TO:
        return _along_directions(difference, grad, i, rng, smallest)
    numeric = np.array([difference(_unit(x.shape, element)) for element in np.ndindex(x.shape)]).reshape(x.shape)
    scale = max(np.abs(grad).max(), smallest, np.abs(numeric).max())
    gap = np.nan_to_num(np.abs(grad - numeric), nan=np.inf)
    element = tuple(int(k) for k in np.unravel_index(gap.argmax(), x.shape))
    return Disagreement(i, element, float(grad[element]), float(numeric[element]), float(gap[element] / scale))


def _unit(shape, element):
    direction = np.zeros(shape)
    direction[element] = 1
    return direction


def _along_directions(difference, grad, i, rng, smallest):
    worst = Disagreement(i, (), 0.0, 0.0, 0.0)
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(grad.shape)
        numeric, analytic = difference(direction), float((grad * direction).sum())
        spread = np.linalg.norm(grad)  # the standard deviation of grad · d
        error = abs(numeric - analytic) / max(spread, abs(numeric), smallest)
        if not error <= worst.error:
            worst = Disagreement(i, (), analytic, numeric, error)
    if worst.error <= TOLERANCE["float32"]:
        return worst
    element = _faulty_element(difference, grad, rng)
    return Disagreement(i, element, float(grad[element]), difference(_unit(grad.shape, element)), worst.error)


def _faulty_element(difference, grad, rng):
    """Halve the set of elements, keeping the half along which the gradients disagree more, until one element is left."""
    candidates = np.arange(grad.size)
    while len(candidates) > 1:
        halves = np.array_split(candidates, 2)
        gaps = []
        for half in halves:
            direction = np.zeros(grad.size)
            direction[half] = rng.standard_normal(len(half))
            direction = direction.reshape(grad.shape)
            gaps.append(abs(difference(direction) - float((grad * direction).sum())))
        candidates = halves[int(np.argmax(np.nan_to_num(gaps, nan=np.inf)))]
    return tuple(int(k) for k in np.unravel_index(candidates[0], grad.shape))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    guard_streams()
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.gradcheck", description="Check every hand-written backward pass against finite differences."
    )
    parser.add_argument("--op", action="append", metavar="NAME", help="check this operation only (repeatable)")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed")
    parser.add_argument(
        "--kernels",
        default="reference",
        choices=["reference", "cpu", "emulator", "cuda"],
        help="kernels to check: reference in float64 (the default), the others in float32",
    )
    args = parser.parse_args(argv)
    names = {case.op for case in CASES}
    unknown = set(args.op or ()) - names
    if unknown:
        parser.error(f"there is no operation {', '.join(sorted(unknown))}; choose from {', '.join(sorted(names))}")
    if args.kernels in ("emulator", "cuda"):
        try:
            require(args.kernels)
        except RuntimeError as error:
            fail(error)
    cases = [case for case in CASES if not args.op or case.op in args.op]
    dtype = "float64" if args.kernels == "reference" else "float32"
    print(f"{'operation':<20} {'case':<34} {'worst error':>11}   where")
    failed = 0
    for case in cases:
        results = measure(case.function, case.inputs(args.seed), dtype=dtype, kernel_set=args.kernels, seed=args.seed)
        worst, wrong = worst_of(results), [r for r in results if not r.error <= TOLERANCE[dtype]]
        failed += bool(wrong)
        print(f"{case.op:<20} {case.label:<34} {worst.error:>11.1e}   {worst.place}{'   WRONG' if wrong else ''}")
        for r in wrong:
            print(f"    {r}")
    verdict = "all agree" if not failed else f"{failed} WRONG"
    print(f"{len(cases)} checks in {dtype} through the {args.kernels} kernels, tolerance {TOLERANCE[dtype]:.0e}: {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
