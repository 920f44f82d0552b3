"""Grading in a process of its own: an endless loop or a crash in the reader's code ends that process and nothing else."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from chapters.workbook.exercise import Exercise
from chapters.workbook.exercises import exercise_number
from chapters.workbook.files import path_of
from chapters.workbook.grading import Verdict, grade
from kernels.terminal import guard_streams


def grade_apart(exercises: Sequence[Exercise], folder: Path, seconds: float) -> Iterator[Verdict]:
    """The verdict of each exercise, in their order. They share a process until one of them ends it.

    Args:
        seconds: time limit of an exercise, from the start of its process.
    """
    waiting = list(exercises)
    while waiting:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        numbers = [exercise.number for exercise in waiting]
        process = multiprocessing.get_context("spawn").Process(target=work, args=(numbers, folder, sender), daemon=True)
        process.start()
        sender.close()  # so that the receiver notices when the process ends
        try:
            while waiting:
                path = path_of(waiting.pop(0), folder)
                if not receiver.poll(seconds):
                    yield Verdict("wrong", f"{path}: no result within {seconds:g} seconds; is there an endless loop?")
                    break
                try:
                    verdict = receiver.recv()
                except EOFError:
                    process.join()
                    yield Verdict("wrong", f"{path} ended its process, {reason(process.exitcode)}")
                    break
                yield verdict
        finally:
            process.kill()
            process.join()


def work(numbers: Sequence[int], folder: Path, sender: Connection) -> None:
    """Grade exercises and send each verdict."""
    guard_streams()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches both processes, and the other one reports it
    for number in numbers:
        sender.send(grade(exercise_number(number), folder))


def reason(exit_code: int | None) -> str:
    """Why a process ended: "by the signal SIGSEGV" or "with status 0"."""
    if exit_code is not None and exit_code < 0:
        return f"by the signal {signal.Signals(-exit_code).name}"
    return f"with status {exit_code}, before there was a verdict"
