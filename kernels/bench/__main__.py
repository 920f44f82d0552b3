"""python -m kernels.bench NAME: see the package's description in __init__.py."""

import argparse
from importlib import import_module
from pathlib import Path

from kernels.bench.collectives import join, measure_collectives
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
    between = "or collectives: messages between the processes that mpiexec has started"
    names = [*OPERATIONS, *TABLES, "collectives"]
    parser.add_argument("name", metavar="NAME", choices=names, help=f"{ladders}; {tables}; {between}")
    size = "rows or tokens (matmul: length of a side; attention: longest T of its table; adamw, dropout: thousands of numbers; "
    size += "collectives: thousands of numbers in the largest array)"
    parser.add_argument("--size", type=whole_number(1), help=size)
    share = "threads of every library (default: all cores; collectives: each process's share of them)"
    parser.add_argument("--threads", type=whole_number(1), help=share)
    parser.add_argument("--plot", type=new_file, metavar="FILE", help="draw the figures to this file (not of collectives)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures of collectives to this file")
    options = parser.parse_args()
    if (options.plot if options.name == "collectives" else options.json) is not None:
        parser.error("expected --json with collectives, and --plot with all other names; change the option")
    group, threads = join(options.threads) if options.name == "collectives" else (None, options.threads)
    use_threads(threads)
    from kernels.launch import DISABLED  # not at the top: Numba reads the number of threads when it is imported

    if DISABLED:
        parser.error("expected Numba's compiler, got NUMBA_DISABLE_JIT=1; unset it")
    if group is not None:
        measure_collectives(group, options.size, options.json)
    else:
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
