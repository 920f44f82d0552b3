"""python -m kernels.bench NAME: see the package's description in __init__.py."""

import argparse
import os
from importlib import import_module

LADDERS = ("matmul", "one_row", "softmax", "layernorm", "cross_entropy", "attention", "bandwidth", "decode")
STEPS = ("step", "gpt2_step")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description="Ladders from the plainest kernel to the fastest"
    )
    parser.add_argument("name", choices=[*LADDERS, *STEPS], help="the operation, or whole training steps")
    parser.add_argument("--size", type=int, help="rows (matmul: length of a side; attention: the longest T), to try others")
    parser.add_argument("--threads", type=int, help="threads to use, for all that is compared (default: every core)")
    parser.add_argument("--plot", metavar="FILE", help="draw the ladder to this file")
    parser.add_argument("--preset", action="append", choices=["tiny", "book", "gpt2"], help="step: which sizes (default: all)")
    parser.add_argument("--compile", action="store_true", help="step: also PyTorch compiled, which takes a minute a size")
    arguments = parser.parse_args()
    if arguments.plot and not os.path.isdir(os.path.dirname(arguments.plot) or "."):  # before minutes of measuring
        parser.error(f"--plot: there is no folder {os.path.dirname(arguments.plot)}; make it first.")
    if arguments.threads:
        for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(arguments.threads)  # read when the libraries are first imported, which is below
    if arguments.name in STEPS:
        import_module(f"kernels.bench.{arguments.name}").run(arguments)
        return
    from kernels.bench.measure import limits, plot

    measured = limits()
    print(measured)
    figures, unit, limit = import_module(f"kernels.bench.{arguments.name}").run(measured, arguments.size)
    if arguments.plot:
        plot(figures, unit, limit, arguments.plot)


if __name__ == "__main__":
    main()
