"""The parts of a Python source file, from top to bottom: headings, prose and code.

The site sets prose and code side by side, and a notebook turns them into cells. A lesson needs no markup for either: its
docstrings, the comments above its definitions and the lines `# ── title ───` say what is what.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

HEADING = re.compile(r"# ── (?P<title>.+?) ─+$")


@dataclass(frozen=True)
class Part:
    """A piece of a source file.

    Args:
        kind: a heading's title; prose, from the module's docstring or from a comment above code; or code.
        text: without quotes and comment signs; code is as it stands in the file.
        line: number of its first line in the file, from 1.
        names: what the code defines; a comment above a definition has none.
    """

    kind: Literal["heading", "prose", "code"]
    text: str
    line: int
    names: tuple[str, ...] = ()


def parts(source: str, tree: ast.Module | None = None) -> Iterator[Part]:
    """Split a source file. Code is divided at every definition and wherever a comment of whole lines stands above it.

    Args:
        source: the file.
        tree: its syntax tree, if the caller has it already.

    >>> [part.kind for part in parts('"Halves."\\n# Rounded down.\\ndef half(x):\\n    return x // 2\\n')]
    ['prose', 'prose', 'code']
    """
    tree, lines = tree or ast.parse(source), source.splitlines()
    statements = list(tree.body)
    if statements and (docstring := ast.get_docstring(tree)) is not None:
        yield Part("prose", docstring, statements.pop(0).lineno)
    end = lines_of_docstring(tree)  # lines before this index are done
    while statements:
        together = [statements.pop(0)]
        while statements and not starts_a_part(together[-1], statements[0], lines):
            together.append(statements.pop(0))
        begin = first_line(together[0]) - 1
        yield from comments(lines, end, begin)
        end = last_line(together[-1])
        yield Part("code", "\n".join(lines[begin:end]), begin + 1, tuple(name for node in together for name in defined(node)))
    yield from comments(lines, end, len(lines))


def lines_of_docstring(tree: ast.Module) -> int:
    return last_line(tree.body[0]) if tree.body and ast.get_docstring(tree, clean=False) is not None else 0


def first_line(node: ast.stmt) -> int:
    """The line on which a statement begins, its decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def last_line(node: ast.stmt) -> int:
    assert node.end_lineno is not None  # ast.parse sets it
    return node.end_lineno


def starts_a_part(before: ast.stmt, node: ast.stmt, lines: list[str]) -> bool:
    """Whether a statement begins a part of its own: it or the statement before is a definition, or a comment is between."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    between = lines[last_line(before) : first_line(node) - 1]
    return isinstance(before, definitions) or isinstance(node, definitions) or any(line.strip() for line in between)


def comments(lines: list[str], begin: int, end: int) -> Iterator[Part]:
    """The headings and comments in lines[begin:end], which hold no code."""
    block: list[str] = []
    for i in range(begin, end + 1):
        line = lines[i] if i < end else ""
        heading = HEADING.match(line)
        if line.startswith("#") and not heading:
            block.append(line.removeprefix("#").removeprefix(" "))
        elif block:
            yield Part("prose", "\n".join(block), i - len(block) + 1)
            block = []
        if heading:
            yield Part("heading", heading["title"], i + 1)


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    return assigned(node) if isinstance(node, (ast.Assign, ast.AnnAssign)) else []


def assigned(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names in an assignment's targets."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
