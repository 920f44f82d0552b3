"""Muon: momentum, orthogonalised before each step."""

import math
from numbers import Real
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np

import kernels
from minigrad.ops.operands import as_int
from minigrad.optim.adam import AdamW
from minigrad.optim.optimizer import Optimizer
from minigrad.tensor import Tensor

NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # Jordan et al.: a steep slope at 0, so that small singular values grow fast


# Let X = U Σ Vᵀ be the singular value decomposition. Then X Xᵀ X = U Σ³ Vᵀ, and (X Xᵀ)² X = U Σ⁵ Vᵀ: an odd polynomial of
# matrices changes the singular values and nothing else,
#
#     F X   =   U (a Σ + b Σ³ + c Σ⁵) Vᵀ   with   F = a I + b G + c G²   and   G = X Xᵀ.
#
# With the coefficients above, x ↦ a x + b x³ + c x⁵ multiplies small numbers by 3.4 and maps (0, 1.21] into itself. Five
# repetitions bring every number from 0.003 to 1 to between 0.68 and 1.21. The result is close to U Vᵀ, the orthogonal matrix
# nearest to X, and needs no decomposition. Dividing by the Frobenius norm first makes all singular values at most 1.
#
# G is symmetric, and so is its polynomial F. The next step's G is therefore (F X)(F X)ᵀ = F G F, which needs no X: X takes part
# in the first product and in the last. G has as many rows as X's shorter side, so five steps of a matrix four times as long
# cost half as much, and those of a square matrix a quarter more. Rounding errors in G grow up to twelvefold a step
# (a² = 11.9), so after five steps G is computed anew from X.
RENEW = 5  # steps
PORTION = 1 << 22  # most numbers that Muon orthogonalises together; a larger matrix stands alone


def orthogonalize(
    matrices: Sequence[Any], steps: int = 5, coefficients: tuple[float, float, float] = NEWTON_SCHULZ, eps: float = 1e-7
) -> list[Any]:
    """Bring the singular values of every matrix near 1 by Newton–Schulz iteration.

    Args:
        matrices: arrays (rows, columns) of one dtype, float32 or float64, on one device. Matrices whose shorter sides are equal
            iterate together.
        steps: iterations.
        coefficients: a, b, c of the polynomial a x + b x³ + c x⁵.
        eps: least Frobenius norm to divide by.

    Returns:
        An array for each matrix, which may be a view of an array that it shares with others; a matrix of zeros stays zero.

    Source: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks (kellerjordan.github.io/posts/muon).

    >>> orthogonalize([np.array([[3.0, 0.0], [0.0, 0.1]])])[0].round(2)
    array([[0.7 , 0.  ],
           [0.  , 1.13]])
    """
    if not len(matrices):
        return []
    xp, matmul = kernels.array_module(matrices[0]), kernels.serving(matrices[0]).matmul
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]  # (r, c), r ≤ c
    places: dict[int, dict[tuple, list[int]]] = {}  # {shorter side: {shape: positions in the list}}
    for i, matrix in enumerate(wide):
        places.setdefault(matrix.shape[0], {}).setdefault(matrix.shape, []).append(i)
    for groups in places.values():
        stacks = [_normalised(xp.stack([wide[i] for i in group]), eps) for group in groups.values()]  # (n, r, c) each
        ends = np.cumsum([len(x) for x in stacks])[:-1].tolist()
        for done in range(0, steps, RENEW):
            grams = xp.concatenate([matmul(x, x, transpose_b=True) for x in stacks])  # (N, r, r)
            factors = xp.split(_factors(grams, min(RENEW, steps - done), coefficients), ends)
            stacks = [matmul(factor, x) for factor, x in zip(factors, stacks)]
        for group, stack in zip(groups.values(), stacks):
            for i, x in zip(group, stack):
                wide[i] = x
    return [x if x.shape == matrix.shape else x.T for x, matrix in zip(wide, matrices)]


def _normalised(x: Any, eps: float) -> Any:
    """Each matrix of x, (n, r, c), divided by its Frobenius norm."""
    xp = kernels.array_module(x)
    norms = xp.sqrt((x.astype(np.float64) ** 2).sum(axis=(1, 2), keepdims=True))  # (n, 1, 1)
    return x / norms.astype(x.dtype).clip(eps)


def _factors(gram: Any, steps: int, coefficients: tuple[float, float, float]) -> Any:
    """The product of the factors F of the next steps.  gram: X Xᵀ of each matrix, (N, r, r)."""
    xp, matmul = kernels.array_module(gram), kernels.serving(gram).matmul
    (a, b, c), diagonal, product = coefficients, xp.arange(gram.shape[1]), None
    for step in range(steps):
        factor = matmul(c * gram, gram)  # (N, r, r)
        factor += b * gram
        factor[:, diagonal, diagonal] += a
        product = factor if product is None else matmul(factor, product)
        if step < steps - 1:
            gram = matmul(matmul(factor, gram), factor)
    return product


class Muon(Optimizer):
    """Momentum, orthogonalised: every singular direction of a weight matrix moves by nearly the same length in a step.

    The gradients of a transformer's matrices have few large singular values, and a plain step mostly repeats those directions.
    Muon is for the weight matrices of hidden layers: give embeddings, the output layer and vectors to AdamW.

    Args:
        params: matrices, or groups [{"params": […], "lr": …}, …] whose entries override the defaults.
        lr: learning rate.
        weight_decay: each step also multiplies a matrix by 1 − lr · weight_decay.
        momentum: decay rate of the mean of the gradients.
        nesterov: look ahead: average the mean with the gradient once more.
        ns_coefficients, ns_steps, eps: see `orthogonalize`.
        adjust_lr_fn: factor on lr for a matrix (rows, columns). "original", the default: √max(1, rows/columns).
            "match_rms_adamw": 0.2 √max(rows, columns), with which a learning rate tuned for AdamW can be kept.

    Source: Jordan et al. 2024; "match_rms_adamw" is Liu et al. 2025 (arXiv:2502.16982), §2.2. Arguments and defaults are
    PyTorch's, which iterates in bfloat16 where minigrad uses float32.

    >>> import minigrad as mg
    >>> w = mg.zeros(2, 2, requires_grad=True)
    >>> optimizer = Muon([w], lr=0.1)
    >>> (w * mg.tensor([[8.0, 0.0], [0.0, 1.0]])).sum().backward()
    >>> optimizer.step()  # both directions move by about 0.7 lr
    >>> w.detach()
    tensor([[-0.0705,  0.    ],
            [ 0.    , -0.0692]])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = NEWTON_SCHULZ,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        defaults: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, eps=eps)
        defaults |= dict(ns_coefficients=ns_coefficients, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn)
        super().__init__(params, defaults, {"lr": lr})

    def check_settings(self, group: dict[str, Any]) -> None:
        self.check_at_least_0(group, "lr", "weight_decay", "momentum", "eps")
        coefficients, steps = group["ns_coefficients"], as_int(group["ns_steps"], self.name, "ns_steps")
        triple = isinstance(coefficients, list | tuple) and len(coefficients) == 3
        if not (triple and all(isinstance(number, Real) for number in coefficients) and 0 <= steps < 100):
            got = f"{coefficients!r} and {steps}"
            raise ValueError(f"{self.name}: expected three numbers as ns_coefficients and fewer than 100 ns_steps, got {got}")
        if group["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            got = repr(group["adjust_lr_fn"])
            raise ValueError(f"{self.name}: expected adjust_lr_fn 'original' or 'match_rms_adamw', got {got}")
        for p in group["params"]:
            if p.ndim != 2:
                raise ValueError(f"{self.name}: expected matrices, got shape {p.shape}; give this parameter to AdamW")

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        momentum = group["momentum"]
        for portion in _portions(params):
            directions = []
            for p in portion:
                gradient = p.grad.array
                before = self.state.get(id(p), {}).get("momentum_buffer", 0)
                mean = momentum * before + (1 - momentum) * gradient
                self.state[id(p)] = {"momentum_buffer": mean}
                direction = momentum * mean + (1 - momentum) * gradient if group["nesterov"] else mean
                directions.append(direction.astype(np.promote_types(p.dtype, np.float32), copy=False))
            steps = orthogonalize(directions, group["ns_steps"], group["ns_coefficients"], group["eps"])
            for p, step in zip(portion, steps):
                rate = group["lr"] * _factor(p.shape, group["adjust_lr_fn"])
                p.array[...] = (1 - group["lr"] * group["weight_decay"]) * p.array - rate * step

    def load_state(self, p: Tensor, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        if "momentum_buffer" not in values:
            raise ValueError(f"{self.name}: the state of parameter {number} lacks momentum_buffer")
        return {"momentum_buffer": self.load_moment(p, number, "momentum_buffer", values["momentum_buffer"])}


class MuonWithAuxAdam(AdamW):
    """Muon for the groups with use_muon=True and AdamW for all others, as one optimizer with one state_dict().

    A model needs both: Muon is for the weight matrices of hidden layers alone. Each group takes the settings and defaults of
    its optimizer. The name is Jordan's (github.com/KellerJordan/Muon).

    Args:
        params: groups [{"params": […], "use_muon": True, "lr": …}, …].

    >>> import minigrad as mg
    >>> hidden, bias = mg.zeros(2, 3, requires_grad=True), mg.zeros(3, requires_grad=True)
    >>> optimizer = MuonWithAuxAdam([{"params": [hidden], "lr": 0.02, "use_muon": True}, {"params": [bias], "lr": 1e-3}])
    """

    def __init__(self, params: Iterable[dict[str, Any]]):
        groups = list(params)
        if not all(isinstance(group, Mapping) for group in groups):
            raise TypeError("MuonWithAuxAdam: expected groups as dicts, got parameters; say which group has use_muon=True")
        defaults: dict[str, Any] = dict(use_muon=False, lr=1e-3, weight_decay=None, eps=None, betas=(0.9, 0.999))
        defaults |= dict(momentum=0.95, nesterov=True, ns_coefficients=NEWTON_SCHULZ, ns_steps=5, adjust_lr_fn=None)
        Optimizer.__init__(self, groups, defaults)

    def check_settings(self, group: dict[str, Any]) -> None:
        own = dict(weight_decay=0.1, eps=1e-7) if group["use_muon"] else dict(weight_decay=1e-2, eps=1e-8)
        group.update({name: value for name, value in own.items() if group[name] is None})
        self._kind(group).check_settings(self, group)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        self._kind(group).update(self, group, params)

    def load_state(self, p: Tensor, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        group = next(group for group in self.param_groups if any(p is q for q in group["params"]))
        return self._kind(group).load_state(self, p, number, values)

    @staticmethod
    def _kind(group: dict[str, Any]) -> Any:
        return Muon if group["use_muon"] else AdamW


def _portions(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """Group parameters of one dtype and device into lists of at most PORTION numbers; a larger one gets a list of its own."""
    by_kind: dict[tuple, list[Tensor]] = {}
    for p in params:
        by_kind.setdefault((p.dtype, p.device), []).append(p)
    for alike in by_kind.values():
        portion, size = list[Tensor](), 0
        for p in alike:
            if portion and size + p.numel() > PORTION:
                yield portion
                portion, size = [], 0
            portion.append(p)
            size += p.numel()
        yield portion


def _factor(shape: tuple[int, ...], adjustment: str | None) -> float:
    rows, columns = shape
    return 0.2 * math.sqrt(max(rows, columns)) if adjustment == "match_rms_adamw" else math.sqrt(max(1, rows / columns))
