"""Module: a tree of layers, whose leaves are parameters."""

from typing import Any, Callable, Iterator, Mapping, NamedTuple, TypeVar

import numpy as np

import kernels
from minigrad.drawing.html import module_html
from minigrad.hooks import RemovableHandle
from minigrad.optim import zero_grads
from minigrad.tensor import Tensor

ModuleT = TypeVar("ModuleT", bound="Module")

# Attributes of PyTorch's Module that minigrad's lacks. PyTorch refuses them as the names of parts; so does minigrad.
PYTORCHS_ATTRIBUTES = frozenset(
    "T_destination bfloat16 call_super_init compile dump_patches get_extra_state ipu mtia register_backward_hook "
    "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
    "register_load_state_dict_pre_hook register_state_dict_post_hook register_state_dict_pre_hook set_extra_state "
    "set_submodule share_memory to_empty type xpu".split()
)


class Parameter(Tensor):
    """A tensor that a Module registers and an optimizer updates; it requires grad by default."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(data.array if isinstance(data, Tensor) else data, requires_grad)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


class LoadResult(NamedTuple):
    """The names that load_state_dict did not find in the state, and the names in it that the module lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers. Assign Parameters, Modules and (with register_buffer) Tensors as attributes, and write forward().

    An attribute can be replaced by another or by None later: `gpt.lm_head = nn.Identity()`.
    """

    training: bool

    def __init__(self) -> None:
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_buffers", {})
        object.__setattr__(self, "_transient_buffers", set())  # the names of buffers that state_dict() leaves out
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "training", True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of this module; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__}: forward() is not defined")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for hook in list(self.__dict__.get("_forward_pre_hooks", {}).values()):
            replaced = hook(self, args)
            if replaced is not None:
                args = replaced if isinstance(replaced, tuple) else (replaced,)
        output = self.forward(*args, **kwargs)
        for hook in list(self.__dict__.get("_forward_hooks", {}).values()):
            replaced = hook(self, args, output)
            output = output if replaced is None else replaced
        return output

    # ── attributes: three dicts hold parameters, buffers and modules; everything else is an ordinary attribute ──

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.__init__ must call super().__init__() before assigning {name!r}")
        holders = (self._parameters, self._modules, self._buffers)
        home = self._parameters if isinstance(value, Parameter) else self._modules if isinstance(value, Module) else None
        if home is None and name in self._buffers and (value is None or isinstance(value, Tensor)):
            home = self._buffers
        if home is None and value is None:
            home = next((h for h in holders if name in h), None)
        if home is None:
            for holder, expected in ((self._parameters, "Parameter"), (self._modules, "Module"), (self._buffers, "tensor")):
                if name in holder:
                    raise TypeError(f"{name}: expected a {expected} or None, got {type(value).__name__}")
            return object.__setattr__(self, name, value)
        for holder in holders:
            if holder is not home:
                holder.pop(name, None)
        self.__dict__.pop(name, None)
        home[name] = value

    def __getattr__(self, name: str) -> Any:  # only called where there is no ordinary attribute
        for holder in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(holder, ()):
                return self.__dict__[holder][name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for holder in (self._parameters, self._buffers, self._modules):
            if name in holder:
                del holder[name]
                return
        object.__delattr__(self, name)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter by name; None reserves the name (a layer without bias)."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: expected a Parameter or None as {name}, got {type(param).__name__}")
        self._check_new_name("register_parameter", name, self._parameters)
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that moves with the module but is not trained; persistent=False leaves it out of state_dict().

        Raises:
            TypeError: for anything but a tensor or None.
            KeyError: if the name has a dot, is empty, or belongs to another attribute.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: expected a tensor or None as {name}, got {type(tensor).__name__}")
        self._check_new_name("register_buffer", name, self._buffers)
        self._buffers[name] = tensor
        (self._transient_buffers.discard if persistent else self._transient_buffers.add)(name)

    def register_module(self, name: str, module: "Module | None") -> None:
        """Add a module by name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"register_module: expected a Module or None as {name}, got {type(module).__name__}")
        self._check_new_name("register_module", name, self._modules)
        self._modules[name] = module

    add_module = register_module

    def _check_new_name(self, caller: str, name: str, holder: dict) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{caller}: expected a string as name, got {name!r}")
        if name == "" or "." in name:
            raise KeyError(f"{caller}: expected a name without dots, got {name!r}")
        if name not in holder and (hasattr(self, name) or name in PYTORCHS_ATTRIBUTES):
            raise KeyError(f"{caller}: {type(self).__name__} has another attribute {name!r}")

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(module, args, output) after every forward(); a value that it returns replaces the output."""
        return self._add_hook("_forward_hooks", hook)

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(module, args) before every forward(); a value that it returns replaces the positional arguments."""
        return self._add_hook("_forward_pre_hooks", hook)

    def has_hooks(self) -> bool:
        """Whether a hook runs before or after this module's forward() (not in PyTorch)."""
        return bool(self.__dict__.get("_forward_hooks") or self.__dict__.get("_forward_pre_hooks"))

    def _add_hook(self, name: str, hook: Callable[..., Any]) -> RemovableHandle:
        hooks = self.__dict__.setdefault(name, {})
        handle = RemovableHandle(hooks)
        hooks[handle] = hook
        return handle

    # ── the tree ──

    def children(self) -> Iterator["Module"]:
        """The modules directly below this one."""
        return (module for _, module in self.named_children())

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules directly below this one and their names, each once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Every module of the tree with its dotted name, each once, this one first."""
        seen = set()
        for name, module in self._paths(prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def _paths(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Every path through the tree and the module at its end; a shared module appears several times."""
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module._paths(_dotted(prefix, name))

    def modules(self) -> Iterator["Module"]:
        """Every module of the tree, each once, this one first."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its dotted name.

        Args:
            prefix: comes before every name, with a dot.
            recurse: include the parameters of modules below this one.
            remove_duplicate: give a parameter that two layers share once, under its first name.
        """
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter, each once."""
        return (param for _, param in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Every buffer with its dotted name; the arguments are those of named_parameters."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def _named(self, holder: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen = set()
        for path, module in self._paths(prefix) if recurse else [(prefix, self)]:
            for name, tensor in getattr(module, holder).items():
                if tensor is not None and not (remove_duplicate and id(tensor) in seen):
                    seen.add(id(tensor))
                    yield _dotted(path, name), tensor

    def get_submodule(self, target: str) -> "Module":
        """The module with a dotted name; "" is this module."""
        module = self
        for name in target.split(".") if target else ():
            below = module._modules.get(name)
            if below is None:
                raise AttributeError(f"get_submodule: {type(module).__name__} has no module {name!r}, wanted for {target!r}")
            module = below
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter with a dotted name."""
        return self._get("_parameters", "get_parameter", target)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer with a dotted name."""
        return self._get("_buffers", "get_buffer", target)

    def _get(self, holder: str, caller: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        tensor = getattr(self.get_submodule(path), holder).get(name)
        if tensor is None:
            raise AttributeError(f"{caller}: {type(self).__name__} has none named {target!r}")
        return tensor

    def apply(self: ModuleT, function: Callable[["Module"], Any]) -> ModuleT:
        """Call function(module) on every module, children before parents."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    # ── modes, gradients, devices ──

    def train(self: ModuleT, mode: bool = True) -> ModuleT:
        """Switch every module to training (dropout on) or, with mode=False, to evaluation."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: expected True or False as mode, got {mode!r}")
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self: ModuleT) -> ModuleT:
        """Switch every module to evaluation (dropout off)."""
        return self.train(False)

    def requires_grad_(self: ModuleT, requires_grad: bool = True) -> ModuleT:
        """Train every parameter, or with False freeze them."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or with set_to_none=False overwrite it with zeros."""
        zero_grads(self.parameters(), set_to_none)

    def to(self: ModuleT, *targets: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> ModuleT:
        """Move every parameter and buffer, in place, to a device ("cpu", "cuda", "emulator") and/or a float dtype.

        A tensor stands for its device and dtype. non_blocking is accepted and without effect.
        """
        settings: list[Any] = [device, dtype]
        for target in targets:
            settings += [target.device, target.dtype] if isinstance(target, Tensor) else [target]
        devices = [target for target in settings if isinstance(target, str) and target in kernels.DEVICES]
        dtypes = [target for target in settings if target is not None and target not in devices]
        for target in dtypes:
            if Tensor(np.zeros(0)).to(target).dtype.kind != "f":
                raise TypeError(f"{type(self).__name__}.to: expected a floating-point dtype, got {target}")
        for module in self.modules():
            for _, tensor in module._tensors():
                moved = tensor.detach().to(*devices)
                tensor.data = moved.to(*dtypes) if tensor.dtype.kind == "f" else moved
        return self

    def cuda(self: ModuleT) -> ModuleT:
        """Move to the GPU."""
        return self.to("cuda")

    def cpu(self: ModuleT) -> ModuleT:
        """Move to the CPU."""
        return self.to("cpu")

    def float(self: ModuleT) -> ModuleT:
        """Convert to float32."""
        return self.to("float32")

    def double(self: ModuleT) -> ModuleT:
        """Convert to float64."""
        return self.to("float64")

    def half(self: ModuleT) -> ModuleT:
        """Convert to float16."""
        return self.to("float16")

    # ── state ──

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters and buffers of this module alone."""
        for holder in (self._parameters, self._buffers):
            yield from ((name, tensor) for name, tensor in holder.items() if tensor is not None)

    def _state(self) -> Iterator[tuple[str, "Module", str, Tensor]]:
        """(dotted name, module, name, tensor) for every parameter and persistent buffer."""
        for path, module in self._paths():
            for name, tensor in module._tensors():
                if name not in module._transient_buffers:
                    yield _dotted(path, name), module, name, tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Dotted name -> tensor, sharing memory, for every parameter and buffer. A shared tensor has several names."""
        return {name: tensor.detach() for name, _, _, tensor in self._state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> LoadResult:
        """Copy values into the parameters and buffers of the same names.

        Args:
            state_dict: name -> tensor or array. A shared parameter may come under any of its names.
            strict: refuse missing and unexpected names.
            assign: put the tensors of state_dict in place of the module's own, with their dtype and device. An optimizer made
                before holds the module's former parameters.

        Raises:
            RuntimeError: before anything is changed, for a wrong shape or, if strict, a wrong name.
        """
        if not isinstance(state_dict, Mapping):
            got = type(state_dict).__name__
            raise TypeError(f"load_state_dict: expected a dict of tensors, got {got}; pass the result of state_dict()")
        own = self.state_dict()
        for name, value in state_dict.items():
            if not hasattr(value, "dtype"):
                raise TypeError(f"load_state_dict: expected tensors or arrays, but {name} is a {type(value).__name__}")
        common_names = [name for name in own if name in state_dict]
        loaded_ids = {id(own[name].array) for name in common_names}  # names of one tensor share its array
        missing = [name for name in own if id(own[name].array) not in loaded_ids]
        unexpected = [name for name in state_dict if name not in own]
        problems = []
        if strict and missing:
            problems.append("no " + _first_names(missing))
        if strict and unexpected:
            problems.append("an unexpected " + _first_names(unexpected))
        misshapen = next((name for name in common_names if tuple(state_dict[name].shape) != own[name].shape), None)
        if misshapen is not None:
            shape = tuple(state_dict[misshapen].shape)
            problems.append(f"{misshapen} of shape {shape} in place of {own[misshapen].shape}")
        if problems:
            expected = f"the names and shapes of {type(self).__name__}"
            raise RuntimeError(f"load_state_dict: expected {expected}, got a state with {', '.join(problems)}")
        if assign:
            self._assign(state_dict)
            return LoadResult(missing, unexpected)
        for name in common_names:
            value = state_dict[name]
            value = value.array if isinstance(value, Tensor) else value
            own[name].array[...] = kernels.to_device(value, own[name].device)
            own[name].changed()
        return LoadResult(missing, unexpected)

    def _assign(self, state_dict: Mapping[str, Any]) -> None:
        for full_name, module, name, tensor in list(self._state()):
            if full_name in state_dict:
                value = state_dict[full_name]
                value = value if isinstance(value, Tensor) else Tensor(value)
                if isinstance(tensor, Parameter) and not isinstance(value, Parameter):
                    value = Parameter(value, tensor.requires_grad)
                setattr(module, name, value)

    def extra_repr(self) -> str:
        """The settings that repr() shows in the parentheses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"

    def _repr_html_(self) -> str:  # what notebooks show
        return module_html(self)


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _first_names(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
