"""Muon: momentum, orthogonalised before each step."""

import math
from numbers import Real
from typing import Any, Iterable, Mapping

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
#     a X + b (X Xᵀ) X + c (X Xᵀ)² X   =   U (a Σ + b Σ³ + c Σ⁵) Vᵀ.
#
# With the coefficients above, x ↦ a x + b x³ + c x⁵ multiplies small numbers by 3.4 and maps (0, 1.21] into itself. Five
# repetitions bring every number from 0.003 to 1 to between 0.68 and 1.21. The result is close to U Vᵀ, the orthogonal matrix
# nearest to X, and needs no decomposition. Dividing by the Frobenius norm first makes all singular values at most 1.
def orthogonalize(
    matrices: Any, steps: int = 5, coefficients: tuple[float, float, float] = NEWTON_SCHULZ, eps: float = 1e-7
) -> Any:
    """Bring the singular values of every matrix near 1 by Newton–Schulz iteration.

    Args:
        matrices: array (n, rows, columns), float32 or float64.
        steps: iterations.
        coefficients: a, b, c of the polynomial a x + b x³ + c x⁵.
        eps: least Frobenius norm to divide by.

    Returns:
        A new array (n, rows, columns); a matrix of zeros stays zero.

    Source: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks (kellerjordan.github.io/posts/muon).
    """
    xp, matmul = kernels.array_module(matrices), kernels.serving(matrices).matmul
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = xp.ascontiguousarray(matrices.swapaxes(1, 2)) if tall else matrices  # (n, r, c), r ≤ c: the smaller product X Xᵀ
    norms = xp.sqrt((x.astype(np.float64) ** 2).sum(axis=(1, 2), keepdims=True)).astype(x.dtype)
    x = x / xp.maximum(norms, eps)
    diagonal = xp.arange(x.shape[1])
    for _ in range(steps):
        gram = matmul(x, x, transpose_b=True)  # (n, r, r)
        factor = matmul(c * gram, gram)
        factor += b * gram
        factor[:, diagonal, diagonal] += a  # a X + b (X Xᵀ) X + c (X Xᵀ)² X = (a I + b X Xᵀ + c (X Xᵀ)²) X
        x = matmul(factor, x)
    return xp.ascontiguousarray(x.swapaxes(1, 2)) if tall else x


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
        momentum, batches = group["momentum"], dict[tuple, list[Tensor]]()
        for p in params:  # matrices of one shape are orthogonalised together
            batches.setdefault((p.shape, p.dtype, p.device), []).append(p)
        for (shape, dtype, _), batch in batches.items():
            xp = kernels.array_module(batch[0].array)
            directions = []
            for p in batch:
                gradient = p.grad.array
                before = self.state.get(id(p), {}).get("momentum_buffer", 0)
                mean = momentum * before + (1 - momentum) * gradient
                self.state[id(p)] = {"momentum_buffer": mean}
                directions.append(momentum * mean + (1 - momentum) * gradient if group["nesterov"] else mean)
            matrices = xp.stack(directions).astype(np.promote_types(dtype, np.float32), copy=False)  # (n, rows, columns)
            steps = orthogonalize(matrices, group["ns_steps"], group["ns_coefficients"], group["eps"])
            rate = group["lr"] * _factor(shape, group["adjust_lr_fn"])
            for p, step in zip(batch, steps):
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


def _factor(shape: tuple[int, int], adjustment: str | None) -> float:
    rows, columns = shape
    return 0.2 * math.sqrt(max(rows, columns)) if adjustment == "match_rms_adamw" else math.sqrt(max(1, rows / columns))
