"""The main job's report in a browser."""

import json
import shutil

import pytest

from chapters.main_job import first_bend
from chapters.main_job.report import write_report
from chapters.support.readers import valid_unicode
from tests import hostile
from tests.browser.conftest import DESKTOP, PHONE, check_page
from tests.tiny_job import SECOND, TINY


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_report_is_readable(tiny_run, open_page, viewport):
    page = open_page(tiny_run / "report.html", viewport)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        check_page(page)
    value, note = (page.locator("#results tr").first.locator("td").nth(i).bounding_box() for i in (1, 2))
    stacked = note["y"] >= value["y"] + value["height"]  # the notes of the results
    assert stacked == (viewport == PHONE)


def test_the_page_of_the_constitution_is_readable(tiny_run, open_page):
    check_page(open_page(tiny_run / "constitution" / "page.html", PHONE, dark=True))


def test_the_report_without_javascript_shows_every_figure(tiny_run, chromium):
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto((tiny_run / "report.html").as_uri())
    images = page.locator("img")
    assert images.count() == 13
    images.evaluate_all("images => Promise.all(images.map((image) => image.decode()))")  # fails if one is damaged
    page.context.close()


def test_the_figures_follow_the_colours_of_the_page(tiny_run, open_page):
    """The corner of the figure of task families, drawn on a canvas, has the colour of its box."""
    corner = """image => {
        const context = Object.assign(document.createElement("canvas"), { width: 9, height: 9 }).getContext("2d");
        context.drawImage(image, 0, 0, 9, 9, 0, 0, 9, 9);
        return context.getImageData(4, 4, 1, 1).data.join();
    }"""
    page = open_page(tiny_run / "report.html")
    for scheme, colour in {"light": "255,255,255,255", "dark": "34,33,30,255"}.items():
        page.emulate_media(color_scheme=scheme)
        assert page.locator("#families img").evaluate(corner) == colour


def everywhere(data, text):
    """The data with `text` in place of every text."""
    if isinstance(data, dict):
        return {name: everywhere(value, text) for name, value in data.items()}
    if isinstance(data, list):
        return [everywhere(value, text) for value in data]
    return text if isinstance(data, str) else data


def hostile_job(tiny_run, folder):
    """A copy of the job whose models wrote, and whose tasks said, every hostile text."""
    shutil.copytree(tiny_run, folder)
    job = first_bend.Job(folder, 0, TINY, SECOND)
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name in ("sample", "evaluate", "constitution", "side_by_side"):
            result = everywhere({key: value for key, value in result.items() if key != "checksum"}, hostile.ALL)
            path.write_text(json.dumps(result), encoding="utf-8")
        job.results[path.parent.name] = result
    documents = folder / "world" / "documents.txt"
    documents.write_text(f"{valid_unicode(hostile.ALL)}\n{documents.read_text(encoding='utf-8')}", encoding="utf-8")
    for path in folder.glob("*/generations.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        hostile_records = [{**r, "generations": dict.fromkeys(r["generations"], hostile.ALL)} for r in records]
        path.write_text("".join(json.dumps(record) + "\n" for record in hostile_records), encoding="utf-8")
    return job


def test_texts_of_tasks_and_models_stay_texts(tiny_run, open_page, tmp_path):
    """No script of theirs runs, no element and no attribute of theirs exists, and no control character is left."""
    page = open_page(write_report(hostile_job(tiny_run, tmp_path / "<b onclick=alert(1)>")))
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for control in page.locator("select").all():
        for number in range(control.locator("option").count()):
            control.select_option(index=number)
    for slider in page.locator("input[type=range]").all():
        slider.press("End")
    text = page.locator("body").inner_text()
    assert text.count("<script>alert(1)</script>") > 10 and "␛[2J" in text
    assert not hostile.HARMFUL.search(text)
    assert not dialogs and page.locator("img[src=x], [onload], [onerror], [onclick], a:not([href^='#'])").count() == 0
    assert page.locator("script").count() == open_page(tiny_run / "report.html").locator("script").count() == 13
