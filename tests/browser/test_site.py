"""The site in a browser, from disk: readable everywhere, tabs and search by keyboard, formulas, the printed page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import DESKTOP, PHONE, check_page

for library in ("pygments", "markdown_it", "latex2mathml"):
    pytest.importorskip(library, reason="the site's libraries are missing: pip install -e '.[site]'")

ROOT = Path(__file__).parents[2]
PAGES = ("index.html", "chapters/ch10/ppo.html", "kernels/softmax.html", "chapter-10.html")


@pytest.fixture(scope="module")
def site(chromium, tiny_run, tmp_path_factory):
    """The folder of a site with the models of a main job in miniature."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "chapters.site", "--out", str(folder), "--run", str(tiny_run)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=200)
    return folder


@pytest.mark.parametrize("address", PAGES)
def test_a_page_is_readable(site, open_page, address):
    page = open_page(site / address, PHONE)
    check_page(page)
    page.set_viewport_size(DESKTOP)
    page.emulate_media(color_scheme="dark")
    check_page(page)


def test_every_page_fits_a_phone_without_an_error(site, open_page):
    page, addresses = open_page(site / "index.html", PHONE), sorted(site.rglob("*.html"))
    for path in addresses:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], path.name
    assert len(addresses) > 190


def test_prose_stands_beside_its_code_and_above_it_on_a_phone(site, open_page):
    page, boxes = open_page(site / "chapters/ch10/sft.html"), {}
    pair = page.locator(".pair:has(#build_example)")
    for name, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
        page.set_viewport_size(viewport)
        boxes[name] = pair.locator(".prose").bounding_box(), pair.locator("pre.code").bounding_box()
    prose, code = boxes["desktop"]
    assert abs(prose["y"] - code["y"]) < 5 and prose["x"] + prose["width"] <= code["x"]
    prose, code = boxes["phone"]
    assert prose["y"] + prose["height"] <= code["y"] + 1 and abs(prose["x"] - code["x"]) < 30


def test_tabs_by_keyboard_and_by_link(site, open_page):
    page = open_page(site / "kernels/softmax.html")
    assert page.get_by_role("tab").all_inner_texts() == ["reference.py", "ladder.py", "cpu.py", "cuda.py", "cuda.cu"]
    page.get_by_role("tab", name="reference.py").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(":focus").inner_text() == "ladder.py" == page.locator("[aria-selected=true]").inner_text()
    assert page.locator(".panel:visible").get_attribute("id") == "ladder-file"
    page.keyboard.press("End")
    assert page.locator(".panel:visible").get_attribute("id") == "cuda.cu-file"
    page.goto((site / "kernels/softmax.html").as_uri() + "#cuda-file")  # where a link to the module leads
    assert page.locator(".panel:visible").get_attribute("id") == "cuda-file"
    page.goto((site / "kernels/softmax.html").as_uri() + "#cpu-L10")
    assert page.locator("#cpu-L10").is_visible() and page.locator("#cpu-L10").bounding_box()["y"] < DESKTOP["height"]
    page.emulate_media(media="print")
    assert page.locator(".panel:visible").count() == 5 and not page.get_by_role("tablist").is_visible()


def test_formulas_are_drawn_as_mathematics(site, open_page):
    page = open_page(site / "kernels/softmax.html")
    above, below = (page.locator("mfrac").first.locator(f"> :nth-child({n})").bounding_box() for n in (1, 2))
    assert above["y"] + above["height"] <= below["y"] + 2


def test_search_finds_a_name_and_follows_it(site, open_page):
    page = open_page(site / "chapters/ch10/ppo.html")
    page.get_by_role("searchbox").fill("cross_entropy")
    page.locator("#search li a").first.wait_for()
    page.keyboard.press("ArrowDown")
    assert page.locator(":focus").inner_text().startswith("cross_entropy")
    page.keyboard.press("Enter")
    page.wait_for_url("**/minigrad/**#cross_entropy")
    names = (site / "names.js").read_text(encoding="utf-8").removeprefix("window.siteNames = ").removesuffix(";\n")
    assert ["attention_backward", "kernels/attention.html#reference-attention_backward"] in json.loads(names)


def test_without_javascript_all_files_are_on_the_page(site, chromium):
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto((site / "kernels/softmax.html").as_uri())
        assert page.locator(".panel:visible h2:visible").count() == 5
    finally:
        context.close()


def test_the_walk_leads_to_the_runs_own_figures_and_pages(site, open_page):
    page = open_page(site / "chapter-10.html")
    page.locator("#section-10\\.3").get_by_role("link", name="What fine-tuning grades").click()
    page.wait_for_url("**/play/mask.html")
    page.go_back()
    page.locator("#section-10\\.3 a[href='report.html#prompt_mask']").first.click()
    page.wait_for_url("**/report.html#prompt_mask")
    assert page.locator("#prompt_mask").is_visible()
