"""Where to draw a graph's boxes, in rows, and its edges, as curves that go down from row to row.

`graphviz` asks Graphviz's program dot, where it is installed; `layered` is a simple layout of our own. Both take the sizes of
the boxes in pixels, and edges (tail, head) between boxes numbered from 0. Both return the centre of every box, and for every
edge the points of its Bézier curves: a start, and for each curve two control points and an end.

Source: Sugiyama et al. 1981, "Methods for Visual Understanding of Hierarchical System Structures", for the rows, the points at
which long edges pass through a row, and the order by the mean of the neighbours.
"""

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Sequence

Point = tuple[float, float]
Edge = tuple[int, int]
Layout = tuple[list[Point], list[list[Point]]]

BETWEEN_BOXES, BETWEEN_ROWS = 22.0, 38.0  # pixels
SWEEPS = 8  # times that each row is arranged by the row above, and by the row below


def layered(sizes: Sequence[Point], edges: Sequence[Edge]) -> Layout:
    """The layout of an acyclic graph whose boxes are numbered so that every edge leads to a higher number."""
    row_of = rows_of(len(sizes), edges)
    widths = [width for width, _ in sizes]
    chains = []  # of each edge: its tail, a point in every row that it passes through, and its head
    for tail, head in edges:
        passed = range(row_of[tail] + 1, row_of[head])
        chains.append([tail, *range(len(row_of), len(row_of) + len(passed)), head])
        row_of += passed
        widths += [0.0] * len(passed)
    x = arranged(row_of, widths, chains)

    heights = [0.0] * (max(row_of) + 1)
    for row, (_, height) in zip(row_of, sizes):
        heights[row] = max(heights[row], height)
    tops = [sum(heights[:row]) + row * BETWEEN_ROWS for row in range(len(heights))]
    centres = [(x[i], tops[row_of[i]] + heights[row_of[i]] / 2) for i in range(len(sizes))]
    curves = []
    for chain, (first, last) in zip(chains, ports(centres, sizes, chains, x)):
        points = [first]
        for column, i in zip((first[0], *(x[i] for i in chain[1:-1]), last[0]), chain):  # straight down through every row
            points += [(column, tops[row_of[i]]), (column, tops[row_of[i]] + heights[row_of[i]])]
        curves.append(bezier([points[0], *points[2:-1], last]))
    return centres, curves


def rows_of(count: int, edges: Sequence[Edge]) -> list[int]:
    """The row of each box: below all boxes that lead to it, and if none does, right above the first box that it leads to."""
    rows, below, is_head = [0] * count, defaultdict(list), {head for _, head in edges}
    for tail, head in sorted(edges, key=lambda edge: edge[1]):  # a tail's row is final before the edges that leave it are read
        rows[head] = max(rows[head], rows[tail] + 1)
        below[tail].append(head)
    return [rows[i] if i in is_head else min((rows[head] for head in below[i]), default=1) - 1 for i in range(count)]


def arranged(row_of: Sequence[int], widths: Sequence[float], chains: Sequence[Sequence[int]]) -> list[float]:
    """The x of every box and passing point. Each row is ordered by the mean x of the neighbours, and moved as near to it as
    the widths allow, from the top to the bottom and back."""
    neighbours: dict[int, dict[int, list[int]]] = {1: defaultdict(list), -1: defaultdict(list)}  # in the row above, below
    for chain in chains:
        for upper, lower in zip(chain, chain[1:]):
            neighbours[1][lower].append(upper)
            neighbours[-1][upper].append(lower)
    rows: list[list[int]] = [[] for _ in range(max(row_of) + 1)]
    for i, number in enumerate(row_of):
        rows[number].append(i)
    x = [0.0] * len(row_of)
    for row in rows:
        side_by_side(row, [0.0] * len(row), widths, x)
    for _ in range(SWEEPS):
        for step in (1, -1):
            for row in rows[::step]:
                known = neighbours[step]
                wish = {i: sum(x[j] for j in known[i]) / len(known[i]) if known[i] else x[i] for i in row}
                row.sort(key=wish.__getitem__)
                side_by_side(row, [wish[i] for i in row], widths, x)
    return x


def side_by_side(row: Sequence[int], wishes: Sequence[float], widths: Sequence[float], x: list[float]) -> None:
    """Set x for one row, from left to right, without overlap; the mean distance from the wishes is 0."""
    end = -float("inf")
    for i, wish in zip(row, wishes):
        x[i] = max(wish, end + widths[i] / 2)
        end = x[i] + widths[i] / 2 + BETWEEN_BOXES
    shift = sum(wish - x[i] for i, wish in zip(row, wishes)) / len(row)
    for i in row:
        x[i] += shift


def ports(
    centres: Sequence[Point], sizes: Sequence[Point], chains: Sequence[Sequence[int]], x: Sequence[float]
) -> list[tuple[Point, Point]]:
    """Where each edge leaves its tail and enters its head: spread over the side of the box, in the order of the other ends."""
    leaving, entering = defaultdict(list), defaultdict(list)
    for edge, chain in enumerate(chains):
        leaving[chain[0]].append((x[chain[1]], edge))
        entering[chain[-1]].append((x[chain[-2]], edge))
    starts: dict[int, Point] = {}
    ends: dict[int, Point] = {}
    for places, found, side in ((leaving, starts, 0.5), (entering, ends, -0.5)):
        for i, others in places.items():
            (centre, middle), (width, height) = centres[i], sizes[i]
            for k, (_, edge) in enumerate(sorted(others), 1):
                found[edge] = (centre + width * (k / (len(others) + 1) - 0.5), middle + side * height)
    return [(starts[edge], ends[edge]) for edge in range(len(chains))]


def bezier(points: Sequence[Point]) -> list[Point]:
    """Curves through points, vertical at each.

    Points at the same height are one point: the side of the tallest box in a row is also the side of the row. A curve from one
    to the other would have no direction, and so no arrowhead.
    """
    curves = [points[0]]
    for x, y in points[1:]:
        x0, y0 = curves[-1]
        if y - y0 > 1e-6:
            curves += [(x0, (y0 + y) / 2), (x, (y0 + y) / 2), (x, y)]
    return curves


def graphviz(sizes: Sequence[Point], edges: Sequence[Edge], timeout: float = 10.0) -> Layout | None:
    """Graphviz's layout; None if there is no program dot, or if it fails or takes more than `timeout` seconds.

    dot gets and returns numbers alone, so no text of the graph can mean anything to it.
    """
    program = shutil.which("dot")
    if program is None:
        return None
    boxes = [f"{i} [width={width / 72:.4f} height={height / 72:.4f}]" for i, (width, height) in enumerate(sizes)]
    arrows = [f"{tail} -> {head}" for tail, head in edges]
    graph = ['digraph { node [shape=box fixedsize=true label=""]', "edge [arrowhead=none]", *boxes, *arrows, "}"]
    try:
        run = subprocess.run(
            [program, "-Tplain"], input="\n".join(graph), capture_output=True, text=True, timeout=timeout, check=True
        )
        return read_plain(run.stdout, len(sizes), edges)
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return None


def read_plain(text: str, count: int, edges: Sequence[Edge]) -> Layout:
    """Read dot's output in its format "plain", in inches from the bottom.  Raises ValueError or LookupError for other text."""
    lines = [line.split() for line in text.splitlines()]
    height = float(lines[0][3])
    boxes, curves = {}, defaultdict(list)  # the curves of parallel edges come in any order
    for kind, *words in lines[1:]:
        if kind == "node":
            boxes[int(words[0])] = (72 * float(words[1]), 72 * (height - float(words[2])))
        elif kind == "edge":
            numbers = [72 * float(word) for word in words[3 : 3 + 2 * int(words[2])]]
            points = [(px, 72 * height - py) for px, py in zip(numbers[::2], numbers[1::2])]
            curves[int(words[0]), int(words[1])].append(points)
    return [boxes[i] for i in range(count)], [curves[edge].pop() for edge in edges]
