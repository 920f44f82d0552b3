"""Benchmarks of the kernels: ladders from the plainest loop to the engine's kernel, and tables beside NumPy and PyTorch.

    python -m kernels.bench matmul          # check and time the rungs of an operation that has a ladder.py
    python -m kernels.bench matmul --plot matmul.png
    python -m kernels.bench one_row         # one row times a matrix, as in text generation, in GB/s
    python -m kernels.bench bandwidth       # operations limited by memory, in GB/s
    mpiexec -n 2 python -m kernels.bench collectives        # messages between processes: latency and bandwidth

Whole models are measured by `python -m chapters.bench`.

Every contestant's figure is a median. The contestants take turns, so a busy moment of the machine slows all of them. Each
library runs in a process of its own (contest.py). Each comparison times the machine's limit (limits.py) in the same
rounds as the libraries.
"""
