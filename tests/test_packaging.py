"""What an installation is: declared packages, lower bounds that were tried, and names that collide with nobody's."""

import ast
import configparser
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("kernels", "minigrad", "chapters")
OWN = {*FLOORS, "tests", "one_package"}
DISTRIBUTION = {  # where it differs from the name that is imported
    "cupy": "cupy-cuda13x",
    "markdown_it": "markdown-it-py",
    "axe_playwright_python": "axe-playwright-python",
}
FOREIGN = "def get_kernel(): return 'somebody else'\n"


renamed = runpy.run_path(str(ROOT / ".ci" / "one_package.py"))["renamed"]


def requirements() -> dict[str, str]:
    """{package: lowest version} of setup.cfg, with its extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    requirements = [line.split(";")[0].strip() for line in "\n".join(lines).splitlines()]  # without the operating system
    return dict(line.split(">=") for line in requirements if line)


def python(code: str, *path: Path, cwd: Path) -> subprocess.CompletedProcess:
    """Run code in `cwd` with these folders before all others on Python's path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


# ── what it needs ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_imported_package_is_declared():
    declared = {*requirements(), *sys.stdlib_module_names, *OWN}
    for folder in (*FLOORS, "tests", ".ci"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in (name.split(".")[0] for name in names):
                    assert DISTRIBUTION.get(name, name) in declared, f"{path}, line {node.lineno}: setup.cfg lacks {name}"


def test_the_lowest_versions_are_the_lower_bounds():
    lines = [line for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    assert pinned == {name: version for name, version in requirements().items() if name != DISTRIBUTION["cupy"]}


# ── what it installs ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder like site-packages with our wheel and a foreign `kernels` and `chapters`."""
    scratch, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    code = f"import one_package; one_package.build_wheel({str(scratch)!r})"
    built = python(code, ROOT / ".ci", cwd=ROOT)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(scratch.glob("minigrad-*.whl"))) as wheel:
        wheel.extractall(site)
    assert {path.name.split("-")[0] for path in site.iterdir()} == {"minigrad"}, "a wheel shares no name with other packages"
    for name in ("kernels", "chapters"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(FOREIGN)
    return site


def test_an_installed_minigrad_works_beside_foreign_packages_of_the_same_names(site, tmp_path):
    code = (
        "import {}, {}; import kernels, chapters, minigrad as mg\n"
        "from importlib.util import find_spec\n"
        "from minigrad.kernels import DEVICES, serving\n"
        "x = mg.tensor([[1.0, 2.0]], dtype=mg.float64, requires_grad=True)\n"
        "x.softmax(-1)[0, 0].backward()\n"
        "assert kernels.get_kernel() == chapters.get_kernel() == 'somebody else' and find_spec(DEVICES['emulator'])\n"
        "print(x.grad.numpy().round(4).tolist(), serving(x.numpy(force=True)), mg.__file__)"
    )
    for order in (("kernels", "minigrad"), ("minigrad", "kernels")):
        done = python(code.format(*order), site, cwd=tmp_path)
        assert done.stdout.strip() == f"[[0.1966, -0.1966]] KernelSet('reference') {site}/minigrad/__init__.py", done.stderr


def test_an_installed_lesson_is_a_module_of_minigrad(site, tmp_path):
    command = [sys.executable, "-m", "minigrad.chapters.ch06_gpt", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m minigrad.chapters.ch06_gpt "), done.stderr


def test_an_installation_has_the_data_files(site):
    for suffix in ("cu", "cuh", "h", "cpp", "inc", "txt", "css", "js", "html", "svg"):
        ours = [path.name for floor in FLOORS for path in (ROOT / floor).rglob(f"*.{suffix}")]
        assert ours and sorted(ours) == sorted(path.name for path in (site / "minigrad").rglob(f"*.{suffix}")), suffix


def test_a_wheel_renames_every_import_or_is_not_built():
    code = """
import kernels as arithmetic
from kernels.arrays import require
from chapters import world
def f(name):
    from kernels import use
    kernels.use("cpu")  # python -m kernels.bench
    return import_module(f"kernels.{name}.cpu"), "kernels do not count", "kernels/matmul/cpu.py"
"""
    expected = """
from minigrad import kernels as arithmetic
from minigrad.kernels.arrays import require
from minigrad.chapters import world
def f(name):
    from minigrad.kernels import use
    kernels.use("cpu")  # python -m minigrad.kernels.bench
    return import_module(f"minigrad.kernels.{name}.cpu"), "kernels do not count", "kernels/matmul/cpu.py"
"""
    assert renamed(code) == expected
    for unknown in ("import kernels.arrays", "import os, chapters", "if True: from kernels import use"):
        with pytest.raises(ValueError, match="whose form is not known"):
            renamed(unknown)


@pytest.mark.parametrize("foreign", ["kernels/__init__.py", "kernels.py"])
def test_a_checkout_refuses_a_foreign_kernels(tmp_path, foreign):
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text(FOREIGN)
    for module in ("minigrad", "chapters.world"):
        done = python(f"import {module}", tmp_path, ROOT, cwd=tmp_path)
        assert f"ImportError: minigrad: expected its own package `kernels`, in {ROOT}, got {tmp_path / foreign};" in done.stderr
    assert not python("import minigrad", tmp_path, cwd=ROOT).stderr  # inside the checkout ours comes first
