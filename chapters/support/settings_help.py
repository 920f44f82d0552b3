"""The text of `--help`: a command's settings, each with its type, its comment in the dataclass and its default.

Settings that are themselves a dataclass or a dictionary are groups: `--help` lists their names, `--help GROUP` their settings.
"""

import ast
import inspect
import io
import shutil
import textwrap
import tokenize
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

FLAG_COLUMNS = 32  # the description of a longer flag begins on the next line


class Setting(NamedTuple):
    """A field of a dataclass, or a key of a dictionary, as a command line sees it."""

    name: str
    type: Any
    comment: str
    default: Any
    positional: bool = False  # given without a flag

    @property
    def is_group(self) -> bool:
        return is_dataclass(self.default) or isinstance(self.default, dict)


def help_text(settings: Any, program: str, group: str = "") -> str:
    """The help of a command, or of one of its groups of settings.

    Args:
        settings: an instance of the settings' dataclass; its values are shown as the defaults.
        program: how the command is called, such as "python -m chapters.ch07_train".
        group: name of a group as it appears in its flags, such as "plan.critic"; "" for the command itself.

    Raises:
        ValueError: if there is no such group.
    """
    title = summary(settings)
    for name in filter(None, group.split(".")):
        groups = {setting.name: setting for setting in list_settings(settings) if setting.is_group}
        if name not in groups:
            raise ValueError(f"--help: expected a group of settings, got {group!r}; --help alone lists the groups")
        settings, title = groups[name].default, groups[name].comment or summary(groups[name].default)
    title, width = title.rstrip("."), max(shutil.get_terminal_size().columns, 60)
    lines = [f"usage: {program} [-h] [OPTIONS]", "", *wrap(f"{title}. Defaults are in brackets.", width), ""]
    prefix = f"--{group}." if group else "--"
    for setting in list_settings(settings):
        if not setting.is_group:
            lines += layout(flag(prefix, setting), f"{setting.comment} [{shown(setting.default)}]", width)
    nested = [(prefix + setting.name).removeprefix("--") for setting in list_settings(settings) if setting.is_group]
    if nested:
        lines += ["", *wrap(f"Groups of settings, which --help GROUP lists: {', '.join(nested)}", width)]
    return "\n".join(lines)


def layout(flag: str, description: str, width: int) -> list[str]:
    """The lines of a flag and its description, in two columns."""
    lines = wrap(description, width, " " * (FLAG_COLUMNS + 2))
    if len(flag) >= FLAG_COLUMNS:
        return [f"  {flag}", *lines]
    return [f"  {flag:<{FLAG_COLUMNS}}{lines[0].lstrip()}", *lines[1:]]


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def flag(prefix: str, setting: Setting) -> str:
    """A setting's flag and type: "--steps INT", "--[no-]resume"; its name and type if it is positional."""
    if setting.positional:
        return f"{setting.name} {type_name(setting.type)}"
    if setting.type is bool:
        return f"{prefix}[no-]{setting.name}"
    return f"{prefix}{setting.name} {type_name(setting.type)}"


def type_name(type_: Any) -> str:
    """How the help writes a type: INT, PATH, {cpu,cuda}."""
    origin, members = get_origin(type_), get_args(type_)
    if origin is Literal:
        return "{" + ",".join(map(str, members)) + "}"
    if origin in (Union, types.UnionType):
        return "|".join(type_name(member) for member in members if member is not type(None))
    if origin in (list, tuple):
        return f"[{type_name(members[0])} …]"
    return {str: "TEXT", Path: "PATH"}.get(type_) or type_.__name__.upper()


def shown(value: Any) -> str:
    """How the help writes a default."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def summary(settings: Any) -> str:
    """The first paragraph of a dataclass's docstring, on one line."""
    return " ".join(inspect.cleandoc(type(settings).__doc__ or "").split("\n\n")[0].split())


def list_settings(settings: Any) -> Iterator[Setting]:
    """Yield the settings of a dictionary or a dataclass instance; a class's own fields come before inherited fields."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield Setting(str(name).replace("_", "-"), type(value), "", value)
        return
    hints, marked = get_type_hints(type(settings)), get_type_hints(type(settings), include_extras=True)
    comments: dict[str, str] = {}
    for base in type(settings).__mro__:
        if is_dataclass(base):
            for name, comment in field_comments(base).items():
                comments.setdefault(name, comment)
    names = {field.name for field in fields(settings) if field.init}
    for name, comment in comments.items():
        if name in names:
            positional = hints[name] != marked[name]  # tyro.conf.Positional is the only annotation in use
            yield Setting(name.replace("_", "-"), hints[name], comment, getattr(settings, name), positional)


def field_comments(cls: type) -> dict[str, str]:
    """{field: the comment on its line, or ""} for the fields that a class itself declares."""
    source = textwrap.dedent(inspect.getsource(cls))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    return {
        node.target.id: comments.get(node.end_lineno or 0, "")
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
