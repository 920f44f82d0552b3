"""Texts that try to become markup, a script, a formula or a command to the terminal."""

import re

TEXTS = {
    "script": "<script>alert(1)</script>",
    "attribute": "\"><img src=x onerror=alert(1)>' onload='alert(1)",
    "end of a script": "</script></style></pre></svg></title><svg onload=alert(1)>",
    "comment": "<!-- --> <![CDATA[ ]]> &lt;b&gt; &#60;b&#62; {{1}} ${alert(1)}",
    "link": "javascript:alert(1) [a](javascript:alert(1)) http://example.com/",
    "escape sequence": "\x1b[2J\x1b]0;title\x07\x1b]8;;http://example.com\x1b\\ \x9b31m \x7f \x08",
    "direction": "\u202egnp.exe \u2066 \u2069 \u200f \u061c",
    "nul": "a\x00b\x0bc\x0cd\re",
    "no character": "\ud800 \udfff \ufffe \uffff",
    "formula": "$x^2$ \\frac{ $_$",
    "formula of an axis": "$\\mathdefault{\\frac{",
}
ALL = "\n".join(TEXTS.values())

# Controls except tab and newline, direction marks, and what UTF-8 or XML cannot hold: none may stand in a page or a terminal.
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
