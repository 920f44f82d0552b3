"""Every comparison with PyTorch and NumPy in one run, written to a file; and the table of such files, one for each processor.

    python -m chapters.bench all --json zen3.json           # up to 15 minutes
    python -m chapters.bench table zen3.json zen5.json

Each line is a task that minigrad, PyTorch and perhaps NumPy do in turns with the machine's limit. Where vectors hold 16 floats,
minigrad also runs as AVX2 code beside that code's own limit, and PyTorch also with ATEN_CPU_CAPABILITY=avx512; the table takes
PyTorch's best. Small models also train on one thread.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chapters.bench.step import SECONDS, SIZES, product_operations, training_step
from chapters.support.json_files import check_fields, read_object, write_result
from kernels.bench import tables, tasks
from kernels.bench.contest import compete, contestants
from kernels.bench.limits import bound, machine
from kernels.simd import WIDTH

LIBRARIES = ("minigrad", "torch", "numpy", *(("minigrad-8", "torch-avx512") if WIDTH == 16 else ()), "minigrad-1")
LIMITS = ("limit", *(("limit-8",) if WIDTH == 16 else ()), "limit-1")
STEPS = {
    "training step, the main job's 0.3M (B = 8, T = 128)": "main job",
    "training step, 0.9M parameters (B = 16, T = 128)": "tiny",
    "training step, 10.8M parameters (B = 8, T = 256)": "book",
    "training step, GPT-2's 124M (B = 4, T = 256)": "gpt2",
    "the same at llm.c's setting (B = 4, T = 64)": "llmc",
}
ON_ONE_THREAD = [group for group, size in STEPS.items() if size in ("main job", "tiny")]
PRODUCTS, ONE_ROW = "products of the 10.8M and 124M steps, 24 shapes", "one row times a matrix, 8 shapes"
# An entry of the file: the task's group and arguments, its limits, and each library's rate; all in GFLOP/s or all in GB/s.
ENTRY = {"group": str, "arguments": list, "kind": str, "limits": dict[str, float], "rates": dict[str, float]}
HEAD = f"  {'':<52}{'PyTorch':>9}{'NumPy':>7}{'(worst)':>8}{'limit':>7}{'(worst)':>8}{'AVX2':>6}{'1 thread':>10}"
NOTES = """
  PyTorch, NumPy: their time divided by ours, geometric means (*: PyTorch was mostly faster with ATEN_CPU_CAPABILITY=avx512).
  limit: our share of what registers (products, steps, attention) or memory (all others) allow, arithmetic mean. AVX2, 1 thread:
  the share that AVX2 code and a single thread reach of their own limits. faulty: above the limit of arithmetic, which is a
  mistake of the measurement; the shares leave it out."""


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
        config, B, T = SIZES[size]
        yield Line(group, (training_step, size, B, T), "multiplying", product_operations(config, B, T), SECONDS[size])
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


def takes_part(contestant: str, line: Line) -> bool:
    """Whether a contestant is measured on a line."""
    name, _, variant = contestant.partition("-")
    if variant == "1":
        return line.group in ON_ONE_THREAD
    if name == "numpy":
        return line.group in (PRODUCTS, ONE_ROW)
    return contestant != "limit-8" or line.kind == "multiplying"


def run(options: Namespace) -> None:
    """Measure every line, print each as it comes, and write the file."""
    print(f"{machine()}\n{HEAD}")
    entries: list[dict[str, Any]] = []
    with contestants(*LIBRARIES, *LIMITS) as running:
        for line in lines():
            group, task, kind, amount, seconds = line
            taking_part = {name: contestant for name, contestant in running.items() if takes_part(name, line)}
            times = compete(taking_part, task, seconds, limit=(bound, kind))
            limits = {name: 1 / times.pop(name) for name in LIMITS if name in times}
            rates = {name: amount / each / 1e9 for name, each in times.items()}
            entries.append(dict(group=group, arguments=task[1:], kind=kind, limits=limits, rates=rates))
            print(line_of(entries[-1:], *(task[1:] if group in (PRODUCTS, ONE_ROW) else ())), flush=True)
    print(NOTES)
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
        print(f"{record['machine']}; PyTorch {record['versions']['torch']}, NumPy {record['versions']['numpy']}\n{HEAD}")
        for entries in groups.values():
            print(line_of(entries))
        print(f"{NOTES}\n")


def line_of(entries: Sequence[dict[str, Any]], *arguments: Any) -> str:
    """The table's line for a group: minigrad's speed over the others' and over the limit, as means and at worst.

    Args:
        entries: of the group.
        arguments: of the task, which tell the lines of a group apart.
    """
    rates, kind = entries[0]["rates"], entries[0]["kind"]
    best = [max((rate, name) for name, rate in entry["rates"].items() if name.startswith("torch")) for entry in entries]
    mostly = "*" if 2 * sum(name == "torch-avx512" for _, name in best) > len(entries) else " "
    text = f"  {' '.join(map(str, arguments)) or entries[0]['group']:<52}"
    over_torch = [entry["rates"]["minigrad"] / rate for entry, (rate, _) in zip(entries, best, strict=True)]
    text += f"{geometric_mean(over_torch):8.2f}{mostly}"
    over_numpy = [entry["rates"]["minigrad"] / entry["rates"]["numpy"] for entry in entries if "numpy" in rates]
    text += f"{geometric_mean(over_numpy):7.2f}{min(over_numpy):8.2f}" if over_numpy else 15 * " "
    measured = [shares_of(entry) for entry in entries]
    sound = [share for share in measured if kind != "multiplying" or max(share.values()) <= 1]
    shares = sound or measured
    text += f"{np.mean([share['minigrad'] for share in shares]):7.0%}{min(share['minigrad'] for share in shares):8.0%}"
    for name, width in (("minigrad-8", 6), ("minigrad-1", 10)):
        text += f"{np.mean([share[name] for share in shares]):{width}.0%}" if name in rates else width * " "
    if len(sound) < len(measured):
        text += f" {len(measured) - len(sound)} of {len(measured)} faulty"
    return text.rstrip()


def geometric_mean(ratios: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def shares_of(entry: dict[str, Any]) -> dict[str, float]:
    """{library: its rate over the limit}; AVX2 code and a single thread have a limit of their own."""
    limits = {name.partition("-")[2]: limit for name, limit in entry["limits"].items()}
    return {name: rate / limits.get(name.partition("-")[2], limits[""]) for name, rate in entry["rates"].items()}
