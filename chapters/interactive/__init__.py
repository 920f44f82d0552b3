"""Parts of a page that the reader plays with, fed by the models of a run folder.

Each part is a Python file that takes numbers from a run, and a JavaScript file of the same name that shows them. The numbers
come from the project's own models; where there is no model, there is no part. The site makes a page of each, and the
main job's report contains some.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters.support import html

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Interactive:
    """One part.

    Args:
        name: of the JavaScript file and of the element on the page.
        title: heading of its page.
        lead: what it shows, and what to try, in a few sentences.
        data: a function from a main job's folder to what the JavaScript needs, as JSON types. It raises OSError,
            ValueError, KeyError or CheckpointError if the folder lacks a model, a result or a value in it.
    """

    name: str
    title: str
    lead: str
    data: Callable[[Path], Any]

    def fragment(self, run: Path) -> str:
        """The part as HTML, with its data and script inside. Its page must contain `scripts()` once, before it.

        Raises:
            OSError, ValueError, CheckpointError: if the run lacks what the part shows.
        """
        try:
            data = self.data(run)
        except KeyError as error:  # an earlier version of the job wrote fewer values
            raise ValueError(
                f"{self.name}: expected {error} in the results of {run}, got none; run the main job again"
            ) from None
        script = (FOLDER / f"{self.name}.js").read_text(encoding="utf-8")
        return (
            f'<div class="interactive" id="{self.name}"><noscript>This part needs JavaScript.</noscript></div>'
            + html.json_script(f"{self.name}-data", data)
            + f'<script type="module">\n{script}</script>'  # a module: its names are its own
        )


def scripts() -> str:
    """What all parts share: functions that make elements, the tokenizer, charts, and a style sheet."""
    style = (FOLDER / "interactive.css").read_text(encoding="utf-8")
    code = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ("common.js", "bpe.js", "chart.js"))
    return f"<style>\n{style}</style><script>\n{code}</script>"
