"""The build backend: setuptools, but an installed minigrad is one package, with `kernels` and `chapters` inside it.

In the checkout the three packages lie side by side. Installed like that, they would overwrite any other package of the same
name, or be overwritten by it, and PyPI has a well-known `kernels`. So a wheel is built from a copy of the checkout with the
folders minigrad/kernels and minigrad/chapters, in which `from kernels.arrays import require` becomes
`from minigrad.kernels.arrays import require`, and `python -m chapters` is `python -m minigrad.chapters`.

An editable install (`pip install -e .`) runs the checkout's own files under their own names. It cannot work beside another
`kernels`, and says so: minigrad/neighbours.py.
"""

import ast
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setuptools import build_meta

MOVED = ("kernels", "chapters")
NAME = rf"({'|'.join(MOVED)})\b"
RULES = [
    (rf"""(^\s*|["'])from {NAME}""", r"\1from minigrad.\2"),
    (rf"^(\s*)import {NAME}(?!\.)", r"\1from minigrad import \2"),
    (rf"-m {NAME}", r"-m minigrad.\1"),  # in help and messages
    (rf"""(?<=["']){NAME}(?=["']|\.[\w{{])""", r"minigrad.\1"),  # a string that is, or begins with, a module's name
]


def renamed(source: str) -> str:
    """The source of a file as it stands in a wheel.

    Raises:
        ValueError: if an import, or a string that names a module, has a form that the rules do not know.
    """
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] in MOVED:
                raise ValueError(f"wheel: expected `from {name} import …`, got line {node.lineno}, whose form is not known")
    return source


def copy_as_one_package(root: Path, target: Path) -> None:
    """Copy what a wheel is made of from the checkout `root` into the empty folder `target`."""
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", ".ci/one_package.py"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, target / name)
    (target / "MANIFEST.in").write_text("include .ci/one_package.py\n")  # a source distribution needs it to build its wheel
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "minigrad", target / "minigrad", ignore=ignore)
    for name in MOVED:
        if (root / name).is_dir():  # in a source distribution they have been moved already
            shutil.copytree(root / name, target / "minigrad" / name, ignore=ignore)
    for path in (target / "minigrad").rglob("*.py"):
        path.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")


@contextmanager
def inside_a_copy() -> Iterator[None]:
    """Work in a temporary copy of the current folder, as one package."""
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        copy_as_one_package(root, Path(scratch))
        os.chdir(scratch)
        try:
            yield
        finally:
            os.chdir(root)


build_editable = build_meta.build_editable


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    wheel_directory = os.path.abspath(wheel_directory)
    with inside_a_copy():
        return build_meta.build_wheel(wheel_directory, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    sdist_directory = os.path.abspath(sdist_directory)
    with inside_a_copy():
        return build_meta.build_sdist(sdist_directory, config_settings)
