"""Containers: modules in a sequence, in a list and in a dict."""

from typing import Any, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView

from minigrad.nn.module import Module


class _Modules(Module):
    """Modules in an order, registered as "0", "1", …"""

    def _set(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds Modules, not {type(module).__name__}")
        self._modules[name] = module

    def append(self, module: Module) -> Any:
        """Add a module at the end."""
        self._set(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Add a module before number `index`."""
        modules: list[Any] = list(self._modules.values())
        modules.insert(index, module)
        for i, each in enumerate(modules):
            self._set(str(i), each)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return self._from({name: self._modules[name] for name in list(self._modules)[i]})
        return self._modules[self._name(i)]

    def __setitem__(self, i: int, module: Module) -> None:
        self._set(self._name(i), module)

    def __delitem__(self, i: int) -> None:
        del self._modules[self._name(i)]
        modules: list[Any] = list(self._modules.values())
        self._modules.clear()
        self.extend(modules)

    def _from(self, modules: dict[str, Module]) -> Any:
        container: Any = type(self)
        return container(modules)

    def _name(self, i: int) -> str:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{type(self).__name__}: index {i} is out of range for {len(self)} modules")
        return list(self._modules)[i]


class Sequential(_Modules):
    """Modules applied one after the other; pass them one by one, or as one dict that names them."""

    def __init__(self, *modules: Any):
        super().__init__()
        named: dict = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else dict(enumerate(modules))
        for name, module in named.items():
            self._set(str(name), module)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Modules):
    """A list of modules that registers them; it has no forward()."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        self.extend(modules)

    def _from(self, modules: dict[str, Module]) -> "ModuleList":
        return ModuleList(modules.values())


class ModuleDict(Module):
    """A dict of modules that registers them; it has no forward()."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None):
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules, or replace those of the same names."""
        for name, module in dict(modules).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __getitem__(self, name: str) -> Any:
        return self._modules[name]

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> ValuesView[Any]:
        """The modules."""
        return self._modules.values()

    def items(self) -> ItemsView[str, Any]:
        """The names and modules."""
        return self._modules.items()

    def pop(self, name: str) -> Any:
        """Remove a module, and return it."""
        return self._modules.pop(name)

    def clear(self) -> None:
        """Remove every module."""
        self._modules.clear()
