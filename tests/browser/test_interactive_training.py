"""The interactive parts about training, reward, PPO and the four models, in a browser."""

import json
import re
from dataclasses import replace

import pytest

from chapters.interactive.models import MODELS
from chapters.interactive.ppo import PPO
from chapters.interactive.reward import REWARD
from chapters.interactive.training import TRAINING
from chapters.support.generations import record_generations
from chapters.support.run_folder import Run
from tests.browser.conftest import write_parts
from tests.hostile import HARMFUL, TEXTS

PARTS = [TRAINING, REWARD, PPO, MODELS]


@pytest.fixture
def part(page_of_parts, open_page):
    """A function part(name) that opens a page with this part alone and returns its element."""
    return lambda name: open_page(page_of_parts(name)).locator(f"#{name}")


@pytest.fixture(scope="module")
def data(tiny_run):
    """What the page was made from."""
    return {part.name: json.loads(json.dumps(part.data(tiny_run))) for part in PARTS}


def test_training_shows_what_the_model_wrote_at_the_chosen_checkpoint(part, data):
    part = part("training")
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


def test_reward_reads_both_responses_token_by_token(part, data):
    part = part("reward")
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


def test_ppo_plays_from_the_sft_model_to_the_trained_policy(part, data):
    part = part("ppo")
    iterations, answers = data["ppo"]["iterations"], data["ppo"]["answers"]
    last = len(iterations) - 1
    status = part.get_by_role("status")
    assert status.inner_text() == "iteration 0"
    assert part.locator("li").all_text_contents() == [f"{question} {answer}" for question, answer in answers["0"]]
    names = [data["ppo"]["quantities"][name] for name in data["ppo"]["quantities"] if name in iterations[0]]
    assert part.locator("dt").all_text_contents() == names
    values = part.locator("dd").all_text_contents()
    assert "0" in values and not any(re.fullmatch("−?0[.]0+", value) for value in values)  # nothing is nearly 0
    part.get_by_role("button", name="Play").click()
    part.get_by_text(f"iteration {last}: the trained policy").wait_for()
    part.get_by_role("button", name="Play").wait_for()  # it has stopped by itself
    assert part.locator("li").all_text_contents() == [f"{question} {answer}" for question, answer in answers[str(last)]]
    part.get_by_label("Against the KL", exact=True).select_option("mean reward")
    assert part.locator("svg.chart").first.get_attribute("aria-label").startswith("mean reward over the KL")
    part.get_by_label("By iteration", exact=True).select_option("entropy (nats per token)")
    assert part.locator("svg.chart").last.locator(".mark").count() == 0  # nobody measures the last policy's entropy
    part.get_by_role("slider").press("Home")
    assert part.locator("svg.chart").last.locator(".mark").count() == 1


def test_models_lists_instructions_of_the_chosen_kind(part, data):
    part = part("models")
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
    record_generations(Run(tmp_path / "pretrain"), 0, TEXTS)
    sections = {part.name: (part.title, part.fragment(tmp_path)) for part in (TRAINING, MODELS)}

    page = open_page(write_parts(tmp_path / "page.html", sections))
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.get_by_role("button", name="Next").click()  # writes the texts once more
    shown = [page.locator("#training").inner_text()]
    for i in range(len(rows)):
        page.get_by_label("Instruction", exact=True).select_option(index=i)
        shown.append(page.locator("#models .side").inner_text())
    assert "<script>alert(1)</script>" in shown[0] and "<script>alert(1)</script>" in shown[1]
    assert not dialogs and page.locator(".interactive :is(script, img, a, style)").count() == 0
    assert not HARMFUL.search("".join(shown))


def test_ppo_without_recorded_answers_shows_its_path(tiny_run, tmp_path, open_page):
    """A run of a version that recorded none."""
    older = replace(PPO, data=lambda run: {**PPO.data(run), "answers": {}})
    part = open_page(write_parts(tmp_path / "page.html", {"ppo": (PPO.title, older.fragment(tiny_run))})).locator("#ppo")
    part.get_by_role("button", name="Next").click()
    assert part.get_by_role("status").inner_text() == "iteration 1"
    assert part.locator("svg.chart").count() == 2 and part.locator("li").count() == 0


def test_models_without_instructions_show_their_means(tiny_run, tmp_path, open_page):
    older = replace(MODELS, data=lambda run: {**MODELS.data(run), "rows": []})
    part = open_page(write_parts(tmp_path / "page.html", {"models": (MODELS.title, older.fragment(tiny_run))})).locator(
        "#models"
    )
    assert part.locator("tbody tr").count() == 4 and part.locator(".side").count() == 0
