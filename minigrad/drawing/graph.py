"""draw: the computation graph as a picture, from the leaves at the top down to the result.

A leaf has round corners; an operation has square corners, and names the shapes of its outputs. A tensor that is used twice has
two lines. Many parameters of one operation share a box. Constants are absent: the graph holds only what needs a gradient.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minigrad.drawing.html import gradient_text, small_values
from minigrad.drawing.layout import graphviz, layered
from minigrad.drawing.svg import box_size, box_svg, clean, curve_svg, picture_svg
from minigrad.engine import Edge, Node, TensorBase, topological_order
from minigrad.serialization import PathLike, write_atomically

MOST = 4  # leaves of one operation that have a box each, and outputs of an operation that its box lists


def draw(tensor: TensorBase, names: Any = None, *, limit: int = 500) -> "Drawing":
    """Draw the operations that computed a tensor, and the leaves that they started from.

    A tensor of at most four numbers shows them; a larger gradient shows its norm. The drawing reads the numbers when it is
    shown or saved, so a drawing that was made before backward() shows the gradients afterwards.

    Args:
        tensor: the result, usually a loss.
        names: names of leaves and of tensors in between: a Module, or {name: tensor}. A tensor in between shows its gradient
            if its retain_grad() was called.
        limit: largest number of boxes.

    Raises:
        TypeError: if `tensor` or a value in `names` is not a tensor.
        RuntimeError: if the tensor does not require grad, or backward() has released its graph.
        ValueError: if there are more boxes than the limit.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> loss = (x * x).sum()
    >>> picture = mg.draw(loss, {"x": x})  # a notebook shows it; picture.save("graph.svg") writes a file
    >>> loss.backward()
    >>> "grad [2., 4.]" in str(picture)
    True
    """
    if not isinstance(tensor, TensorBase):
        raise TypeError(f"draw: expected a tensor, got {type(tensor).__name__}")
    if not tensor.requires_grad:
        raise RuntimeError("draw: this tensor does not require grad; compute it from a tensor with requires_grad=True")
    if tensor.node is not None and tensor.node.ctx is None:
        raise RuntimeError(
            f"draw: backward() has released the graph of {tensor.node}; draw it before, or call backward(retain_graph=True)"
        )
    nodes = topological_order([tensor])[::-1]  # each node after those that computed its inputs
    bundles = leaf_bundles(nodes) or [[tensor]]
    if len(nodes) + len(bundles) > limit:
        raise ValueError(
            f"draw: expected at most {limit:,} boxes, got {len(nodes):,} operations and {len(bundles):,} leaves or bundles of "
            "leaves; draw a part of the model, or a smaller one"
        )
    named = named_places(names)
    if tensor.edge is not None:
        named.setdefault(tensor.edge, ("", tensor))
    boxes = [leaf_box(bundle, named) for bundle in bundles]
    boxes += [operation_box(node, named, "result" if node is tensor.node else "operation") for node in nodes]
    return Drawing(boxes, list(lines_between(bundles, nodes)))


class Drawing:
    """A computation graph as a picture. A notebook shows it, and str() is its SVG text."""

    def __init__(self, boxes: Sequence["Box"], lines: Sequence["Line"]):
        self.boxes, self.lines = boxes, lines

    def __str__(self) -> str:
        texts = [box.texts() for box in self.boxes]
        sizes = [box_size(lines) for lines in texts]
        edges = [(line.tail, line.head) for line in self.lines]
        centres, curves = graphviz(sizes, edges) or layered(sizes, edges)
        parts = [curve_svg(points, line.label) for points, line in zip(curves, self.lines)]
        parts += [box_svg(box.kind, lines, centre) for box, lines, centre in zip(self.boxes, texts, centres)]
        corners = [(x + s * width / 2, y + s * height / 2) for (x, y), (width, height) in zip(centres, sizes) for s in (-1, 1)]
        leaves = sum(box.kind == "leaf" for box in self.boxes)
        title = f"Computation graph. Operations: {len(self.boxes) - leaves}. Leaves: {leaves}."
        return picture_svg(title, parts, [*corners, *(point for points in curves for point in points)])

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: PathLike) -> None:
        """Write an SVG file.  Raises ValueError for another ending than .svg, OSError if the file cannot be written."""
        if not os.fspath(path).lower().endswith(".svg"):
            raise ValueError(f"save: expected a path that ends in .svg, got {os.fspath(path)}")
        write_atomically(path, str(self).encode())


class Output(NamedTuple):
    """A leaf, or one output of an operation.  tensor: None without a name, because the graph holds shapes but no values."""

    name: str
    shape: tuple[int, ...]
    tensor: TensorBase | None

    def numbers(self) -> list[str]:
        """The values and the gradient, where they are known and small."""
        return [] if self.tensor is None else [text for text in (small_values(self.tensor), gradient_text(self.tensor)) if text]


class Box(NamedTuple):
    """A box of the drawing.  kind: leaf, operation or result."""

    kind: str
    title: str
    outputs: list[Output]

    def texts(self) -> list[str]:
        """The lines in the box: the title, then name and shape of each output, with its numbers below."""
        lines = [self.title]
        for output in self.outputs[:MOST]:
            lines += [f"{output.name} {output.shape}".strip(), *output.numbers()]
        lines += [f"… {len(self.outputs)} outputs"] * (len(self.outputs) > MOST)
        return [clean(line) for line in lines]


class Bundle(Box):
    """A box for many leaves of one operation, each on a line of its own."""

    def texts(self) -> list[str]:
        lines = [" ".join([output.name, str(output.shape), *output.numbers()]) for output in self.outputs]
        return [self.title, *(clean(line, 72) for line in lines)]


class Line(NamedTuple):
    """A line of the drawing, from box to box.  label: the number of the tail's output, if it has several."""

    tail: int
    head: int
    label: str


def named_places(names: Any) -> dict[Any, tuple[str, TensorBase]]:
    """The leaf or edge of each named tensor -> (name, tensor). The first of several names counts."""
    is_module = hasattr(names, "named_parameters")
    if not is_module and not isinstance(names, Mapping | None):
        raise TypeError(f"draw: expected a Module or a dict of tensors as names, got {type(names).__name__}")
    places: dict[Any, tuple[str, TensorBase]] = {}
    for name, tensor in names.named_parameters() if is_module else (names or {}).items():
        if not isinstance(tensor, TensorBase):
            raise TypeError(f"draw: expected tensors under the names, got {type(tensor).__name__} under {name!r}")
        places.setdefault(tensor if tensor.edge is None else tensor.edge, (str(name), tensor))
    return places


def leaf_bundles(nodes: Sequence[Node]) -> list[list[TensorBase]]:
    """The leaves in the order of their first use, one to a box. More than four that serve one operation alone share a box."""
    users = defaultdict(list)
    for node in nodes:
        for place in node.inputs:
            if isinstance(place, TensorBase):
                users[place].append(node)
    bundles: dict[Any, list[TensorBase]] = defaultdict(list)
    own = Counter(first for first, *others in users.values() if not others)
    for leaf, (first, *others) in users.items():
        bundles[leaf if others or own[first] <= MOST else first].append(leaf)
    return list(bundles.values())


def leaf_box(leaves: Sequence[TensorBase], named: Mapping[Any, tuple[str, TensorBase]]) -> Box:
    outputs = [Output(named.get(leaf, (type(leaf).__name__, leaf))[0], leaf.shape, leaf) for leaf in leaves]
    if len(outputs) > 1:
        return Bundle("leaf", f"{len(outputs)} leaves", outputs)
    return Box("leaf", outputs[0].name, [outputs[0]._replace(name="")])


def operation_box(node: Node, named: Mapping[Any, tuple[str, TensorBase]], kind: str) -> Box:
    outputs = []
    for number, (shape, _) in enumerate(node.outputs):
        name, tensor = named.get((node, number), ("", None))
        outputs.append(Output(f"{number}: {name}".strip() if len(node.outputs) > 1 else name, shape, tensor))
    return Box(kind, node.name() + " (released by backward)" * (node.ctx is None), outputs)


def lines_between(bundles: Sequence[Sequence[TensorBase]], nodes: Sequence[Node]) -> Iterator[Line]:
    """A Line for every use of a leaf or of an operation's output, and one for a bundle. The boxes stand in this order."""
    numbers: dict[Any, int] = {leaf: number for number, bundle in enumerate(bundles) for leaf in bundle}
    numbers |= {node: number for number, node in enumerate(nodes, len(bundles))}
    for node in nodes:
        for place in node.inputs:
            if isinstance(place, Edge):
                yield Line(numbers[place.node], numbers[node], str(place.output) * (len(place.node.outputs) > 1))
            elif place is not None and place is bundles[numbers[place]][0]:
                yield Line(numbers[place], numbers[node], "")
