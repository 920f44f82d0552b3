"""Where the names in a file are defined, so that the pages can link them.

    >>> project = Project([Source("a", "def f(): ...", "a.html"), Source("b", "import a\\n\\na.f()", "b.html")])
    >>> project.links("b")[3, 2]
    'a.html#f'

A name is followed through imports and re-exports, an attribute through modules, classes and their bases, and through the
annotations of arguments. What is not certain gets no link.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from chapters.support.lesson_source import assigned

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Source:
    """A Python file of the project.

    Args:
        module: its dotted name; a package's name for its __init__.py.
        text: the file.
        address: of its page, from the site's root.
        prefix: of the anchors of this file, on a page of several files.
    """

    module: str
    text: str
    address: str
    prefix: str = ""
    imports: dict[str, str] = field(init=False)
    definitions: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.imports = dict(imported(self.tree.body))
        self.definitions = {name: self.anchor(name) for name, _ in defined(self.tree.body)}
        for node in self.tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                self.definitions |= {name: self.anchor(f"L{node.lineno}") for name in assigned(node)}

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def anchor(self, name: str) -> str:
        return f"{self.address}#{self.prefix}{name}"

    @property
    def top(self) -> str:
        """Where the file begins: its page, or its tab on a page of several files."""
        return self.anchor("file") if self.prefix else self.address


def defined(body: list[ast.stmt], outer: str = "") -> Iterator[tuple[str, Definition]]:
    """The functions and classes of a module, and the methods of its classes, by qualified name."""
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield outer + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body, f"{outer}{node.name}.")


def imported(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    """(name in the file, dotted name) for each import."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((a.asname or a.name.split(".")[0], a.name if a.asname else a.name.split(".")[0]) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


class Project:
    """All files of the site, and what their names mean."""

    def __init__(self, sources: list[Source]):
        self.sources = {source.module: source for source in sources}
        self.tops = {source.top for source in sources}

    def address(self, module: str, name: str, depth: int = 8) -> str | None:
        """The address of a dotted name as a module's top level understands it; None if it is not defined in the project."""
        source, (head, *rest) = self.sources[module], name.split(".")
        if depth == 0:
            return None
        if head in source.definitions:
            return self.member(source, name, depth)
        if head in source.imports:
            return self.absolute(".".join([source.imports[head], *rest]), depth)
        return None

    def absolute(self, name: str, depth: int = 8) -> str | None:
        """The address of a full name such as minigrad.nn.functional.softmax."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            source = self.sources.get(".".join(parts[:end]))
            if source:
                return self.address(source.module, ".".join(parts[end:]), depth - 1) if parts[end:] else source.top
        return None

    def member(self, source: Source, name: str, depth: int) -> str | None:
        """The address of a definition or of a class's member, which a base class may define."""
        if name in source.definitions:
            return source.definitions[name]
        owner, _, attribute = name.partition(".")
        node = next((node for node in source.tree.body if isinstance(node, ast.ClassDef) and node.name == owner), None)
        if node is None or "." in attribute:
            return None
        for base in node.bases:
            dotted_base = dotted(base)
            found = self.address(source.module, f"{dotted_base}.{attribute}", depth - 1) if dotted_base else None
            if found:
                return found
        return None

    def links(self, module: str) -> dict[tuple[int, int], str]:
        """{(line from 1, column from 0): address} for the names in a file."""
        finder = Finder(self, self.sources[module])
        finder.visit(self.sources[module].tree)
        return finder.found


def dotted(node: ast.expr | None) -> str | None:
    """The name "a.b.c" of an expression that is nothing else; of X | None and Sequence[X], that of X is not tried."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else None
    return node.id if isinstance(node, ast.Name) else None


class Finder(ast.NodeVisitor):
    """Walks through a file and notes the address of each name that the project defines.

    `scopes` holds a dictionary for each enclosing function: {local name: full name of its class, or of the import; or None}.
    """

    def __init__(self, project: Project, source: Source):
        self.project, self.source = project, source
        self.scopes: list[dict[str, str | None]] = []
        self.found: dict[tuple[int, int], str] = {}
        self.owners: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.note(alias.lineno, alias.col_offset, self.project.absolute(alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module:
            self.note(node.lineno, node.col_offset + len("from "), self.project.absolute(node.module))
        for alias in node.names:
            self.note(alias.lineno, alias.col_offset, self.project.absolute(f"{node.module}.{alias.name}"))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in chain(node.decorator_list, node.bases, node.keywords):
            self.visit(outside)
        self.owners.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.owners.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for outside in (*node.decorator_list, node.args, node.returns):
            if outside is not None:
                self.visit(outside)
        self.scopes.append(dict(self.locals_of(node)))
        for statement in node.body:
            self.visit(statement)
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.scopes.append(dict.fromkeys(argument.arg for argument in arguments(node)))
        self.generic_visit(node)
        self.scopes.pop()

    def locals_of(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str | None]]:
        """The names that a function binds; arguments that are annotated with a class of the project stand for it."""
        imports = []
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                if isinstance(inner.ctx, ast.Store):
                    yield inner.id, None
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                imports.append(inner)
            elif isinstance(inner, FUNCTIONS) and inner is not node:
                yield inner.name, None
        yield from imported(imports)
        for argument in arguments(node):
            yield argument.arg, self.full_name(dotted(argument.annotation))
        if self.owners and arguments(node) and arguments(node)[0].arg in ("self", "cls"):
            yield arguments(node)[0].arg, f"{self.source.module}.{self.owners[-1]}"

    def full_name(self, name: str | None) -> str | None:
        """A module's name for a class in full."""
        if name is None:
            return None
        head, *rest = name.split(".")
        if head in self.source.imports:
            return ".".join([self.source.imports[head], *rest])
        return f"{self.source.module}.{name}" if head in self.source.definitions else None

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and not any(node.id in scope for scope in self.scopes):
            address = self.project.address(self.source.module, node.id)
            if address and address not in self.project.tops:  # the alias of a module needs no link at each use
                self.note(node.lineno, node.col_offset, address)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        name = dotted(node)
        if name and node.end_lineno and node.end_col_offset:
            self.note(node.end_lineno, node.end_col_offset - len(node.attr.encode()), self.attribute(name))

    def attribute(self, name: str) -> str | None:
        head, _, rest = name.partition(".")
        for scope in reversed(self.scopes):
            if head in scope:
                return self.project.absolute(f"{scope[head]}.{rest}") if scope[head] else None
        return self.project.address(self.source.module, name)

    def note(self, line: int, column: int, address: str | None) -> None:
        """Columns of the syntax tree count bytes; ours count characters."""
        if address:
            text = self.source.lines[line - 1]
            self.found[line, column if text.isascii() else len(text.encode()[:column].decode())] = address


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[ast.arg]:
    args = node.args
    return [a for a in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if a is not None]
