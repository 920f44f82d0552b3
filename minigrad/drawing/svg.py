"""The parts of a graph's picture as SVG text: boxes with lines of text, curves with arrowheads, and the picture around them.

The colours suit light and dark pages, whatever surrounds the picture: lines are grey, and a box brings its own background.
"""

import math
import re
from collections.abc import Sequence
from html import escape

from kernels.terminal import visible
from minigrad.drawing.layout import Point

CHARACTER, LINE, PADDING = 7.3, 17.0, 10.0  # pixels: a character's width, a line's height, the space around a text
LIGHT = {"leaf": ("#eef8f0", "#3f9a5b"), "operation": ("#ffffff", "#7a7466"), "result": ("#fdf3dc", "#b57c00")}
DARK = {"leaf": ("#17301f", "#5fbf7c"), "operation": ("#22211e", "#8f8877"), "result": ("#33290f", "#e0ab3f")}
BOLD = ' font-weight="bold"'


def clean(text: str, longest: int = 48) -> str:
    """The text on one line, shortened, with control characters and characters that XML forbids as visible ones."""
    text = visible(re.sub(r"\s", " ", text))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def box_size(texts: Sequence[str]) -> Point:
    """Width and height of a box around lines of text."""
    return CHARACTER * max(map(len, texts)) + 2 * PADDING, LINE * len(texts) + PADDING


def box_svg(kind: str, texts: Sequence[str], centre: Point) -> str:
    """A box and the lines of text in it, the first of them bold.  kind: leaf, operation or result."""
    (x, y), (width, height), (fill, stroke) = centre, box_size(texts), LIGHT[kind]
    left, top = x - width / 2, y - height / 2
    lines = [
        f'<tspan x="{x:.1f}" y="{top + PADDING / 2 + (i + 0.75) * LINE:.1f}"{"" if i else BOLD}>{escape(text)}</tspan>'
        for i, text in enumerate(texts)
    ]
    return (
        f'<g class="{kind}"><rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="{9 if kind == "leaf" else 1}" fill="{fill}" stroke="{stroke}"/>'
        f'<text text-anchor="middle" fill="#2b2925">{"".join(lines)}</text></g>'
    )


def curve_svg(points: Sequence[Point], label: str) -> str:
    """Bézier curves with an arrowhead at the end and a label beside the beginning."""
    start, *others = (f"{x:.1f},{y:.1f}" for x, y in points)
    (x0, y0), (x, y) = points[-2:]
    length = math.hypot(x - x0, y - y0) or 1.0
    dx, dy = 7 * (x - x0) / length, 7 * (y - y0) / length
    corners = f"{x:.1f},{y:.1f} {x - dx - dy / 2:.1f},{y - dy + dx / 2:.1f} {x - dx + dy / 2:.1f},{y - dy - dx / 2:.1f}"
    curve = f'<path d="M{start} C{" ".join(others)}" fill="none" stroke="#808080"/><polygon points="{corners}" fill="#808080"/>'
    (x, y) = points[0]
    return curve + f'<text x="{x + 5:.1f}" y="{y + 13:.1f}" font-size="10" fill="#808080">{escape(label)}</text>' * bool(label)


def picture_svg(title: str, parts: Sequence[str], points: Sequence[Point]) -> str:
    """The picture, as large as the points need; parts: SVG."""
    (left, top), (right, bottom) = ([choice(numbers) for numbers in zip(*points)] for choice in (min, max))
    width, height = right - left + 2 * PADDING, bottom - top + 2 * PADDING
    dark = [f".minigrad-graph .{kind} rect {{ fill: {fill}; stroke: {line} }}" for kind, (fill, line) in DARK.items()]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" class="minigrad-graph" role="img" style="max-width: 100%; height: auto"',
            f'width="{width:.0f}" height="{height:.0f}"',
            f'viewBox="{left - PADDING:.1f} {top - PADDING:.1f} {width:.1f} {height:.1f}"',
            'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="12">',
            f"<title>{escape(title)}</title>",
            "<style>@media (prefers-color-scheme: dark) {",
            *dark,
            ".minigrad-graph g text { fill: #e8e4da }",
            "}</style>",
            *parts,
            "</svg>\n",
        ]
    )
