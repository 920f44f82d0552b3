"""python -m kernels.bench NAME: see the package's description in __init__.py."""

import argparse
from importlib import import_module
from pathlib import Path

from kernels.bench.contest import use_threads
from kernels.terminal import guard_streams, new_file, whole_number

OPERATIONS = sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/ladder.py"))
TABLES = ("one_row", "bandwidth")


def main():
    guard_streams()
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description="Time an operation from the plainest loop to the engine's kernel."
    )
    ladders = f"an operation, to climb its ladder: {', '.join(OPERATIONS)}"
    tables = "or a table: one_row (one row times a matrix, as in text generation) or bandwidth (operations limited by memory)"
    parser.add_argument("name", metavar="NAME", choices=[*OPERATIONS, *TABLES], help=f"{ladders}; {tables}")
    size = "rows or tokens (matmul: length of a side; attention: longest T of its table; adamw, dropout: thousands of numbers)"
    parser.add_argument("--size", type=whole_number(1), help=size)
    parser.add_argument("--threads", type=whole_number(1), help="threads of every library (default: all cores)")
    parser.add_argument("--plot", type=new_file, metavar="FILE", help="draw the figures to this file")
    options = parser.parse_args()
    use_threads(options.threads)
    from kernels.launch import DISABLED  # not at the top: Numba reads the number of threads when it is imported

    if DISABLED:
        parser.error("expected Numba's compiler, got NUMBA_DISABLE_JIT=1; unset it")
    measure(options)


def measure(options: argparse.Namespace) -> None:
    from kernels.bench import tables
    from kernels.bench.climb import climb, plot
    from kernels.bench.limits import machine

    print(machine())
    if options.name in TABLES:
        (figures, limit), unit = getattr(tables, options.name)(options.size), "GB/s"
    else:
        first, *others = import_module(f"kernels.{options.name}.ladder").ladders(options.size)
        (figures, limit), unit = climb(first), first.unit
        for ladder in others:
            climb(ladder)
        if options.name == "matmul":
            tables.products_of_steps()
        if options.name == "attention":
            tables.attention_as_T_grows(options.size or 4096)
    if options.plot:
        plot(figures, f"{options.name.replace('_', ' ')} on this machine", unit, limit, options.plot)


if __name__ == "__main__":
    main()
