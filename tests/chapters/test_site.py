"""The site: formulas, prose, names, the two columns, and a whole build without a broken link."""

import ast
import queue
import re
import subprocess
import sys
import threading
import urllib.request
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path
from posixpath import dirname, join, normpath

import pytest

pytest.importorskip("pygments", reason="the site's libraries are missing: pip install -e '.[site]'")
pytest.importorskip("markdown_it", reason="the site's libraries are missing: pip install -e '.[site]'")
pytest.importorskip("latex2mathml", reason="the site's libraries are missing: pip install -e '.[site]'")

from pygments.lexers import get_lexer_by_name  # noqa: E402
from pygments.token import STANDARD_TYPES  # noqa: E402

from chapters.interactive.pages import PAGES  # noqa: E402
from chapters.main_job.report import SECTIONS as REPORT_SECTIONS  # noqa: E402
from chapters.site import __main__ as command  # noqa: E402
from chapters.site import readme, sources  # noqa: E402
from chapters.site.code import COLOURED, lexer  # noqa: E402
from chapters.site.formulas import NotAFormula, latex, mathml  # noqa: E402
from chapters.site.names import Project, Source, defined  # noqa: E402
from chapters.site.pages import Site, html_page  # noqa: E402
from chapters.site.prose import to_html  # noqa: E402
from chapters.site.rows import cuda_rows, python_rows  # noqa: E402
from chapters.site.segments import segments  # noqa: E402
from chapters.site.sources import CHAPTER_10, all_pages  # noqa: E402
from chapters.site.walk import SECTIONS  # noqa: E402
from chapters.support.lesson_source import last_line  # noqa: E402
from chapters.workbook.exercises import EXERCISES  # noqa: E402
from tests.hostile import ALL, HARMFUL, TEXTS  # noqa: E402

ROOT = Path(__file__).parents[2]


# ── formulas ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text, expected",
    [
        ("∂y_i/∂x_j = y_i (δ_ij − y_j)", r"\frac{\partial y_{i}}{\partial x_{j}}=y_{i}\,\left(\delta_{ij}-y_{j}\right)"),
        ("y_i = exp(x_i) / Σ_j exp(x_j)", r"y_{i}=\frac{\text{exp}\left(x_{i}\right)}{\sum_{j}\,\text{exp}\left(x_{j}\right)}"),
        ("n_i n_j / C", r"\frac{n_{i}\,n_{j}}{C}"),
        ("x/2 (1 + tanh u)", r"\frac{x}{2}\,\left(1+\text{tanh}\,u\right)"),
        ("m̂ / (√v̂ + eps)", r"\frac{\hat{m}}{\sqrt{\hat{v}}+\text{eps}}"),
        ("β₁ᵗ", r"\beta_{1}^{t}"),
        ("(mean(x²) + eps)^(−1/2)", r"\left(\text{mean}\left(x^{2}\right)+\text{eps}\right)^{{-1/2}}"),
        ("e^−|x|", r"e^{-\left|x\right|}"),
        ("V_{t+1} − V_old", r"V_{t+1}-V_{\text{old}}"),
        ("√max(1, h/w)", r"\sqrt{\text{max}\left(1,\;\frac{h}{w}\right)}"),
        ("5e-7 · x", r"5\cdot 10^{-7}\cdot x"),
        ("1 − beta1ᵗ", r"1-\text{beta1}^{t}"),
        ("base^(−2j/D)", r"\text{base}^{{-2j/D}}"),
        ("2 / (fan_in + fan_out)", r"\frac{2}{\text{fan_in}+\text{fan_out}}"),
        ("t ln input + ln x", r"t\,\text{ln}\,\text{input}+\text{ln}\,x"),
        ("Σ_{j ≤ i} x_j", r"\sum_{j\le i}\,x_{j}"),
        ("U (a Σ + b Σ³) Vᵀ", r"U\,\left(a\,\Sigma+b\,\Sigma^{3}\right)\,V^{\top }"),
        ("(L(x + h) − L(x)) / 2h", r"\frac{L\left(x+h\right)-L\left(x\right)}{2h}"),
        ("g'(z)", r"g'\left(z\right)"),
        ("db = −dy a / b²", r"\text{d}b={-\frac{\text{d}y\,a}{b^{2}}}"),
        ("1 / √(mean of x² + eps)", r"\frac{1}{\sqrt{\text{mean of}\,x^{2}+\text{eps}}}"),
        ("1 − lr · weight_decay", r"1-\text{lr}\cdot \text{weight_decay}"),
        ("a − b ⌊a / b⌋", r"a-b\,\left\lfloor \frac{a}{b}\right\rfloor "),
    ],
)
def test_a_formula_in_latex(text, expected):
    assert latex(text) == expected


def test_a_fraction_in_mathml():
    (fraction,) = ET.fromstring(mathml("∂y/∂x")).iter("mfrac")
    assert ["".join(half.itertext()) for half in fraction] == ["∂y", "∂x"]


def test_a_long_formula_may_break_before_its_relations():
    parts = ET.fromstring(f"<p>{mathml('dx_j = Σ_i dy_i y_i (δ_ij − y_j) = y_j (dy_j − Σ_i dy_i y_i)')}</p>").findall("math")
    assert [part.get("alttext") for part in parts] == ["dx_j", "= Σ_i dy_i y_i (δ_ij − y_j)", "= y_j (dy_j − Σ_i dy_i y_i)"]


@pytest.mark.parametrize("text", ["(a", "a)", "a / ", "√", "x @ y", "a ^", ""])
def test_what_the_grammar_does_not_know_is_no_formula(text):
    with pytest.raises(NotAFormula):
        latex(text)


@pytest.mark.parametrize(
    "line, formulas",
    [
        ("The quotient rule:     ∂y_i/∂x_j = y_i (δ_ij − y_j)", ["∂y_i/∂x_j = y_i (δ_ij − y_j)"]),
        ("softmax(scale · q kᵀ) v of one head.  q: (T, D)", ["softmax(scale · q kᵀ) v"]),
        ("z = x Wᵀ + bias,   y = g(z)", ["z = x Wᵀ + bias", "y = g(z)"]),
        ("whose variance is gain² / fan.", ["gain² / fan"]),
        ("a piece of the row at a time, where b = 0", ["b = 0"]),
        ("c = a @ b and its epilogue, dim=-1, x[1:]", []),
        ("Bradley and Terry's low-rank model, (B, T) -> (B, T).", []),
        ("float32 (O,); scale · q differs", ["scale · q"]),
        ("C = A B, or += if `add`", ["C = A B"]),
        ("Requires columns % 4 = 0", []),
        ("reward = Σ over words", []),
        ("the pairs (x_j, x_{j + D/2}), less V_t", ["(x_j, x_{j + D/2})", "V_t"]),
        ("2^power eˣ", ["2^power eˣ"]),
    ],
)
def test_formulas_among_words(line, formulas):
    found = list(segments(line))
    assert [segment.text.strip() for segment in found if segment.is_formula] == formulas
    assert "".join(segment.text for segment in found).replace(" ", "") == re.sub(" ", "", line)


def derivation_lines() -> list[str]:
    """The comment lines of the kernels' references that state an equation."""
    lines = []
    for path in sorted((ROOT / "kernels").glob("*/reference.py")):
        for line in re.findall(r"^# ?(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            if re.search(r"\S = \S", line) and "──" not in line:
                lines.append(line)
    return lines


def test_every_equation_of_the_derivations_is_typeset():
    lines = derivation_lines()
    assert len(lines) > 30
    for line in lines:
        formulas = [segment.text for segment in segments(line, letters=True) if segment.is_formula]
        assert any("=" in formula for formula in formulas), line
        for formula in formulas:
            tree = ET.fromstring(f"<p>{mathml(formula)}</p>")
            assert not list(tree.iter("merror")) and "\\" not in "".join(tree.itertext()), formula


# ── prose ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_docstring_as_html():
    text = """Gradient of the layer.

    python -m chapters --quick

Args:
    x: input, (B, C),
        of any float dtype.
    scale, shift: as in the forward pass.

Raises:
    ValueError: if the shapes do not fit.

- one
- two, with `code`
  on two lines

>>> 1 + 1
2

Source: Ba et al. 2016 (arXiv:1607.06450).
"""
    html = to_html(text, {"code": "a.html#code"}.get)
    ET.fromstring(f"<div>{html}</div>")
    for part in (
        '<p>Gradient of the layer.</p><pre class="commands">python -m chapters --quick</pre>',
        "<dt><code>x</code></dt><dd>input, (B,\u00a0C), of any float dtype.</dd>",
        "<dt><code>scale</code>, <code>shift</code></dt>",
        "<dt><code>ValueError</code></dt><dd>if the shapes do not fit.</dd>",
        "<li>one</li>",
        '<a href="a.html#code"><code>code</code></a> on two lines</li>',
        '<pre class="example">&gt;&gt;&gt; 1 + 1\n2</pre>',
        '<p class="source">Source: Ba et al. 2016 (<a href="https://arxiv.org/abs/1607.06450">arXiv:1607.06450</a>).</p>',
    ):
        assert part in html, part


def test_a_derivation_keeps_its_words():
    text = "The forward pass was, for one row:   y = e / s   with   s = Σ e_j.\nThe quotient rule:   dx = dy y\nSaved: y."
    tree = ET.fromstring(f"<div>{to_html(text)}</div>")
    steps = tree.findall(".//p[@class='step']")
    assert [step.find("span").text for step in steps] == ["The forward pass was, for one row:", "The quotient rule:"]
    assert len(steps[0].findall(".//math")) == 2 and "with" in "".join(steps[0].itertext())
    assert tree.findall("p")[0].text.startswith("Saved:")


@pytest.mark.parametrize("hostile", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("form", ["{}", "`{}`", "    {}", ">>> {}", "Args:\n    x: {}", "- {}", "y = x   {}"])
def test_text_cannot_become_markup(hostile, form):
    html = to_html(form.format(hostile))
    assert not HARMFUL.search(html)
    elements = {element.tag for element in ET.fromstring(f"<div>{html}</div>").iter()}
    assert not elements & {"script", "img", "svg", "b"}
    assert 'href="javascript' not in html


def test_a_hostile_file_remains_text(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.NAMES, tmp_path, "strange")
    text = ALL.encode("utf-8", "replace").decode().replace("\\", "").replace("\x00", "").replace('"', "'")
    text = "".join(character for character in text if character not in "\r\x0b\x0c\x1c\x1d\x1e\x85")
    source = f'"""Title. {text}"""\n\n\ndef f():\n    """`{text}`"""\n    return """{text}"""\n'
    (tmp_path / "lesson.py").write_text(source, encoding="utf-8")
    page = sources.Page("other", [sources.File(tmp_path / "lesson.py", tmp_path, "lesson.html")])
    html = html_page(Site([page]), page)
    tree = ET.fromstring(html.split("\n", 1)[1])
    assert [element.get("src") for element in tree.iter("script")] == ["site.js"]
    assert not HARMFUL.search(html) and "<script>alert(1)</script>" in "".join(tree.itertext())


def test_the_readme_cannot_bring_markup():
    text = "# A\n\n<script>alert(1)</script> [x](javascript:alert(1)) [y](missing.py) `ch01`"
    html = readme.render(text, {"ch01": "a.html"}.get)
    assert "<script" not in html and 'href="javascript' not in html and "missing" not in html
    assert '<a href="a.html"><code>ch01</code></a>' in html


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


BASE = """
class Base:
    def run(self): ...

LIMIT: int = 3
"""
MIDDLE = """
from base import Base

class Child(Base):
    def walk(self):
        self.run()
"""
TOP = """
import middle as mid
from base import LIMIT

def use(child: mid.Child, limit=LIMIT):
    child.walk()
    child.run()
    é = (LIMIT, mid.Child)

def hidden(LIMIT):
    return LIMIT
"""


def test_names_are_followed_through_imports_classes_and_annotations():
    base, middle = Source("base", BASE, "base.html"), Source("middle", MIDDLE, "m.html", "m-")
    top = Source("top", TOP, "top.html")
    project = Project([base, middle, top])
    assert project.links("middle")[6, 13] == "base.html#Base.run"
    links = project.links("top")
    assert links[2, 7] == "m.html#m-file", "a file's tab"
    assert links[5, 32] == "base.html#L5"
    assert links[6, 10] == "m.html#m-Child.walk" and links[7, 10] == "base.html#Base.run"
    assert links[8, 9] == "base.html#L5" and links[8, 20] == "m.html#m-Child"  # columns count characters
    assert not any(line == 11 for line, _ in links), "an argument hides the import"
    assert project.address("top", "mid.Child.run") == "base.html#Base.run"


def test_a_circle_of_imports_ends():
    project = Project([Source("a", "from b import x", "a.html"), Source("b", "from a import x\nx", "b.html")])
    assert project.address("a", "x") is None and project.links("b") == {(1, 5): "a.html"}


def test_pythons_fast_lexer_gives_the_colours_of_pygments():
    for name in ("site/code.py", "ch10/sft.py", "support/command.py", "world/judge.py"):
        text = (ROOT / "chapters" / name).read_text(encoding="utf-8")
        assert coloured(lexer("python"), text) == coloured(get_lexer_by_name("python"), text)


def coloured(lexer, text: str) -> list[str]:
    """The colour of each character that is not white."""
    colours = []
    for _, kind, value in lexer.get_tokens_unprocessed(text):
        while kind not in STANDARD_TYPES:
            kind = kind.parent
        colours += [COLOURED.get(STANDARD_TYPES[kind], "")] * len("".join(value.split()))
    return colours


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def pages():
    return all_pages()


def prose_lines(file) -> set[int]:
    """The lines of a file's docstrings and of its comments that have a line to themselves."""
    lines = {number for number, line in enumerate(file.source.lines, 1) if re.match(r"\s*(#|$)", line)}
    for node in [file.source.tree, *(node for _, node in defined(file.source.tree.body))]:
        if ast.get_docstring(node, clean=False) is not None:
            lines |= set(range(node.body[0].lineno, last_line(node.body[0]) + 1))
    return lines


def test_every_line_of_code_is_shown_once(pages):
    for file in (file for page in pages for file in page.files if file.source):
        shown = [number for row in file.rows[1] for number in row.lines]
        assert shown == sorted(set(shown)), file.name
        assert set(range(1, len(file.source.lines) + 1)) - set(shown) <= prose_lines(file), file.name


SUB = '''"""Title."""

import math


class Sub:
    def forward(a, b):
        return a - b

    # y = a − b:  da = dy.
    def backward(dy):
        return dy
'''


def test_a_class_without_a_docstring_takes_the_comment_above_its_method():
    title, (imports, row) = python_rows(SUB)
    assert (title, imports.is_import, row.name) == ("Title.", True, "Sub")
    assert row.lines == [6, 7, 8, 11, 12] and row.prose == ["y = a − b:  da = dy."]
    assert row.anchors == {"Sub.forward": 7, "Sub.backward": 11}


METHODS = '''class Row:
    """A row."""

    def told(self):
        """It is told."""
        return 1

    def untold(self):
        return 2

    # ── other things ──

    def other(self):
        """Something else."""
'''


def test_prose_stands_beside_its_own_method_and_a_heading_above_the_next():
    _, rows = python_rows(METHODS)
    assert [(row.name, row.lines, list(row.anchors), row.heading) for row in rows] == [
        ("Row", [1], [], ""),
        ("Row.told", [4, 6], [], ""),
        ("", [8, 9], ["Row.untold"], ""),
        ("Row.other", [13], [], "other things"),
    ]


def test_a_line_does_not_begin_with_a_formulas_full_stop():
    (paragraph,) = ET.fromstring(f"<div>{to_html('So dx_j = y_j (dy_j − Σ_i dy_i y_i).')}</div>")
    (glued,) = paragraph.findall(".//span[@class='glued']")
    assert glued[0].tag == "math" and glued[0].tail == "." and "".join(paragraph.itertext()).count(".") == 1


def test_cuda_rows_begin_at_comments():
    text = "// Title.\n\n#include <x>\n\n// Adds.\n__global__ void add(float* x) {\n    x[0] += 1;\n}\n"
    title, rows = cuda_rows(text)
    assert title == "Title." and [row.prose for row in rows] == [[], ["Adds."]]
    assert rows[1].name == "add" and rows[1].lines == [6, 7, 8]


def test_chapter_10_is_in_the_books_order(pages):
    stems = {path.stem for path in (ROOT / "chapters" / "ch10").iterdir() if not path.name.startswith("__pycache__")}
    assert stems == set(CHAPTER_10), "a file is missing in CHAPTER_10 of chapters/site/sources.py, or no longer there"
    lessons = [page.command for page in pages if page.kind == "lesson"]
    assert lessons.index("ch10.sft") < lessons.index("ch10.rlhf") < lessons.index("ch10.reflex") < lessons.index("chat")


# ── the whole site ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """{address: text} of a site without a run, which the command has written."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "chapters.site", "--out", str(folder), "--run", str(folder / "no run")]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=200)
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def test_no_link_and_no_anchor_is_broken_and_every_page_is_well_formed(site):
    texts = {address: path.read_text(encoding="utf-8") for address, path in site.items() if address.endswith(".html")}
    assert len(texts) > 150
    anchors = {}
    for address, text in texts.items():
        ET.fromstring(text.removeprefix("<!doctype html>"))  # stricter than HTML: every element is closed, every & escaped
        found = re.findall(r'\bid="([^"]*)"', text)
        assert len(found) == len(set(found)), f"{address} has an anchor twice"
        anchors[address] = set(found)
    checked = 0
    for address, text in texts.items():
        for link in set(re.findall(r'\b(?:href|src)="([^"]*)"', text)):
            if link.startswith(("https://", "data:")):
                continue
            page, _, anchor = link.partition("#")
            target = normpath(join(dirname(address), page)) if page else address
            assert target in site, f"{address}: {link}"
            assert not anchor or anchor in anchors[target], f"{address}: {link}"
            checked += 1
    assert checked > 10_000


def test_lessons_kernels_and_papers_are_linked(site):
    sft = site["chapters/ch10/sft.html"].read_text(encoding="utf-8")
    assert '<a href="../../minigrad/ops/losses.html#cross_entropy">cross_entropy</a>' in sft
    assert "python -m chapters.ch10.sft --quick" in sft and "<code>--mask-prompt</code>" in sft
    assert "the prompt mask and its seam" in sft  # the README's column
    assert 'href="../../chapter-10.html#section-10.3"' in sft and "https://arxiv.org/abs/2109.01652" in sft
    softmax = site["kernels/softmax.html"].read_text(encoding="utf-8")
    assert re.findall(r'data-label="([\w.]+)" aria-labelledby', softmax) == [
        "reference.py", "ladder.py", "cpu.py", "cuda.py", "cuda.cu"
    ]  # fmt: skip
    assert '<a href="#part-' in sft and "<mfrac>" in softmax


def test_every_page_is_in_a_list(site, pages):
    lists = {"lesson": "index.html", "kernel": "operations.html", "engine": "engine.html"}
    texts = {kind: site[address].read_text(encoding="utf-8") for kind, address in lists.items()}
    texts["other"] = texts["kernel"] + texts["engine"]
    for page in pages:
        assert f'href="{page.address}"' in texts[page.kind], page.address


def test_the_pages_load_nothing_from_elsewhere(site):
    for address, path in site.items():
        if address.endswith((".html", ".css", ".js")):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r'(src|@import|url\()["\s]*=?["(]?(https?:)?//', text), address
            assert not re.search(r'<link[^>]*href="https?:|\son\w+="', text), address


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "latex2mathml", None)
    with pytest.raises(ValueError, match=r"site: expected the library latex2mathml.*pip install -e '\.\[site\]'"):
        command.main(command.Settings(out=tmp_path / "site"))


def test_serve_shows_the_folder_on_this_computer_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "index.html").write_text("front page", encoding="utf-8")
    answers: queue.Queue = queue.Queue()

    def browse(address):
        threading.Thread(target=lambda: answers.put(urllib.request.urlopen(address, timeout=20).read())).start()

    monkeypatch.setattr(command.webbrowser, "open", browse)
    monkeypatch.setattr(command.ThreadingHTTPServer, "serve_forever", lambda server: server.handle_request())
    command.serve(tmp_path, 0)
    assert answers.get(timeout=20) == b"front page"
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_the_walk_names_what_exists():
    assert [section.number for section in SECTIONS] == [f"10.{i}" for i in range(1, 8)]
    answers = [answer for section in SECTIONS for answer in section.answers]
    assert {answer.report for answer in answers} - {""} <= set(REPORT_SECTIONS)
    assert {answer.play for answer in answers} - {""} <= {part.name for part in PAGES}
    assert [answer.exercise for answer in SECTIONS[-1].answers] == [1, 2, 3, 4]


def test_the_walk_leads_to_files_in_tabs_and_to_the_workbook(site):
    walk = site["chapter-10.html"].read_text(encoding="utf-8")
    assert 'href="chapters/ch10/headlines.html#wei-file"' in walk
    assert '<a href="chapters/ch10/sft.html#build_example">the prompt mask and its seam</a>' in walk
    for exercise in (exercise for exercise in EXERCISES if ".ch10." in exercise.target):
        assert f">{exercise.title}</a>" in unescape(walk), exercise.title


def test_what_the_run_lacks_is_named(site):
    play = site["play.html"].read_text(encoding="utf-8")
    for part in PAGES:
        assert part.title in play and f"play/{part.name}.html" not in site
