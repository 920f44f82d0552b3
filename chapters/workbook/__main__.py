"""python -m chapters.workbook: see the package's description in __init__.py."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from chapters.support.command import above, at_least, command, progress_bar
from chapters.support.readers import read_instructions
from chapters.workbook.exercise import Exercise
from chapters.workbook.exercises import EXERCISES, exercise_number
from chapters.workbook.files import COMMAND, PAIRS_FILE, hints_of, is_text, pairs_text, path_of, solution_of, write_workbook
from chapters.workbook.grading import untouched
from chapters.workbook.isolation import grade_apart
from minigrad.serialization import short

Action = Literal["write", "check", "hint", "solution", "progress"]


@dataclass
class Settings:
    """Exercises made of this project's own functions, with checks, hints and solutions."""

    action: Positional[Action] = "write"  # write the exercises, or do something with one of them
    number: Positional[int] = 0  # number of the exercise, for check, hint and solution
    which: Positional[int] = 1  # which hint; the last one is nearly the answer
    folder: Path = Path("workbook")  # your folder of exercises
    seconds: float = 60.0  # time limit of a check


def main(settings: Settings) -> None:
    above(settings, 0, "seconds")
    at_least(settings, 1, "which")
    ACTIONS[settings.action](settings)


def write(settings: Settings) -> None:
    written, changed = write_workbook(EXERCISES, settings.folder)
    print(f"{len(written)} files written into {settings.folder}")
    if changed:
        print(f"{len(changed)} left alone, because you changed them: {', '.join(path.name for path in changed)}")
    flag = "" if settings.folder == Settings.folder else f" --folder {settings.folder}"
    print(f"\nBegin with {path_of(EXERCISES[0], settings.folder)}, and then: {COMMAND} check 1{flag}")
    pairs = settings.folder / PAIRS_FILE
    print(f"For exercises 1 to 4 of the book, replace the pairs in {pairs} with your own, and then:")
    print(f"python -m chapters.ch10.exercises --pairs {pairs}")


def check(settings: Settings) -> None:
    """Exits with status 1 unless the solution is right."""
    exercise = chosen(settings)
    path = path_of(exercise, settings.folder)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {COMMAND} writes it, and --folder names its folder")
    (verdict,) = grade_apart([exercise], settings.folder, settings.seconds)
    if verdict.state == "ungraded":
        raise ValueError(verdict.sentence)
    print(f"{exercise}: {verdict.state}\n  {verdict.sentence}")
    if verdict.state != "right":
        print(f"  a hint: {COMMAND} hint {exercise.number}")
        sys.exit(1)


def hint(settings: Settings) -> None:
    exercise = chosen(settings)
    hints = hints_of(exercise)
    if settings.which > len(hints):
        raise ValueError(f"hint: expected one of {len(hints)} hints for {exercise}, got {settings.which}")
    print(f"{exercise}, hint {settings.which} of {len(hints)}:\n\n{hints[settings.which - 1]}")
    following = f"hint {exercise.number} {settings.which + 1}" if settings.which < len(hints) else f"solution {exercise.number}"
    print(f"\nif that is not enough: {COMMAND} {following}")


def solution(settings: Settings) -> None:
    exercise = chosen(settings)
    print(f"{exercise}, as in {exercise.place.short_path(exercise.cuda)}:\n\n{solution_of(exercise)}")


def progress(settings: Settings) -> None:
    """Grades every exercise that was touched; nothing is remembered from earlier checks."""
    if not settings.folder.is_dir():
        raise FileNotFoundError(f"there is no folder {settings.folder}; {COMMAND} writes the exercises")
    touched = [exercise for exercise in EXERCISES if not untouched(exercise, settings.folder)]
    states = {exercise.number: "untouched" for exercise in EXERCISES}
    with progress_bar(len(touched), 0, "exercise") as bar:
        for exercise, verdict in zip(touched, grade_apart(touched, settings.folder, settings.seconds), strict=True):
            states[exercise.number] = verdict.state
            bar.update()
    for exercise in EXERCISES:
        chapter = f"chapter {exercise.chapter}" if exercise.chapter else ""
        print(f"{exercise.number:3}  {exercise.title:<48} {chapter:<11} {states[exercise.number]}")
    counts = Counter(states.values())
    order = ("right", "wrong", "untouched", "ungraded")
    print("\n" + ", ".join(f"{counts[state]} {state}" for state in order if counts[state]))
    print(f"{PAIRS_FILE}: {state_of_pairs(settings.folder / PAIRS_FILE)}")


def state_of_pairs(path: Path) -> str:
    """Whether the reader replaced the pairs for the book's exercises, and whether the file can be read."""
    if not path.is_file() or is_text(path, pairs_text()):
        return "untouched"
    try:
        return f"{len(read_instructions(path))} pairs of your own"
    except ValueError as error:
        return f"wrong: {short(str(error), 200)}"


def chosen(settings: Settings) -> Exercise:
    if settings.number == 0:
        raise ValueError(f"{settings.action}: expected the number of an exercise, as in: {COMMAND} {settings.action} 1")
    return exercise_number(settings.number)


ACTIONS = {"write": write, "check": check, "hint": hint, "solution": solution, "progress": progress}


if __name__ == "__main__":
    command(main, Settings, writes=None)
