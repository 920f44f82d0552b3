"""The building blocks of a report page: functions from texts, numbers and figures to HTML.

A page is one file with its figures inside, so it opens anywhere. Every function escapes the text that it is given.
"""

import base64
import html
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.terminal import visible

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def escape(text: str) -> str:
    """The text as it may stand in HTML, also between quotes; its control characters become visible symbols.

    >>> escape('<b title="a"> \\u202e')
    '&lt;b title=&quot;a&quot;&gt; \\\\u202e'
    """
    return html.escape(visible(text))


def figure(path: str | Path, caption: str) -> str:
    """A `<figure>` with an SVG file inside.

    In `<img>` the drawing follows the page's colours, and the browser runs no script in it and loads nothing for it.
    """
    path = Path(path)
    if not path.exists():
        way_out = "delete result.json of its stage, and run the job again"
        raise FileNotFoundError(f"page: expected a figure, got no {path}; {way_out}")
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def figures(*captioned_paths: tuple[str | Path, str]) -> str:
    """Several (path, caption) figures, side by side in a wide window."""
    return '<div class="figures">' + "".join(figure(path, caption) for path, caption in captioned_paths) + "</div>"


def table(head: Sequence[str], rows: Sequence[Sequence], numbers: Collection[int] = (), *, notes: bool = False) -> str:
    """A table, which scrolls inside its frame where the window is narrow.

    `shown` formats the numbers, so a float appears as a percentage.

    Args:
        head: column titles; no header row if all are empty.
        rows: texts and numbers.
        numbers: columns whose texts are numbers as well, to be aligned on the right.
        notes: the last column stands beneath the others where the window is narrow.
    """
    right = {i for i, value in enumerate(rows[0] if rows else ()) if i in numbers or not isinstance(value, str)}
    titles = "".join(
        f'<th scope="col"{" class=number" * (i in right)}>{escape(title)}</th>' if title else "<td></td>"
        for i, title in enumerate(head)
    )
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    body = "".join("<tr>" + "".join(cell(v, i in numbers) for i, v in enumerate(row)) + "</tr>" for row in rows)
    label = escape("table: " + (", ".join(filter(None, head)) or str(rows[0][0] if rows else "empty")))
    frame = f'<div class="scroll" role="group" tabindex="0" aria-label="{label}">'  # tabindex: the arrow keys scroll it
    css = ' class="notes"' if notes else ""
    return f"{frame}<table{css}>{top}<tbody>{body}</tbody></table></div>"


def cell(value: str | float | None, is_number: bool) -> str:
    """A cell of `table`; two spaces before a text indent it."""
    text = escape(value) if isinstance(value, str) else shown(value)
    css = "number" if is_number or not isinstance(value, str) else "part" if text.startswith("  ") else ""
    return f'<td class="{css}">{text.strip()}</td>' if css else f"<td>{text}</td>"


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
    heading = f"<h2><small>{escape(small)}</small>{escape(title)}</h2>"
    return f'<section id="{escape(anchor)}">{heading}{"".join(parts)}</section>'


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
    return f'<script type="application/json" id="{escape(element)}">{text}</script>'


def folded(title: str, *parts: str) -> str:
    """HTML parts that stay hidden until the reader clicks the title."""
    return f"<details><summary>{escape(title)}</summary>" + "".join(parts) + "</details>"


def page(title: str, subtitle: str, sections: Mapping[str, tuple[str, str]], footer: str, head: str = "") -> str:
    """The whole page as text.

    Args:
        title, subtitle, footer: plain texts.
        sections: {anchor: (menu title, HTML)}.
        head: HTML for the page's head.
    """
    menu = "".join(f'<a href="#{escape(anchor)}">{escape(name)}</a>' for anchor, (name, _) in sections.items())
    body = "".join(section for _, section in sections.values())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style>{head}</head><body>'
        '<a class="skip" href="#content">Skip to the content</a>'
        f'<header><h1>{escape(title)}</h1>{paragraph(subtitle)}<nav aria-label="Sections">{menu}</nav></header>'
        f'<main id="content">{body}</main><footer>{paragraph(footer)}</footer></body></html>\n'
    )
