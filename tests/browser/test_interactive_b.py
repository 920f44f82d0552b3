"""The interactive parts about training, reward, PPO and the four models, in a browser."""

import json
import re
from dataclasses import replace

import pytest

from chapters.interactive import scripts
from chapters.interactive.models import MODELS
from chapters.interactive.ppo import PPO
from chapters.interactive.reward import REWARD
from chapters.interactive.training import TRAINING
from chapters.support import html
from chapters.support.generations import record_generations
from chapters.support.run_folder import Run
from tests.browser.conftest import DESKTOP, PHONE, check_page
from tests.hostile import TEXTS

PARTS = [TRAINING, REWARD, PPO, MODELS]


def write_page(path, run, parts):
    """One page with all these parts."""
    sections = {f"about-{part.name}": (part.title, f"<h2>{part.title}</h2>" + part.fragment(run)) for part in parts}
    path.write_text(html.page("Parts", "Several on one page.", sections, "The end.", head=scripts()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def parts_page(tiny_run, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("parts") / "page.html", tiny_run, PARTS)


@pytest.fixture(scope="module")
def data(tiny_run):
    """What the page was made from."""
    return {part.name: json.loads(json.dumps(part.data(tiny_run))) for part in PARTS}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_parts_are_readable_together(parts_page, open_page, viewport, dark):
    page = open_page(parts_page, viewport, dark)
    assert page.locator("svg.chart[role=img]").count() == 4
    for chart in page.locator("svg.chart").all():
        assert len(chart.get_attribute("aria-label")) > 20 and chart.locator("polyline").count()
    check_page(page)


def test_training_shows_what_the_model_wrote_at_the_chosen_checkpoint(parts_page, open_page, data):
    part = open_page(parts_page).locator("#training")
    checkpoints = data["training"]["checkpoints"]
    assert [checkpoint["step"] for checkpoint in checkpoints] == [0, 1, 2, 3]

    def shows(number):
        written = part.locator("li").all_text_contents()
        assert written == [f"{prompt} {text}" for prompt, text in checkpoints[number]["texts"]]
        assert part.get_by_role("status").inner_text().startswith(f"after {checkpoints[number]['step']} steps: loss ")

    shows(0)
    part.get_by_role("button", name="Next").click()
    shows(1)
    slider = part.get_by_role("slider")
    slider.press("ArrowRight")
    shows(2)
    assert slider.evaluate("slider => slider.ariaValueText").startswith("after 2 steps: loss ")
    box = part.locator("svg.chart").bounding_box()
    part.page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"])  # beside the end of the curve
    shows(3)


def test_reward_reads_both_responses_token_by_token(parts_page, open_page, data):
    part = open_page(parts_page).locator("#reward")
    comparisons = data["reward"]
    part.get_by_role("combobox").select_option(index=len(comparisons) - 1)
    comparison = comparisons[-1]
    shown = part.locator(".tokens")
    for i, response in enumerate(comparison["responses"]):
        assert shown.nth(i).locator("span").all_text_contents() == response["tokens"]
        caption = part.locator(".caption").nth(i).inner_text()
        assert f"{'AB'[i]} · {'preferred' if i == comparison['preferred'] else 'rejected'} · " in caption
        assert f"{response['score']:.1f} of 8" in caption
    first = comparison["responses"][0]
    assert number(first["rewards"][-1]) in part.locator(".tokens + div").first.inner_text()  # begins at the last token
    shown.first.locator("span").nth(1).hover()
    reading = part.locator(".tokens + div").first.inner_text()
    assert f"{number(first['rewards'][1])}, changed by {number(first['rewards'][1] - first['rewards'][0])}" in reading
    assert part.get_by_role("status").inner_text() == "token 2"
    part.get_by_role("slider").press("Home")
    reading = part.locator(".tokens + div").first.inner_text()
    assert f"changed by {number(first['rewards'][0] - first['before'])}" in reading
    assert part.locator(".tokens .read").count() == 2


def number(value):
    """A signed number as page.number writes it; a half may round either way in JavaScript and in Python."""
    text = f"{round(value + 1e-9, 2):+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def test_ppo_plays_from_the_sft_model_to_the_trained_policy(parts_page, open_page, data):
    part = open_page(parts_page).locator("#ppo")
    iterations, answers = data["ppo"]["iterations"], data["ppo"]["answers"]
    last = len(iterations) - 1
    status = part.get_by_role("status")
    assert status.inner_text() == "iteration 0"
    assert part.locator("li").all_text_contents() == [f"{question} {answer}" for question, answer in answers["0"]]
    names = [data["ppo"]["quantities"][name] for name in data["ppo"]["quantities"] if name in iterations[0]]
    assert part.locator("dt").all_text_contents() == names
    part.get_by_role("button", name="Play").click()
    part.get_by_text(f"iteration {last}: the trained policy").wait_for()
    part.get_by_role("button", name="Play").wait_for()  # it has stopped by itself
    assert part.locator("li").all_text_contents() == [f"{question} {answer}" for question, answer in answers[str(last)]]
    part.get_by_label("Path", exact=True).select_option("mean reward")
    assert part.locator("svg.chart").first.get_attribute("aria-label").startswith("mean reward over the KL")
    part.get_by_label("By iteration", exact=True).select_option("entropy (nats per token)")
    assert part.locator("svg.chart").last.locator(".mark").count() == 0  # nobody measures the last policy's entropy
    part.get_by_role("slider").press("Home")
    assert part.locator("svg.chart").last.locator(".mark").count() == 1


def test_models_lists_instructions_of_the_chosen_kind(parts_page, open_page, data):
    part = open_page(parts_page).locator("#models")
    kinds, rows = part.get_by_label("Show", exact=True), data["models"]["rows"]
    for kind, harmful in {"harmful requests": True, "plain tasks": False}.items():
        kinds.select_option(kind)
        some = [row for row in rows if row["harmful"] == harmful]
        instructions = part.get_by_label("Instruction", exact=True)
        assert instructions.locator("option").all_text_contents() == [row["instruction"] for row in some]
        instructions.select_option(index=len(some) - 1)
        for column, (name, answer) in zip(part.locator(".side").all(), some[-1]["answers"].items(), strict=True):
            assert column.locator("b").inner_text() == name
            assert column.locator("pre").text_content() == (answer["said"] or "(nothing)")
            assert column.locator(".verdict").inner_text().startswith("✓" if answer["good"] else "✗")
    assert part.locator("tbody tr").count() == 4


def test_texts_of_models_stay_texts(tmp_path, open_page):
    """A run whose models wrote markup, control characters and marks that reverse a line."""
    answer = {"reward": 0.5, "distance": 0.1, "good": True}
    row = {"instruction": TEXTS["attribute"], "input": "", "family": "town"}
    rows = [row | {"said": {"base": answer | {"said": text}}} for text in TEXTS.values()]
    (tmp_path / "side_by_side").mkdir()
    result = {"models": {"base": {"reward": 0.5, "judge": 1.0, "kl": None}}, "shown": rows}
    (tmp_path / "side_by_side" / "result.json").write_text(json.dumps(result))
    metrics = Run(tmp_path / "pretrain") / "metrics.jsonl"
    metrics.write_text('{"step": 0, "validation_loss": 7.0}\n{"step": 1, "loss": 6.5}\n')
    record_generations(Run(tmp_path / "pretrain"), 0, {name: text for name, text in TEXTS.items()})

    page = open_page(write_page(tmp_path / "page.html", tmp_path, [TRAINING, MODELS]))
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.get_by_role("button", name="Next").click()  # writes the texts once more
    shown = [page.locator("#training").inner_text()]
    for i in range(len(rows)):
        page.get_by_label("Instruction", exact=True).select_option(index=i)
        shown.append(page.locator("#models .side").inner_text())
    assert "<script>alert(1)</script>" in shown[0] and "<script>alert(1)</script>" in shown[1]
    assert not dialogs and page.locator(".interactive :is(script, img, a, style)").count() == 0
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", "".join(shown))


def test_ppo_without_recorded_answers_shows_its_path(tiny_run, tmp_path, open_page):
    """A run of a version that recorded none."""
    older = replace(PPO, data=lambda run: {**PPO.data(run), "answers": {}})
    part = open_page(write_page(tmp_path / "page.html", tiny_run, [older])).locator("#ppo")
    part.get_by_role("button", name="Next").click()
    assert part.get_by_role("status").inner_text() == "iteration 1"
    assert part.locator("svg.chart").count() == 2 and part.locator("li").count() == 0
