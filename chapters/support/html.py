"""The building blocks of a report page: functions from texts, numbers and PNG files to HTML.

A page is one file with its figures inside, so it opens anywhere. Every function escapes the text that it is given.
"""

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def figure(path: str | Path, caption: str) -> str:
    """A `<figure>` with the PNG file's bytes inside."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    alt = escape(caption, quote=True)
    image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def figures(*captioned_paths: tuple[str | Path, str]) -> str:
    """Several (path, caption) figures, side by side in a wide window."""
    return '<div class="figures">' + "".join(figure(path, caption) for path, caption in captioned_paths) + "</div>"


def table(head: Sequence[str], rows: Sequence[Sequence], numbers: Collection[int] = ()) -> str:
    """A table; `shown` formats its numbers, so a float appears as a percentage.

    Args:
        head: column titles; no header row if all are empty.
        rows: texts and numbers.
        numbers: columns whose texts are numbers as well, to be aligned on the right.
    """
    right = {i for i, value in enumerate(rows[0] if rows else ()) if i in numbers or not isinstance(value, str)}
    titles = "".join(f"<th{' class=number' * (i in right)}>{escape(title)}</th>" for i, title in enumerate(head))
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    body = "".join("<tr>" + "".join(cell(v, i in numbers) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f"<table>{top}<tbody>{body}</tbody></table>"


def cell(value: str | float | None, is_number: bool) -> str:
    text = escape(value) if isinstance(value, str) else shown(value)
    return f"<td>{text}</td>" if isinstance(value, str) and not is_number else f'<td class="number">{text}</td>'


def shown(value: float | None) -> str:
    """A number as the page shows it.

    >>> shown(0.1234), shown(1234567), shown(None)
    ('12.3%', '1,234,567', '–')
    """
    if value is None:
        return "–"
    return f"{value:.1%}" if isinstance(value, float) else f"{value:,}"


def side_by_side(columns: Iterable[tuple[str, str, bool | None]]) -> str:
    """(title, text, verdict) boxes in a row; verdict: was the text accepted, or None if nobody judged it."""
    marks = {True: (" good", " · accepted"), False: (" bad", " · not accepted"), None: ("", "")}
    boxes = []
    for title, text, verdict in columns:
        css, mark = marks[verdict]
        body = escape(text) or "<i>(nothing)</i>"
        boxes.append(f'<div class="side{css}"><b>{escape(title + mark)}</b><pre>{body}</pre></div>')
    return '<div class="sides">' + "".join(boxes) + "</div>"


def section(anchor: str, small: str, title: str, *parts: str) -> str:
    """A section of the page: `small` stands above the title, and the parts are HTML."""
    return f'<section id="{anchor}"><h2><small>{escape(small)}</small>{escape(title)}</h2>' + "".join(parts) + "</section>"


def paragraph(text: str, css: str = "") -> str:
    """Plain text as a paragraph, with `code` between back quotes."""
    pieces = escape(text).split("`")
    pieces[1::2] = [f"<code>{piece}</code>" for piece in pieces[1::2]]
    return (f'<p class="{css}">' if css else "<p>") + "".join(pieces) + "</p>"


def json_script(element: str, data: Any) -> str:
    """Data for a page's JavaScript: `JSON.parse(document.getElementById(element).textContent)`.

    No text in the data can end the element or begin a comment, because every "<" is written as an escape.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(element, quote=True)}">{text}</script>'


def folded(title: str, *parts: str) -> str:
    """HTML parts that stay hidden until the reader clicks the title."""
    return f"<details><summary>{escape(title)}</summary>" + "".join(parts) + "</details>"


def page(title: str, subtitle: str, sections: Mapping[str, tuple[str, str]], footer: str) -> str:
    """The whole page as text; sections: {anchor: (menu title, HTML)}."""
    menu = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, (name, _) in sections.items())
    body = "".join(html for _, html in sections.values())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<header><h1>{escape(title)}</h1>{paragraph(subtitle)}<nav>{menu}</nav></header><main>{body}</main>"
        f"<footer>{paragraph(footer)}</footer></body></html>\n"
    )
