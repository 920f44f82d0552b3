"""The files of a workbook: the text of an exercise, and a folder filled with them."""

import inspect
import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from chapters.ch10.exercises import PAIRS
from chapters.workbook.cuda import kernel_text, without_barriers
from chapters.workbook.exercise import Exercise, as_it_is
from chapters.workbook.gaps import Target
from minigrad.serialization import write_atomically

COMMAND = "python -m chapters.workbook"
PAIRS_FILE = "five_pairs.json"


# ── the text of an exercise ──────────────────────────────────────────────────────────────────────────────────────────


def text_of(exercise: Exercise, filled: bool = False) -> str:
    """The exercise as it is first written; `filled`: with our own solution in the gap."""
    if exercise.cuda:
        comment, kernel = commented(introduction(exercise), "//"), kernel_text(exercise)
        return f"{comment}\n\n{kernel if filled else without_barriers(kernel)}"
    definition = exercise.definition
    code = definition.text(() if filled else exercise.functions)
    if exercise.forward:
        formula = textwrap.indent(definition.docstring(exercise.forward), "    ")
        comment = commented(f"The forward pass, {exercise.forward}:\n\n{formula}", "#")
        code = f"{comment}\n\n\n{code}"
    head = "\n\n".join(filter(None, [f'"""{introduction(exercise)}\n"""', definition.imports()]))
    return f"{head}\n\n\n{code}\n"


def commented(text: str, sign: str) -> str:
    """The text as a comment."""
    return "\n".join(f"{sign} {line}".rstrip() for line in text.splitlines())


def introduction(exercise: Exercise) -> str:
    """What to do, where the exercise comes from, and the commands."""
    functions = listed([f"`{name}`" for name in exercise.functions])
    task = exercise.note or f"Write the {'bodies' if len(exercise.functions) > 1 else 'body'} of {functions}."
    if names := left_at_default(exercise):
        task += f" The check leaves {listed(names)} at {'its default' if len(names) == 1 else 'their defaults'}."
    file = exercise.place.short_path(exercise.cuda)
    place = f"Beyond the book: {file}"
    if exercise.lesson:
        lesson = Target(f"chapters.{exercise.lesson}", "").short_path()
        place = f"Chapter {exercise.chapter} of the book: {lesson}" + ("" if file == lesson else f" and {file}")
    commands = [f"    {COMMAND} {action} {exercise.number}" for action in ("check", "hint", "solution")]
    title = f"Exercise {exercise.number}: {exercise.title}."
    return "\n".join([title, "", *textwrap.wrap(task, 120), "", *helper_lines(exercise), place, "", *commands])


def helper_lines(exercise: Exercise) -> list[str]:
    """The functions beside ours that a solution may use, so that nobody has to look them up next to the answer."""
    helpers = {} if exercise.cuda else exercise.definition.helpers()
    texts = [f"{call}: {' '.join(text.split())}" for call, text in helpers.items() if call.split("(")[0] != exercise.forward]
    wrapped = [textwrap.fill(text, 120, initial_indent=" " * 4, subsequent_indent=" " * 8) for text in texts]
    return ["You may use:", "", *wrapped, ""] if wrapped else []


def left_at_default(exercise: Exercise) -> list[str]:
    """The optional parameters that no call of the check passes."""
    if exercise.play is not as_it_is or not exercise.new_calls():
        return []
    parameters = inspect.signature(exercise.ours).parameters
    names = list(parameters)
    passed = {name for call in exercise.new_calls() for name in [*names[: len(call.arguments)], *call.settings]}
    return [name for name in names if parameters[name].default is not inspect.Parameter.empty and name not in passed]


def listed(names: Sequence[str]) -> str:
    """The names as in a sentence: "out, needs and plus"."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def solution_of(exercise: Exercise) -> str:
    """Our own solution, with the derivation above it."""
    if exercise.cuda:
        return kernel_text(exercise)
    parts = []
    for name in exercise.functions:
        comment = commented(exercise.definition.comment(name), "#")
        parts.append("\n".join(filter(None, [comment, exercise.definition.solution(name)])))
    return "\n\n".join(parts)


def hints_of(exercise: Exercise) -> list[str]:
    """The hints, of which the last is the derivation above our source, if there is one."""
    comments = [] if exercise.cuda else [exercise.definition.comment(name) for name in exercise.functions]
    return [*exercise.hints, *(f"The derivation above our own source:\n\n{comment}" for comment in comments if comment)]


# ── a folder of exercises ────────────────────────────────────────────────────────────────────────────────────────────


def path_of(exercise: Exercise, folder: Path) -> Path:
    """The reader's file, such as workbook/08_softmax_backward.py."""
    name = exercise.place.name.split(".")[-1].strip("_")
    return folder / f"{exercise.number:02}_{name}{'.cu' if exercise.cuda else '.py'}"


def pairs_text() -> str:
    """A file in Alpaca's format with the five pairs of chapter 10's exercises, for the reader to replace."""
    pairs = [{"instruction": question, "input": "", "output": answer} for question, answer in PAIRS]
    return json.dumps(pairs, indent=2, ensure_ascii=False) + "\n"


def write_workbook(exercises: Sequence[Exercise], folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the files that the folder does not have yet.

    Returns:
        The files written, and the files left alone because their text is not the exercise's.

    Raises:
        OSError, CheckpointError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {path_of(exercise, folder): text_of(exercise) for exercise in exercises}
    texts[folder / PAIRS_FILE] = pairs_text()
    written, changed = [], []
    for path, text in texts.items():
        if not os.path.lexists(path):  # a link that leads nowhere is the reader's too
            write_atomically(path, text.encode())
            written.append(path)
        elif not is_text(path, text):
            changed.append(path)
    return written, changed


def is_text(path: Path, text: str) -> bool:
    """Whether a file holds this text, with line ends of any kind."""
    try:
        return path.read_bytes().splitlines() == text.encode().splitlines()
    except OSError:
        return False
