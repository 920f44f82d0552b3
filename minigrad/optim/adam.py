"""AdamW and Adam. They differ in what weight decay acts on."""

from numbers import Real
from typing import Any, Iterable, Mapping

import kernels
from minigrad.optim.optimizer import Optimizer
from minigrad.tensor import Tensor


class AdamW(Optimizer):
    """Adam with decoupled weight decay. Parameters without a gradient keep their value and moments.

    Args:
        params: parameters, or groups [{"params": […], "lr": …, "weight_decay": …}, …] whose entries override the defaults.
        lr: learning rate.
        betas: decay rates of the first and second moment.
        eps: added to the denominator.
        weight_decay: each step also multiplies a parameter by 1 − lr · weight_decay.
        amsgrad, maximize: not implemented.
        foreach, capturable, differentiable, fused: accepted and without effect; one kernel call updates a whole group.

    Source: Loshchilov, Hutter 2017 (arXiv:1711.05101), Algorithm 2; the defaults are PyTorch's.

    >>> import minigrad as mg
    >>> w = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()  # the first step has length lr, whatever the gradient's size
    >>> w.detach()
    tensor([ 0.9, -0.9])
    """

    decoupled = True  # weight decay shrinks the parameter itself; in Adam it is part of the gradient

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, {"amsgrad": amsgrad, "maximize": maximize, "lr": lr})

    def check_settings(self, group: dict[str, Any]) -> None:
        self.check_at_least_0(group, "lr", "eps", "weight_decay")
        betas = group["betas"]
        pair = isinstance(betas, list | tuple) and len(betas) == 2
        if not (pair and all(isinstance(beta, Real) and 0 <= float(beta) < 1 for beta in betas)):
            raise ValueError(f"{self.name}: expected betas as two numbers of at least 0 and below 1, got {betas!r}")

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        decay = group["weight_decay"]
        batches: dict[tuple, list[tuple]] = {}  # a kernel call each: usually all parameters have one dtype and step number
        for p in params:
            state = self._state_of(p)
            state["step"] += 1
            gradient = p.grad.array if self.decoupled or not decay else p.grad.array + decay * p.array
            batch = batches.setdefault((state["step"], p.dtype, p.device), [])
            batch.append((p.array, gradient, state["exp_avg"], state["exp_avg_sq"]))
        for (step, _, _), arrays in batches.items():
            beta1, beta2 = group["betas"]
            kernels.serving(arrays[0][0]).adamw_step(
                *map(list, zip(*arrays)),
                step=step,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                weight_decay=decay if self.decoupled else 0.0,
            )

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        if id(p) not in self.state:
            xp = kernels.array_module(p.array)
            self.state[id(p)] = {"step": 0, "exp_avg": xp.zeros_like(p.array), "exp_avg_sq": xp.zeros_like(p.array)}
        return self.state[id(p)]

    def load_state(self, p: Tensor, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        missing = {"step", "exp_avg", "exp_avg_sq"} - set(values)
        if missing:
            raise ValueError(f"{self.name}: the state of parameter {number} lacks {', '.join(sorted(missing))}")
        moments = {name: self.load_moment(p, number, name, values[name]) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": int(values["step"]), **moments}


class Adam(AdamW):
    """Adam with L2 regularisation: weight decay adds weight_decay · parameter to the gradient.

    The decay then passes through the moments, so parameters with large gradients decay less; AdamW's decay reaches all alike.
    The arguments are AdamW's. Source: Kingma, Ba 2014 (arXiv:1412.6980), Algorithm 1; the defaults are PyTorch's.
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **options: Any,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)
