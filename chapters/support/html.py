"""The building blocks of a report page: functions from texts, numbers and PNG files to HTML.

A page is one file with its figures inside, so it opens anywhere. Every function escapes the text that it is given.
"""

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { --paper: #fbf8f1; --card: #fff; --ink: #2b2925; --soft: #7a7466; --line: #e6dfd0; --gold: #b57c00;
  --blue: #2a5bff; --sans: system-ui, "Segoe UI", Roboto, sans-serif;
  --mono: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
* { box-sizing: border-box }
html { scroll-behavior: smooth }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.6 Georgia, "Iowan Old Style", serif }
header, main, footer { max-width: 1060px; margin: 0 auto; padding: 0 28px }
header { padding-top: 64px }
h1 { font-size: 44px; line-height: 1.1; margin: 0 0 10px; letter-spacing: -.01em }
header p { color: var(--soft); font-size: 20px; margin: 0 0 28px; max-width: 40em }
nav { border: solid var(--line); border-width: 1px 0; padding: 10px 0; font: 14px/1.8 var(--sans) }
nav a { color: var(--blue); text-decoration: none; margin-right: 22px; display: inline-block }
nav a:hover { text-decoration: underline }
h2 { font-size: 28px; line-height: 1.25; margin: 64px 0 6px }
h2 small { color: var(--gold); font: 600 13px/2 var(--sans); display: block; letter-spacing: .12em;
  text-transform: uppercase }
p { max-width: 44em }
.note { color: var(--soft); margin: 0 }
.question { font-weight: bold; margin: 30px 0 0 }
table { border-collapse: separate; border-spacing: 0; width: 100%; margin: 18px 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; font: 15px/1.45 var(--sans) }
th, td { padding: 9px 14px; text-align: left; vertical-align: top; border-top: 1px solid var(--line);
  white-space: pre-wrap }
thead th, table > tbody:first-child tr:first-child td { border-top: 0 }
thead th { background: #f3ede0; color: var(--soft); font-size: 13px }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap }
figure { margin: 22px 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px;
  text-align: center }
figure img { max-width: 100%; height: auto }
figcaption { color: var(--soft); font: 14px/1.5 var(--sans); margin-top: 8px }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 18px; align-items: start }
.figures figure { margin: 8px 0 }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 14px; margin: 10px 0 26px }
.side { background: var(--card); border: 1px solid var(--line); border-top-width: 4px; border-radius: 10px;
  padding: 12px 14px }
.side.good { border-top-color: #3f9a5b }
.side.bad { border-top-color: #cf6b5e }
.side b { font: 600 12px/1.4 var(--sans); color: var(--soft); display: block; margin-bottom: 6px }
summary { cursor: pointer; color: var(--blue); font: 15px/1.5 var(--sans); margin: 26px 0 }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.5 var(--mono) }
code { font: .88em var(--mono); background: #f0eadc; padding: 1px 5px; border-radius: 4px }
footer { color: var(--soft); font: 14px/1.6 var(--sans); padding: 56px 28px 64px }
@media print { nav { display: none } section { break-inside: avoid-page } }
"""


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
