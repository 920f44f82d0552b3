"""The house rules: what may import what, what a file may weigh, and lint."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"kernels": 1, "minigrad": 2, "chapters": 3}
FRAMEWORKS = {"torch", "transformers", "jax", "tensorflow", "keras"}
SOURCES = sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))


def imports(path):
    """Every absolute import in a file, function bodies included: (line, dotted name)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    relative = path.relative_to(ROOT)
    floor = FLOORS[relative.parts[0]]
    measuring = "bench" in relative.parts  # benchmarks compare with other frameworks, and time the kernels themselves
    for line, name in imports(path):
        package = name.split(".")[0]
        assert FLOORS.get(package, 0) <= floor, f"{relative}:{line} imports {name}, a floor above it"
        assert measuring or package not in FRAMEWORKS, f"{relative}:{line} imports {name}"
        if floor > 1:
            assert package not in {"numba", "cupy"}, f"{relative}:{line}: only kernels/ imports {package}"
        if floor == 3 and package == "kernels" and not measuring:
            assert name in ("kernels", "kernels.gpu"), f"{relative}:{line}: chapters reach kernels through minigrad"


def test_importing_the_project_needs_no_framework_and_no_gpu():
    unwanted = sorted(FRAMEWORKS | {"cupy", "numba"})
    code = (
        "import sys, minigrad, minigrad.nn, minigrad.optim, kernels, chapters.ch06_gpt\n"
        f"found = set(sys.modules) & set({unwanted})\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_ci_runs_the_readmes_commands():
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    for command in ("pip install -e . && python -m chapters", "pip install -e '.[test]' && python -m pytest"):
        assert command in readme and command in script


def test_the_readmes_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(compile(example, "README.md", "exec"), {})


def test_no_file_is_data_or_names_a_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        path = ROOT / name
        if not path.exists():
            continue
        assert path.stat().st_size < 200_000, f"{name} is large: the project commits no data that it can generate"
        found = re.search(r"(?<![\w.])/(work|farm|root|home/\w+)/\w", path.read_text(errors="replace"))
        assert not found, f"{name} names a path of one machine: {found}"


LINT = {"lint": ["ruff", "check"], "format": ["ruff", "format", "--check"], "types": ["mypy"]}


@pytest.mark.parametrize("step", LINT)
def test_lint(step):
    tool, *arguments = LINT[step]
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed: pip install -e '.[test]'")
    command = [sys.executable, "-m", tool, *arguments, *FLOORS, "tests"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
