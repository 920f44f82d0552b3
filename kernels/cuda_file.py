"""Reading a .cu file: its text, with the headers it includes, and the parameters of its kernels.

CuPy's run-time compiler and the emulator's g++ receive the text in which `read` has replaced each `#include "..."`. The keys of
their caches contain that text, so they notice a change of a header.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

_INCLUDE = re.compile(r'#include "(.+)"')
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)')
_SCALARS: dict[str, type[np.generic]] = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
}


def read(path: str | Path) -> str:
    """The text of a .cu file with its headers in place; `#line` directives tell the compiler where each line came from."""
    path = Path(path)
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include:
            lines += [read(path.parent / include[1]), f'#line {number + 1} "{path.name}"']
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


class Parameter(NamedTuple):
    """A parameter of a kernel."""

    name: str
    ctype: str  # as declared, without __restrict__
    type: type[np.generic]  # the NumPy type of the value, or of the elements behind a pointer

    @property
    def pointer(self) -> bool:
        return "*" in self.ctype

    @property
    def const(self) -> bool:
        return self.ctype.startswith("const ")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.type)


def parameter(declaration: str) -> Parameter:
    """The Parameter declared by, say, "const float* x".

    Raises:
        TypeError: if the type has no counterpart in NumPy.
    """
    declaration = " ".join(declaration.replace("__restrict__", "").replace("*", " * ").split())
    ctype, _, name = declaration.rpartition(" ")
    base = ctype.replace("const ", "").replace("*", "").strip()
    if base not in _SCALARS:
        raise TypeError(f"kernel parameter {declaration!r}: expected one of {', '.join(_SCALARS)}, got {base!r}")
    return Parameter(name, ctype, _SCALARS[base])


def signatures(text: str) -> dict[str, list[Parameter]]:
    """The parameters of every `extern "C" __global__` function in the text of a .cu file, by the function's name.

    >>> list(signatures('extern "C" __global__ void scale(float* x, int n) {}'))
    ['scale']
    """
    text = re.sub(r"//[^\n]*", "", text)
    return {name: [parameter(p) for p in declarations.split(",")] for name, declarations in _KERNEL.findall(text)}
