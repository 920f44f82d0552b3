"""Is every hand-written backward the derivative of its forward?  `python -m minigrad.gradcheck` prints the answer.

For a function y = f(x₁, x₂, …) and a random upstream gradient u of y's shape, backward() gives the gradient of the number
L = Σ u · y. Calculus has a second opinion that needs only the forward pass, the central difference

    dL/dx_i ≈ (L(x + h e_i) − L(x − h e_i)) / 2h,      wrong by about h²/6 times the third derivative,

and in float64 the two must agree to many digits. The upstream gradient is random because special ones hide faults: under
all ones, the gradient of a softmax is zero whatever its backward says.

Small inputs are checked element by element. For large ones that would be slow, so the derivative along random directions d is
compared with grad · d, two evaluations each; where those disagree, the input is halved again and again, down to a faulty
element.

The relative error of an input is the largest disagreement over the largest entry of its gradient.
"""

import argparse
import sys
from typing import NamedTuple

import numpy as np

import kernels
from minigrad.tensor import Tensor, no_grad

STEP = 1e-5
DIRECTIONS = 4
ELEMENTWISE_UP_TO = 300  # elements; above, random directions
TOLERANCE = {"float64": 1e-6, "float32": 2e-4}  # float32 gradients are held against float64 differences
SMALLEST = {"float64": 1e-8, "float32": 1e-3}  # a gradient below this counts as zero, and its error as absolute


class GradcheckError(AssertionError):
    """A backward disagrees with its forward; the message names the input and the index."""


class Worst(NamedTuple):
    """The worst disagreement found for one input."""

    input: int
    index: tuple  # of the element; for a large input that agrees, ()
    analytic: float  # what backward() says there (or along the worst direction)
    numeric: float  # what central differences say
    error: float  # relative, see the module's docstring

    def __str__(self):
        where = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"input {self.input}{where}: backward gives {self.analytic:.9g}, central differences {self.numeric:.9g}"


def measure(function, inputs, *, dtype="float64", kernel_set=None, seed=0):
    """Compare backward() with central differences.  Returns one Worst for every input.

    function: takes as many Tensors as there are inputs, returns one Tensor or a tuple of them; must be deterministic.
    inputs: float64 arrays or Tensors.
    dtype, kernel_set: with these, backward() runs in that dtype through those kernels ("cpu", "emulator", "cuda", None for the
    default), while the differences are still taken through the float64 reference kernels.
    """
    rng = np.random.default_rng([seed, 1])  # not the stream that drew the inputs: u parallel to x would hide faults too
    arrays = [np.array(x.array if isinstance(x, Tensor) else x, dtype=np.float64) for x in inputs]
    if dtype == "float32":  # both opinions must be about the same point
        arrays = [a.astype(np.float32).astype(np.float64) for a in arrays]
    upstream = [rng.standard_normal(np.shape(y)) for y in _outputs(function, arrays)]
    analytic = _analytic(function, arrays, upstream, dtype, kernel_set)

    def loss(changed):
        return sum(float((u * y).sum()) for u, y in zip(upstream, _outputs(function, changed)))

    return [_worst(loss, arrays, i, grad, rng, SMALLEST[dtype]) for i, grad in enumerate(analytic)]


def gradcheck(function, inputs, *, tolerance=None, dtype="float64", kernel_set=None, seed=0):
    """True if backward() agrees with central differences to within `tolerance` (relative); raises GradcheckError otherwise.

    The arguments are those of `measure`; tolerance is 1e-6 in float64 and 2e-4 in float32 unless given.
    """
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    wrong = [w for w in measure(function, inputs, dtype=dtype, kernel_set=kernel_set, seed=seed) if not w.error <= tolerance]
    if wrong:
        worst = max(wrong, key=lambda w: np.nan_to_num(w.error, nan=np.inf))
        raise GradcheckError(f"{worst}: a relative error of {worst.error:.1e}, more than {tolerance:.0e}")
    return True


def _outputs(function, arrays):
    with kernels.use("reference"), no_grad():
        y = function(*(Tensor(a) for a in arrays))
    return [t.array for t in (y if isinstance(y, tuple) else (y,))]


def _analytic(function, arrays, upstream, dtype, kernel_set):
    device = kernel_set if kernel_set in ("cuda", "emulator") else "cpu"
    tensors = [Tensor(kernels.to_device(a.astype(dtype), device), requires_grad=True) for a in arrays]
    with kernels.use("cpu" if kernel_set == "cuda" else kernel_set or ("reference" if dtype == "float64" else "cpu")):
        y = function(*tensors)
        loss = 0
        for out, u in zip(y if isinstance(y, tuple) else (y,), upstream):
            loss = loss + (out * Tensor(kernels.to_device(u.astype(dtype), device))).sum()
        loss.backward()
    # No gradient means that the input has no influence; the differences will tell whether that is so.
    grads = [np.zeros(t.shape) if t.grad is None else kernels.to_device(t.grad.array, "cpu") for t in tensors]
    return [grad.astype(np.float64) for grad in grads]


def _worst(loss, arrays, i, grad, rng, smallest):
    x = arrays[i]
    scale = max(np.abs(grad).max(initial=0), smallest)

    def difference(direction):
        shifted = [[x + sign * STEP * direction if j == i else a for j, a in enumerate(arrays)] for sign in (1, -1)]
        return (loss(shifted[0]) - loss(shifted[1])) / (2 * STEP)

    def one(index):
        direction = np.zeros_like(x)
        direction[index] = 1
        return difference(direction)

    if x.size <= ELEMENTWISE_UP_TO:
        numeric = np.array([one(index) for index in np.ndindex(x.shape)]).reshape(x.shape)
        scale = max(scale, np.abs(numeric).max(initial=0))
        gap = np.nan_to_num(np.abs(grad - numeric), nan=np.inf)
        index = np.unravel_index(gap.argmax(), x.shape) if x.size else ()
        index = tuple(int(k) for k in index)
        return Worst(i, index, float(grad[index]), float(numeric[index]), float(gap[index] / scale)) if x.size else _nothing(i)
    return _along_directions(difference, grad, i, rng, smallest)


def _nothing(i):
    return Worst(i, (), 0.0, 0.0, 0.0)


def _along_directions(difference, grad, i, rng, smallest):
    worst = _nothing(i)
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(grad.shape)
        numeric, analytic = difference(direction), float((grad * direction).sum())
        spread = np.linalg.norm(grad)  # the standard deviation of grad · d
        error = abs(numeric - analytic) / max(spread, abs(numeric), smallest)
        if not error <= worst.error:
            worst = Worst(i, (), analytic, numeric, error)
    if worst.error <= TOLERANCE["float32"]:
        return worst
    return _narrowed(difference, grad, worst, rng)


def _narrowed(difference, grad, worst, rng):
    """Halve the set of elements, each time keeping the half along which the two opinions differ more, until one is left."""
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
    index = tuple(int(k) for k in np.unravel_index(candidates[0], grad.shape))
    direction = np.zeros_like(grad)
    direction[index] = 1
    return Worst(worst.input, index, float(grad[index]), difference(direction), worst.error)


def main(argv=None):
    from minigrad.gradcases import CASES

    parser = argparse.ArgumentParser(prog="python -m minigrad.gradcheck", description=__doc__.split("\n")[0])
    parser.add_argument("--op", action="append", help="check only this operation (may be repeated)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs and upstream gradients")
    parser.add_argument(
        "--kernels",
        default="reference",
        choices=["reference", "cpu", "emulator", "cuda"],
        help="whose backward passes to check: the reference's in float64, or a faster set's in float32",
    )
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"a seed is a whole number of at least 0, got {args.seed}")
    chosen = [case for case in CASES if not args.op or case.op in args.op]
    unknown = set(args.op or ()) - {case.op for case in CASES}
    if unknown:
        names = ", ".join(sorted({case.op for case in CASES}))
        parser.error(f"there is no operation {', '.join(sorted(unknown))}; choose from {names}")
    dtype = "float64" if args.kernels == "reference" else "float32"
    print(f"{'operation':<20} {'on':<34} {'worst error':>11}   where")
    failed = 0
    for case in chosen:
        found = measure(case.function, case.inputs(args.seed), dtype=dtype, kernel_set=args.kernels, seed=args.seed)
        worst = max(found, key=lambda w: np.nan_to_num(w.error, nan=np.inf))
        wrong = [w for w in found if not w.error <= TOLERANCE[dtype]]
        failed += bool(wrong)
        place = f"input {worst.input}{list(worst.index) if worst.index else ''}"
        print(f"{case.op:<20} {case.label:<34} {worst.error:>11.1e}   {place}{'   WRONG' if wrong else ''}")
        for w in wrong:
            print(f"    {w}")
    verdict = "all agree" if not failed else f"{failed} WRONG"
    print(f"{len(chosen)} checks in {dtype} through the {args.kernels} kernels, tolerance {TOLERANCE[dtype]:.0e}: {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
