"""The pages that lead to the others: the map of lessons, the kernels, the engine, chapter 10 by section, and play."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chapters.site import readme
from chapters.site.layout import definitions, document, link, relative
from chapters.site.pages import Site
from chapters.site.prose import inline
from chapters.site.sources import CHAPTERS, KERNELS, NAMES, Page
from chapters.site.walk import SECTIONS, Answer
from chapters.support.command import error_text
from chapters.support.html import escape

ENGINE_FAMILIES = {
    "": "Tensors, the graph, and what they need",
    "ops": "Operations, one family per file",
    "nn": "Modules",
    "optim": "Optimizers",
    "distributed": "Several processes",
    "utils": "Data sets and loaders",
    "drawing": "Pictures of tensors and graphs",
}


def no_link(name: str) -> None:
    return None


def readme_link(site: Site, page: str, markdown: str) -> Callable[[str], str | None]:
    """From what the README calls a file, a picture or a command to its address."""
    pictures = readme.pictures(markdown)
    by_command = {other.command: other.address for other in site.pages if other.kind in ("lesson", "other")}

    def address(name: str) -> str | None:
        if name in pictures:
            return relative(pictures[name].name, page)
        found = by_command.get(name) or (site.address(name) if "/" in name else None)
        return relative(found, page) if found else None

    return address


def entry(page: Page, at: str) -> tuple[str, str]:
    """A page in a list: its name as a link, and its summary."""
    file = page.files[0].path
    name = (
        page.command if page.kind == "lesson" else (page.address.partition("/")[2].removesuffix(".html").removesuffix("/index"))
    )
    shown = f"<code>{escape(name if name != 'index' else file.parent.name)}</code>"
    return link(page.address, at, shown), inline(page.summary, no_link)


def front_page(site: Site, markdown: str, parts: list[tuple[str, str]]) -> str:
    """What the project is, and the map of its lessons.

    Args:
        site: the pages.
        markdown: the README.
        parts: (title, address) of the interactive pages and the report.
    """
    at = "index.html"
    to_address = readme_link(site, at, markdown)
    body = f'<div class="hero">{readme.render(readme.beginning(markdown), to_address)}</div>'
    body += '<h2 id="lessons">Lessons</h2>' + readme.render(readme.section(markdown, "Read it beside the book"), to_address)
    files = definitions([entry(page, at) for page in site.pages if page.kind == "lesson"], "files")
    body += f"<details><summary>All files, with their first sentences</summary>{files}</details>"
    if parts:
        entries = "".join(f"<li>{link(address, at, escape(title))}</li>" for title, address in parts)
        body += f'<h2 id="play">To play with, from your own run</h2><ul>{entries}</ul>'
    if site.exercises:
        entries = "".join(f'<li value="{entry.number}">{exercise_link(site, entry, at)}</li>' for entry in site.exercises)
        body += (
            '<h2 id="exercises">Exercises that check themselves</h2><p><code>python -m chapters.workbook</code> copies them '
            f'into a folder of yours.</p><ol class="exercises">{entries}</ol>'
        )
    return document(at, "From raw text to an assistant", body, at)


def exercise_link(site: Site, exercise: Any, at: str) -> str:
    """An exercise's title, as a link to our own function."""
    address = site.project.absolute(exercise.target.replace(":", "."))
    return link(address, at, escape(exercise.title)) if address else escape(exercise.title)


def readme_page(site: Site, markdown: str) -> str:
    """The whole README."""
    at = "readme.html"
    return document(at, "About", f'<div class="hero">{readme.render(markdown, readme_link(site, at, markdown))}</div>', at)


def list_page(at: str, title: str, lead: str, groups: dict[str, list[Page]]) -> str:
    """A page of lists, {title of a list: its pages}; the first needs no title."""
    body = f'<div class="title"><h1>{title}</h1></div><p>{lead}</p>'
    for heading, pages in groups.items():
        body += (f"<h2>{heading}</h2>" if heading else "") + definitions([entry(page, at) for page in pages], "files")
    return document(at, title, body, at)


def kernels_page(site: Site) -> str:
    """All operations, then the machinery below them."""
    lead = (
        "Each page holds one operation several times: the reference with its derivation, the ladder from the plain loop to the "
        "fast one, the CPU kernel and the GPU kernel."
    )
    operations = [page for page in site.pages if page.kind == "kernel"]
    machinery = [page for page in site.pages if page.kind == "other" and page.files[0].package == KERNELS]
    return list_page("operations.html", "Kernels", lead, {"": operations, "The machinery": machinery})


def engine_page(site: Site) -> str:
    """The files of minigrad by folder, then the files behind the lessons."""
    groups: dict[str, list[Page]] = {title: [] for title in ENGINE_FAMILIES.values()}
    for page in (page for page in site.pages if page.kind == "engine"):
        folder = page.address.split("/")[1] if page.address.count("/") > 1 else ""
        groups.setdefault(ENGINE_FAMILIES.get(folder, folder), []).append(page)
    groups["Behind the lessons: the world, the plumbing, the main job"] = [
        page for page in site.pages if page.kind == "other" and page.files[0].package == CHAPTERS
    ]
    lead = "Tensors that record the operations on them, and the backward pass through the record."
    return list_page("engine.html", "The engine", lead, groups)


# ── chapter 10, section by section ───────────────────────────────────────────────────────────────────────────────────


def walk_page(site: Site, report: str, played: dict[str, str]) -> str:
    """The book's chapter 10 with the page, figure or exercise that answers each question.

    Args:
        site: the pages.
        report: the main job's report as text, "" if there is none.
        played: {name: title} of the interactive pages.
    """
    at = "chapter-10.html"
    body = (
        '<div class="title"><p class="kicker">The Opaque Box, chapter 10</p><h1>Chapter 10, section by section</h1></div>'
        "<p>What a reader of the book asks, and the page, figure or exercise that answers it.</p>"
    )
    for section in SECTIONS:
        anchor = f"section-{section.number}"
        rows = "".join(
            f'<tr><th scope="row">{escape(answer.question)}</th><td>{answers(site, answer, report, played, at)}</td></tr>'
            for answer in section.answers
        )
        body += (
            f'<section id="{anchor}"><h2><small>Section {section.number}</small>{escape(section.title)}</h2>'
            f'<div class="scroll"><table class="walk"><tbody>{rows}</tbody></table></div></section>'
        )
    return document(at, "Chapter 10, section by section", body, at)


def answers(site: Site, answer: Answer, report: str, played: dict[str, str], at: str) -> str:
    """The links of one question, a line for each kind."""
    names = [name.replace(":", ".") for name in answer.code]
    code = ", ".join(link(code_address(site, name), at, f"<code>{escape(name)}</code>") for name in names)
    lines = [("page", code)] if code else []
    if answer.report and f'id="{answer.report}"' in report:
        title = re.search(rf'id="{answer.report}"><h2><small>[^<]*</small>([^<]*)</h2>', report)
        lines.append(("figure", link(f"report.html#{answer.report}", at, title[1] if title else "the report")))
    if answer.play in played:
        lines.append(("play", link(f"play/{answer.play}.html", at, escape(played[answer.play]))))
    exercises = [exercise for exercise in site.exercises if is_about(exercise, names)]
    lines += [("exercise", f"{exercise.number}: {exercise_link(site, exercise, at)}") for exercise in exercises]
    if answer.exercise:
        lines.append(("run", f"<code>python -m chapters.ch10.exercises --exercise {answer.exercise}</code>"))
    return "".join(f'<span class="answer"><span class="kind">{kind}</span>{shown}</span>' for kind, shown in lines)


def is_about(exercise: Any, names: list[str]) -> bool:
    """Whether a workbook's exercise is about one of these lessons or definitions."""
    target = exercise.target.replace(":", ".").removeprefix("chapters.") + "."
    return any(target.startswith(name + ".") for name in names)


def code_address(site: Site, name: str) -> str:
    """The address of a lesson, "ch10.sft", or of a definition in it, "ch10.sft.build_example".

    Raises:
        ValueError: if there is no such lesson or definition.
    """
    address = site.project.absolute(f"{NAMES[CHAPTERS]}.{name}")
    if address is None:
        raise ValueError(f"site: expected a lesson or a definition in it, got {name!r}; correct chapters/site/walk.py")
    return address


# ── interactive pages ────────────────────────────────────────────────────────────────────────────────────────────────


def play_pages(run: Path, parts: list[Any]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """A page for each interactive part that the run has the data for.

    Returns:
        {address: page}, {name: title} of the parts shown, and a sentence for each part that is left out.
    """
    from chapters import interactive
    from minigrad.serialization import CheckpointError

    pages, titles, missing = {}, {}, []
    for part in parts:
        try:
            fragment = part.fragment(run)
        except (OSError, ValueError, CheckpointError) as error:
            missing.append(f"{part.title}: left out, because {error_text(error)}")
            continue
        at = f"play/{part.name}.html"
        main = (
            f'<div class="title"><h1>{escape(part.title)}</h1><p class="lead">{inline(part.lead, no_link)}</p></div>{fragment}'
        )
        pages[at] = document(at, part.title, main, "play.html", head=interactive.scripts())
        titles[part.name] = part.title
    return pages, titles, missing


def play_page(run: Path, parts: list[Any], titles: dict[str, str], missing: list[str], has_report: bool) -> str:
    """The list of the interactive pages; what the run lacks is named."""
    at = "play.html"
    entries = [
        (link(f"play/{part.name}.html", at, escape(part.title)), inline(part.lead, no_link))
        for part in parts
        if part.name in titles
    ]
    if has_report:
        entries.append((link("report.html", at, "The report"), "The main job's page of results: curves, maps, answers."))
    body = '<div class="title"><h1>To play with</h1></div>'
    body += f"<p>These pages show the models of <code>{escape(str(run))}</code>; all numbers come from there.</p>"
    body += definitions(entries, "files")
    if missing:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in missing)
        body += (
            f"<h2>Left out</h2><p><code>python -m chapters</code> makes a run; then build the site again.</p><ul>{items}</ul>"
        )
    return document(at, "To play with", body, at)
