"""Running the reader's file, so that an error in it becomes a sentence with a line of that file."""

import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chapters.support.readers import read_utf8
from chapters.workbook.exercise import Exercise, Unwritten, Wrong
from chapters.workbook.gaps import GAP_MESSAGE
from minigrad.serialization import short


def load(exercise: Exercise, path: Path) -> Any:
    """Run the reader's file as a module and return the exercise's function or class."""
    try:
        code = compile(read_utf8(path), str(path), "exec")
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise Wrong(f"{path}{line}: {error.msg}; Python cannot read the file") from None
    except ValueError as error:
        raise Wrong(f"{path}: {error}") from None
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    with reporting(path):
        exec(code, module.__dict__)
    if not callable(definition := getattr(module, exercise.name, None)):
        raise Wrong(f"{path}: expected a definition of {exercise.name}, found none; keep its name")
    return definition


@contextmanager
def reporting(path: Path, during: str = "") -> Iterator[None]:
    """Turn an error of the reader's code into a Wrong that names the line in the reader's file."""
    try:
        yield
    except (Wrong, Unwritten):
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f", line {frames[-1].lineno}" if frames else ""
        if isinstance(error, NotImplementedError) and str(error) == GAP_MESSAGE:
            raise Unwritten(f"{path}{line} is still a gap; write there, and check again") from None
        message = " ".join(str(error).split()) or "no message"
        raise Wrong(f"{path}{line}: {type(error).__name__}: {short(message, 300)}{during}") from None
