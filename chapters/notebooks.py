"""A Jupyter notebook for each lesson, made from the lesson's source: headings, prose and code become cells.

    python -m chapters.notebooks                               # one file for each lesson, into runs/notebooks
    python -m chapters.notebooks --only ch04_attention --execute

A notebook defines the functions of its lesson and then runs them in the quick form: change a cell, and run it again. The first
cell installs the project where it is missing, as in a hosted notebook. A lesson of several files, such as `ch10.constitution`,
shows what they are about and imports them.
"""

import ast
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import urlsplit

from chapters.support.command import command
from chapters.support.lesson_source import parts
from kernels.terminal import visible
from minigrad.serialization import write_atomically

HERE = Path(__file__).parent
NO_LESSONS = {"ch09.serve", "ch10.taste"}  # a server does not end; the taste needs a file of pairs and a reader at the keys
PUBLISHED = {"ch09.gpt2", "ch09.smollm2"}  # need weights from a package or a download, which may be absent

# Settings besides those of the quick form, so that a lesson reads the main job's models and asks nothing.
CHANGES = {
    "ch08_sample": 'run="runs/main/pretrain", prompt=("In the market",)',
    "ch09.decode": 'model="runs/main/pretrain"',
    "ch10.lora": 'model="runs/main/pretrain", data=messages',
    "chat": 'model="runs/main/rlhf", prompt=("Which town is the home of Lara?",)',
}
MESSAGES = r"""
# A file of texts to learn from, one a line: label<TAB>text.
from chapters.world import World
from chapters.world.snippets import LABELS

messages = Path("runs/messages.tsv")
lines = [f"{LABELS[label]}\t{' '.join(text.split())}" for text, label in World(0).snippets("train", 200)]
messages.write_text("\n".join(lines), encoding="utf-8")
"""

INSTALL = """
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("chapters") is None:  # a hosted notebook: install the project
    subprocess.run(["git", "clone", "--depth", "1", ADDRESS, "minigrad-checkout"], check=True)
    %pip install --quiet -e ./minigrad-checkout
    sys.path.insert(0, os.path.abspath("minigrad-checkout"))

# Models and results are in `runs`, here or in a folder above.
os.chdir(next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "runs").is_dir()), Path.cwd()))
Path("runs").mkdir(exist_ok=True)
"""
BY_HAND = """raise ModuleNotFoundError("install the project first, with `pip install -e .` in its folder")
"""
INSTALL_BY_HAND = re.sub(r"  # a hosted (.*\n)+?\n", f"\n    {BY_HAND}\n", INSTALL.replace("import subprocess\n", ""))
MAIN_JOB = """
# This lesson starts from the main job's models. The quick main job makes them in about three minutes.
if not Path("runs/main/report.html").exists():
    !"{sys.executable}" -m chapters --quick
"""
RUN = """
from chapters.support.command import computing_on

with computing_on(settings):  # settings.device
    MAIN(settings)
"""
RUN_IF_PUBLISHED = """
from chapters.support.command import computing_on

try:
    with computing_on(settings):  # settings.device
        MAIN(settings)
except (OSError, ValueError, RuntimeError) as error:  # the package or the weights are missing
    print(f"skipped: {error}")
"""
FIGURES = """
from IPython.display import SVG, display

for path in sorted(Path(settings.run).rglob("*.svg")):
    print(path)
    display(SVG(filename=path))
"""


# ── a lesson's cells ─────────────────────────────────────────────────────────────────────────────────────────────────


def lessons() -> dict[str, Path]:
    """The lessons by name, such as ch10.rlhf: the files with a command of their own, and for a folder its __main__.py."""
    paths = [*HERE.glob("ch*.py"), *HERE.glob("ch[0-9]*/**/*.py")]
    named = {".".join(path.relative_to(HERE).with_suffix("").parts).removesuffix(".__main__"): path for path in paths}
    return {name: path for name, path in sorted(named.items()) if name not in NO_LESSONS and last_call(path) is not None}


def last_call(path: Path) -> ast.Call | None:
    """`command(main, Settings, …)` at the end of a lesson; None for other files."""
    source = path.read_text(encoding="utf-8")
    if 'if __name__ == "__main__":' not in source:
        return None
    end = ast.parse(source).body[-1]
    calls = [node for node in ast.walk(end) if isinstance(end, ast.If) and isinstance(node, ast.Call)]
    return next((call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "command"), None)


def notebook(name: str, path: Path, address: str) -> dict[str, Any]:
    """The notebook of a lesson, as nbformat 4.5 describes it.  address: the repository that a hosted notebook clones."""
    cells = list(cells_of(name, path, address))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    python = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return {"cells": cells, "metadata": python, "nbformat": 4, "nbformat_minor": 5}


def cells_of(name: str, path: Path, address: str) -> Iterator[dict[str, Any]]:
    source = path.read_text(encoding="utf-8")
    others = sorted(path.parent.glob("*.py")) if path.name == "__main__.py" else []
    about = {file.name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in others}
    docstring, *rest = parts(source)
    title, text = split_title(about.pop("__init__.py", "") or docstring.text)
    yield markdown_cell(f"# {as_markdown(title)}\n\n{as_markdown(text)}")
    yield code_cell(INSTALL.replace("ADDRESS", repr(address)) if address else INSTALL_BY_HAND)
    for file, text in about.items():
        yield markdown_cell(f"## {as_markdown(file)}\n\n{as_markdown(text)}")
    for part in rest:
        if part.kind == "heading":
            yield markdown_cell(f"## {as_markdown(part.text)}")
        elif part.kind == "prose":
            yield markdown_cell(as_markdown(part.text))
        elif code := part.text.partition('if __name__ == "__main__":')[0].strip():
            yield code_cell(code)
    yield from cells_that_run(name, path, source + "".join(file.read_text(encoding="utf-8") for file in others))


def cells_that_run(name: str, path: Path, source: str) -> Iterator[dict[str, Any]]:
    """The cells in place of the command: the models that the lesson needs, its settings, the run, and the figures."""
    call = last_call(path)
    assert call is not None
    main, settings = (ast.unparse(argument) for argument in call.args[:2])
    quick = quick_settings(path, call, source)
    yield markdown_cell("## run it" + f"\n\nThis is the quick form. `{settings}()` is the lesson in full." * bool(quick))
    changes = ", ".join(filter(None, (quick, CHANGES.get(name))))
    if "runs/main/" in changes or re.search(r'^    \w+: .*"runs/main/', source, re.M):
        yield code_cell(MAIN_JOB)
    if "messages" in changes:
        yield code_cell(MESSAGES)
    yield code_cell(f"settings = {settings}({changes})", "parameters")  # papermill's tag
    yield code_cell((RUN_IF_PUBLISHED if name in PUBLISHED else RUN).replace("MAIN", main))
    if re.search(r"^    run: \w+ = ", source, re.M) and "figure" in source:
        yield code_cell(FIGURES)


def quick_settings(path: Path, call: ast.Call, source: str) -> str:
    """The arguments of Settings that `--quick` stands for, from `command(main, Settings, presets={"quick": …})`."""
    if not re.search(r"^    quick: bool", source, re.M):
        return ""
    as_written = partial(ast.get_source_segment, path.read_text(encoding="utf-8"))
    presets = next((keyword.value for keyword in call.keywords if keyword.arg == "presets"), [*call.args, None][2])
    if presets is None:
        return "quick=True"
    if not isinstance(presets, ast.Dict):  # PRESETS
        return "quick=True" + f', **{as_written(presets)}["quick"]' * bool(re.search(r'^    "quick": ', source, re.M))
    (quick,) = presets.values
    if not isinstance(quick, ast.Dict):  # QUICK
        return f"quick=True, **{as_written(quick)}"
    pairs = zip(quick.keys, quick.values)
    return ", ".join(["quick=True", *(f"{ast.literal_eval(key)}={as_written(value)}" for key, value in pairs if key)])


def split_title(text: str) -> tuple[str, str]:
    """The first sentence without its full stop, and the rest.

    >>> split_title("Chapter 1: the tokenizer. A text becomes integers.")
    ('Chapter 1: the tokenizer', 'A text becomes integers.')
    """
    paragraph, _, rest = text.partition("\n\n")
    title, _, more = paragraph.replace("\n", " ").partition(". ")
    return title.rstrip("."), f"{more}\n\n{rest}".strip("\n")


def as_markdown(text: str) -> str:
    """A docstring or comment as Markdown: indented blocks become code, and no other sign becomes markup.

    >>> print(as_markdown("Tokens such as <|end|> in `x < y`.\\n\\n    python -m chapters"))
    Tokens such as \\<|end|> in `x < y`.
    <BLANKLINE>
    ```text
    python -m chapters
    ```
    """
    blocks, in_list = [], False
    for block in re.split(r"\n\s*\n", visible(text)):
        lines = block.split("\n")
        in_list = lines[0].startswith(("- ", "1. ")) or in_list and lines[0].startswith("  ")
        if lines[0].startswith((">>> ", "  ")) and not in_list:
            blocks.append(f"```text\n{dedent(block)}\n```")
        else:
            pieces = block.split("`")
            pieces[::2] = [re.sub(r"([\\<\[$]|(?<!\w)_|\*(?!\w)(?<!\w\*))", r"\\\1", piece) for piece in pieces[::2]]
            blocks.append("`".join(pieces))
    return "\n\n".join(blocks).replace("\n```\n\n```text\n", "\n\n")  # neighbouring code blocks are one


def markdown_cell(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip()}


def code_cell(source: str, *tags: str) -> dict[str, Any]:
    metadata = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source.strip()}


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Write a Jupyter notebook for each lesson, made from the lesson's source."""

    folder: Path = Path("runs/notebooks")  # folder for the notebooks
    only: tuple[str, ...] = ()  # lessons to write, such as ch04_attention or ch10.rlhf; all if empty
    address: str | None = None  # repository that a hosted notebook installs the project from; None: this checkout's origin
    execute: bool = False  # also run each notebook, keep the output in its file, and print its seconds


def origin() -> str:
    """The address of the repository that this checkout was cloned from, without a name or password; "" if there is none."""
    git = ["git", "--git-dir", str(HERE.parent / ".git"), "config", "--get", "remote.origin.url"]
    try:
        url = urlsplit(subprocess.run(git, capture_output=True, text=True).stdout.strip())
    except (OSError, ValueError):  # no git, or no address
        return ""
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if url.scheme == "https" else ""


def execute(path: Path) -> float:
    """Run a notebook in a new kernel and store the output in its file; returns the seconds."""
    try:
        import nbformat
        from nbclient import NotebookClient
    except ModuleNotFoundError as error:
        raise ValueError(f"notebooks: --execute needs {error.name}; pip install -e '.[notebooks]'") from None
    begin = time.perf_counter()
    content = nbformat.read(path, 4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(content, timeout=600, resources=where, record_timing=False, extra_arguments=["--log-level=40"]).execute()
    nbformat.write(content, path)
    return time.perf_counter() - begin


def main(settings: Settings) -> None:
    known = lessons()
    unknown = next((name for name in settings.only if name not in known), None)
    if unknown is not None:
        raise ValueError(f"notebooks: expected a lesson among {', '.join(known)}, got {unknown}")
    address = origin() if settings.address is None else settings.address
    settings.folder.mkdir(parents=True, exist_ok=True)
    for name in settings.only or known:
        path = settings.folder / f"{name.replace('.', '_')}.ipynb"
        text = json.dumps(notebook(name, known[name], address), indent=1, ensure_ascii=False, sort_keys=True)
        write_atomically(path, f"{text}\n".encode())
        print(f"{execute(path):5.1f} s  {path}" if settings.execute else path, flush=True)
    if settings.execute:
        print(f"Jupyter hides the figures of a notebook that it does not trust; jupyter trust {settings.folder}/*.ipynb")


if __name__ == "__main__":
    command(main, Settings, writes="folder")
