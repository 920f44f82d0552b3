"""AdamW, gradient clipping, and the learning-rate schedule."""

import math
import typing as _typing
from typing import Any, Iterable, Mapping

import numpy as np

import kernels
from minigrad.tensor import Tensor


class AdamW:
    """Adam with decoupled weight decay. Parameters without a gradient keep their value and moments.

    Args:
        params: parameters, or groups [{"params": […], "lr": …, "weight_decay": …}, …] whose entries override the defaults.
        lr: learning rate.
        betas: decay rates of the first and second moment.
        eps: added to the denominator.
        weight_decay: each step also multiplies a parameter by 1 − lr · weight_decay.

    Source: Loshchilov, Hutter 2017 (arXiv:1711.05101), Algorithm 2; the defaults are PyTorch's.

    >>> import minigrad as mg
    >>> w = mg.tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()  # the first step has length lr, whatever the gradient's size
    >>> w.detach()
    tensor([ 0.9, -0.9])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError("AdamW: expected parameters, got no parameters at all")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups: list[dict[str, Any]] = [{**defaults, **g, "params": list(g["params"])} for g in groups]
        for group in self.param_groups:
            _check_group(group)
        if len({id(p) for p in self._parameters()}) < len(self._parameters()):
            raise ValueError("AdamW: a parameter appears in two groups, or twice in one")
        self.state: dict[int, list[Any]] = {}  # id(parameter) -> [steps taken, first moment, second moment]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or with set_to_none=False overwrite it with zeros."""
        zero_grads(self._parameters(), set_to_none)

    def step(self) -> None:
        """Update every parameter that has a gradient, with one kernel call for each group."""
        for group in self.param_groups:
            _check_settings(group)
            batches: dict[int, list[tuple]] = {}  # step number -> its parameters; usually all have taken equally many steps
            for p in group["params"]:
                if p.grad is not None:
                    if not isinstance(p.grad, Tensor) or p.grad.shape != p.shape:
                        raise TypeError(f"AdamW: the gradient of a parameter of shape {p.shape} must be a tensor of that shape")
                    state = self._state_of(p)
                    state[0] += 1
                    batches.setdefault(state[0], []).append((p.array, p.grad.array, state[1], state[2]))
                    p.changed()
            for step, arrays in batches.items():
                beta1, beta2 = group["betas"]
                kernels.serving(arrays[0][0]).adamw_step(
                    *map(list, zip(*arrays)),
                    step=step,
                    lr=group["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                )

    def _state_of(self, p: Tensor) -> list[Any]:
        if id(p) not in self.state:
            xp = kernels.array_module(p.array)
            self.state[id(p)] = [0, xp.zeros_like(p.array), xp.zeros_like(p.array)]
        return self.state[id(p)]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, with the parameters numbered in their order.

        Returns:
            {"state": {number: {"step": …, "exp_avg": …, "exp_avg_sq": …}}, "param_groups": […]}.
        """
        state, groups, numbers = {}, [], iter(range(len(self._parameters())))
        for group in self.param_groups:
            numbered_params = [(next(numbers), p) for p in group["params"]]
            for number, p in numbered_params:
                if id(p) in self.state:
                    step, m, v = self.state[id(p)]
                    state[number] = {"step": step, "exp_avg": Tensor(m), "exp_avg_sq": Tensor(v)}
            groups.append({**group, "params": [number for number, _ in numbered_params]})
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state_dict() of an optimizer whose parameters had the same shapes and groups.

        Raises:
            ValueError: if they had not, or if an entry is missing; the optimizer is then unchanged.
        """
        params = self._parameters()
        sizes = [len(group["params"]) for group in self.param_groups]
        if sizes != [len(group["params"]) for group in state_dict["param_groups"]]:
            raise ValueError("AdamW: this state is from an optimizer with other parameter groups")
        for number, moments in state_dict["state"].items():
            if not 0 <= int(number) < len(params):
                raise ValueError(f"AdamW: this state is of parameter {number}, and the optimizer has {len(params)} parameters")
            p = params[int(number)]
            if missing := {"step", "exp_avg", "exp_avg_sq"} - moments.keys():
                raise ValueError(f"AdamW: the state of parameter {number} lacks {' and '.join(sorted(missing))}")
            for key in ("exp_avg", "exp_avg_sq"):
                if tuple(moments[key].shape) != p.shape:
                    raise ValueError(f"AdamW: moments of shape {moments[key].shape} for parameter {number} of shape {p.shape}")
        for group, settings in zip(self.param_groups, state_dict["param_groups"]):
            group.update({k: v for k, v in settings.items() if k != "params"})
        self.state = {}
        for number, moments in state_dict["state"].items():
            p = params[int(number)]
            arrays = [getattr(moments[k], "array", moments[k]) for k in ("exp_avg", "exp_avg_sq")]
            arrays = [kernels.to_device(a, p.device).astype(p.dtype) for a in arrays]
            self.state[id(p)] = [int(moments["step"]), *arrays]


def _check_settings(group: dict[str, Any]) -> None:
    unknown = set(group) - {"params", "lr", "betas", "eps", "weight_decay"}
    if unknown:
        raise ValueError(f"AdamW: a group has {', '.join(sorted(unknown))}; it may set lr, betas, eps and weight_decay")
    beta1, beta2 = group["betas"]
    for name, in_range in (
        ("lr", group["lr"] >= 0),
        ("betas", 0 <= beta1 < 1 and 0 <= beta2 < 1),
        ("eps", group["eps"] >= 0),
        ("weight_decay", group["weight_decay"] >= 0),
    ):
        if not in_range:
            raise ValueError(f"AdamW: {name}={group[name]} is out of range")


def _check_group(group: dict[str, Any]) -> None:
    _check_settings(group)
    for p in group["params"]:
        if not isinstance(p, Tensor):
            raise TypeError(f"AdamW: expected tensors to update, got {type(p).__name__}")
        if not p.is_leaf:
            raise TypeError(f"AdamW: expected leaves to update, got a tensor of shape {p.shape} that an operation computed")


def zero_grads(parameters: Iterable[Tensor], set_to_none: bool = True) -> None:
    """Drop the gradients of tensors, or with set_to_none=False overwrite them with zeros."""
    for p in parameters:
        if set_to_none:
            p.grad = None
        elif p.grad is not None:
            p.grad.zero_()


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients by one factor so that their common Euclidean norm is at most max_norm.

    Returns the norm before scaling, a tensor of one number. If it is NaN or infinite, error_if_nonfinite=True raises
    RuntimeError.  Source: Pascanu et al. 2013 (arXiv:1211.5063), §3.2.
    """
    if norm_type != 2:
        raise NotImplementedError(f"clip_grad_norm_: only the Euclidean norm (norm_type 2) is implemented, got {norm_type}")
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: expected max_norm of at least 0, got {max_norm}")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    tensors = [p.grad for p in parameters if p.grad is not None]
    if not tensors:
        return Tensor(np.zeros((), np.float32))
    grads = [grad.array for grad in tensors]
    kernel_set = kernels.serving(grads[0])
    norm = kernel_set.global_norm(grads)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {float(norm)}; they cannot be clipped")
    xp = kernels.array_module(grads[0])
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)
    if xp is not np or factor != 1:  # a GPU always scales, since reading the factor would wait for it
        kernel_set.scale_arrays(grads, factor)
        for grad in tensors:
            grad.changed()
    return Tensor(xp.asarray(norm, grads[0].dtype))


def warmup_cosine(step: int, *, lr: float, min_lr: float = 0.0, warmup_steps: int = 0, total_steps: int) -> float:
    """The learning rate of a step: a linear warm-up to lr, then half a cosine down to min_lr.

    Steps count from 0. The first step has lr / warmup_steps rather than zero, which would waste it. The last step
    (total_steps − 1) has min_lr if the warm-up leaves room for a descent, and later steps stay there.
    Source: Loshchilov, Hutter 2016 (arXiv:1608.03983), eq. 5.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    decaying = total_steps - 1 - warmup_steps
    progress = min((step - warmup_steps) / decaying, 1.0) if decaying > 0 else 1.0 if step >= total_steps else 0.0
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.optim has no {name!r}; it has AdamW, clip_grad_norm_ and warmup_cosine")
