"""Docstrings and comments as HTML.

Their form is the project's own: paragraphs, `code`, lists, indented examples, formulas, and sections such as "Args:". In a
comment that derives something, a line that is indented, or that has a wide gap, is a step of the derivation.
"""

import re
from collections.abc import Callable, Iterator
from textwrap import dedent

from chapters.site.formulas import mathml
from chapters.site.segments import STRONG, segments
from chapters.support.html import escape

Link = Callable[[str], "str | None"]  # from a name or a path in a text to its address

WIDE = 40  # characters of a formula that may be wider than a phone
SECTION = re.compile(r"[A-Z][a-z]+:$")
ITEM = re.compile(r"(?P<mark>- |\d+\. )")
ENTRY = re.compile(r"(?P<names>[^\s:][^:]*): +(?P<text>.*)")
GAP = re.compile(r" {2,}")
SHELL = re.compile(r"(python|pip|mpiexec|apt-get|git|jupyter|curl) ")
CODE_SIGNS = re.compile(r">>>|[#@|]|(?<!_)\{|\w\.\w|\[[^]]*:")
REFERENCE = re.compile(
    r"(?P<arxiv>arXiv:\d{4}\.\d{4,5})|(?P<doi>doi:10\.\d{4,}/[\w./()-]*\w)|(?P<url>(?:https?://|(?<![\w./])(?:github\.com|joschu\.net)/)[\w./#~-]*[\w/])"
    r"|(?P<path>\b(?:kernels|minigrad|chapters|ch\d\d)(?:/\w+)+(?:\.py|\.cu)?\b)|\*(?P<emphasis>\w[\w -]*)\*"
)

SHAPE = re.compile(r"\((?:[A-Z\d]+|\.\.\.)(?:, (?:[A-Z\d]+|\.\.\.)){1,4}\)")  # (B, T, C), which is not to be broken
NO_BREAK = "\u00a0"


def to_html(text: str, link: Link = lambda name: None) -> str:
    """A text of several paragraphs as HTML."""
    return "".join(blocks(text.expandtabs().splitlines(), link))


def blocks(lines: list[str], link: Link) -> Iterator[str]:
    """The paragraphs, lists, examples and sections of a text whose lines are not indented."""
    at = 0
    while at < len(lines):
        begin, line = at, lines[at]
        at += 1
        if not line.strip():
            continue
        if line.startswith("    "):
            at = end_of_indented(lines, at)
            yield indented("\n".join(lines[begin:at]), link)
        elif line.startswith(">>> "):
            while at < len(lines) and lines[at].strip():
                at += 1
            yield example("\n".join(lines[begin:at]))
        elif SECTION.match(line) and at < len(lines) and lines[at].startswith("    "):
            at = end_of_indented(lines, at)
            yield section(line[:-1], dedent("\n".join(lines[begin + 1 : at])), link)
        elif ITEM.match(line):
            while at < len(lines) and (lines[at].startswith(("  ", "- ")) or ITEM.match(lines[at])):
                at += 1
            yield items(lines[begin:at], link)
        else:
            while at < len(lines) and lines[at].strip() and not ends_paragraph(lines, at):
                at += 1
            yield from paragraph(lines[begin:at], link)


def ends_paragraph(lines: list[str], at: int) -> bool:
    """Whether lines[at], which is not blank, begins a block of another kind."""
    line = lines[at]
    is_section = SECTION.match(line) and at + 1 < len(lines) and lines[at + 1].startswith("    ")
    return bool(line.startswith(("    ", ">>> ", "- ", "Source: ", "Sources: ")) or is_section)


def end_of_indented(lines: list[str], at: int) -> int:
    """Index after the indented lines at `at`; blank lines belong to them if more indented lines follow."""
    end = at
    while at < len(lines) and (not lines[at].strip() or lines[at].startswith("    ")):
        at += 1
        if lines[at - 1].strip():
            end = at
    return end


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def indented(text: str, link: Link) -> str:
    """An indented block: formulas if every line is one, perhaps with a remark; commands; or text that stays as it is."""
    text = dedent(text)
    lines = [line for line in text.splitlines() if line.strip()]
    if all(is_step(line) for line in lines) and not CODE_SIGNS.search(text):
        return steps(lines, link)
    css = "commands" if all(SHELL.match(line.lstrip()) for line in lines) else "figure"
    return example(text, css)


def example(text: str, css: str = "example") -> str:
    return f'<pre class="{css}">{escape(text)}</pre>'


def section(title: str, text: str, link: Link) -> str:
    """Args, Returns and the like: a list of definitions where every entry is "name: text", else paragraphs."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        if entries and (line.startswith(" ") or not line.strip()):
            entries[-1].append(line)
        else:
            entries.append([line])
    matches = [ENTRY.match(entry[0]) for entry in entries]
    heading = f'<p class="section">{escape(title)}</p>'
    if not all(match and is_name(match["names"]) for match in matches):
        return heading + f'<div class="returns">{to_html(text, link)}</div>'
    rows = []
    for match, entry in zip(matches, entries, strict=True):
        assert match is not None
        names = ", ".join(code(name, link) for name in match["names"].split(", "))
        rest = "\n".join([match["text"], *(line.removeprefix("    ") for line in entry[1:])])
        rows.append(f"<dt>{names}</dt><dd>{unwrapped(to_html(rest, link))}</dd>")
    return heading + f"<dl>{''.join(rows)}</dl>"


def is_name(text: str) -> bool:
    return re.fullmatch(r"[\w.*]+(, [\w.*]+)*( or [\w.]+)?", text) is not None


def unwrapped(html: str) -> str:
    """HTML without its <p>, if that is all it has."""
    return html[3:-4] if html.startswith("<p>") and html.count("<p") == 1 and html.endswith("</p>") else html


def items(lines: list[str], link: Link) -> str:
    """A list; the lines of an item after its first are indented."""
    entries: list[list[str]] = []
    for line in lines:
        mark = ITEM.match(line)
        if mark:
            entries.append([line[mark.end() :]])
        else:
            entries[-1].append(line.strip())
    tag = "ul" if lines[0].startswith("- ") else "ol"
    return f"<{tag}>" + "".join(f"<li>{inline(' '.join(entry), link)}</li>" for entry in entries) + f"</{tag}>"


def paragraph(lines: list[str], link: Link) -> Iterator[str]:
    """Lines without a blank line between them: sentences, and the steps of a derivation."""
    at = 0
    derives = any(is_step(line) and (line.startswith("  ") or wide(line)) for line in lines)
    while at < len(lines):
        begin, is_a_step = at, derives and is_derived(lines[at])
        while at < len(lines) and (derives and is_derived(lines[at])) == is_a_step:
            at += 1
        if is_a_step:
            yield steps(lines[begin:at], link)
            continue
        text = " ".join(line.strip() for line in lines[begin:at])
        kind = re.match(r"Sources?: ", text)
        yield f'<p class="source">{inline(text, link)}</p>' if kind else f"<p>{inline(text, link, derives)}</p>"


# ── derivations ──────────────────────────────────────────────────────────────────────────────────────────────────────


def is_step(line: str) -> bool:
    """Whether a line has a formula that stands for itself."""
    return any(segment.is_formula and re.search("[=≈←Σ]", segment.text) for segment in segments(line.strip()))


def wide(line: str) -> bool:
    """Whether a line has a gap inside, wider than between sentences."""
    return re.search(r"[^\s.] {2,}\S", line) is not None


def is_derived(line: str) -> bool:
    return is_step(line) and (line.startswith("  ") or wide(line))


def steps(lines: list[str], link: Link) -> str:
    """The lines of a derivation: what is done, above its formulas."""
    return '<div class="derivation">' + "".join(step(line.strip(), link) for line in lines) + "</div>"


def step(line: str, link: Link) -> str:
    """One line: its label, if it begins with words, then formulas and words as they come."""
    label, rest = "", line
    gap = GAP.search(line)
    if gap and (line[: gap.start()].endswith(":") or not any(s.is_formula for s in segments(line[: gap.start()]))):
        label, rest = line[: gap.start()], line[gap.end() :]
    rest = '<span class="gap"> </span>'.join(inline(chunk, link, letters=True) for chunk in joined_chunks(rest))
    title = f'<span class="label">{inline(label, link, letters=True)}</span> ' if label else ""
    return f'<p class="step">{title}<span class="formulas">{rest}</span></p>'


def joined_chunks(text: str) -> list[str]:
    """The parts of a line between wide gaps; gaps around an operator only align lines and part nothing."""
    return GAP.split(re.sub(r" {2,}(?=[=+−])|(?<=[=+−]) {2,}", " ", text))


# ── inside a line ────────────────────────────────────────────────────────────────────────────────────────────────────


def inline(text: str, link: Link, letters: bool = False) -> str:
    """A run of text: `code`, formulas, references and *emphasis*; letters: see `segments`."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a quotation mark that nothing closes
        pieces = [text]
    for i, piece in enumerate(pieces):
        pieces[i] = code(piece, link) if i % 2 else words_and_formulas(piece, link, letters)
    return "".join(pieces)


def code(text: str, link: Link) -> str:
    """A name or an expression in the type of a program, with a link if it names something."""
    shown = f"<code>{escape(text)}</code>"
    address = link(text.removesuffix("()"))
    return f'<a href="{escape(address)}">{shown}</a>' if address else shown


def words_and_formulas(text: str, link: Link, letters: bool) -> str:
    if not letters and not STRONG.search(text):
        return words(text, link)
    shown: list[str] = []
    parts = segments(text, letters)
    for part, after in zip(parts, [*parts[1:], None]):
        if part.is_formula:
            end = re.match(r"[,.;:)]*", after.text) if after else None
            shown.append(formula(part.text, end[0] if end else ""))
        else:
            shown.append(words(part.text.lstrip(",.;:)") if shown else part.text, link))
    return "".join(shown)


def formula(text: str, punctuation: str = "") -> str:
    """A formula as MathML, with the punctuation after it, since no line may begin with that."""
    *pieces, last = mathml(text).split("<wbr/>")
    if punctuation:
        last = f'<span class="glued">{last}{punctuation}</span>'
    return f'<span class="{"wide formula" if len(text) > WIDE else "formula"}">{"<wbr/>".join([*pieces, last])}</span>'


def words(text: str, link: Link) -> str:
    """Plain text, in which papers, addresses, files and *emphasis* are marked."""
    text = SHAPE.sub(lambda match: match[0].replace(" ", NO_BREAK), text.replace(" -> ", f"{NO_BREAK}→ "))
    shown, end = [], 0
    for match in REFERENCE.finditer(text):
        shown.append(escape(text[end : match.start()]))
        shown.append(reference(match, link))
        end = match.end()
    return "".join(shown) + escape(text[end:])


def reference(match: re.Match[str], link: Link) -> str:
    text = escape(match[0])
    if match["emphasis"]:
        return f"<em>{escape(match['emphasis'])}</em>"
    address = link(match[0]) if match["path"] else paper(match[0])
    return f'<a href="{escape(address)}">{text}</a>' if address else text


def paper(name: str) -> str:
    """The address of "arXiv:1706.03762", "doi:10.1145/2925987" or a page without its scheme."""
    if name.startswith("arXiv:"):
        return "https://arxiv.org/abs/" + name[6:]
    if name.startswith("doi:"):
        return "https://doi.org/" + name[4:]
    return name if name.startswith("http") else "https://" + name
