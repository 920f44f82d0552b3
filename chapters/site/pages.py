"""A page for each lesson, kernel and file of the engine: prose on the left, code on the right."""

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from chapters.site.code import highlighted
from chapters.site.layout import definitions, document, link, relative
from chapters.site.names import Project
from chapters.site.prose import inline, paper, to_html
from chapters.site.rows import Row
from chapters.site.sources import File, Page, without_chapter
from chapters.site.walk import SECTIONS
from chapters.support import settings_help
from chapters.support.html import escape

MENUS = {"lesson": "index.html", "kernel": "operations.html", "engine": "engine.html", "other": "index.html"}
CITED = re.compile(
    r"(?P<who>[A-Z][\w’-]+(?:,? (?:and )?[A-Z][\w’-]+| et al\.)*,? \d{4}[a-z]?(?:, [^;().]{3,90})?)?,? ?\(?"
    r"(?P<paper>arXiv:\d{4}\.\d{4,5}|doi:10\.\S+?(?=[),;]))"
)


@dataclass
class Site:
    """What the pages must know of each other.

    Args:
        pages: all of them, in the order in which a reader turns them.
        look: {a lesson's command: what to look at when it runs}, from the README.
        exercises: the workbook's exercises, with their number, title and target.
    """

    pages: list[Page]
    look: dict[str, str] = field(default_factory=dict)
    exercises: Sequence[Any] = ()

    def __post_init__(self) -> None:
        files = [file for page in self.pages for file in page.files]
        self.files = {file.name: file for file in files}
        self.project = Project([file.source for file in files if file.source])

    def address(self, name: str, file: File | None = None) -> str | None:
        """The address of what a text calls `name`: something in the text's file, a module, or a path such as ch10/ppo."""
        if "/" in name:
            path = "chapters/" + name if name.startswith("ch") and not name.startswith("chapters/") else name
            for candidate in (path, path + ".py", path + "/__init__.py", path + "/reference.py"):
                if candidate in self.files:
                    return self.files[candidate].top
            return None
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return None
        for module in [file.module, file.module.rpartition(".")[0]] if file and file.source else []:
            if module in self.project.sources and (found := self.project.address(module, name)):
                return found
        return self.project.absolute(name) if "." in name else self.sibling(name, file)

    def sibling(self, name: str, file: File | None) -> str | None:
        """The page of a file or folder beside a file, named without its suffix."""
        folder = file.name.rpartition("/")[0] if file else ""
        beside = (f"{folder}/{name}.py", f"{folder}/{name}/__init__.py")
        return next((self.files[path].top for path in beside if path in self.files), None)


# ── one page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def html_page(site: Site, page: Page) -> str:
    """The whole page."""
    top = title_block(site, page)
    if len(page.files) == 1:
        body = top + file_html(site, page, page.files[0])
    else:
        body = top + "".join(panel(site, page, file) for file in page.files)
    steps = ""
    for other, rel, label in zip(neighbours(site, page), ("prev", "next"), ("Previous", "Next")):
        if other:
            address = relative(other.address, page.address)
            steps += (
                f'<a rel="{rel}" href="{address}"><small>{label}: {escape(other.command)}</small> {escape(other.title)}</a>'
            )
    footer = f'<nav class="turn" aria-label="Previous and next">{steps}</nav>' if steps else ""
    return document(page.address, page.title, body + end_matter(site, page), MENUS[page.kind], footer)


def neighbours(site: Site, page: Page) -> tuple[Page | None, Page | None]:
    """The pages before and after in the order of reading, of the same kind."""
    group = [other for other in site.pages if other.kind == page.kind]
    at = group.index(page)
    return group[at - 1] if at else None, group[at + 1] if at + 1 < len(group) else None


def title_block(site: Site, page: Page) -> str:
    where = (
        f"Chapter {page.chapter}"
        if page.chapter
        else {"kernel": "Kernel", "engine": "Engine"}.get(page.kind, "Behind the lessons")
    )
    name = page.files[0].name if len(page.files) == 1 else page.files[0].name.rpartition("/")[0] + "/"
    title = inline(page.title, lambda name: None)
    return f'<div class="title"><p class="kicker">{where} <code>{escape(name)}</code></p><h1>{title}</h1></div>'


def panel(site: Site, page: Page, file: File) -> str:
    """A file of a page that has several; site.js makes tabs of the panels."""
    name = file.path.name
    return (
        f'<section class="panel" id="{file.prefix}file" data-label="{name}" aria-labelledby="{file.prefix}title">'
        f'<h2 id="{file.prefix}title">{name}</h2>{file_html(site, page, file)}</section>'
    )


def file_html(site: Site, page: Page, file: File) -> str:
    """A file's introduction, the list of its parts, and its rows."""
    to_address: Callable[[str], str | None] = partial(text_link, site, page, file)
    introduction, rows = file.rows
    links = site.project.links(file.module) if file.source else {}
    lines = highlighted(
        file.text, file.language, {at: relative(address, page.address) for at, address in links.items()}, file.prefix
    )
    shown = [row_html(site, file, row, lines, to_address) for row in rows]
    intro = f'<div class="intro">{to_html(without_chapter(introduction), to_address)}</div>'
    return intro + contents(file, rows) + "".join(shown)


def text_link(site: Site, page: Page, file: File, name: str) -> str | None:
    address = site.address(name, file)
    return relative(address, page.address) if address and address != page.address else None


def contents(file: File, rows: list[Row]) -> str:
    """The list of a file's headings and definitions, where there are at least four."""
    entries = []
    for row in rows:
        if row.heading:
            entries.append(f'<li class="part"><a href="#{heading_id(file, row)}">{escape(row.heading)}</a></li>')
        if row.name:
            entries.append(f'<li><a href="#{file.prefix}{row.name}"><code>{row.name}</code></a></li>')
    if len(entries) < 4:
        return ""
    return f'<details class="contents"><summary>On this page</summary><ul>{"".join(entries)}</ul></details>'


def heading_id(file: File, row: Row) -> str:
    return f"{file.prefix}part-" + re.sub(r"\W+", "-", row.heading.lower()).strip("-")


def row_html(site: Site, file: File, row: Row, lines: list[str], to_address: Callable[[str], str | None]) -> str:
    """Prose and code side by side; imports stay folded."""
    pieces = []
    for name, number in row.anchors.items():
        lines[number - 1] = f'<span id="{file.prefix}{name}"></span>' + lines[number - 1]
    code = "".join(lines[number - 1] for number in row.lines)
    label = row.name or next(iter(row.anchors), "") or (row.heading or file.path.name)
    block = f'<pre class="code" data-label="{escape(label)}"><code>{code}</code></pre>' if code else ""
    if row.heading:
        anchor = heading_id(file, row)
        pieces.append(f'<h3 class="part" id="{anchor}"><a href="#{anchor}">{escape(row.heading)}</a></h3>')
    if row.is_import:
        return "".join(pieces) + f'<details class="imports"><summary>Imports</summary>{block}</details>'
    prose = ""
    if row.name:
        anchor = file.prefix + row.name
        prose += f'<h4 id="{anchor}"><a href="#{anchor}">{row.name}</a></h4>'
    prose += "".join(to_html(text, to_address) for text in row.prose)
    names = [row.name, *row.anchors] if row.name else list(row.anchors)
    targets = {f"{file.module}:{name}" for name in names}
    prose += "".join(exercise_note(exercise) for exercise in site.exercises if exercise.target in targets)
    return "".join(pieces) + f'<div class="pair"><div class="prose">{prose}</div>{block}</div>'


def exercise_note(exercise: Any) -> str:
    return (
        f'<p class="exercise"><b>Exercise {exercise.number}</b> {escape(exercise.title)}: write it yourself.<br/>'
        f"<code>python -m chapters.workbook check {exercise.number}</code></p>"
    )


# ── the end of a page ────────────────────────────────────────────────────────────────────────────────────────────────


def end_matter(site: Site, page: Page) -> str:
    """Boxes below the code: how to run it, what to look at, what to change, where the book and the papers have it."""
    look = site.look.get(page.command, "")
    boxes = [
        ("Run it", run_it(page)),
        ("Look at", f"<p>{inline(look[:1].upper() + look[1:], lambda name: None)}</p>" if look else ""),
        ("Try changing", try_changing(page)),
        ("In the book", in_the_book(page)),
        ("Papers", papers(page)),
    ]
    css = {"Try changing": ' class="settings"'}
    shown = "".join(f"<section{css.get(title, '')}><h2>{title}</h2>{html}</section>" for title, html in boxes if html)
    return f'<div class="after">{shown}</div>' if shown else ""


def run_it(page: Page) -> str:
    """The commands in the docstring of a lesson or of its package's __main__, and those that measure and check a kernel."""
    file, main = page.files[0], page.files[0].path.parent / "__main__.py"
    is_package = len(page.files) > 1 and main.exists()
    text = main.read_text(encoding="utf-8") if is_package else file.docstring
    commands = re.findall(r"^    ((?:python -m|mpiexec) .*)$", text, re.MULTILINE)
    if page.kind == "kernel" and any(other.path.stem == "ladder" for other in page.files):
        commands.append(f"python -m kernels.bench {file.path.parent.name}")
    if page.kind == "kernel" and any(other.language == "cuda" for other in page.files):
        commands.append(f"python -m kernels.emulator kernels/{file.path.parent.name}/cuda.cu")
    if not commands and (is_package or 'if __name__ == "__main__":' in file.text):
        commands = [f"python -m {file.module}"]
    shown = escape("\n".join(commands))
    return f'<pre class="commands">{shown}</pre>' if shown else ""


def try_changing(page: Page) -> str:
    """The settings of the page's command, as flags with their comments."""
    entries = []
    for file in page.files:
        if not file.source:
            continue
        node = next((n for n in file.source.tree.body if isinstance(n, ast.ClassDef) and n.name == "Settings"), None)
        if node is None:
            continue
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                comment = file.source.lines[(statement.end_lineno or 1) - 1].partition("  # ")[2]
                group = isinstance(statement.value, ast.Call) and not comment
                flag = "--" + statement.target.id.replace("_", "-") + ("." if group else "")
                text = (
                    f"a group of settings: <code>--help {statement.target.id}</code>"
                    if group
                    else escape(comment + default(statement))
                )
                entries.append((f"<code>{flag}</code>", text))
    return definitions(entries, "flags")


def default(setting: ast.AnnAssign) -> str:
    """A setting's default in brackets, as --help writes it; "" for none."""
    value = setting.value
    if isinstance(value, ast.Call) and len(value.args) == 1 and not value.keywords:
        value = value.args[0]  # Path("runs/sft")
    if value is None or (isinstance(value, ast.Constant) and value.value in (None, "")):
        return ""
    if isinstance(value, ast.Constant):
        return f" [{settings_help.shown(value.value)}]"
    return f" [{ast.unparse(value)}]"


def in_the_book(page: Page) -> str:
    """The chapter, and in chapter 10 the sections that the page answers."""
    if page.chapter is None:
        return ""
    lessons = {s.number: {name.partition(":")[0] for answer in s.answers for name in answer.code} for s in SECTIONS}
    sections = [section for section in SECTIONS if page.command in lessons[section.number]]
    if not sections:
        return f"<p>Chapter {page.chapter}</p>"
    entries = "".join(
        f"<li>{link(f'chapter-10.html#section-{s.number}', page.address, escape(f'{s.number} {s.title}'))}</li>"
        for s in sections
    )
    return f"<ul>{entries}</ul>"


def papers(page: Page) -> str:
    """The papers that the page's files cite, once each."""
    found: dict[str, str] = {}
    for file in (file for file in page.files if "arXiv:" in file.text or "doi:" in file.text):
        text = " ".join(re.sub(r"^\s*(#|//) ?", "", line).strip() for line in file.text.splitlines())
        for match in CITED.finditer(text):
            who = (match["who"] or "").strip(" ,")
            found[match["paper"]] = max(found.get(match["paper"], ""), who, key=len)
    entries = (
        f'<li><a href="{escape(paper(name))}">{escape(f"{who}, {name}" if who else name)}</a></li>'
        for name, who in found.items()
    )
    body = "".join(entries)
    return f"<ul>{body}</ul>" if body else ""


def search_index(site: Site) -> str:
    """A script with [name, address] of every public definition and every page."""
    names = {(page.title, page.address) for page in site.pages}
    for file in site.files.values():
        definitions = file.source.definitions.items() if file.source else ()
        names |= {(name, at) for name, at in definitions if not any(part.startswith("_") for part in name.split("."))}
    return f"window.siteNames = {json.dumps(sorted(names), separators=(',', ':'))};\n"
