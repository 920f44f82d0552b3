"""The exercise in CUDA: a kernel without its barriers, which the emulator checks for races."""

import re
from pathlib import Path

import numpy as np

from chapters.support.command import error_text
from chapters.support.readers import read_utf8
from chapters.workbook.exercise import Exercise, Ungraded, Unwritten, Wrong
from kernels import emulator
from kernels.gpu import Source, i32
from minigrad.serialization import short

BARRIER = re.compile(r"^ *__syncthreads\(\);.*\n", re.M)
SIZES = ((40, 33, 70), (32, 64, 32))  # M, N and K: with a rest of a tile, and without
SHUFFLES = 3  # orders of threads and blocks


def kernel_text(exercise: Exercise) -> str:
    """Our kernel and the comment above it, as they stand in the .cu file."""
    text = exercise.place.path.with_suffix(".cu").read_text(encoding="utf-8")
    kernel = re.search(rf'(?:^//[^\n]*\n)*^extern "C"[^\n]*\b{exercise.name}\(.*?^\}}\n', text, re.M | re.S)
    assert kernel is not None, f"there is no kernel {exercise.name}; the exercise needs another target"
    return kernel[0]


def without_barriers(kernel: str) -> str:
    return BARRIER.sub("", kernel)


def grade_kernel(exercise: Exercise, path: Path) -> str:
    """Launch the reader's kernel in the emulator's checked mode, with its threads in several orders."""
    if not emulator.available():
        raise Ungraded("check: expected g++, which compiles the kernel for the emulator; install it to grade this exercise")
    try:
        if "__syncthreads" not in read_utf8(path):
            raise Unwritten(f"{path} has no __syncthreads() yet; write them where threads must wait, and check again")
        source = Source(path)
        if exercise.name not in source.signatures:
            raise Wrong(f'{path}: expected a kernel extern "C" __global__ void {exercise.name}(…), found none')
        for M, N, K in SIZES:
            for seed in range(1, SHUFFLES + 1):
                multiply(source, exercise.name, M, N, K, seed)
    except emulator.LaunchError as error:
        raise Wrong(first_error(str(error))) from None
    except (TypeError, ValueError, OSError) as error:  # parameters of other types, or an include that is not there
        raise Wrong(f"{path}: {error_text(error)}") from None
    return f"no race in {len(SIZES) * SHUFFLES} launches, and the product is right"


def first_error(message: str) -> str:
    """The first error among the compiler's many lines, or the fault at which the emulator stopped."""
    errors = [f"the kernel does not compile: {line}" for line in message.splitlines() if "error:" in line]
    return short((errors or [f"the emulator stopped at a fault: {' '.join(message.split())}"])[0], 300)


def multiply(source: Source, name: str, M: int, N: int, K: int, seed: int) -> None:
    """One launch.  Raises LaunchError or Wrong."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
    c = np.full((M, N), np.nan, np.float32)
    with emulator.settings(checked=True, seed=seed):
        source.launch(name, (-(-N // 32), -(-M // 32)), (32, 32), a, b, c, i32(M), i32(N), i32(K))
    gap = np.abs(c - a @ b)  # (M, N)
    if not (gap <= 1e-3).all():
        row, column = np.unravel_index(np.argmax(np.nan_to_num(gap, nan=np.inf)), gap.shape)
        expected = f"expected {(a @ b)[row, column]:.5g}, got {c[row, column]:.5g}"
        raise Wrong(f"c[{row}, {column}] of a product with M={M}, N={N}, K={K}: {expected}")
