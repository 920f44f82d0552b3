"""AdamW, gradient clipping, and the learning-rate schedule."""

import math

import numpy as np

import kernels
from minigrad.tensor import Tensor


class AdamW:
    """Adam with decoupled weight decay.  Loshchilov, Hutter 2017 (arXiv:1711.05101), Algorithm 2; defaults are PyTorch's.

    params: parameters, or groups [{"params": […], "lr": …, "weight_decay": …}, …] whose entries override the defaults.
    A parameter without a gradient is left alone, moments and all.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        groups = list(params)
        if not groups:
            raise ValueError("AdamW was given no parameters")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        for group in self.param_groups:
            self._check(group)
        everything = [p for group in self.param_groups for p in group["params"]]
        if len({id(p) for p in everything}) < len(everything):
            raise ValueError("AdamW: a parameter appears in two groups, or twice in one")
        self.state = {}  # id(parameter) -> [steps taken, m, v]

    @staticmethod
    def _check(group):
        unknown = set(group) - {"params", "lr", "betas", "eps", "weight_decay"}
        if unknown:
            raise ValueError(f"AdamW: a group has {', '.join(sorted(unknown))}; it may set lr, betas, eps and weight_decay")
        beta1, beta2 = group["betas"]
        for name, value, right in (
            ("lr", group["lr"], group["lr"] >= 0),
            ("betas", group["betas"], 0 <= beta1 < 1 and 0 <= beta2 < 1),
            ("eps", group["eps"], group["eps"] >= 0),
            ("weight_decay", group["weight_decay"], group["weight_decay"] >= 0),
        ):
            if not right:
                raise ValueError(f"AdamW: {name}={value} is out of range")
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"AdamW updates tensors, not {type(p).__name__}")
            if not p.is_leaf:
                raise TypeError(f"AdamW updates leaves; this tensor of shape {p.shape} is the result of an operation")

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.zero_()

    def step(self):
        """Update every parameter that has a gradient: one kernel call for each group."""
        for group in self.param_groups:
            batches = {}  # parameters that have taken equally many steps go together: all of them, as a rule
            for p in group["params"]:
                if p.grad is not None:
                    if not isinstance(p.grad, Tensor) or p.grad.shape != p.shape:
                        raise TypeError(f"AdamW: the gradient of a parameter of shape {p.shape} must be a tensor like it")
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

    def _state_of(self, p):
        if id(p) not in self.state:
            xp = kernels.array_module(p.array)
            self.state[id(p)] = [0, xp.zeros_like(p.array), xp.zeros_like(p.array)]
        return self.state[id(p)]

    def state_dict(self):
        """{"state": {index: {"step", "exp_avg", "exp_avg_sq"}}, "param_groups": […]}, parameters numbered in their order."""
        state, groups, index = {}, [], 0
        for group in self.param_groups:
            first = index
            for p in group["params"]:
                if id(p) in self.state:
                    step, m, v = self.state[id(p)]
                    state[index] = {"step": step, "exp_avg": Tensor(m), "exp_avg_sq": Tensor(v)}
                index += 1
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": list(range(first, index))})
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict):
        params = [p for group in self.param_groups for p in group["params"]]
        sizes = [len(group["params"]) for group in self.param_groups]
        if sizes != [len(group["params"]) for group in state_dict["param_groups"]]:
            raise ValueError("AdamW: this state is of an optimiser with other parameter groups")
        for index, saved in state_dict["state"].items():
            p = params[int(index)]
            if tuple(saved["exp_avg"].shape) != p.shape:
                raise ValueError(f"AdamW: moments of shape {saved['exp_avg'].shape} for parameter {index} of shape {p.shape}")
        for group, saved in zip(self.param_groups, state_dict["param_groups"]):
            group.update({k: v for k, v in saved.items() if k != "params"})
        self.state = {}
        for index, saved in state_dict["state"].items():
            p = params[int(index)]
            moments = [getattr(saved[k], "array", saved[k]) for k in ("exp_avg", "exp_avg_sq")]
            moments = [kernels.to_device(m, p.device).astype(p.dtype) for m in moments]
            self.state[id(p)] = [int(saved["step"]), *moments]


def clip_grad_norm_(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False):
    """Scale all gradients by one factor so that their common Euclidean norm is at most max_norm.  Pascanu et al. 2013, §3.2.

    Returns that norm as it was before, a tensor of one number. Where it is NaN or infinite, raises RuntimeError if asked to.
    """
    if norm_type != 2:
        raise NotImplementedError(f"clip_grad_norm_: only the Euclidean norm (norm_type 2) is implemented, got {norm_type}")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [p.grad.array for p in parameters if p.grad is not None]
    if not grads:
        return Tensor(np.zeros((), np.float32))
    served = kernels.serving(grads[0])
    norm = served.global_norm(grads)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {float(norm)}; they cannot be clipped")
    xp = kernels.array_module(grads[0])
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)
    if xp is not np or factor != 1:  # on a GPU, to look at the number would be to wait for it
        served.scale_arrays(grads, factor)
    return Tensor(xp.asarray(norm, grads[0].dtype))


def warmup_cosine(step, *, lr, min_lr=0.0, warmup_steps=0, total_steps):
    """The learning rate of a step: a straight climb over the first warmup_steps, then half a cosine from lr down to min_lr.

    step counts from 0. The first step's rate is lr / warmup_steps, not zero (a step at rate zero is wasted); the last step's
    (total_steps − 1) is min_lr, if the warm-up leaves room for a descent, and later steps stay there.
    Source: Loshchilov, Hutter 2016 (arXiv:1608.03983), eq. 5.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    decaying = total_steps - 1 - warmup_steps
    progress = min((step - warmup_steps) / decaying, 1.0) if decaying > 0 else 1.0 if step >= total_steps else 0.0
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def __getattr__(name):
    raise AttributeError(f"minigrad.optim has no {name!r}; it has AdamW, clip_grad_norm_ and warmup_cosine")
