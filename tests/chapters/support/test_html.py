"""Pages and figures: their pieces, and texts that try to become more than texts."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from chapters.ch04_attention import draw_heads
from chapters.ch10.constitution.page import draw_conduct, draw_qualities, draw_reading, write_page
from chapters.ch10.figures import draw_attention, draw_confusion, draw_curves, draw_families, draw_gap, draw_mask
from chapters.ch10.preference_figures import draw_frontier, draw_token_scores, draw_watch
from chapters.support import html
from chapters.support.figures import loss_curve, new_figure, save_figure
from chapters.support.run_folder import History
from chapters.world.judge import CONDUCTS
from kernels.terminal import GuardedStream, visible
from tests import hostile

HARMLESS = "harmless"
SVG = {"svg", "defs", "style", "clipPath", "g", "path", "rect", "use", "image", "text"}  # no script, no link, no foreignObject
pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning", "ignore:constrained_layout:UserWarning")


class Outline(HTMLParser):
    """A page's elements with the names of their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *(name for name, _ in attrs)))

    def handle_comment(self, data):
        self.elements.append(("comment",))

    def handle_data(self, data):
        self.text += data


PIECES = {
    "paragraph": html.paragraph,
    "table": lambda text: html.table([text, "b"], [[text, 0.5], ["  " + text, 1]]),
    "numbers": lambda text: html.table(["", ""], [["a", text]], numbers={1}),
    "boxes": lambda text: html.side_by_side([(text, text, True), (text, text, None)]),
    "section": lambda text: html.section(text, text, text, html.paragraph(text)),
    "folded": lambda text: html.folded(text, html.paragraph(text)),
    "page": lambda text: html.page(text, text, {text: (text, html.paragraph(text))}, text),
    "data": lambda text: html.json_script(text, {"a": [text]}),
}


@pytest.mark.parametrize("text", hostile.TEXTS.values(), ids=hostile.TEXTS)
@pytest.mark.parametrize("piece", PIECES)
def test_a_text_stays_a_text(piece, text):
    page, expected = PIECES[piece](text), PIECES[piece](HARMLESS)
    outline = Outline(page)
    assert outline.elements == Outline(expected).elements
    assert not hostile.HARMFUL.search(page)
    if piece != "data":
        assert outline.text == Outline(expected).text.replace(HARMLESS, visible(text))


def test_data_for_a_script_keeps_every_character():
    element = html.json_script("texts", hostile.TEXTS)
    inner = element.removeprefix('<script type="application/json" id="texts">').removesuffix("</script>")
    assert inner.isascii() and inner.isprintable() and "<" not in inner
    assert json.loads(inner) == hostile.TEXTS


def test_values_are_formatted_for_readers():
    assert [html.shown(value) for value in (0.123456, 1234567, None)] == ["12.3%", "1,234,567", "–"]
    assert html.paragraph("see `this`") == "<p>see <code>this</code></p>"
    assert '<td class="part">indented</td>' in html.table(["a"], [["  indented"]])


def test_a_table_has_no_empty_heading_and_may_end_in_notes():
    table = html.table(["", "share"], [["a", 0.5, "of all"]], notes=True)
    assert '<table class="notes"><thead><tr><td></td><th scope="col" class=number>share</th></tr></thead>' in table


def test_verdicts_are_marked_in_words():
    boxes = html.side_by_side([("a", "x", True), ("b", "", False), ("c", "z", None)])
    assert boxes.count("side good") == boxes.count("side bad") == 1
    assert "a · accepted" in boxes and "b · not accepted" in boxes and "(nothing)" in boxes


# ── figures ──


class Bytes:
    """A tokenizer whose tokens are the hostile texts."""

    def pieces(self, ids):
        texts = [text.encode("utf-8", "surrogatepass") for text in hostile.TEXTS.values()]
        return [texts[i % len(texts)] for i in ids]


def curves(steps=(1, 2, 3)):
    return History(list(steps), [3.0, 2.0, 1.0], list(steps), [3.0, 2.5, 2.0])


N = len(hostile.TEXTS)
MEASURES = dict.fromkeys(CONDUCTS, 0.25)
FIGURES = {
    "loss": lambda path: loss_curve(curves(), path, hostile.ALL),
    "mask": lambda path: draw_mask(path, range(N), [-100] * 3 + list(range(N - 3)), Bytes()),
    "tokens": lambda path: draw_token_scores(path, [(Bytes().pieces(range(N)), np.linspace(-1, 1, N))] * 2, [hostile.ALL]),
    "attention": lambda path: draw_attention(path, np.eye(N)[None], list(hostile.TEXTS.values())),
    "heads": lambda path: draw_heads([np.eye(N)], list(hostile.TEXTS.values()), [hostile.ALL], path),
    "confusion": lambda path: draw_confusion(
        path, {"confusion": np.eye(N, dtype=int).tolist(), "labels": list(hostile.TEXTS.values()), "accuracy": 1.0}
    ),
    "gap": lambda path: draw_gap(path, dict.fromkeys(hostile.TEXTS.values(), 0.5), hostile.ALL),
    "families": lambda path: draw_families(path, dict.fromkeys(hostile.TEXTS.values(), {hostile.ALL: 0.5})),
    "curves": lambda path: draw_curves(path, dict.fromkeys(hostile.TEXTS.values(), curves()), hostile.ALL),
    "watch": lambda path: draw_watch(path, [{"iteration": 1, "reward": 0.5}], hostile.ALL),
    "frontier": lambda path: draw_frontier(path, {hostile.ALL: [(1.0, 2.0, hostile.ALL)]}),
    "conduct": lambda path: draw_conduct(path, dict.fromkeys(hostile.TEXTS.values(), MEASURES)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_in_a_figure_becomes_markup_or_a_formula(name, tmp_path):
    drawing = FIGURES[name](tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert len(drawing) > 1000
    assert not hostile.HARMFUL.search(drawing)
    elements = list(ElementTree.fromstring(drawing).iter())
    assert {element.tag.split("}")[1] for element in elements} <= SVG
    assert not [name for element in elements for name in element.attrib if name.startswith("on")]
    shown = [element.text for element in elements if element.tag.endswith("}text")]
    assert "<script>alert(1)</script>" in shown


def test_a_figure_is_the_same_each_time_and_has_a_dark_form(tmp_path):
    first, second = (loss_curve(curves(), tmp_path / f"{i}.svg") for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    assert "prefers-color-scheme: dark" in first.read_text(encoding="utf-8")


def test_a_page_holds_its_drawings(tmp_path):
    figure, axes = new_figure(2, 2)
    axes.plot([1, 2])
    path = save_figure(figure, tmp_path / "a.svg")
    data = re.search('src="data:image/svg[+]xml;base64,([^"]*)"', html.figure(path, "caption"))
    assert data and base64.b64decode(data[1]) == path.read_bytes()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"page: expected a figure, got no .*a\.svg; delete result.json"):
        html.figure(path, "caption")


def test_the_page_of_a_constitution_escapes_its_principles_and_answers(tmp_path):
    def page(text):
        conduct = {"SFT": {**MEASURES, "correct": 0.5}, "RL": {**MEASURES, "correct": 0.5}}
        chain = {"request": text, "draft": "draft", "rounds": [[text, text, text]]}
        result = {"answers": [{"request": text, "SFT": text, "RL": text}], "conduct": conduct, "revisions": [chain]}
        reading = {text: {"accuracy": 0.5, "turned": 0.5, "shuffled": 0.5, "interval": [0.25, 0.75]}}
        qualities = {"before": {text: 0.5}, text: {text: 0.5}}
        draw_reading(tmp_path / "figures" / "reading.svg", reading)
        draw_conduct(tmp_path / "figures" / "conduct.svg", {text: MEASURES})
        draw_qualities(tmp_path / "figures" / "qualities.svg", qualities)
        write_page(tmp_path / "page.html", {text: [text]}, {text: result}, reading, qualities)
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    written = page(hostile.ALL)
    assert Outline(written).elements == Outline(page(HARMLESS)).elements and not hostile.HARMFUL.search(written)


def test_a_terminal_gets_no_command():
    stream = io.StringIO()
    GuardedStream(stream).writelines([hostile.ALL, "\n"])
    assert hostile.HARMFUL.search(hostile.ALL) and not hostile.HARMFUL.search(stream.getvalue())
