"""Ask the reader: a blind test of before against after, and labels for pairs of the model's own answers.

Each question takes one key. Every answer is saved before the next question, so a stopped test continues where it stopped.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chapters.ch10.taste.measures import wilson
from chapters.support.json_files import check_fields, read_object, write_result
from chapters.world import Instruction
from kernels.terminal import visible


class Choice(NamedTuple):
    """A question to the reader: which of two answers is better?"""

    task: Instruction
    first: str
    second: str


def indented(text: str, margin: str) -> str:
    """The text behind a margin, so that no text can imitate our own lines; control characters are shown, not obeyed."""
    return "\n".join(margin + line for line in visible(text).splitlines() or [""])


def show(choice: Choice, number: int, count: int) -> None:
    request = f"{choice.task.instruction}\n{choice.task.input}".strip()
    print(f"\n── {number} of {count} " + "─" * 60)
    print(indented(request, "   "))
    for name, text in (("1", choice.first), ("2", choice.second)):
        print(f"\n {name}" + indented(text, "   ")[2:])


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

END = "\x04", ""  # Ctrl-D on a terminal, and the end of a file


def pressed_key() -> str:
    """One key on a terminal that can deliver single keys; elsewhere the next line.  "" at the end of the input."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        termios = None  # type: ignore[assignment]
    if termios is None or not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() or "\n" if line else ""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)  # keeps the keys that were pressed early
        return sys.stdin.read(1)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def ask(question: str, keys: Sequence[str]) -> str | None:
    """The reader's key among `keys`; None if the reader stops with q or Ctrl-D."""
    while True:
        print(f"\n{question} ", end="", flush=True)
        key = pressed_key()
        print(visible(key).strip() if sys.stdin.isatty() else "")
        if key in END or key == "q":
            return None
        if key in keys:
            return key
        print(f"expected {', '.join(keys)}, or q to stop, got {visible(key).strip() or 'another key'}")


def ask_all(choices: Sequence[Choice], question: str, keys: Sequence[str], path: Path) -> list[str] | None:
    """The reader's key for each choice; None if the reader stops. The keys so far are saved at `path`, and are not asked again.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with a sentence.
    """
    saved = read_object(path) if path.exists() else {"keys": []}
    check_fields(saved, {"keys": list[str]}, str(path))
    pressed: list[str] = saved["keys"][: len(choices)]
    for number in range(len(pressed) + 1, len(choices) + 1):
        show(choices[number - 1], number, len(choices))
        stop = f"stopped after {number - 1} of {len(choices)} and saved in {path}; the same command continues"
        try:
            key = ask(question, keys)
        except KeyboardInterrupt:
            print()
            raise KeyboardInterrupt(stop) from None
        if key is None:
            print(stop)
            return None
        pressed.append(key)
        write_result(path, {"keys": pressed})
    return pressed


# ── the blind test ───────────────────────────────────────────────────────────────────────────────────────────────────


def blind_test(tasks: Sequence[Instruction], before: Sequence[str], after: Sequence[str], seed: int, path: Path) -> str | None:
    """Let the reader choose between before and after, and return the result in words; None if the reader stops.

    Which answer stands first is random, each equally often, so a reader who always takes the first one gets 50 %.
    """
    after_first = [after_comes_first(seed, number) for number in range(len(tasks))]
    sides = zip(tasks, before, after, after_first, strict=True)
    choices = [Choice(task, new, old) if swap else Choice(task, old, new) for task, old, new, swap in sides]
    pressed = ask_all(choices, "Which is better, 1 or 2?", ("1", "2"), path)
    if pressed is None:
        return None
    wins = sum((key == "1") == first for key, first in zip(pressed, after_first, strict=True))
    return blind_text(wins, pressed)


def after_comes_first(seed: int, number: int) -> bool:
    """Whether the tuned model's answer stands first in a question of the blind test. Of two questions, one is so."""
    return bool((np.random.default_rng([seed, number // 2]).integers(2) + number) % 2)


def blind_text(wins: int, pressed: Sequence[str]) -> str:
    """The result of a blind test in words."""
    n = len(pressed)
    low, high = wilson(wins, n)
    text = f"You chose the tuned model's answer {wins} times of {n}: {wins / n:.0%}, 95 % interval {low:.0%} to {high:.0%}."
    if n > 4 and len(set(pressed)) == 1:
        return f"{text} You pressed {pressed[0]} every time, and the sides are random: the result says nothing."
    if low > 0.5:
        return f"{text} You prefer the tuned model."
    return f"{text} " + ("You prefer the original model." if high < 0.5 else "That does not tell the two models apart.")


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def label(choices: Sequence[Choice], path: Path) -> list[int | None] | None:
    """The reader's preferred answer to each choice, 0 or 1, or None for neither; None for all if the reader stops.

    Raises:
        ValueError: if the reader never pressed 1, or never 2, because a reward model then has nothing to learn.
    """
    pressed = ask_all(choices, "Which do you like better, 1 or 2? (0: neither)", ("1", "2", "0"), path)
    if pressed is None:
        return None
    if not {"1", "2"} <= set(pressed):
        raise ValueError(
            f"labels: expected 1 and 2 to occur, got only {' and '.join(sorted(set(pressed)))}, which says nothing about "
            f"the answers; delete {path} and label again"
        )
    return [None if key == "0" else int(key) - 1 for key in pressed]
