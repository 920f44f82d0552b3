"""Containers: modules in a sequence, in a list and in a dict."""

import operator
from typing import Any, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView

from minigrad.nn.module import Module


class _Modules(Module):
    """Modules in an order, registered as "0", "1", …"""

    def _set(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: expected Modules, got {type(module).__name__}")
        self._modules[name] = module

    def append(self, module: Module) -> Any:
        """Add a module at the end."""
        self._set(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"{type(self).__name__}: expected an iterable of Modules, got {type(modules).__name__}")
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Add a module before number `index`."""
        if not -len(self) <= index <= len(self):
            raise self._out_of_range(index)
        modules: list[Any] = list(self)
        modules.insert(index, module)
        return self._replace(modules)

    def pop(self, index: int) -> Any:
        """Remove a module, and return it."""
        module = self[index]
        del self[index]
        return module

    def _replace(self, modules: list[Any]) -> Any:
        """Hold these modules in place of all others, named by number."""
        self._modules.clear()
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> Any:
        return type(self)().extend(self).extend(other)

    def __iadd__(self, other: Iterable[Module]) -> Any:
        return self.extend(other)

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

    def __delitem__(self, i: Any) -> None:
        modules: list[Any] = list(self)
        del modules[i if isinstance(i, slice) else self._number(i)]
        self._replace(modules)

    def _from(self, modules: dict[str, Module]) -> Any:
        container: Any = type(self)
        return container(modules)

    def _name(self, i: int) -> str:
        return list(self._modules)[self._number(i)]

    def _number(self, i: Any) -> int:
        try:
            number = operator.index(i)
        except TypeError:
            raise TypeError(f"{type(self).__name__}: expected an integer as index, got {i!r}") from None
        if not -len(self) <= number < len(self):
            raise self._out_of_range(number)
        return number

    def _out_of_range(self, i: int) -> IndexError:
        return IndexError(f"{type(self).__name__}: index {i} is out of range for {len(self)} modules")


class Sequential(_Modules):
    """Modules applied one after the other; pass them one by one, or as one dict that names them."""

    def __init__(self, *modules: Any):
        super().__init__()
        named: dict = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else dict(enumerate(modules))
        for name, module in named.items():
            self._set(str(name), module)

    def __add__(self, other: Iterable[Module]) -> "Sequential":
        return super().__add__(self._sequential(other))

    def __iadd__(self, other: Iterable[Module]) -> "Sequential":
        return super().__iadd__(self._sequential(other))

    def _sequential(self, other: Any) -> "Sequential":
        if not isinstance(other, Sequential):
            raise ValueError(f"Sequential: expected a Sequential to add, got {type(other).__name__}; use extend()")
        return other

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Modules):
    """A list of modules that registers them; it has no forward()."""

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        self.extend(() if modules is None else modules)

    def _from(self, modules: dict[str, Module]) -> "ModuleList":
        return ModuleList(modules.values())


class ModuleDict(Module):
    """A dict of modules that registers them; it has no forward()."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None):
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules, or replace those of the same names."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"ModuleDict: expected a dict or pairs of names and Modules, got {type(modules).__name__}")
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
