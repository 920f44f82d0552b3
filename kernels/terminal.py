"""What every command of the project shares: safe output, one exit status for mistakes, and types of options.

A file, a model or a user may hold ESC sequences that clear the screen, rename the window or hide a link, and
characters that reverse a line. Every command calls `guard_streams` first. From then on print, warnings and tracebacks
pass through `visible`. Our own colours and progress bars go around it, with `print_styled` and `unguarded`.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

USER_ERROR = 2  # exit status of every command for bad usage, a bad value or a bad file, as in argparse

# ESC becomes ␛ and NUL ␀, from Unicode's block of control pictures. Newlines and tabs stay.
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: "␡"}
C1_CONTROLS = range(0x80, 0xA0)  # U+009B alone begins a sequence, like ESC [
# They reorder a line: Trojan Source, CVE-2021-42574.
DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
NO_CHARACTERS = (*range(0xD800, 0xE000), 0xFFFE, 0xFFFF)  # UTF-8 cannot encode a surrogate, and XML refuses all of these
SHOWN = PICTURES | {code: f"\\u{code:04x}" for code in (*C1_CONTROLS, *DIRECTIONS, *NO_CHARACTERS)}


def visible(text: str) -> str:
    """The text with every character that a terminal would obey, except newline and tab, as a visible character.

    The same holds for characters that reorder a line, and for those that no file or page can hold.

    >>> visible("\\x1b[31mred\\x07 \\u202eabc")
    '␛[31mred␇ \\\\u202eabc'
    """
    return text.translate(SHOWN)


class GuardedStream:
    """A text stream that writes `visible(text)`. It says that it is no terminal, so that no library sends it colours."""

    def __init__(self, stream: Any) -> None:
        self._wrapped = stream  # the name by which tqdm recognises two wrappers of a stream as equal

    def write(self, text: str) -> int:
        self._wrapped.write(visible(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def guard_streams() -> None:
    """Let standard output and standard error show control characters, and "?" for what their encoding lacks."""
    os.environ["PYTHON_COLORS"] = "0"  # Python 3.13 and later would colour tracebacks
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, GuardedStream):
            continue
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe on Windows cannot encode "β"
        setattr(sys, name, GuardedStream(stream))


def unguarded(stream: Any) -> Any:
    """The stream itself, for progress bars, which move the cursor."""
    return stream._wrapped if isinstance(stream, GuardedStream) else stream


def colours() -> bool:
    """Whether standard output is a terminal that may show colours (https://no-color.org)."""
    return unguarded(sys.stdout).isatty() and not os.environ.get("NO_COLOR")


def fail(message: object) -> NoReturn:
    """End the command after a user's mistake."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR)


def whole_number(low: int) -> Callable[[str], int]:
    """The type of an argparse option that is a whole number of at least `low`."""

    def parse(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text!r}")
        return int(text)

    return parse


def new_file(text: str) -> str:
    """The type of an argparse option that names a file to write: its folder exists. Checked before minutes of measuring."""
    if os.path.isdir(text) or not os.path.isdir(os.path.dirname(text) or "."):
        raise argparse.ArgumentTypeError(f"expected a file in an existing folder, got {text!r}; make the folder first")
    return text


def print_styled(text: str, **options: Any) -> None:
    """Print a text with our own colour codes, in which `visible` has already shown the codes of others."""
    print(text, file=unguarded(sys.stdout), **options)
