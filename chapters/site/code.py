"""Programs as coloured lines of HTML, with an anchor at every line and a link at every name that the project defines."""

import builtins
import html
import keyword
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from kernels.terminal import visible

# Pygments' kinds of tokens that have a colour, by their short names in its style sheets; site.css gives the colours.
COLOURED = {
    **dict.fromkeys(("k", "kc", "kd", "kn", "kp", "kr", "kt", "ow"), "k"),
    **dict.fromkeys(("s", "sa", "sb", "sc", "dl", "s1", "s2", "sh", "si", "sx", "sr", "ss", "se", "sd"), "s"),
    **dict.fromkeys(("c", "c1", "cm", "ch", "cp", "cpf", "cs"), "c"),
    **dict.fromkeys(("m", "mf", "mi", "mh", "mo", "mb", "il"), "m"),
    **dict.fromkeys(("nf", "nc", "fm"), "d"),
    **dict.fromkeys(("nb", "bp", "ne"), "b"),
    "nd": "a",
}
Links = Mapping[tuple[int, int], str]  # {(line from 1, column from 0): address}


def highlighted(text: str, language: str, links: Links, prefix: str = "") -> list[str]:
    """The lines of a file as HTML.

    Args:
        text: the file.
        language: Pygments' name of its language, such as "python".
        links: where its names are defined.
        prefix: of the anchors, "cpu-" for the anchor "cpu-L12".
    """
    from pygments.token import STANDARD_TYPES

    css: dict[Any, str] = {kind: COLOURED.get(short, "") for kind, short in STANDARD_TYPES.items()}
    lines: list[str] = []
    pieces: list[str] = []
    column = 0
    for _, kind, value in lexer(language).get_tokens_unprocessed(visible(text)):
        while kind not in css:
            kind = kind.parent
        first, *others = value.split("\n") if "\n" in value else (value,)
        pieces.append(token(first, css[kind], links.get((len(lines) + 1, column))))
        column += len(first)
        for other in others:
            lines.append(line(len(lines) + 1, "".join(pieces), prefix))
            pieces, column = [token(other, css[kind], None)], len(other)
    return [*lines, line(len(lines) + 1, "".join(pieces), prefix)]


@lru_cache
def lexer(language: str) -> Any:
    """Pygments' lexer for Python or CUDA. Python's tries the commonest tokens first, which is three times as fast."""
    from pygments.lexer import inherit
    from pygments.lexers import CudaLexer, PythonLexer
    from pygments.token import Name, Punctuation

    coloured = "|".join({*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls"})
    plain_name = rf"(?!(?:{coloured})\b|__|[rRbBuUfF]{{1,2}}[\"'])[A-Za-z_]\w*"

    class FastPythonLexer(PythonLexer):
        tokens = {"root": [(r"[][ (){}.,:=<>+*/%-]+", Punctuation), (plain_name, Name), inherit]}

    return (FastPythonLexer if language == "python" else CudaLexer)(stripnl=False, ensurenl=False)


def token(text: str, css: str, address: str | None) -> str:
    """A token in its colour, or as a link; its text has passed through `visible`."""
    if "<" in text or "&" in text or ">" in text:
        text = html.escape(text, quote=False)
    if address:
        return f'<a href="{html.escape(address)}">{text}</a>'
    return f'<span class="{css}">{text}</span>' if css and text else text


def line(number: int, shown: str, prefix: str) -> str:
    """A line that can be linked: a click on its number puts the link into the address bar."""
    anchor = f"{prefix}L{number}"
    link = f'<a class="no" href="#{anchor}" tabindex="-1" aria-hidden="true">{number}</a>'
    return f'<span class="line" id="{anchor}">{link}{shown}\n</span>'


def trimmed(lines: list[str], numbers: Sequence[int]) -> list[int]:
    """Line numbers without the blank lines at both ends."""
    shown = [number for number in numbers if lines[number - 1].strip()]
    return [number for number in numbers if shown and shown[0] <= number <= shown[-1]]
