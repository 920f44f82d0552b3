"""Module: a tree of layers, whose leaves are parameters."""

import kernels
from minigrad.tensor import Tensor


class Parameter(Tensor):
    """A tensor that a Module registers and an optimiser updates; it requires grad unless told otherwise."""

    __slots__ = ()

    def __init__(self, data, requires_grad=True):
        super().__init__(data.array if isinstance(data, Tensor) else data, requires_grad)

    def __repr__(self):
        return "Parameter containing:\n" + super().__repr__()


class Module:
    """Base of all layers: assign Parameters, Tensors (with register_buffer) and Modules as attributes, and write forward().

    An attribute can be replaced by another later, or by None: `gpt.lm_head = nn.Identity()`.
    """

    def __init__(self):
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_buffers", {})
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "training", True)

    def forward(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    # attributes: parameters, buffers and modules live in three dicts, everything else is an ordinary attribute

    def __setattr__(self, name, value):
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.__init__ must call super().__init__() before assigning {name!r}")
        holders = (self._parameters, self._modules, self._buffers)
        home = self._parameters if isinstance(value, Parameter) else self._modules if isinstance(value, Module) else None
        if home is None and name in self._buffers and (value is None or isinstance(value, Tensor)):
            home = self._buffers
        if home is None and value is None:
            home = next((h for h in holders if name in h), None)
        if home is None:
            if name in self._parameters:
                raise TypeError(f"{name!r} is a parameter; assign a Parameter or None, not {type(value).__name__}")
            if name in self._modules:
                raise TypeError(f"{name!r} is a module; assign a Module or None, not {type(value).__name__}")
            return object.__setattr__(self, name, value)
        for holder in holders:
            if holder is not home:
                holder.pop(name, None)
        self.__dict__.pop(name, None)
        home[name] = value

    def __getattr__(self, name):  # only reached where there is no ordinary attribute
        for holder in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(holder, ()):
                return self.__dict__[holder][name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name):
        for holder in (self._parameters, self._buffers, self._modules):
            if name in holder:
                del holder[name]
                return
        object.__delattr__(self, name)

    def register_parameter(self, name, param):
        """Add a parameter by name; None reserves the name (a layer without bias)."""
        self._parameters[name] = param

    def register_buffer(self, name, tensor, persistent=True):
        """Add a tensor that belongs to the state but is not trained."""
        if not persistent:
            raise NotImplementedError("register_buffer: only persistent buffers are implemented")
        self._buffers[name] = tensor

    # the tree

    def children(self):
        return (module for module in self._modules.values() if module is not None)

    def named_modules(self, prefix="", seen=None):
        """Every module of the tree with its dotted name, each once, this one first."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self):
        return (module for _, module in self.named_modules())

    def named_parameters(self):
        """Every parameter with its dotted name; one that is shared by two layers is listed once, under its first name."""
        seen = set()
        for prefix, module in self.named_modules():
            for name, param in module._parameters.items():
                if param is not None and id(param) not in seen:
                    seen.add(id(param))
                    yield f"{prefix}.{name}" if prefix else name, param

    def parameters(self):
        return (param for _, param in self.named_parameters())

    def apply(self, function):
        """Call function(module) on every module, children before parents."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    # modes, devices, gradients

    def train(self, mode=True):
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self):
        return self.train(False)

    def requires_grad_(self, requires_grad=True):
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none=True):
        for param in self.parameters():
            if set_to_none:
                param.grad = None
            elif param.grad is not None:
                param.grad.zero_()

    def to(self, *where):
        """Move every parameter and buffer, in place, to a device ("cpu", "cuda", "emulator") and/or a float dtype."""
        devices = [w for w in where if isinstance(w, str) and w in kernels.DEVICES]
        dtypes = [w for w in where if w not in devices]
        for module in self.modules():
            for holder in (module._parameters, module._buffers):
                for tensor in holder.values():
                    if tensor is not None:
                        moved = tensor.detach().to(*devices)
                        tensor.data = moved.to(*dtypes) if tensor.dtype.kind == "f" else moved
        return self

    def cuda(self):
        return self.to("cuda")

    def cpu(self):
        return self.to("cpu")

    def float(self):
        return self.to("float32")

    def double(self):
        return self.to("float64")

    # state

    def state_dict(self):
        """Dotted name -> tensor (sharing memory), for every parameter and buffer; shared ones under each of their names."""
        state = {}
        for prefix, module in self._named_modules_with_repeats():
            for holder in (module._parameters, module._buffers):
                for name, tensor in holder.items():
                    if tensor is not None:
                        state[f"{prefix}.{name}" if prefix else name] = tensor.detach()
        return state

    def _named_modules_with_repeats(self, prefix=""):
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module._named_modules_with_repeats(f"{prefix}.{name}" if prefix else name)

    def load_state_dict(self, state_dict, strict=True):
        """Copy values (tensors or arrays) into the parameters and buffers of the same names.

        A parameter that two layers share may be given under either of its names, or both. Raises RuntimeError, before
        anything is changed, for a wrong shape, and with strict=True for missing or unexpected names.
        Returns (missing names, unexpected names).
        """
        own = self.state_dict()
        for name, value in state_dict.items():
            if not hasattr(value, "dtype"):
                raise TypeError(f"load_state_dict takes tensors or arrays, but {name} is a {type(value).__name__}")
        given = {id(own[name].version) for name in own if name in state_dict}
        missing = [name for name in own if name not in state_dict and id(own[name].version) not in given]
        unexpected = [name for name in state_dict if name not in own]
        problems = []
        if strict and missing:
            problems.append("missing " + _some(missing))
        if strict and unexpected:
            problems.append("unexpected " + _some(unexpected))
        shared = [name for name in own if name in state_dict]
        wrong = [n for n in shared if tuple(state_dict[n].shape) != own[n].shape]
        if wrong:
            n = wrong[0]
            problems.append(f"{n} has shape {tuple(state_dict[n].shape)} in the file but {own[n].shape} in the model")
        if problems:
            raise RuntimeError(f"cannot load this state into {type(self).__name__}: {'; '.join(problems)}")
        for name in shared:
            value = state_dict[name]
            value = value.array if isinstance(value, Tensor) else value
            own[name].array[...] = kernels.to_device(value, own[name].device)
            own[name].changed()
        return missing, unexpected

    def extra_repr(self):
        return ""

    def __repr__(self):
        lines = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _some(names, most=3):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Sequential(Module):
    """Modules applied one after the other, given one by one or as one dict that names them."""

    def __init__(self, *modules):
        super().__init__()
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else dict(enumerate(modules))
        for name, module in named.items():
            setattr(self, str(name), _must_be_module(self, module))

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return self.children()

    def __getitem__(self, i):
        chosen = list(self._modules.values())[i]
        return Sequential(*chosen) if isinstance(i, slice) else chosen


def _must_be_module(holder, module):
    if not isinstance(module, Module):
        raise TypeError(f"{type(holder).__name__} holds Modules, not {type(module).__name__}")
    return module


class ModuleList(Module):
    """A list of modules that registers them; it has no forward()."""

    def __init__(self, modules=()):
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module):
        setattr(self, str(len(self)), _must_be_module(self, module))
        return self

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules.values())

    def __getitem__(self, i):
        chosen = list(self._modules.values())[i]
        return ModuleList(chosen) if isinstance(i, slice) else chosen
