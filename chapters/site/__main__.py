"""Write the site: a folder of plain HTML to read beside the book.

    python -m chapters.site                        # into runs/site, with the models of runs/main if they are there
    python -m chapters.site --serve                # and open it in the browser
    python -m chapters.site --out docs --run runs/quick

The pages need no server and no network: open index.html, or put the folder on any static host.
"""

import gc
import shutil
import webbrowser
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chapters.site import front, readme
from chapters.site.pages import Site, search_index
from chapters.site.rendering import rendering
from chapters.site.sources import all_pages
from chapters.support.command import command
from chapters.support.html import STYLE

FOLDER = Path(__file__).parent


@dataclass
class Settings:
    """Write the lessons, the kernels and the engine as a folder of HTML pages."""

    out: Path = Path("runs/site")  # folder for the pages
    run: Path = Path("runs/main")  # main job's folder, for the interactive pages and the report
    serve: bool = False  # show the pages in the browser until Ctrl-C
    port: int = 0  # port of --serve on this computer (0 = any free port)


def main(settings: Settings) -> None:
    if not 0 <= settings.port < 65536:
        raise ValueError(f"site: expected a port from 0 to 65535, got {settings.port}; 0 takes a free port")
    require_libraries()
    settings.out.mkdir(parents=True, exist_ok=True)
    gc.disable()  # millions of nodes of syntax trees, and nothing to collect
    try:
        pages, missing = build(settings.run)
    finally:
        gc.enable()
    write(settings.out, pages)
    for sentence in missing:
        print(sentence)
    print(f"{len(pages)} pages: open {settings.out / 'index.html'}")
    if settings.serve:
        serve(settings.out, settings.port)


def require_libraries() -> None:
    """Raise ValueError with the pip command if a library of the site is missing."""
    try:
        import latex2mathml  # noqa: F401
        import markdown_it  # noqa: F401
        import pygments  # noqa: F401
    except ImportError as error:
        raise ValueError(f"site: expected the library {error.name}, got none; pip install -e '.[site]'") from None


def build(run: Path) -> tuple[dict[str, str], list[str]]:
    """All pages, {address: text}, and a sentence for each interactive page that the run has no data for."""
    from chapters.workbook.exercises import EXERCISES

    markdown = readme.text()
    site = Site(all_pages(), readme.look_at(markdown), EXERCISES)
    with rendering(site) as files:
        from chapters.interactive.pages import PAGES

        played, titles, missing = front.play_pages(run, PAGES)
        report = run / "report.html"
        report_text = report.read_text(encoding="utf-8") if report.exists() else ""
        links = [(title, f"play/{name}.html") for name, title in titles.items()]
        links += [("The report of the main job", "report.html")] if report_text else []
        pages = {
            "index.html": front.front_page(site, markdown, links),
            "readme.html": front.readme_page(site, markdown),
            "operations.html": front.kernels_page(site),
            "engine.html": front.engine_page(site),
            "chapter-10.html": front.walk_page(site, report_text, titles),
            "play.html": front.play_page(run, PAGES, titles, missing, bool(report_text)),
            "names.js": search_index(site),
            **played,
            **({"report.html": report_text} if report_text else {}),
            **files(),
        }
    return pages, missing


def write(out: Path, pages: dict[str, str]) -> None:
    """Write the pages and what they load into a folder."""
    for address, text in pages.items():
        path = out / address
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (out / "style.css").write_text(STYLE, encoding="utf-8")
    for name in ("site.css", "site.js"):
        shutil.copyfile(FOLDER / name, out / name)
    for picture in readme.pictures(readme.text()).values():
        shutil.copyfile(picture, out / picture.name)


class Handler(SimpleHTTPRequestHandler):
    """Sends files, and prints no line for each."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def serve(folder: Path, port: int) -> None:
    """Show a folder in the browser until Ctrl-C; only this computer can reach it."""
    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{address}   (Ctrl-C ends)")
        webbrowser.open(address)
        server.serve_forever()


if __name__ == "__main__":
    command(main, Settings, writes="out")
