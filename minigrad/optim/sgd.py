"""Gradient descent, with momentum."""

from typing import Any, Iterable, Mapping

from minigrad.optim.optimizer import Optimizer
from minigrad.tensor import Tensor


class SGD(Optimizer):
    """Gradient descent: parameter −= lr · direction.

    The direction is the gradient, or with momentum a decaying sum of all gradients so far.

    Args:
        params: parameters, or groups [{"params": […], "lr": …}, …] whose entries override the defaults.
        lr: learning rate.
        momentum: factor on the previous direction.
        dampening: fraction by which momentum scales the gradient down.
        weight_decay: adds weight_decay · parameter to the gradient.
        nesterov: look ahead: add momentum · direction to the gradient.
        maximize: not implemented.
        foreach, differentiable, fused: accepted and without effect.

    Source: Sutskever et al. 2013, On the importance of initialization and momentum in deep learning, §2. As in PyTorch, the
    learning rate multiplies the whole direction.

    >>> import minigrad as mg
    >>> w = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()  # w −= 0.1 · 2w
    >>> w.detach()
    tensor([ 0.8, -0.8])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        defaults = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        super().__init__(params, defaults, {"maximize": maximize, "lr": lr})

    def check_settings(self, group: dict[str, Any]) -> None:
        self.check_at_least_0(group, "lr", "momentum", "weight_decay")
        if group["nesterov"] and not (group["momentum"] > 0 and group["dampening"] == 0):
            raise ValueError(f"{self.name}: nesterov=True needs a momentum above 0 and a dampening of 0")

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        momentum = group["momentum"]
        for p in params:
            gradient = p.grad.array
            if group["weight_decay"]:
                gradient = gradient + group["weight_decay"] * p.array
            direction = gradient
            if momentum:
                before = self.state.get(id(p), {}).get("momentum_buffer")
                direction = gradient.copy() if before is None else momentum * before + (1 - group["dampening"]) * gradient
                self.state[id(p)] = {"momentum_buffer": direction}
                if group["nesterov"]:
                    direction = gradient + momentum * direction
            p.array[...] -= group["lr"] * direction

    def load_state(self, p: Tensor, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        buffer = values.get("momentum_buffer")
        return {} if buffer is None else {"momentum_buffer": self.load_moment(p, number, "momentum_buffer", buffer)}
