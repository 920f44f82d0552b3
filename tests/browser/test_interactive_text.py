"""The interactive parts that show one text, in a browser: tokenizer, attention, sampler, mask."""

import itertools
import json
import random
import re
import sys
import unicodedata

import numpy as np
import pytest

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch08_sample import choose_plainly, nucleus_filter, softmax, top_k_filter
from chapters.ch10.figures import kinds_of
from chapters.ch10.sft import build_example
from chapters.interactive.attention import ATTENTION
from chapters.interactive.tokenizer import vocabulary
from chapters.support.readers import valid_unicode
from tests.hostile import ALL, HARMFUL, TEXTS

ODD_TEXTS = [
    *TEXTS.values(),
    ALL,
    "",
    " ",
    "  two  spaces \t\n\n end  ",
    "It's they'll 'S 'll we've",
    "x" * 500,
    "instruction" * 20,
    "1234567890" * 5 + " ٣٤٥ ⅷ ¼ ²",
    "naïve café e\u0301 日本語 👩‍🚀🏳️‍🌈 שלום مرحبا",
    "a\u0085b\u00a0c\u2028d\u2029e\u3000f\ufeffg\u200bh\x1ci\x1fj\x0bk",
    "a\n\n\ufeffb\n\n\u0085c",  # the byte order mark is white space for JavaScript alone, and U+0085 for Python alone
    "<|endoftext|> is text",
    "{instruction} {input} $& \\ %s",
    "\ud83d half a pair \ude00",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_run):
    return Tokenizer.load(tiny_run / "pretrain" / "tokenizer.tiktoken")


@pytest.fixture
def part(page_of_parts, open_page):
    """A function part(name, …) that opens a page with these parts and returns the element of the first."""
    return lambda *names: open_page(page_of_parts(*names)).locator(f"#{names[0]}")


def random_texts(number, seed=0):
    """Texts of every kind of character that Python's Unicode knows, each text from a few alphabets."""
    rng = random.Random(seed)
    assigned = [chr(i) for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]
    texts = []
    for _ in range(number):
        start = rng.randrange(len(assigned))
        alphabet = assigned[start : start + 60] + list("ae t\n'") + rng.sample(assigned, 5)
        texts.append("".join(rng.choices(alphabet, k=rng.randrange(60))))
    return texts


def called(part, function, arguments):
    """The results of a part's JavaScript function for many lists of arguments; JSON carries half surrogates too."""
    code = f"(part, json) => JSON.stringify(JSON.parse(json).map((list) => part.{function}(...list)))"
    return json.loads(part.evaluate(code, json.dumps(arguments)))


# ── tokenizer ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tokenizer_gives_pythons_ids_for_odd_and_random_texts(part, tokenizer):
    """With the run's vocabulary, and with one that has merges for the odd texts, so that every word boundary matters."""
    texts = ODD_TEXTS + random_texts(200)
    odd = Tokenizer.train(valid_unicode("".join(ODD_TEXTS)) * 2, 800)
    assert b"\n\n" in odd.ranks
    tokenizer_part = part("tokenizer")
    tokenizer_part.evaluate("(part, vocabulary) => { part.encodeOdd = bpe.tokenizer(vocabulary).encode; }", vocabulary(odd))
    for function, python in {"encode": tokenizer, "encodeOdd": odd}.items():
        ids = called(tokenizer_part, function, [[text] for text in texts])
        for text, row in zip(texts, ids, strict=True):
            assert row == python.encode(text), (function, ascii(text))


def test_the_tokenizer_walks_through_the_merges_lowest_rank_first(part, tokenizer):
    text = "the the baker\u00e9 3"
    tokenizer_part = part("tokenizer")
    tokenizer_part.get_by_label("Your text").fill(text)
    status, slider = tokenizer_part.get_by_role("status"), tokenizer_part.get_by_role("slider")
    pieces = tokenizer_part.locator(".piece")
    assert tokenizer_part.locator("code").inner_text() == str(list(text.encode()))
    assert "c3" in pieces.nth(13).inner_text() and "a9" in pieces.nth(14).inner_text()
    slider.press("End")
    assert tokenizer_part.locator("code").inner_text() == str(tokenizer.encode(text))
    last = int(slider.input_value())
    assert last == len(text.encode()) - len(tokenizer.encode(text))

    ranks = []
    for step in range(last, 0, -1):
        found = re.fullmatch(r"Merge (\d+) of (\d+): “.+” \+ “.+” → “.+”\. Its rank is (\d+): .*", status.inner_text())
        assert found and (int(found[1]), int(found[2])) == (step, last)
        assert pieces.count() == len(text.encode()) - step
        assert tokenizer_part.locator(".newest").inner_text().split()[-1] == found[3]
        ranks.append(int(found[3]))
        tokenizer_part.get_by_role("button", name="Back").click()
    assert status.inner_text().startswith("No merge yet") and ranks[0] == max(ranks)
    assert len(set(ranks)) < len(ranks)  # both words have a merge in common

    tokenizer_part.get_by_label("Your text").fill("the")
    tokenizer_part.get_by_role("button", name="Play").click()
    tokenizer_part.get_by_role("button", name="Pause").wait_for()
    tokenizer_part.get_by_role("button", name="Play").wait_for()  # it has stopped by itself
    assert tokenizer_part.locator("code").inner_text() == str(tokenizer.encode("the"))


def test_typed_texts_stay_texts(part):
    tokenizer_part = part("tokenizer", "mask")
    page = tokenizer_part.page
    page.on("dialog", lambda dialog: pytest.fail("a text became script"))
    scripts_before = page.locator("script").count()
    mask_part = page.locator("#mask")
    mask_part.get_by_text("The same as a table").click()
    areas = page.locator("textarea")
    assert areas.count() == 4
    for text in TEXTS.values():
        code = "(areas, json) => { for (const area of areas) { area.value = JSON.parse(json); area.oninput(); } }"
        areas.evaluate_all(code, json.dumps(text))
        tokenizer_part.get_by_role("slider").press("End")
        assert not HARMFUL.search(tokenizer_part.inner_text() + mask_part.inner_text()), ascii(text)
    assert page.locator("script").count() == scripts_before
    assert page.locator(".interactive :is(img, svg[onload], a, style, b)").count() == 0


def test_the_tokenizer_takes_no_more_than_it_can_show_at_once(part):
    tokenizer_part = part("tokenizer")
    tokenizer_part.get_by_label("Your text (at most 400 characters)").press("ControlOrMeta+A")
    tokenizer_part.page.keyboard.insert_text("some words " * 2000)
    assert tokenizer_part.get_by_role("status").inner_text().startswith("No merge yet: 400 bytes ")


# ── attention ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_attention_lists_the_weights_of_the_token_that_the_reader_points_at(part, tiny_run):
    texts = ATTENTION.data(tiny_run)["texts"]
    attention = part("attention")

    def shows(text, head, query):
        weights = text["maps"][0][head][query]
        expected = [f"{weight / 10:.1f}%" for weight in sorted(filter(None, weights), reverse=True)[:5]]
        assert attention.locator(".share").all_text_contents() == expected
        assert attention.get_by_role("status").inner_text().startswith(f"Token {query + 1}, ")

    shows(texts[0], 0, len(texts[0]["tokens"]) - 1)
    words = attention.locator(".pieces label")
    words.nth(5).hover()
    shows(texts[0], 0, 5)
    attention.locator(".heads label").nth(1).click()
    shows(texts[0], 1, 5)
    words.nth(5).locator("input").press("ArrowRight")
    shows(texts[0], 1, 6)
    assert words.count() == len(texts[0]["tokens"])
    heatmap = attention.locator(".heatmap").bounding_box()
    attention.page.mouse.move(heatmap["x"] + 5, heatmap["y"] + heatmap["height"] - 2)
    shows(texts[0], 1, len(texts[0]["tokens"]) - 1)
    attention.get_by_label("Text").select_option(index=1)
    shows(texts[1], 1, len(texts[1]["tokens"]) - 1)


def test_the_heat_map_is_as_strong_as_the_weights(part, tiny_run):
    text = ATTENTION.data(tiny_run)["texts"][0]
    canvas = part("attention").locator(".heatmap canvas")
    pixels = """canvas => {
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
        copy.drawImage(canvas, 0, 0);
        return [...copy.getImageData(0, 0, canvas.width, canvas.height).data];
    }"""
    rgba = canvas.evaluate(pixels)
    size = len(text["tokens"])
    drawn = np.array(rgba).reshape(size, size, 4)[..., 3] / 255  # (T, T)
    weights = np.array([row + [0] * (size - len(row)) for row in text["maps"][0][0]]) / 1000  # (T, T)
    np.testing.assert_allclose(drawn, np.sqrt(weights), atol=1 / 200)
    assert rgba[0] < 150  # the first token's weight of itself: dark on light, and light on dark
    canvas.page.emulate_media(color_scheme="dark")
    canvas.page.wait_for_function(f"canvas => ({pixels})(canvas)[0] > 150", arg=canvas.element_handle())  # drawn again


# ── sampler ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TEMPERATURES, TOP_KS, TOP_PS = (0.05, 0.7, 1.0, 1.9), (None, 1, 5, 40, 1000), (None, 0.05, 0.5, 0.95)
GRID = list(itertools.product(TEMPERATURES, TOP_KS, TOP_PS))


def settings_of(temperature, top_k, top_p):
    return {"temperature": temperature, "topK": top_k, "topP": top_p}


def test_the_samplers_probabilities_equal_chapter_8s(part):
    logits = np.random.default_rng(0).normal(0, 3, 300)  # (V,)
    results = called(part("sampler"), "filtered", [[logits.tolist(), settings_of(*settings)] for settings in GRID])
    for (temperature, top_k, top_p), result in zip(GRID, results, strict=True):
        row = logits[None] / temperature  # (1, V)
        row = row if top_k is None else top_k_filter(row, top_k)
        row = row if top_p is None else nucleus_filter(row, top_p)
        np.testing.assert_allclose(result["p"], softmax(row)[0], atol=1e-12, err_msg=f"{temperature} {top_k} {top_p}")
        removed = [name is not None for name in result["removedBy"]]
        np.testing.assert_array_equal(removed, np.isneginf(row[0]))


def test_the_sampler_chooses_the_tokens_that_choose_plainly_chooses(part):
    """Also among equal logits, and at temperature 0."""
    rows = [np.round(np.random.default_rng(1).normal(0, 2, 60)).tolist(), [1.0, 2.0, 2.0, 2.0, 0.0]]
    uniforms = np.random.default_rng(2).random(20).tolist()
    grid = [(0.0, 5, 0.5), *((t, k, p) for t, k, p in GRID if k is None or k < 5 or p is None)]
    sampler = part("sampler")
    for logits in rows:
        filtered = called(sampler, "filtered", [[logits, settings_of(*settings)] for settings in grid])
        pairs = [(settings, result["p"], uniform) for settings, result in zip(grid, filtered) for uniform in uniforms]
        chosen = called(sampler, "choose", [[p, uniform] for _, p, uniform in pairs])
        expected = [choose_plainly(np.array(logits), uniform, *settings) for settings, _, uniform in pairs]
        assert chosen == expected


def test_the_sampler_counts_draws_and_names_the_filter_that_cuts(part, tokenizer):
    sampler = part("sampler")
    rows = sampler.locator("tbody tr")
    V = tokenizer.vocab_size
    assert rows.count() == 21 and f"{V} of {V} tokens can be drawn" in sampler.get_by_role("status").first.inner_text()
    sampler.get_by_label("Top-k").fill("7")
    assert f"8 of {V} tokens can be drawn; {V - 8} cut by top-k" in sampler.get_by_role("status").first.inner_text()
    assert rows.locator("td:nth-child(4)").all_text_contents()[8:20] == ["top-k"] * 12
    sampler.get_by_label("Nucleus").fill("0")
    assert "nucleus" in rows.locator("td:nth-child(4)").all_text_contents()
    sampler.get_by_label("Nucleus").press("End")
    sampler.get_by_role("button", name="Draw 100").click()
    sampler.get_by_role("button", name="Draw one").click()
    counts = [int(text) for text in rows.locator("td:nth-child(5)").all_text_contents()]
    assert sum(counts) == 101 and sum(counts[:8]) == 101
    sampler.get_by_label("Temperature").press("Home")
    assert rows.locator("td:nth-child(4)").first.inner_text() == "100.0%"
    assert set(rows.locator("td:nth-child(5)").all_text_contents()) == {"–"}  # the draws had other probabilities


# ── mask ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_masks_examples_equal_chapter_10s(part, tokenizer):
    texts = ODD_TEXTS + random_texts(60, seed=1)
    rng = random.Random(2)
    arguments = [[rng.choice(texts), rng.choice(texts), rng.choice(["", *texts]), rng.random() < 0.7] for _ in range(80)]
    examples = called(part("mask"), "buildExample", arguments)
    for (instruction, response, input, masked), example in zip(arguments, examples, strict=True):
        ids, labels = build_example(instruction, response, tokenizer.encode, input, tokenizer.eos_id, masked)
        assert (example["ids"], example["labels"]) == (ids, labels), ascii((instruction, response, input, masked))
    kinds = called(part("mask"), "kindsOf", [[example["labels"]] for example in examples])
    assert kinds == [kinds_of(example["labels"]) for example in examples]


def test_the_mask_shows_the_seam_the_labels_and_what_the_switch_changes(part, tokenizer):
    mask = part("mask")
    for name, text in {"Instruction": "Sing.", "Input (may be empty)": "", "Response": "La la."}.items():
        mask.get_by_label(name, exact=True).fill(text)
    ids, labels = build_example("Sing.", "La la.", tokenizer.encode, eos_id=tokenizer.eos_id)
    graded = sum(label >= 0 for label in labels)
    boxes = mask.get_by_role("group", name="Each token with its label").locator(".piece")
    assert boxes.count() == len(ids)
    assert mask.get_by_role("status").inner_text() == f"{len(ids)} tokens: {graded} graded, {len(ids) - graded} not."
    assert mask.locator(".pieces > .seam").last.inner_text().split() == ["↵", "→", "L"]
    assert boxes.last.inner_text().split() == ["⟨end⟩", "−100"]
    assert boxes.nth(len(ids) - 2).inner_text().split() == [".", "→", "⟨end⟩"]
    mask.get_by_text("The same as a table").click()
    table = mask.locator("tbody tr").all_text_contents()
    assert len(table) == len(ids) and table[0].startswith(f"0{ids[0]}")
    mask.get_by_label("Mask the prompt").uncheck()
    assert f"{len(ids) - 1} graded, 1 not." in mask.get_by_role("status").inner_text()
    mask.get_by_label("Response", exact=True).fill("qwxz " * 100)
    assert "training would leave this pair out" in mask.get_by_role("status").inner_text()
