"""All interactive parts on one page."""

import re

import pytest

from tests.browser.conftest import DESKTOP, PHONE, check_page


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_parts_are_readable_together(page_of_parts, open_page, viewport):
    page = open_page(page_of_parts(), viewport)
    charts = page.locator("svg.chart[role=img]").all()
    assert len(charts) == 4
    for chart in charts:
        assert len(chart.get_attribute("aria-label")) > 20 and chart.locator("polyline").count()
    page.locator("#sampler").get_by_label("Top-k").fill("4")
    page.locator("#sampler").get_by_role("button", name="Draw 100").click()
    page.locator("#tokenizer").get_by_role("slider").fill("9")
    page.get_by_text("The same as a table").click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        check_page(page)
    assert not re.search(r"\d\s%", page.inner_text("body"))  # one spelling everywhere: 2.5%
