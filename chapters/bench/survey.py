"""Every comparison with PyTorch and NumPy in one run, written to a file; and the table of such files, one for each processor.

    python -m chapters.bench all --json zen3.json           # up to 15 minutes
    python -m chapters.bench table zen3.json zen5.json

Each line is a task that minigrad, PyTorch and perhaps NumPy do in turns with the machine's limit. Where vectors hold 16 floats,
minigrad also runs with 8, and PyTorch also with ATEN_CPU_CAPABILITY=avx512; the table takes PyTorch's best.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chapters.bench.step import SECONDS, SIZES, product_operations, random_batch, training_step
from chapters.support.json_files import check_fields, read_object, write_result
from kernels.bench import tables, tasks
from kernels.bench.contest import compete, contestants
from kernels.bench.limits import bound, bound_rate, machine, percent
from kernels.simd import WIDTH

LIBRARIES = ("minigrad", "torch", "numpy", *(("minigrad-8", "torch-avx512") if WIDTH == 16 else ()))
STEPS = {
    "training step, 0.9M parameters (B = 16, T = 128)": "tiny",
    "training step, 10.8M parameters (B = 8, T = 256)": "book",
    "training step, GPT-2's 124M (B = 4, T = 256)": "gpt2",
    "the same at llm.c's setting (B = 4, T = 64)": "llmc",
}
PRODUCTS, ONE_ROW = "products of the 10.8M and 124M steps, 24 shapes", "one row times a matrix, 8 shapes"
# An entry of the file: the task's group and arguments, its limit, and each library's rate; all in GFLOP/s or all in GB/s.
ENTRY = {"group": str, "arguments": list, "kind": str, "limit": float, "rates": dict[str, float]}


class Line(NamedTuple):
    """A task to measure. Lines of one group become one line of the table."""

    group: str
    task: tuple  # the function that makes it, and its arguments except for the library's name
    kind: str  # its limit: "multiplying", "reading" or "copying"
    amount: float  # operations or bytes of one call
    seconds: float  # of all turns together


def lines() -> Iterator[Line]:
    """All lines, in the table's order."""
    for group, preset in STEPS.items():
        B, T, _ = SIZES[preset]
        operations = product_operations(random_batch(preset, B, T)[0], B, T)
        yield Line(group, (training_step, preset, B, T), "multiplying", operations, SECONDS[preset])
    for M, K, N, transpose_a, transpose_b in tables.product_forms():
        task = (tasks.matmul, M, K, N, transpose_a, transpose_b)
        yield Line(PRODUCTS, task, "multiplying", 2 * M * K * N, 3)
    for T in (256, 1024, 4096):
        B, H, D = max(1, 2048 // T), 6, 64
        operations = 7 * B * H * T * (T + 1) * D  # seven products: two forward, five backward
        yield Line(f"causal attention, T = {T:,}", (tasks.attention, B, H, T, D, True), "multiplying", operations, 4)
    for name, task, numbers, read, written in tables.memory_traffic(16384, 1024):
        yield Line(name, task, "copying" if written else "reading", 4 * numbers * (read + written), 4)
    for rows, columns in tables.ROW_SHAPES:
        for transposed in (True, False):
            yield Line(ONE_ROW, (tasks.one_row, rows, columns, transposed), "reading", 4 * rows * columns, 4)


def run(options: Namespace) -> None:
    """Measure every line, print each as it comes, and write the file."""
    if find_spec("torch") is None:
        raise ValueError("bench all: expected PyTorch to compare with; install it with pip install -e '.[peers]'")
    print(machine())
    entries = []
    with contestants(*LIBRARIES, "limit") as running:
        for group, task, kind, amount, seconds in lines():
            libraries = {name: c for name, c in running.items() if name != "numpy" or group in (PRODUCTS, ONE_ROW)}
            times = compete(libraries, task, seconds, limit=(bound, kind))
            limit = bound_rate(kind, times.pop("limit"))
            rates = {name: amount / each / 1e9 for name, each in times.items()}
            arguments = [argument for argument in task[1:] if not isinstance(argument, list)]
            entries.append(dict(group=group, arguments=arguments, kind=kind, limit=limit, rates=rates))
            print(line_of(entries[-1:]), flush=True)
    versions = {name: version(name) for name in ("numpy", "torch")}
    write_result(Path(options.json), {"machine": machine(), "versions": versions, "entries": entries})
    print(f"written to {options.json}")


def print_table(files: Sequence[Path]) -> None:
    """Print the table of each file."""
    for path in files:
        record = read_object(path, "measure again")
        check_fields(record, {"machine": str, "versions": dict[str, str], "entries": list[dict]}, str(path))
        groups: dict[str, list[dict[str, Any]]] = {}
        for entry in record["entries"]:
            check_fields(entry, ENTRY, f"{path}: an entry")
            groups.setdefault(entry["group"], []).append(entry)
        print(f"{record['machine']}; PyTorch {record['versions']['torch']}, NumPy {record['versions']['numpy']}")
        for entries in groups.values():
            print(line_of(entries))
        print()


def line_of(entries: Sequence[dict[str, Any]]) -> str:
    """The table's line for a group: geometric means of minigrad's speed over the others' and over the limit."""

    def mean_ratio(library: str, other: Callable[[dict[str, Any]], float]) -> float:
        return float(np.exp(np.mean([np.log(entry["rates"][library] / other(entry)) for entry in entries])))

    def best_of_torch(entry: dict[str, Any]) -> float:
        return max(rate for name, rate in entry["rates"].items() if name.startswith("torch"))

    rates, kind = entries[0]["rates"], entries[0]["kind"]
    text = f"  {entries[0]['group']:<50}{mean_ratio('minigrad', best_of_torch):6.2f}x PyTorch"
    text += f"{mean_ratio('minigrad', lambda entry: entry['rates']['numpy']):6.2f}x NumPy" if "numpy" in rates else " " * 13
    for library in rates:
        if library.startswith("minigrad"):
            share = percent(mean_ratio(library, lambda entry: entry["limit"]), 1.0, kind)
            text += f"   {share}" + " with 8 floats a vector" * (library == "minigrad-8")
    return text
