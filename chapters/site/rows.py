"""The rows of a page: a piece of code, and the prose that speaks of it.

In Python the prose is a module's docstring, the comments above a definition, and the docstrings of functions, classes and
methods; the code is what remains. In CUDA it is the comment at the left margin above a kernel.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from chapters.site.code import trimmed
from chapters.site.names import FUNCTIONS, Definition
from chapters.support.lesson_source import HEADING, first_line, last_line, parts

KERNEL = re.compile(r"\b(?P<name>[A-Za-z_]\w*)\s*\([^;]*$")


@dataclass
class Row:
    """Prose and code side by side.

    Args:
        lines: numbers of the code's lines, from 1.
        prose: texts, each a comment or a docstring.
        heading: title of a part of the file, which begins with this row.
        name: qualified name of the definition that the prose describes, "" if none.
        anchors: {qualified name: line} of the other definitions in the code.
        is_import: whether the code is nothing but imports.
    """

    lines: list[int] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)
    heading: str = ""
    name: str = ""
    anchors: dict[str, int] = field(default_factory=dict)
    is_import: bool = False


def python_rows(text: str, tree: ast.Module | None = None) -> tuple[str, list[Row]]:
    """A Python file's docstring and its rows; tree: its syntax tree, if the caller has it already."""
    tree, source = tree or ast.parse(text), text.splitlines()
    docstring = ast.get_docstring(tree) or ""
    body = tree.body[1:] if docstring else tree.body
    by_line = {first_line(node): node for node in body}
    rows: list[Row] = []
    waiting = Row()
    pieces = list(parts(text, tree))
    for part in pieces[1:] if docstring else pieces:
        if part.kind == "heading":
            waiting.heading = part.text
        elif part.kind == "prose":
            waiting.prose.append(part.text)
        else:
            rows += code_rows(part.line, len(part.text.splitlines()), by_line, source, waiting)
            waiting = Row()
    if waiting.prose or waiting.heading:
        rows.append(waiting)
    return docstring, named_once(rows)


def named_once(rows: list[Row]) -> list[Row]:
    """The rows, where a name that is defined again, as by a property's setter, has no second anchor."""
    used: set[str] = set()
    for row in rows:
        row.name = row.name if row.name not in used else ""
        used.add(row.name)
        row.anchors = {name: line for name, line in row.anchors.items() if name not in used}
        used |= set(row.anchors)
    return rows


def code_rows(begin: int, length: int, by_line: dict[int, ast.stmt], source: list[str], row: Row) -> Iterator[Row]:
    """The rows of a part: several for a class whose methods have docstrings, else one. `row` brings the comments above."""
    nodes = [by_line[number] for number in range(begin, begin + length) if number in by_line]
    if isinstance(nodes[0], (*FUNCTIONS, ast.ClassDef)):
        yield from definition_rows(nodes[0], source, row, "")
        return
    numbers = range(begin, begin + length)
    if not row.prose and not row.heading:  # the imports at the top, and a row for the rest
        rest = next((first_line(node) for node in nodes if not isinstance(node, (ast.Import, ast.ImportFrom))), numbers.stop)
        if rest > begin:
            yield Row(trimmed(source, range(begin, rest)), is_import=True)
        numbers = range(rest, numbers.stop)
    row.lines = trimmed(source, numbers)
    if row.lines:
        yield row


def definition_rows(node: Definition, source: list[str], row: Row, owner: str) -> Iterator[Row]:
    """The rows of a function or class. `row` has the comment above it."""
    name = owner + node.name
    if docstring := ast.get_docstring(node):
        row.prose.append(docstring)
    if row.prose:
        row.name = name
    else:
        row.anchors[name] = node.lineno
    if isinstance(node, ast.ClassDef):
        yield from class_rows(node, source, row, name)
    else:
        row.lines = code_lines(node, source, first_line(node), last_line(node) + 1)
        yield row


def class_rows(node: ast.ClassDef, source: list[str], row: Row, name: str) -> Iterator[Row]:
    """The rows of a class: a method with prose or a heading begins one, and so does the code without prose after it."""
    at = first_line(node)  # the first line that no row has yet
    for inner in (inner for inner in node.body if isinstance(inner, (*FUNCTIONS, ast.ClassDef))):
        above = above_definition(first_line(inner), source)
        if not above.comment and not ast.get_docstring(inner):
            if above.heading or row.name not in ("", name):
                row.lines += code_lines(node, source, at, above.line)
                yield row
                row, at = Row(heading=above.heading), first_line(inner)
            row.anchors[f"{name}.{inner.name}"] = inner.lineno
            continue
        row.lines += code_lines(node, source, at, above.line)
        at = last_line(inner) + 1
        begun = Row(prose=[above.comment] if above.comment else [], heading=above.heading)
        *between, last = definition_rows(inner, source, begun, f"{name}.")
        if name in row.anchors and not above.heading and not between:  # the first prose speaks of the class
            anchors = {**row.anchors, last.name: inner.lineno}
            del anchors[name]
            row = Row([*row.lines, *last.lines], last.prose, row.heading, name, anchors)
        else:
            yield row
            yield from between
            row = last
    row.lines += code_lines(node, source, at, last_line(node) + 1)
    yield row


class Above(NamedTuple):
    """What stands above a definition in a class, and the line on which it begins."""

    line: int
    heading: str
    comment: str


def above_definition(line: int, source: list[str]) -> Above:
    begin = line - 1
    while begin and source[begin - 1].lstrip().startswith("# ") and not HEADING.match(source[begin - 1].strip()):
        begin -= 1
    comment = "\n".join(re.sub(r"^\s*# ?", "", text) for text in source[begin : line - 1])
    top = begin
    while top and not source[top - 1].strip():
        top -= 1
    heading = HEADING.match(source[top - 1].strip()) if top else None
    return Above(top, heading["title"], comment) if heading else Above(begin + 1, "", comment)


def code_lines(node: Definition, source: list[str], begin: int, end: int) -> list[int]:
    """The numbers from begin to end - 1, without the lines of the definition's docstring and blank lines at both ends."""
    without = docstring_lines(node)
    return trimmed(source, [number for number in range(begin, end) if number not in without])


def docstring_lines(node: Definition) -> set[int]:
    if ast.get_docstring(node, clean=False) is None:
        return set()
    return set(range(node.body[0].lineno, last_line(node.body[0]) + 1))


def cuda_rows(text: str) -> tuple[str, list[Row]]:
    """A CUDA file's first comment and its rows: a comment at the left margin begins a row."""
    source = text.splitlines()
    rows = [Row()]
    for number, line in enumerate(source, 1):
        if line.startswith("//"):
            if rows[-1].lines:
                rows.append(Row())
            comment = re.sub(r"^// ?", "", line)
            rows[-1].prose = ["\n".join([*rows[-1].prose, comment])]
        elif line.strip() or rows[-1].lines:
            rows[-1].lines.append(number)
    introduction = "".join(rows[0].prose)
    rows[0].prose = []
    for row in rows:
        row.lines = trimmed(source, row.lines)
        row.anchors = {name: number for number in row.lines if (name := kernel_name(source, number))}
        if row.prose and row.anchors:  # the comment speaks of the first kernel below it
            row.name = next(iter(row.anchors))
            del row.anchors[row.name]
    return introduction, [row for row in rows if row.lines or row.prose]


def kernel_name(source: list[str], number: int) -> str:
    """The name of the kernel whose signature begins on a line, "" if none does."""
    line = source[number - 1]
    marked = "__global__" in line or (number > 1 and "__global__" in source[number - 2])
    found = KERNEL.search(line) if marked and not line.startswith((" ", "}")) else None
    return found["name"] if found and found["name"] != "__launch_bounds__" else ""
