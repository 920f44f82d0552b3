"""Formulas among words: which parts of a line are which.

>>> [segment.text for segment in segments("so   dx = 2 x   for every x") if segment.is_formula]
['dx = 2 x']
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from chapters.site.formulas import FUNCTIONS, GRADIENTS, RAISED, NotAFormula, Token, latex, tokens_of

STRONG = re.compile(
    r"[=≈≤≥←↦ΣΠ√∂∇∝∈½^αβγδεθλμπρσφΦΩ" + "".join(RAISED) + r"]|(?<=[\w)]) ?[·×] ?(?=[\w(])|(?<=\S) − (?=\S)"
    r"|(?<!\w)[A-Za-z]_(?:\{|[a-z]{1,2}\b)"
)

CODE = ("@", "%", "*", "&")  # operators of programs: what stands beside one is no formula
CONJUNCTIONS = {"and", "if", "or"}


class Segment(NamedTuple):
    """A part of a line; is_formula says that `latex` understands it."""

    text: str
    is_formula: bool


@lru_cache(maxsize=4096)
def segments(line: str, letters: bool = False) -> tuple[Segment, ...]:
    """Cut a line into words and formulas.

    Args:
        line: such as "so   dx = 2 x   for every x".
        letters: whether letters that stand alone are formulas, as in a derivation; in prose they remain text.
    """
    if not letters and not STRONG.search(line):
        return (Segment(line, False),)
    found, begin = [], 0
    for first, last in runs(line):
        text = line[first:last]
        if line[:first].rstrip().endswith(CODE) or line[last:].lstrip().startswith(CODE):
            continue
        alone = letters and re.fullmatch(r"[b-zB-HJ-Z]'?(_\w+)?", text) is not None
        alone |= letters and text == "A" and re.search(r"[a-z:,] $", line[:first]) is not None  # no article
        if not alone and not (STRONG.search(text) and worth_typesetting(text)):
            continue
        try:
            latex(text)
        except NotAFormula:
            continue
        if first > begin:
            found.append(Segment(line[begin:first], False))
        found.append(Segment(text, True))
        begin = last
    if begin < len(line):
        found.append(Segment(line[begin:], False))
    return tuple(found)


def worth_typesetting(text: str) -> bool:
    """Not a keyword argument such as dim=-1, nor a relation that lacks a side."""
    return not re.search(r"\w=\S|\[[^]]*:", text) and text[-1] not in "=+−-·<>≤≥←/ΣΠ√∂" and text[0] not in "=+·×<>≤≥←/"


def runs(line: str) -> Iterator[tuple[int, int]]:
    """The stretches (begin, end) of a line that hold no words; a comma outside brackets and a wide gap end a stretch."""
    tokens = tokens_of(line)
    words = find_words(tokens)
    run: list[Token] = []
    depth = 0
    for i, token in enumerate(tokens):
        depth += (i not in words) * ((token.kind == "open") - (token.kind == "close"))
        ends = i in words or (depth == 0 and token.text in (",", ";", ":"))
        if run and (ends or parted(line, run[-1], token)):
            yield stretch(run)
            run = []
        if not ends:
            run.append(token)
    if run:
        yield stretch(run)


def parted(line: str, left: Token, right: Token) -> bool:
    """Whether two or more spaces part two tokens, neither of which is an operator."""
    return line[left.end : right.begin].count(" ") > 1 and "op" not in (left.kind, right.kind)


def stretch(run: list[Token]) -> tuple[int, int]:
    """The run's (begin, end), without the article of "a 2 × 3 matrix"."""
    if len(run) > 1 and run[0].text == "a" and run[1].kind in ("number", "open"):
        run = run[1:]
    return run[0].begin, run[-1].end


def find_words(tokens: list[Token]) -> set[int]:
    """Indices of the tokens that are ordinary text: words, brackets around words, and signs of no formula."""
    words = {i for i, token in enumerate(tokens) if token.kind == "other"}
    words |= {i for i, token in enumerate(tokens) if token.kind == "name" and is_word(tokens, i)}
    stack: list[int] = []
    for i, token in enumerate(tokens):
        if token.kind == "open":
            stack.append(i)
        elif token.kind == "close":
            words |= brackets_of_words(tokens, stack.pop(), i, words) if stack else {i}
    return words | set(stack)


def brackets_of_words(tokens: list[Token], begin: int, end: int, words: set[int]) -> set[int]:
    """The tokens that are text because a bracket has words in it; √(mean of x²) is a formula, and loses its words."""
    inside = set(range(begin, end + 1))
    if not words & inside:
        return set()
    if begin > 0 and begin - 1 not in words and not tokens[begin].spaced:
        words -= inside
        return set()
    return {begin, end}


def at_end(tokens: list[Token], i: int) -> bool:
    """Whether a space or the end follows token i."""
    return i + 1 == len(tokens) or tokens[i + 1].spaced


def is_word(tokens: list[Token], i: int) -> bool:
    """Whether a run of letters is a word of a sentence, rather than a name in a formula."""
    name = tokens[i].text
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    if name in CONJUNCTIONS:
        return True
    if i and tokens[i - 1].kind == "caret":
        return False  # 2^power
    if len(name) == 1 or name in GRADIENTS or name in FUNCTIONS or (len(name) == 2 and name[0] == "d"):
        return False
    if after and not after.spaced and after.kind in ("open", "sub", "sup", "hat"):
        return False  # mean(x), score_ij
    if after and after.text in "=≈←" and after.kind == "op":
        return False  # loss = …
    if i > 1 and tokens[i - 1].text in ("+", "−", "·") and tokens[i - 1].spaced and tokens[i].spaced:
        return False  # the last term of x Wᵀ + bias
    sides = {side(tokens, i - 1, False), side(tokens, i + 1, True)}
    return "operator" not in sides or "word" in sides


def side(tokens: list[Token], i: int, name_before: bool) -> str:
    """What stands beside a name: an operator, a bound (a bracket, a comma, the end), or a word."""
    if not 0 <= i < len(tokens) or tokens[i].text in (",", ":", ";") or (tokens[i].text == "." and at_end(tokens, i)):
        return "bound"
    if tokens[i].kind in ("open", "close", "prefix"):
        return "bound"
    if tokens[i].kind == "slash":
        return "operator"
    binary = i + 1 < len(tokens) and not (tokens[i].spaced and not tokens[i + 1].spaced and name_before)  # "with -1"
    return "operator" if tokens[i].kind == "op" and binary else "word"
