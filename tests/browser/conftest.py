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


@pytest.fixture(scope="session")
def page_of_parts(tiny_run, tmp_path_factory):
    """A function page_of_parts(name, …) that writes a page with these interactive parts, or with all of them."""
    from chapters.interactive.pages import PAGES

    folder = tmp_path_factory.mktemp("parts")
    sections = {part.name: (part.title, f"<h2>{part.title}</h2>{part.fragment(tiny_run)}") for part in PAGES}

    def page_of_parts(*names: str) -> Path:
        return write_parts(folder / f"{'-'.join(names)}.html", {name: sections[name] for name in names or sections})

    return page_of_parts


def write_parts(path: Path, sections: dict[str, tuple[str, str]]) -> Path:
    """Write a page of interactive parts, {name: (title, HTML)}."""
    from chapters.interactive import scripts
    from chapters.support import html

    anchors = {f"about-{name}": section for name, section in sections.items()}
    path.write_text(html.page("Parts", "From a tiny run.", anchors, "The end.", head=scripts()), encoding="utf-8")
    return path


def check_page(page) -> None:
    """Assert that nothing scrolls sideways, and that axe-core finds nothing serious (contrast, labels, roles)."""
    from axe_playwright_python.sync_playwright import Axe

    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} scrolls sideways by {wide} pixels at a width of {page.viewport_size['width']}"
    # preload asks for style sheets, which a page from disk may not; without resultTypes Axe describes every element that passes
    report = Axe().run(page, options={"preload": False, "resultTypes": ["violations"]}).response
    findings = [v for v in report["violations"] if v["impact"] in ("serious", "critical")]
    assert not findings, [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in findings]
