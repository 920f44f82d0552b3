"""Optimizer: groups of parameters with their settings, and the state that an optimizer keeps for each parameter."""

from numbers import Real
from typing import Any, Callable, Iterable, Mapping

import kernels
from minigrad.modes import enable_grad
from minigrad.optim.clipping import zero_grads
from minigrad.tensor import Tensor

# PyTorch's options that choose how a step is computed. minigrad always computes it in one way, so they change no result.
IMPLEMENTATIONS = {"foreach", "fused", "capturable", "differentiable"}
# PyTorch's options that change the result, and that minigrad does not have.
MISSING = {"amsgrad", "maximize"}


class Optimizer:
    """Base of all optimizers. A subclass passes its settings to __init__ and defines `update` and `check_settings`.

    Args:
        params: parameters, or groups [{"params": […], "lr": …}, …] whose entries override the defaults.
        defaults: the settings of a group, by name.
        options: the caller's values for options of PyTorch's optimizers that are not settings here.

    Attributes:
        param_groups: the groups, each a dict of its parameters and settings. A change takes effect at the next step.
        state: id(parameter) -> the numbers and arrays that the optimizer keeps for it, by name.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        defaults: dict[str, Any],
        options: Mapping[str, Any] | None = None,
    ):
        self.name = type(self).__name__
        self.defaults = defaults
        self._refuse_options(options or {})
        if isinstance(params, Tensor):
            raise TypeError(f"{self.name}: expected an iterable of parameters, got one tensor; pass [tensor]")
        if not isinstance(params, Iterable):
            got = type(params).__name__
            raise TypeError(f"{self.name}: expected an iterable of parameters, got {got}; pass model.parameters()")
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError(f"{self.name}: expected parameters, got none; pass model.parameters()")
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[int, dict[str, Any]] = {}
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Change the parameters of a group, all of which have gradients, by one step; subclasses define it."""
        raise NotImplementedError(f"{self.name}: update() is not defined")

    def check_settings(self, group: dict[str, Any]) -> None:
        """Raise TypeError or ValueError for a setting that is no number or out of range; subclasses define it."""

    def check_at_least_0(self, group: dict[str, Any], *names: str) -> None:
        """Raise TypeError or ValueError unless these settings are numbers of at least 0."""
        for name in names:
            value = group[name]
            if not (isinstance(value, Real) and float(value) >= 0):
                error = ValueError if isinstance(value, Real) else TypeError
                raise error(f"{self.name}: expected {name} of at least 0, got {value!r}")

    # ── a step ──

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or with set_to_none=False overwrite it with zeros."""
        zero_grads(self._parameters(), set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        closure: computes the loss and its gradients first. Its result is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._check_names(group)
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if p.grad.shape != p.shape:
                    raise TypeError(f"{self.name}: the gradient of a parameter of shape {p.shape} has shape {p.grad.shape}")
            self.update(group, params)
            for p in params:
                p.changed()
        return loss

    # ── groups ──

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group {"params": …, setting: …}, for example when a layer is no longer frozen."""
        if not isinstance(param_group, Mapping):
            got = type(param_group).__name__
            raise TypeError(f'{self.name}: expected a group as a dict, got {got}; pass {{"params": parameters, …}}')
        if "params" not in param_group:
            got = ", ".join(map(repr, param_group)) or "an empty dict"
            raise ValueError(f"{self.name}: expected a group with 'params', got {got}; add its parameters")
        params = param_group["params"]
        group = {**self.defaults, **param_group, "params": [params] if isinstance(params, Tensor) else list(params)}
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"{self.name}: expected tensors to update, got {type(p).__name__}")
            if not p.is_leaf:
                raise TypeError(
                    f"{self.name}: expected leaves to update, got a tensor of shape {p.shape} that an operation computed"
                )
        self._check(group)
        ids = [id(p) for p in self._parameters() + group["params"]]
        if len(set(ids)) < len(ids):
            raise ValueError(f"{self.name}: a parameter appears in two groups, or twice in one")
        self.param_groups.append(group)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _check(self, group: dict[str, Any]) -> None:
        self._check_names(group)
        self.check_settings(group)

    def _check_names(self, group: dict[str, Any]) -> None:
        self._refuse_options(group)
        unknown = set(group) - set(self.defaults) - {"params", "initial_lr"} - IMPLEMENTATIONS - MISSING
        if unknown:
            allowed = ", ".join(self.defaults)
            raise ValueError(f"{self.name}: a group has {', '.join(sorted(unknown))}; it may set {allowed}")

    def _refuse_options(self, options: Mapping[str, Any]) -> None:
        for option in MISSING & set(options):
            if options[option]:
                raise NotImplementedError(f"{self.name}: {option}=True is not implemented")
        if isinstance(options.get("lr"), Tensor):
            raise NotImplementedError(f"{self.name}: expected a number as lr, got a tensor; pass lr.item()")

    def __repr__(self) -> str:
        lines = [f"{self.name} ("]
        for i, group in enumerate(self.param_groups):
            lines += [f"Parameter Group {i}", *(f"    {key}: {group[key]}" for key in sorted(group) if key != "params")]
        return "\n".join([*lines, ")"])

    # ── state ──

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, with the parameters numbered in their order.

        Returns:
            {"state": {number: {name: number or tensor, …}}, "param_groups": […]}.
        """
        state, groups, numbers = {}, [], iter(range(len(self._parameters())))
        for group in self.param_groups:
            numbered_params = [(next(numbers), p) for p in group["params"]]
            for number, p in numbered_params:
                if id(p) in self.state:
                    state[number] = {
                        name: Tensor(value) if hasattr(value, "dtype") else value for name, value in self.state[id(p)].items()
                    }
            groups.append({**group, "params": [number for number, _ in numbered_params]})
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state_dict() of an optimizer whose parameters had the same shapes and groups.

        Raises:
            ValueError: if the shapes or groups differ, or if an entry is missing; the optimizer is then unchanged.
        """
        kinds = {"state": Mapping, "param_groups": list}
        is_dict = isinstance(state_dict, Mapping)
        if not is_dict or not all(isinstance(state_dict.get(name), kind) for name, kind in kinds.items()):
            got = list(state_dict) if is_dict else type(state_dict).__name__
            raise ValueError(f"{self.name}: expected a dict 'state' and a list 'param_groups', got {got}; pass state_dict()")
        params = self._parameters()
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [len(group["params"]) for group in state_dict["param_groups"]]
        if sizes != saved_sizes:
            raise ValueError(
                f"{self.name}: expected a state with groups of {sizes} parameters, got groups of {saved_sizes}; "
                "load it into an optimizer with the same groups"
            )
        loaded = {}
        for number, values in state_dict["state"].items():
            if not 0 <= int(number) < len(params):
                count = f"the optimizer has {len(params)} parameters"
                raise ValueError(f"{self.name}: this state is of parameter {number}, and {count}")
            p = params[int(number)]
            loaded[id(p)] = self.load_state(p, int(number), values)
        groups = [
            {**group, **{name: value for name, value in settings.items() if name != "params"}}
            for group, settings in zip(self.param_groups, state_dict["param_groups"])
        ]
        for group in groups:
            self._check(group)
        for group, settings in zip(self.param_groups, groups):
            group.update(settings)
        self.state = loaded

    def load_state(self, p: Tensor, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """The state of one parameter, from its entry in a state_dict(); subclasses define it."""
        raise NotImplementedError(f"{self.name}: load_state() is not defined")

    def load_moment(self, p: Tensor, number: int, name: str, value: Any) -> Any:
        """One array of a parameter's state: on the parameter's device, in its dtype, as a copy."""
        array = getattr(value, "array", value)
        if tuple(array.shape) != p.shape:
            raise ValueError(
                f"{self.name}: moments of shape {tuple(array.shape)} ({name}) for parameter {number} of shape {p.shape}"
            )
        return kernels.to_device(array, p.device).astype(p.dtype)
