"""The main job's report in a browser."""

import pytest

from tests.browser.conftest import DESKTOP, PHONE, check_page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_report_is_readable(tiny_run, open_page, viewport, dark):
    check_page(open_page(tiny_run / "report.html", viewport, dark))
