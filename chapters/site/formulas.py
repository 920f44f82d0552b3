"""Formulas written in Unicode, as comments and docstrings have them, to MathML.

    >>> print(latex("∂y_i/∂x_j = y_i (δ_ij − y_j)"))
    \\frac{\\partial y_{i}}{\\partial x_{j}}=y_{i}\\,\\left(\\delta_{ij}-y_{j}\\right)

What the grammar does not know is no formula, and stays text.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from chapters.support.html import escape

GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΦΨΩ",
        "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon varphi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Phi Psi Omega".split(),
    )
)
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ᵗˣᵇⁿⁱᵏᵍᵛ", "0123456789-+txbnikgv")) | {"ᵀ": r"\top "}
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉ᵢₜ", "0123456789it"))
OPERATORS = {sign: sign for sign in "=<>+"} | {
    "−": "-", "-": "-", "±": r"\pm ", "·": r"\cdot ", "×": r"\times ", "+=": r"\mathrel{+}=",
    "≈": r"\approx ", "≠": r"\ne ", "≤": r"\le ", "≥": r"\ge ", "←": r"\leftarrow ", "→": r"\to ", "↦": r"\mapsto ",
    "∝": r"\propto ", "∈": r"\in ", "‖": r"\parallel ", ",": r",\;", ";": r";\;", ":": r"\,:\,",
}  # fmt: skip
SYMBOLS = {"½": r"\frac{1}{2}", "…": r"\dots ", "∞": r"\infty "}
FUNCTIONS = {"exp", "log", "ln", "tanh", "sin", "cos", "softmax"}  # words that need no bracket, as in log x
GRADIENTS = set("dloss dlogits dbias dbiases dweight dweights dout dsource".split())
SHORT = 24  # characters of a formula that stays on one line
PAIRS = {"(": ")", "[": "]", "⌊": "⌋"}
RELATIONS = "=≈≤≥←∝∈↦"
FENCES = {"⌊": r"\lfloor ", "⌋": r"\rfloor "}

TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d+(?:\.\d+)?(?:e[−-]?\d+)?)|(?P<hat>\u0302)"
    r"|(?P<sub>_\{[^}]*\}|_[A-Za-z0-9]+(?:,[A-Za-z0-9]+)*|[" + "".join(LOWERED) + r"]+)"
    r"|(?P<sup>["
    + "".join(RAISED)
    + r"]+)|(?P<letter>["
    + "".join(GREEK)
    + r"])|(?P<other>(?<=[A-Za-z])'s\b|[A-Za-z]+(?:-[A-Za-z]+)+|[<>=]=|->)|(?P<name>[A-Za-z]+\d*)"
    r"|(?P<symbol>[½…∞])|(?P<prefix>[ΣΠ√∂∇])|(?P<op>\+=|[=≈≤≥<>←→+−±·×∝∈,:;‖≠↦]|-)|(?P<slash>/)|(?P<prime>')|(?P<caret>\^)"
    r"|(?P<open>[(\[⌊])|(?P<close>[)\]⌋])|(?P<bar>\|)|(?P<unknown>.)"
)


class Token(NamedTuple):
    kind: str
    text: str
    spaced: bool  # whether a space stands before it
    begin: int
    end: int


class NotAFormula(ValueError):
    """The text has something that the grammar does not know."""


def tokens_of(text: str) -> list[Token]:
    found, spaced = [], False
    for match in TOKEN.finditer(text):
        if match.lastgroup != "space":
            kind = "other" if match.lastgroup == "unknown" else str(match.lastgroup)
            found.append(Token(kind, match[0], spaced, match.start(), match.end()))
        spaced = match.lastgroup == "space"
    return found


# ── from a formula to LaTeX ──────────────────────────────────────────────────────────────────────────────────────────


def latex(text: str) -> str:
    """A formula in LaTeX.  Raises NotAFormula."""
    return "".join(piece for _, piece in pieces(text))


def pieces(text: str) -> list[tuple[str, str]]:
    """A formula cut before every relation (=, ≤, ←, …), where a line may break: (piece, its LaTeX)."""
    cut: list[list[Token]] = [[]]
    depth = 0
    for token in tokens_of(text):
        depth += (token.kind == "open") - (token.kind == "close")
        if depth == 0 and token.text in RELATIONS and cut[0]:
            cut.append([])
        cut[-1].append(token)
    typeset = [Parser(tokens).whole() for tokens in cut]
    return [(text[tokens[0].begin : tokens[-1].end], piece) for tokens, piece in zip(cut, typeset)]


class Parser:
    """A descent through the grammar: an expression is products between operators, a product is factors side by side.

    "a b / c" divides the whole product, "a b/c" its last factor alone, as printed mathematics does.
    """

    def __init__(self, tokens: list[Token], is_script: bool = False):
        self.tokens, self.at, self.in_bars, self.is_script = tokens, 0, False, is_script

    def next(self, *kinds: str) -> Token | None:
        """The next token if it is of one of these kinds."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        return token if token and token.kind in kinds else None

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def whole(self) -> str:
        """All tokens as one expression."""
        result = self.expression()
        if self.at < len(self.tokens):
            raise NotAFormula(f"formula: expected the end, got {self.tokens[self.at].text!r}")
        return result

    def expression(self) -> str:
        parts: list[str] = []
        signed = False  # whether a sign, rather than a product, came last
        while self.at < len(self.tokens) and not self.next("close") and not (self.in_bars and self.next("bar")):
            if self.next("op"):
                sign = self.take().text
                if sign in "+-−±" and (signed or not parts):  # braces: the sign belongs to what follows, without a space
                    parts.append(f"{{{OPERATORS[sign]}{self.product()}}}")
                    signed = False
                    continue
                parts.append(OPERATORS[sign])
                signed = True
            else:
                parts.append(self.product())
                signed = False
        if not parts:
            raise NotAFormula("formula: expected an expression, got nothing")
        return "".join(parts)

    def starts_a_factor(self) -> bool:
        kinds = ("number", "letter", "name", "symbol", "prefix", "open", "other")
        return self.next(*kinds) is not None or (self.next("bar") is not None and not self.in_bars)

    def product(self) -> str:
        factors: list[str] = []
        while self.starts_a_factor() or (factors and self.next("op", "slash")):
            token = self.tokens[self.at]
            if token.kind == "op":
                if token.text not in "·×":
                    break
                factors.append(OPERATORS[self.take().text])
            elif token.kind == "slash":
                whole = self.take().spaced
                if self.is_script:  # n/2, in one line
                    factors.append("/" + self.denominator())
                    continue
                above = factors[:] if whole else factors[-1:]
                del factors[len(factors) - len(above) :]
                factors.append(rf"\frac{{{joined(above)}}}{{{self.denominator()}}}")
            else:
                if token.spaced and factors and factors[-1] not in OPERATORS.values():
                    factors.append(r"\,")
                factors.append(self.factor())
        if not factors:
            raise NotAFormula("formula: expected a factor")
        return "".join(factors)

    def denominator(self) -> str:
        """One factor, and the factors that follow it without a space; a sum takes all that follow."""
        if (token := self.next("prefix")) and token.text in "ΣΠ":
            return self.product()
        parts = [self.factor()]
        while self.starts_a_factor() and not self.tokens[self.at].spaced:
            parts.append(self.factor())
        return joined(parts)

    def factor(self) -> str:
        if not self.starts_a_factor():
            raise NotAFormula("formula: expected a factor")
        token = self.take()
        if token.kind == "prefix":
            return self.prefixed(token)
        if token.kind in ("open", "bar"):
            return self.scripts(self.bracket(token))
        if token.kind == "name":
            return self.named(token)
        if token.kind == "other":
            raise NotAFormula(f"formula: {token.text!r} is no sign of ours")
        if token.kind == "number":
            return self.scripts(re.sub(r"e(.*)", r"\\cdot 10^{\1}", token.text.replace("−", "-")))
        return self.scripts(SYMBOLS[token.text] if token.kind == "symbol" else rf"\{GREEK[token.text]}")

    def prefixed(self, token: Token) -> str:
        if token.text == "√":
            return self.scripts(rf"\sqrt{{{self.denominator()}}}")
        if token.text == "∂":
            return rf"\partial {self.factor()}"
        before, after = self.tokens[self.at - 2] if self.at > 1 else None, self.next("sup", "op", "close")
        if token.text == "Σ" and (after or (before and before.kind == "name" and before.text.isupper())):
            return self.scripts(r"\Sigma")  # a matrix, as in U Σ Vᵀ
        return self.scripts({"Σ": r"\sum", "Π": r"\prod", "∇": r"\nabla"}[token.text])

    def bracket(self, token: Token) -> str:
        before, self.in_bars = self.in_bars, token.kind == "bar"
        inside = self.expression()
        close = self.next("close", "bar")
        if close is None or close.text != PAIRS.get(token.text, "|"):
            raise NotAFormula(f"formula: {token.text!r} is not closed")
        self.take()
        self.in_bars = before
        opening, closing = FENCES.get(token.text, token.text), FENCES.get(close.text, close.text)
        return rf"\left{opening}{inside}\right{closing}"

    def named(self, token: Token) -> str:
        """A letter, a function, the gradient dx of a letter, or a word; words side by side are text."""
        name = token.text
        if len(name) == 1:
            return self.scripts(r"\text{d}" if name == "d" and self.next("slash") else name)  # d/dx
        if name[1:].isdigit():
            return self.scripts(f"{name[0]}_{{{name[1:]}}}")  # t0
        if name in GRADIENTS or (len(name) == 2 and name[0] == "d"):
            rest = name[1:]
            return self.scripts(rf"\text{{d}}{rest}" if len(rest) == 1 else rf"\text{{d}}\text{{{rest}}}")
        if (sub := self.next("sub")) and re.fullmatch(r"_([A-Za-z]{3,}|in)", sub.text):  # weight_decay, fan_in
            self.take()
            return rf"\text{{{name}{sub.text}}}"
        while name not in FUNCTIONS and (word := self.next("name")) and self.continues(word):
            name += " " + self.take().text
        return self.scripts(rf"\text{{{name}}}")

    def continues(self, word: Token) -> bool:
        """Whether a word after a word is more of the same text."""
        return word.spaced and len(word.text) > 1 and word.text not in FUNCTIONS

    def scripts(self, base: str) -> str:
        """The base with the hat, subscripts, superscripts and primes that follow it."""
        sub = sup = ""
        while (token := self.next("hat", "sub", "sup", "prime", "caret")) and not (token.spaced and token.kind != "hat"):
            self.take()
            if token.kind == "hat":
                base = rf"\hat{{{base}}}"
            elif token.kind == "prime":
                sup += "'"
            elif token.kind == "sup":
                sup += "".join(RAISED[sign] for sign in token.text)
            elif token.kind == "sub":
                sub += subscript(token.text)
            else:
                sup += self.exponent()
        primes, rest = len(sup) - len(sup.lstrip("'")), sup.lstrip("'")
        return base + "'" * primes + (f"_{{{sub}}}" if sub else "") + (f"^{{{rest}}}" if rest else "")

    def exponent(self) -> str:
        sign = "-" if (token := self.next("op")) and token.text in "-−" and self.take() else ""
        before, self.is_script = self.is_script, True
        above = sign + without_brackets(self.factor())
        self.is_script = before
        return above


def joined(factors: list[str]) -> str:
    return without_brackets(factors[0]) if len(factors) == 1 else "".join(factors)


def without_brackets(factor: str) -> str:
    r"""The inside of a factor that is one bracket: \left(a\right) becomes a."""
    inside = factor.removeprefix(r"\left(").removesuffix(r"\right)")
    balanced = len(inside) == len(factor) - 13 and r"\right)" not in inside.split(r"\left(")[0]
    return inside if balanced and inside.count(r"\left(") == inside.count(r"\right)") else factor


def subscript(text: str) -> str:
    """The LaTeX of "_ij", "_{t+1}", "_ref" or "₁"."""
    if text[0] != "_":
        return "".join(LOWERED[sign] for sign in text)
    inside = text[1:]
    if inside.startswith("{"):
        return Parser(tokens_of(inside[1:-1]), is_script=True).whole()
    shown = [part if len(part) < 3 or part.isdigit() else rf"\text{{{part}}}" for part in inside.split(",")]
    return ",".join(shown)


# ── from LaTeX to MathML ─────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=4096)
def mathml(text: str) -> str:
    """A formula as <math>; a long one as several, between which a line may break.

    Raises:
        NotAFormula: if the text is no formula.
    """
    from latex2mathml.converter import convert

    found = pieces(text) if len(text) >= SHORT else [(text, latex(text))]
    typeset = []
    for source, piece in found:
        element = convert(piece).replace(' xmlns="http://www.w3.org/1998/Math/MathML" display="inline"', "", 1)
        typeset.append(element.replace("<math", f'<math alttext="{escape(source)}"', 1))
    return "<wbr/>".join(typeset)
