"""What all pages of the site share: the frame around the text, and addresses relative to a page."""

from collections.abc import Iterable

from chapters.support.html import escape

MENU = (
    ("index.html", "Lessons"),
    ("operations.html", "Kernels"),
    ("engine.html", "Engine"),
    ("chapter-10.html", "Chapter 10"),
    ("play.html", "Play"),
    ("readme.html", "About"),
)


def relative(address: str, page: str) -> str:
    """The address of one page, or of a place on it, as another page writes it.

    >>> relative("kernels/softmax.html#L3", "chapters/ch10/sft.html"), relative("a.html#f", "a.html")
    ('../../kernels/softmax.html#L3', '#f')
    """
    file, hash_sign, anchor = address.partition("#")
    if file == page and anchor:
        return hash_sign + anchor
    return "../" * page.count("/") + address


def link(address: str, page: str, shown: str) -> str:
    """A link; `shown` is HTML."""
    return f'<a href="{escape(relative(address, page))}">{shown}</a>'


def document(page: str, title: str, main: str, menu: str = "", footer: str = "", head: str = "") -> str:
    """A whole page.

    Args:
        page: its address from the site's root.
        title: its title, as text.
        main: what stands between the menu and the footer, as HTML.
        menu: the address in MENU to which the page belongs.
        footer: HTML above the last line, such as the links to the next page.
        head: more HTML for the page's head.
    """
    root = "../" * page.count("/")
    current = f' aria-current="{"page" if menu == page else "true"}"'
    entries = "".join(
        f'<a href="{root}{address}"{current if address == menu else ""}>{escape(name)}</a>' for address, name in MENU
    )
    return (
        f'<!doctype html>\n<html lang="en" data-root="{root}"><head><meta charset="utf-8"/>'
        f"<title>{escape(title)} · minigrad</title>"
        '<meta name="viewport" content="width=device-width,initial-scale=1"/><link rel="icon" href="data:,"/>'
        f'<link rel="stylesheet" href="{root}style.css"/><link rel="stylesheet" href="{root}site.css"/>'
        f'<script src="{root}site.js" defer=""></script>{head}</head><body class="site">'
        '<a class="skip" href="#page-text">Skip to the text</a><header class="top"><nav aria-label="Site">'
        f'<a class="home" href="{root}index.html">minigrad</a>{entries}</nav><div id="search"></div></header>'
        f'<main id="page-text" tabindex="-1">{main}</main><footer>{footer}</footer></body></html>\n'
    )


def definitions(entries: Iterable[tuple[str, str]], css: str = "") -> str:
    """A list of (term, description), both HTML."""
    body = "".join(f"<div><dt>{term}</dt><dd>{description}</dd></div>" for term, description in entries)
    return f'<dl class="{css}">{body}</dl>' if body else ""
