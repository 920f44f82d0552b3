"""The machine's own limits: multiply-adds in registers, and bytes read from and written to memory.

A processor changes its clock, and other programs use its memory. So each comparison times the limit in the same rounds as the
libraries.
"""

import platform
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
from numba import prange

from kernels.bench.contest import Task
from kernels.launch import address, inner, kernel
from kernels.simd import WIDTH, load
from kernels.tile import ROWS, register_tile

MEGABYTES = 200  # an array that fits into no cache

# A tile whose operands never move stays in registers. Then only multiply-adds run, enough of them at a time to hide the four
# cycles that each takes.
_STILL_ROWS = 6 if ROWS == 8 else 3
_still_tile = register_tile(_STILL_ROWS, 3, a_column=0, b_row=0)
_DEPTH = 1_000_000  # multiply-adds per number of the still tile


@kernel
def _multiply_adds(room, K, parts):
    for part in prange(parts):
        own = room + 4 * 4096 * part
        _still_tile(own, own + 4096, own + 8192, K, 3 * WIDTH, False, 0)


@inner
def _sum(x, n):
    total = np.float32(0)
    for i in range(n):
        total += load(x, i)
    return total


@kernel
def _read(x, n, sums, parts):
    for part in prange(parts):
        first, last = n * part // parts, n * (part + 1) // parts
        sums[part] = _sum(x + 4 * first, last - first)


@inner
def _double(x, y):
    for i in range(len(x)):
        y[i] = x[i] + x[i]


@kernel
def _copy(x, y, parts):
    for part in prange(parts):
        first, last = len(x) * part // parts, len(x) * (part + 1) // parts
        _double(x[first:last], y[first:last])


def bound(library: str, kind: str) -> Task:
    """The task of the contestant "limit": multiply in registers, read memory, or copy it, and nothing else.

    Its time is that of a billion operations or bytes, so 1 / seconds is the limit in GFLOP/s or GB/s. Copied bytes count twice:
    they are read and written.
    """
    threads = numba.get_num_threads()
    if kind == "multiplying":
        room = np.zeros(4096 * (threads + 1), np.float32)
        operations = 2 * _STILL_ROWS * 3 * WIDTH * _DEPTH * threads
        return Task(lambda: _multiply_adds(address(room), _DEPTH, threads), share=1e9 / operations)
    x, sums = np.ones(MEGABYTES << 18, np.float32), np.zeros(threads, np.float32)
    if kind == "reading":
        return Task(lambda: _read(address(x), len(x), sums, threads), share=1e9 / x.nbytes)
    y = np.zeros_like(x)
    return Task(lambda: _copy(x, y, threads), share=1e9 / (x.nbytes + y.nbytes))


def percent(rate: float, limit: float, kind: str) -> str:
    """A rate as a percentage of a limit that was measured in the same turns.

    Nothing exceeds the limit of arithmetic: a share above 100 % is marked as a fault of the measurement.
    """
    share = 100 * rate / limit
    fault = "; a fault of this measurement, run it again" if kind == "multiplying" and share > 100 else ""
    return f"{share:.0f}% of the limit{fault}"


def machine() -> str:
    """The processor's name, the threads that Numba uses, and the width of its vectors."""
    return f"{_processor()}; {numba.get_num_threads()} threads, {WIDTH} floats a vector"


def _processor() -> str:
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        values = dict(re.findall(r"(model name|cpu family|model)\s*: (.+)", Path("/proc/cpuinfo").read_text()))
        # A virtual machine may name its processor "AMD EPYC" and no more. Family 25, model 17 says that it is a Zen 4.
        numbers = f" (family {values['cpu family']}, model {values['model']})" if "cpu family" in values else ""
        return values["model name"] + numbers
    except (OSError, subprocess.CalledProcessError, KeyError):
        return platform.processor() or platform.machine()
