"""The picture of the computation graph, and what notebooks show of tensors and modules."""

import itertools
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
from minigrad.drawing import graph
from minigrad.drawing.layout import graphviz, layered

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ["<script>alert(1)</script>", "\"'&;]]>", "\x00\x1b[2J\u202e\ud800\uffff", "a\nb"]


def texts(picture):
    """The lines of text in each box. Raises ParseError for anything but well-formed XML."""
    root = ElementTree.fromstring(str(picture))
    used = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert used <= {"svg", "title", "style", "g", "rect", "text", "tspan", "path", "polygon"}
    return [[span.text for span in box.iter(f"{SVG}tspan")] for box in root.iter(f"{SVG}g")]


def small_graph():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = mg.tensor([3.0, 5.0], requires_grad=True)
    h = x * y
    h.retain_grad()
    return x, y, h, (h * x).sum()


@pytest.fixture(params=["graphviz", "ours"])
def layout(request, monkeypatch):
    """Draw by Graphviz, and by our own layout."""
    if request.param == "ours":
        monkeypatch.setattr(graph, "graphviz", lambda sizes, edges: None)
    elif shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed: apt-get install graphviz")
    else:
        monkeypatch.setattr(graph, "layered", None)  # must not be needed


def test_a_drawing_shows_values_and_after_backward_gradients(layout):
    x, y, h, loss = small_graph()
    picture = mg.draw(loss, {"x": x, "h": h})
    before = [["x", "(2,)", "[1., 2.]"], ["Tensor", "(2,)", "[3., 5.]"]]
    before += [["Mul", "h (2,)", "[3., 10.]"], ["Mul", "(2,)"], ["Sum", "()", "23."]]
    assert texts(picture) == before
    loss.backward()
    gradients = ["grad [6., 20.]", "grad [1., 4.]", "grad [1., 2.]"]
    assert texts(picture) == [[*box, *gradient] for box, gradient in zip(before, [*([g] for g in gradients), [], []])]


def test_every_use_of_a_tensor_is_a_line(layout):
    x = mg.ones(3, requires_grad=True)
    picture = mg.draw((x * x).sum())
    assert [(line.tail, line.head) for line in picture.lines] == [(0, 1), (0, 1), (1, 2)]
    for corners in re.findall(r'<polygon points="([^"]*)"', str(picture)):
        assert len(set(corners.split())) == 3  # an arrowhead that can be seen
    curves = re.findall(r'<path d="([^"]*)"', str(picture))
    assert len(set(curves)) == 3  # the two uses do not lie on one another


def test_lines_name_the_output_of_an_operation_with_several():
    a, b = mg.ones(2, requires_grad=True).chunk(2)
    picture = mg.draw(b - a)
    assert [line.label for line in picture.lines] == ["", "1", "0"]
    assert ["Split", "0: (1,)", "1: (1,)"] in texts(picture)


def test_a_module_names_its_parameters():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    boxes = texts(mg.draw(model(mg.ones(5, 3)).mean(), model))
    assert {box[0] for box in boxes} >= {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_many_leaves_of_one_operation_share_a_box():
    parts = [mg.ones(10, requires_grad=True) for _ in range(6)]
    shared = parts[0]
    loss = mg.cat(parts).sum() + shared.sum()
    picture = mg.draw(loss, {f"part {i}": part for i, part in enumerate(parts)})
    loss.backward()
    boxes = texts(picture)
    assert boxes[0] == ["part 0", "(10,)", "grad of norm 6.325"]
    assert boxes[1] == ["5 leaves", *(f"part {i} (10,) grad of norm 3.162" for i in range(1, 6))]
    assert sum(line.tail == 1 for line in picture.lines) == 1


def test_a_leaf_alone():
    assert texts(mg.draw(mg.ones(2, requires_grad=True))) == [["Tensor", "(2,)", "[1., 1.]"]]


def test_a_released_graph_is_refused_and_a_retained_one_drawn():
    x, _, h, loss = small_graph()
    other = (h * 2).sum()
    loss.backward(retain_graph=True)
    assert len(mg.draw(loss).boxes) == 5
    loss.backward()
    with pytest.raises(RuntimeError, match=r"released the graph of <Sum>.*retain_graph=True"):
        mg.draw(loss)
    assert ["Mul (released by backward)", "(2,)"] in texts(mg.draw(other))


def test_mistakes_are_one_sentence():
    x = mg.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="expected a tensor, got int"):
        mg.draw(3)
    with pytest.raises(RuntimeError, match="does not require grad"):
        mg.draw(mg.ones(2))
    with pytest.raises(TypeError, match="got list"):
        mg.draw(x.sum(), [x])
    with pytest.raises(TypeError, match="got ndarray under 'x'"):
        mg.draw(x.sum(), {"x": np.ones(2)})
    with pytest.raises(ValueError, match=r"at most 2 boxes, got 2 operations and 1 leaves"):
        mg.draw((x * 2).sum(), limit=2)
    with pytest.raises(ValueError, match=r"ends in \.svg, got a\.png"):
        mg.draw(x.sum()).save("a.png")


def test_a_long_graph_needs_no_recursion(monkeypatch):
    y = x = mg.ones(2, requires_grad=True)
    for _ in range(3000):
        y = y + x * 0.5
    with pytest.raises(ValueError, match="got 6,000 operations"):
        mg.draw(y)
    y = x
    for _ in range(1500):
        y = y * 0.5
    monkeypatch.setattr(graph, "graphviz", lambda sizes, edges: None)
    assert len(texts(mg.draw(y, limit=2000))) == 1501


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_become_markup(layout, name, tmp_path):
    x = mg.ones(2, requires_grad=True)
    picture = mg.draw(x.sum(), {name: x})
    shown = {"<script>alert(1)</script>", "\"'&;]]>", "␀␛[2J\\u202e\\ud800\\uffff", "a b"}
    assert texts(picture)[0][0] in shown
    picture.save(tmp_path / "graph.svg")
    assert ElementTree.parse(tmp_path / "graph.svg").getroot().tag == f"{SVG}svg"


def random_graphs():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 40))
        sizes = [(float(w), float(h)) for w, h in rng.uniform([30, 20], [400, 150], (count, 2))]
        edges = [(int(rng.integers(0, head)), head) for head in range(1, count) for _ in range(rng.integers(0, 4))]
        yield sizes, edges


def test_our_layout_overlaps_nothing_and_leads_down():
    for sizes, edges in random_graphs():
        centres, curves = layered(sizes, edges)
        boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(centres, sizes)]
        for a, b in itertools.combinations(boxes, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert len({tuple(curve) for curve in curves}) == len(edges)  # parallel edges lie side by side
        for (tail, head), curve in zip(edges, curves):
            heights = [y for _, y in curve]
            assert (np.diff(heights) > -1e-6).all()  # a Bézier curve stays between its points
            assert heights[-1] > heights[-2] + 1e-3  # it comes from above, so its arrowhead points down
            (left, _, right, bottom), (left_head, top, right_head, _) = boxes[tail], boxes[head]
            assert left < curve[0][0] < right and curve[0][1] == pytest.approx(bottom)
            assert left_head < curve[-1][0] < right_head and curve[-1][1] == pytest.approx(top)
            for x, y in points_on(curve):
                assert not any(x0 < x < x1 and y0 + 1e-6 < y < y1 - 1e-6 for x0, y0, x1, y1 in boxes)


def points_on(curve, count=12):
    for i in range(0, len(curve) - 1, 3):
        p = np.array(curve[i : i + 4])
        for t in np.linspace(0, 1, count):
            yield (1 - t) ** 3 * p[0] + 3 * t * (1 - t) ** 2 * p[1] + 3 * t**2 * (1 - t) * p[2] + t**3 * p[3]


@pytest.mark.parametrize("script", ["echo nonsense", "echo 'graph 1 1'", "exit 1", "exec sleep 30"])
def test_without_a_useful_dot_there_is_no_graphviz_layout(script, tmp_path, monkeypatch):
    sizes, edges = [(50.0, 20.0), (50.0, 20.0)], [(0, 1)]
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert graphviz(sizes, edges) is None
    program = tmp_path / "dot"
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert graphviz(sizes, edges, timeout=0.5) is None


def test_tensors_and_modules_as_html_are_escaped_and_short():
    x = mg.tensor([[1.0, 2.5], [3.0, 4.0]], requires_grad=True)
    assert "Tensor (2, 2) · float32 · cpu · requires_grad<" in x._repr_html_()
    assert re.findall(r"<td[^>]*>([^<]*)", x._repr_html_()) == ["1.", "2.5", "3.", "4."]
    (x * x).sum().backward()
    assert "requires_grad · grad [[2., 5.], [6., 8.]]" in x._repr_html_()
    assert "grad_fn=&lt;Mul&gt;" in (x * x)._repr_html_()
    assert (mg.zeros(500, 400)._repr_html_()).count("<td") < 100
    assert len(mg.zeros(50, 40, 30)._repr_html_()) < 2000
    for shape in ((), (0,), (3, 0), (1, 1, 1)):
        ElementTree.fromstring(mg.zeros(shape)._repr_html_())


def test_a_module_as_html_folds_its_parts():
    class Strange(nn.Module):
        def extra_repr(self):
            return "<script>\x1b[2J"

    model = nn.Sequential(nn.Linear(3, 2), Strange(), nn.Sequential(nn.Linear(2, 2, bias=False)))
    tree = ElementTree.fromstring(model._repr_html_())
    assert len(list(tree.iter("details"))) == 4
    assert "12 parameters" in "".join(tree.find("summary").itertext())
    assert "Strange(<script>␛[2J)" in "".join(tree.itertext())


def test_a_notebook_finds_the_pictures():
    formatters = pytest.importorskip("IPython.core.formatters", reason="ipykernel is not installed: pip install -e '.[test]'")
    format = formatters.DisplayFormatter().format
    x = mg.ones(2, requires_grad=True)
    assert format(mg.draw(x.sum()))[0]["image/svg+xml"].startswith("<svg")
    assert "<table>" in format(x)[0]["text/html"]
    assert "<details" in format(nn.Linear(2, 2))[0]["text/html"]
