"""The house rules: what may import what, no circles, how large a file may be, and lint."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("kernels", "minigrad", "chapters")
FRAMEWORKS = {"torch", "transformers", "jax", "tensorflow", "keras"}
# From the ground up. A file may import files of its own storey and of the storeys below.
STOREYS = [
    "kernels",
    "minigrad",
    "chapters.world",
    "chapters.support",
    "chapters.ch01_tokenizer",
    "chapters.ch02_dataset",
    "chapters.ch03_embeddings",
    "chapters.ch04_attention",
    "chapters.ch05_block",
    "chapters.ch05_tensor_parallel",
    "chapters.ch06_gpt",
    "chapters.ch07_train",
    "chapters.ch07_muon",
    "chapters.ch07_ring",
    "chapters.ch07_scaling",
    "chapters.ch08_sample",
    "chapters.ch09",
    "chapters.ch10",
    "chapters.chat",
    "chapters.ch09.serve",  # answers as `chat` does, and with chapter 10's reward
    "chapters.interactive",
    "chapters.main_job",
    "chapters.bench",
    "chapters.workbook",
    "chapters.notebooks",
    "chapters.site",
    "chapters.__main__",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))}


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every import, in function bodies and under TYPE_CHECKING too, and literal import_module calls: (line, dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute here"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "import_module",
            "__import__",
        ):
            text = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(text, ast.Constant):
                yield node.lineno, str(text.value)


def internal_imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The project's own modules among the imports: `from a.b import c` is a.b.c where that is a module, else a.b."""
    for line, name in imported_names(tree):
        if name.split(".")[0] in FLOORS:
            while name not in SOURCES and "." in name:
                name = name.rpartition(".")[0]
            yield line, name


def storey(module: str) -> int:
    """The height of a module in STOREYS; `chapters` itself, the map, stands at the bottom of its floor."""
    if module == "chapters":
        return STOREYS.index("chapters.world")
    return max(i for i, prefix in enumerate(STOREYS) if module == prefix or module.startswith(prefix + "."))


TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}


def import_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, [] where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_file_imports_a_storey_above_it():
    for module, tree in TREES.items():
        for line, name in internal_imports(tree):
            assert storey(name) <= storey(module), f"{module}, line {line}, imports {name}, a storey above it"


def test_there_is_no_circle_of_imports():
    graph = {module: {name for _, name in internal_imports(tree)} - {module} for module, tree in TREES.items()}
    assert sum(map(len, graph.values())) > 400, "imports were overlooked"
    assert not (cycle := import_cycle(graph)), f"a circle of imports: {' -> '.join(cycle)}"


def test_no_private_name_crosses_from_file_to_file():
    for module, tree in TREES.items():
        for line, name in imported_names(tree):
            if name.split(".")[0] in FLOORS:
                private = [part for part in name.split(".") if part.startswith("_") and not part.startswith("__")]
                assert not private, f"{module}, line {line}, imports {name}, which is private to its file"


def test_the_import_tests_can_fail():
    assert import_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    upward = ast.parse("def f():\n    from chapters.ch06_gpt import GPT\n    import_module(f'chapters.{name}')")
    assert [name for _, name in internal_imports(upward)] == ["chapters.ch06_gpt", "chapters"]
    assert storey("chapters.ch06_gpt") > storey("minigrad.nn.module") > storey("kernels.bench.measure")


def test_only_kernels_import_numba_and_cupy_and_only_benchmarks_a_framework():
    for module, tree in TREES.items():
        packages = {name.split(".")[0] for _, name in imported_names(tree)}
        if "bench" not in module.split("."):
            assert not packages & FRAMEWORKS, f"{module} imports {packages & FRAMEWORKS}"
        if not module.startswith("kernels"):
            assert not packages & {"numba", "cupy"}, f"{module}: only kernels/ imports numba and cupy"


def test_importing_the_project_needs_no_framework_and_no_gpu():
    unwanted = sorted(FRAMEWORKS | {"cupy", "numba"})
    code = (
        "import sys, minigrad, minigrad.nn, minigrad.optim, kernels, chapters.ch06_gpt\n"
        f"loaded = set(sys.modules) & set({unwanted})\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_ci_runs_the_readmes_commands():
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    for command in ("pip install -e . && python -m chapters", "pip install -e '.[test]' && python -m pytest -n 2"):
        assert command in readme and command in script


def test_the_readmes_examples_run_and_print_what_it_says():
    examples = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", (ROOT / "README.md").read_text(), re.S)
    assert examples
    for code, output in examples:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == output


def test_the_readmes_files_and_commands_exist():
    readme = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"python -m ((?:chapters|kernels|minigrad)(?:\.\w+)*)", readme):
        assert name in SOURCES or f"{name}.__main__" in SOURCES, f"no command {name}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), f"no file {link}"


def test_no_file_is_data_or_names_a_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        path = ROOT / name
        if not path.exists():
            continue
        assert path.stat().st_size < 200_000, f"{name} is large: the project commits no data that it can generate"
        match = re.search(r"(?<![\w.])/(work|farm|root|home/\w+)/\w", path.read_text(errors="replace"))
        assert not match, f"{name} names a path of one machine: {match}"


LINT = {"lint": ["ruff", "check"], "format": ["ruff", "format", "--check"], "types": ["mypy"]}


@pytest.mark.parametrize("step", LINT)
def test_lint(step):
    tool, *arguments = LINT[step]
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed: pip install -e '.[test]'")
    command = [sys.executable, "-m", tool, *arguments, *FLOORS, "tests"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
