"""The README as pages: its beginning on the front page, its table of lessons as the map, and all of it under About."""

import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from chapters.site.sources import CHAPTERS

Link = Callable[[str], "str | None"]  # from a path or a name in the README to an address; None for no link


def text() -> str:
    """The README of the checkout or, where the project is installed as a package, of its metadata.

    Raises:
        OSError: if neither is there.
    """
    path = CHAPTERS.parent / "README.md"
    if path.exists():
        return path.read_text(encoding="utf-8")
    try:
        return str(metadata("minigrad").get_payload() or "")  # type: ignore[attr-defined]
    except PackageNotFoundError:
        raise FileNotFoundError(f"site: expected {path}, got no such file; run it in a checkout of the project") from None


def pictures(markdown: str) -> dict[str, Path]:
    """{path in the README: file} of its pictures; a wheel has those that lie inside chapters."""
    paths = re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", markdown)
    return {path: CHAPTERS.parent / path for path in paths if (CHAPTERS.parent / path).is_file()}


def parser() -> Any:
    """Markdown without HTML inside, so nothing in a text becomes markup."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")


def render(markdown: str, link: Link) -> str:
    """A README's text as HTML; `link` gives the address of a relative path or of `a name`."""
    md = parser()
    tokens = md.parse(markdown)
    for token in tokens:
        if token.type == "heading_open":
            following = tokens[tokens.index(token) + 1].content
            token.attrSet("id", re.sub(r"\W+", "-", following.lower()).strip("-"))
        if token.type == "inline":
            token.children = linked(token.children or [], link)
        if token.type == "table_open":
            token.attrSet("class", "map")
    return re.sub(r"<table\b.*?</table>", scrolling, md.renderer.render(tokens, md.options, {}), flags=re.DOTALL)


def scrolling(match: re.Match[str]) -> str:
    """A table in a frame that scrolls; an empty header cell is an ordinary cell."""
    table = match[0].replace("<th></th>", "<td></td>").replace("<th>", '<th scope="col">')
    return f'<div class="scroll" role="group" tabindex="0" aria-label="table">{table}</div>'


def linked(children: list[Any], link: Link) -> list[Any]:
    """The tokens of a paragraph with addresses of pages: relative links are changed or dropped, and names become links."""
    from markdown_it.token import Token

    shown: list[Any] = []
    inside: list[bool] = []  # for every open link: is it shown?
    for token in children:
        if token.type == "link_open":
            address = target(str(token.attrGet("href")), link)
            inside.append(address is not None)
            if address is None:
                continue
            token.attrSet("href", address)
        elif token.type == "link_close":
            if not inside.pop():
                continue
        elif token.type == "image":
            if not (source := link(str(token.attrGet("src")))):
                continue
            token.attrSet("src", source)
        elif token.type == "code_inline" and not inside and (address := link(token.content)):
            opening = Token("link_open", "a", 1, attrs={"href": address})
            shown += [opening, token, Token("link_close", "a", -1)]
            continue
        shown.append(token)
    return shown


def target(href: str, link: Link) -> str | None:
    return href if re.match(r"https?://|#", href) else link(href)


def beginning(markdown: str) -> str:
    """The README up to its first section."""
    return markdown.split("\n## ")[0]


def section(markdown: str, title: str) -> str:
    """A section of the README without its heading; "" if there is none."""
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def look_at(markdown: str) -> dict[str, str]:
    """{a lesson's command: what to look at when it runs}, from the table of lessons."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    found: dict[str, str] = {}
    for row in rows:
        if len(row) == 4 and row[0].strip().isdigit():
            found |= dict.fromkeys(re.findall(r"`([\w.]+)`", row[1]), row[3])
    return found
