"""Taking a body out of a source file.

An exercise is a definition of the project: its imports, signature and docstring stay as they stand in our source, and a gap
takes the place of its body. Nothing is written twice, so an exercise changes with the source.

A comment above a backward pass derives it. The comment gives the answer away, so the exercise leaves it out, and the last hint
shows it.
"""

import ast
import textwrap
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from chapters.support.lesson_source import first_line, last_line

GAP_MESSAGE = "write your solution here"
GAP = f'raise NotImplementedError("{GAP_MESSAGE}")'
FLOORS = {"kernels", "minigrad", "chapters"}
CHECKS = {"contract", "list_contract"}  # decorators that check a kernel's arguments; exercises leave them out

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Target(NamedTuple):
    """A definition in one of our files, such as "kernels.softmax.reference:softmax_backward"."""

    module: str
    name: str  # with its class: "NextTokenBatches.windows"

    @classmethod
    def parse(cls, text: str) -> "Target":
        return cls(*text.split(":"))

    @property
    def path(self) -> Path:
        spec = find_spec(self.module)
        assert spec is not None and spec.origin is not None, f"there is no module {self.module}"
        return Path(spec.origin)

    def short_path(self, cuda: bool = False) -> str:
        """The file's path in the project: "kernels/softmax/reference.py"."""
        path = self.path.with_suffix(".cu") if cuda else self.path
        return "/".join(path.parts[-len(self.module.split(".")) :])

    @property
    def outer(self) -> str:
        """The class of a method; else the name itself."""
        return self.name.split(".")[0]


class Definition:
    """A definition and the file around it.

    Args:
        target: the definition.

    Raises:
        LookupError: if the file has no such definition.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.source = target.path.read_text(encoding="utf-8")
        self.lines, self.tree = self.source.splitlines(), ast.parse(self.source)
        self.outer = self.find(target.outer)

    def find(self, name: str) -> Function | ast.ClassDef:
        """The function, class or method with this name."""
        node: ast.AST = self.tree
        for part in name.split("."):
            named = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == part]
            if not named:
                raise LookupError(f"{self.target.short_path()} defines no {name}; the exercise needs another target")
            node = named[0]
        assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        return node

    def text(self, gaps: Sequence[str] = ()) -> str:
        """The outermost definition, with a gap in place of the bodies of some functions in it."""
        nodes = [self.find(name) for name in gaps]
        replaced: dict[int, list[str]] = {}  # line -> the lines that take its place
        for node in nodes:
            assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            body = first_of_body(node, self.lines)
            for line in [*self.comment_lines(node), *range(body, last_line(node) + 1)]:
                replaced[line] = []
            replaced[body] = [" " * node.body[0].col_offset + GAP]
        return "\n".join(line for n in self.line_numbers(self.outer) for line in replaced.get(n, [self.lines[n - 1]]))

    def line_numbers(self, node: Function | ast.ClassDef) -> list[int]:
        """The numbers of the lines of a definition, without the decorators that an exercise leaves out."""
        dropped = {n for decorator in checks(node) for n in range(decorator.lineno, (decorator.end_lineno or 0) + 1)}
        return [n for n in range(first_line(node), last_line(node) + 1) if n not in dropped]

    def comment_lines(self, node: ast.stmt) -> list[int]:
        """The numbers of the lines of the comment right above a definition."""
        end = first_line(node) - 1
        begin = end
        while begin > 0 and self.lines[begin - 1].strip().startswith("#"):
            begin -= 1
        return list(range(begin + 1, end + 1))

    def comment(self, name: str) -> str:
        """The comment above a definition, without its signs; "" if there is none."""
        lines = [self.lines[n - 1].strip().removeprefix("#").removeprefix(" ") for n in self.comment_lines(self.find(name))]
        return "" if any("───" in line for line in lines) else "\n".join(lines)

    def solution(self, name: str) -> str:
        """Our own definition, which also runs where the reader's stands."""
        return textwrap.dedent("\n".join(self.lines[n - 1] for n in self.line_numbers(self.find(name))))

    def docstring(self, name: str) -> str:
        """A definition's docstring; "" if it has none."""
        return ast.get_docstring(self.find(name)) or ""

    def helpers(self) -> dict[str, str]:
        """The file's own functions that the definition uses: "merge(parts, token)" -> the docstring's first paragraph."""
        functions = {node.name: node for node in self.tree.body if isinstance(node, ast.FunctionDef) and node is not self.outer}
        used = [functions[name] for name in dict.fromkeys(names_in(self.outer)) if name in functions]
        calls = [f"{node.name}({', '.join(argument.arg for argument in node.args.args)})" for node in used]
        return {call: self.docstring(node.name).split("\n\n")[0] for call, node in zip(calls, used)}

    def imports(self) -> str:
        """Import lines for all names of the file that the definition uses; other definitions come from the file itself."""
        used = list(dict.fromkeys(names_in(self.outer)))
        plain, named = list[str](), dict[str, list[str]]()
        for node in self.tree.body:
            if isinstance(node, ast.Import):
                plain += [f"import {text(alias)}" for alias in node.names if bound(alias) in used]
            elif isinstance(node, ast.ImportFrom):
                named.setdefault(node.module or "", []).extend(text(a) for a in node.names if bound(a) in used)
        own = [name for name in used if name in self.defined() and name != self.target.outer]
        named.setdefault(self.target.module, []).extend(own)
        lines = [f"from {module} import {', '.join(sorted(set(names)))}" for module, names in named.items() if names]
        of_others, of_ours = list[str](), list[str]()
        for line in [*plain, *lines]:
            (of_ours if line.split()[1].split(".")[0] in FLOORS else of_others).append(line)
        return "\n\n".join("\n".join(block) for block in (of_others, of_ours) if block)

    def defined(self) -> set[str]:
        """The names that the file itself defines."""
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        names = {node.name for node in self.tree.body if isinstance(node, definitions)}
        for node in self.tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        return names


def first_of_body(node: Function, lines: Sequence[str]) -> int:
    """The first line of a function's body after its docstring; a comment belongs to the statement below it."""
    line = first_line(node.body[0] if ast.get_docstring(node, clean=False) is None else node.body[1])
    while lines[line - 2].strip().startswith("#"):
        line -= 1
    return line


def checks(node: Function | ast.ClassDef) -> Iterator[ast.expr]:
    """The decorators that an exercise leaves out."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") in CHECKS:
            yield decorator


def names_in(node: Function | ast.ClassDef) -> Iterator[str]:
    """The names that a definition reads, without those of the decorators that an exercise leaves out."""
    unread = {id(n) for decorator in checks(node) for n in ast.walk(decorator)}
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in unread:
            yield n.id
        elif isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value.isidentifier():
            yield n.value  # an annotation in quotes


def text(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def bound(alias: ast.alias) -> str:
    """The name that an import gives to the file."""
    return alias.asname or alias.name.split(".")[0]
