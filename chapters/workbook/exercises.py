"""EXERCISES: all exercises in the order of the book, numbered from 1."""

from dataclasses import replace

from chapters.workbook.chapter_10 import CHAPTER_10
from chapters.workbook.chapters_1_to_4 import CHAPTERS_1_TO_4
from chapters.workbook.chapters_5_and_6 import CHAPTERS_5_AND_6
from chapters.workbook.chapters_7_to_9 import CHAPTERS_7_TO_9
from chapters.workbook.cuda import grade_kernel
from chapters.workbook.exercise import Exercise
from chapters.workbook.speed import MARGIN, grade_product

BEYOND_THE_BOOK = [
    Exercise(
        title="a race in a CUDA kernel",
        target="kernels.matmul.cuda:matmul_shared",
        cuda=True,
        grader=grade_kernel,
        note="Repair `matmul_shared`, which lacks its barriers: its threads read tiles that other threads are still writing. "
        "The emulator runs it on your CPU with its threads in several orders, and names the line of the first fault.",
        hints=(
            "`python -m kernels.emulator` is a short lesson about this. __syncthreads() makes every thread of a block wait for "
            "all others.",
            "Two things must not overlap: writing a tile and reading it, and reading it and writing the next.",
        ),
    ),
    Exercise(
        title="a product faster than the plain loop",
        target="kernels.matmul.ladder:four_rows",
        grader=grade_product,
        note=f"Write a product c = a b that is right and at least {MARGIN} times as fast as `plain`, the triple loop at the "
        "beginning of kernels/matmul/ladder.py. The name and the docstring are those of our rung; any other way will do as "
        "well. Arrays are float32, and their sides are multiples of 16. Before the call, c holds NaN.",
        hints=(
            "In the plain loop the inner index runs down a column of b, so each step touches another cache line. Which order "
            "of the three loops runs along rows?",
            "With k before j, the inner loop adds a multiple of a row of b to a row of c, eight or sixteen numbers at a time. "
            "Set the row of c to 0 first.",
            "Handle four rows of c in one inner loop: each number of b is then loaded once and used four times.",
        ),
    ),
]

IN_ORDER = [*CHAPTERS_1_TO_4, *CHAPTERS_5_AND_6, *CHAPTERS_7_TO_9, *CHAPTER_10, *BEYOND_THE_BOOK]
EXERCISES = [replace(exercise, number=number) for number, exercise in enumerate(IN_ORDER, 1)]


def exercise_number(number: int) -> Exercise:
    """The exercise with this number.  Raises ValueError if there is none."""
    if not 1 <= number <= len(EXERCISES):
        raise ValueError(
            f"workbook: expected the number of an exercise, 1 to {len(EXERCISES)}, got {number}; "
            "python -m chapters.workbook progress lists them"
        )
    return EXERCISES[number - 1]
