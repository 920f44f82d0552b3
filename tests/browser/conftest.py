"""Fixtures for pages in headless Chromium, driven by Playwright. Without Chromium these tests are skipped."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 860}  # CSS pixels


@pytest.fixture(scope="session")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[test]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root may not use its sandbox
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Iterator:
    """A function open_page(address, viewport=DESKTOP, dark=False) that returns Playwright's page.

    When the test ends, the page must have logged no error and must have asked no other host for anything.
    """
    contexts, faults = [], []

    def open_page(address: str | Path, viewport: dict = DESKTOP, dark: bool = False):
        address = address.as_uri() if isinstance(address, Path) else address
        context = chromium.new_context(viewport=viewport, color_scheme="dark" if dark else "light")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        own = urlsplit(address)[:2]
        page.on(
            "request",
            lambda request: (
                None
                if urlsplit(request.url)[:2] == own or request.url.startswith(("data:", "blob:"))
                else faults.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, faults


def check_page(page) -> None:
    """Assert that nothing scrolls sideways, and that axe-core finds nothing serious (contrast, labels, roles)."""
    from axe_playwright_python.sync_playwright import Axe

    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} scrolls sideways by {wide} pixels at a width of {page.viewport_size['width']}"
    report = (
        Axe().run(page, options={"preload": False}).response
    )  # preload asks for style sheets, which a page from disk may not
    findings = [v for v in report["violations"] if v["impact"] in ("serious", "critical")]
    assert not findings, [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in findings]
