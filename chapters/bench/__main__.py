"""python -m chapters.bench NAME: see the package's description in __init__.py."""

import argparse
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from kernels.bench.contest import use_threads
from kernels.terminal import guard_streams, new_file, whole_number

MODULES = {"all": "survey", "table": "survey"}


def main():
    guard_streams()
    parser = argparse.ArgumentParser(prog="python -m chapters.bench", description="Measure whole models.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    step = commands.add_parser("step", help="training steps of five sizes beside PyTorch's, with a breakdown by kernel")
    decode = commands.add_parser("decode", help="GPT-2 124M, token by token, beside transformers")
    gpt2_step = commands.add_parser("gpt2_step", help="fine-tuning GPT-2 124M beside transformers, and in less memory")
    ranks = commands.add_parser("ranks", help="training steps that several processes share: time, waiting and memory")
    gpu = commands.add_parser(
        "gpu", help="check every CUDA kernel, train and measure, on a GPU or the emulator", add_help=False
    )
    everything = commands.add_parser("all", help="every comparison of the table, written to a file; needs PyTorch")
    table = commands.add_parser("table", help="print the tables of files that `all` wrote (default: ours)")
    for command in (step, decode, gpt2_step, everything):
        command.add_argument("--threads", type=whole_number(1), help="threads of every library (default: all cores)")
    step.add_argument(
        "--preset",
        action="append",
        choices=["main job", "tiny", "book", "gpt2", "llmc"],
        help="a size; repeatable (default: all)",
    )
    step.add_argument("--compile", action="store_true", help="also measure torch.compile, which takes a minute a size")
    decode.add_argument("--seconds", "--size", type=whole_number(1), default=20, help="seconds to measure for (default: 20)")
    decode.add_argument("--plot", type=new_file, metavar="FILE", help="draw the figures to this file")
    ranks.add_argument("--ranks", type=whole_number(2), nargs="+", default=[2], help="numbers of processes (default: 2)")
    ranks.add_argument("--preset", action="append", choices=["main job", "tiny", "book"], help="a model; repeatable")
    ranks.add_argument("--memory", action="store_true", help="measure the memory of GPT-2 124M, for each number of processes")
    everything.add_argument("--json", type=new_file, metavar="FILE", required=True, help="the file to write")
    table.add_argument("files", type=Path, nargs="*", default=sorted(Path(__file__).parent.glob("*.json")), metavar="FILE")
    gpu.add_argument("rest", nargs=argparse.REMAINDER)  # its own options are in kernels/check.py
    options, rest = parser.parse_known_args()
    if options.name == "gpu":
        import_module("chapters.bench.gpu").main(rest + options.rest)
        return
    parser.parse_args()  # refuses unknown options
    if options.name == "all" and find_spec("torch") is None:
        parser.error("bench all: expected PyTorch to compare with; install it with pip install -e '.[peers]'")
    use_threads(getattr(options, "threads", None))
    # Not at the top: Numba reads the number of threads when it is imported.
    module = import_module(f"chapters.bench.{MODULES.get(options.name, options.name)}")
    if options.name != "table":
        module.run(options)
        return
    try:
        module.print_table(options.files)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
