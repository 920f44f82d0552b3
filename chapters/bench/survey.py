"""Every comparison with PyTorch and NumPy in one run, written to a file; and the table of such files, one for each processor.

    python -m chapters.bench all --json zen3.json           # up to 15 minutes
    python -m chapters.bench table zen3.json zen5.json

Each line is a task that minigrad, PyTorch and perhaps NumPy do in turns with the machine's limit. Where vectors hold 16 floats,
minigrad also runs with vectors of 8, and PyTorch also with ATEN_CPU_CAPABILITY=avx512; the table takes PyTorch's best.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chapters.bench.step import SECONDS, SIZES, product_operations, shape_of, training_step
from chapters.support.json_files import check_fields, read_object, write_result
from kernels.bench import tables, tasks
from kernels.bench.contest import compete, contestants
from kernels.bench.limits import bound, bound_rate, machine
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
    for group, size in STEPS.items():
        _, B, T, _ = SIZES[size]
        yield Line(group, (training_step, size, B, T), "multiplying", product_operations(shape_of(size), B, T), SECONDS[size])
    for M, K, N, transpose_a, transpose_b in tables.product_forms():
        task = (tasks.matmul, M, K, N, transpose_a, transpose_b)
        yield Line(PRODUCTS, task, "multiplying", 2 * M * K * N, 3)
    for T in (256, 1024, 4096):
        sizes, operations = tables.attention_work(T)
        yield Line(f"causal attention, T = {T:,}", (tasks.attention, *sizes, True), "multiplying", operations, 4)
    for name, task, numbers, read, written in tables.memory_traffic(16384, 1024):
        yield Line(name, task, "copying" if written else "reading", 4 * numbers * (read + written), 4)
    for rows, columns in tables.ROW_SHAPES:
        for transposed in (True, False):
            yield Line(ONE_ROW, (tasks.one_row, rows, columns, transposed), "reading", 4 * rows * columns, 4)


def run(options: Namespace) -> None:
    """Measure every line, print each as it comes, and write the file."""
    print(machine())
    entries = []
    with contestants(*LIBRARIES, "limit") as running:
        for group, task, kind, amount, seconds in lines():
            libraries = {name: c for name, c in running.items() if name != "numpy" or group in (PRODUCTS, ONE_ROW)}
            times = compete(libraries, task, seconds, limit=(bound, kind))
            limit = bound_rate(kind, times.pop("limit"))
            rates = {name: amount / each / 1e9 for name, each in times.items()}
            entries.append(dict(group=group, arguments=task[1:], kind=kind, limit=limit, rates=rates))
            print(line_of(entries[-1:], *(task[1:] if group in (PRODUCTS, ONE_ROW) else ())), flush=True)
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


def line_of(entries: Sequence[dict[str, Any]], *arguments: Any) -> str:
    """The table's line for a group: geometric means of minigrad's speed over the others' and over the limit.

    arguments: of the task, which tell the lines of a group apart.
    """

    def mean_ratio(library: str, other: Callable[[dict[str, Any]], float]) -> float:
        return float(np.exp(np.mean([np.log(entry["rates"][library] / other(entry)) for entry in entries])))

    def best_of_torch(entry: dict[str, Any]) -> float:
        return max(rate for name, rate in entry["rates"].items() if name.startswith("torch"))

    rates, kind = entries[0]["rates"], entries[0]["kind"]
    name = " ".join(map(str, arguments)) or entries[0]["group"]
    text = f"  {name:<50}{mean_ratio('minigrad', best_of_torch):6.2f}x PyTorch"
    text += f"{mean_ratio('minigrad', lambda entry: entry['rates']['numpy']):6.2f}x NumPy" if "numpy" in rates else " " * 13
    for library in rates:
        if library.startswith("minigrad"):
            share = 100 * mean_ratio(library, lambda entry: entry["limit"])
            text += f"   {share:.0f}% of the limit" + " of 16 floats with vectors of 8" * (library == "minigrad-8")
    faults = [entry for entry in entries if kind == "multiplying" and max(entry["rates"].values()) > entry["limit"]]
    if faults:
        text += f"; {len(faults)} of {len(entries)} above the limit, a fault of the measurement"
    return text
