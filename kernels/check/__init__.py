"""One command for a machine with a GPU: is every kernel right, does training come out the same, and how fast is it?

    python -m kernels.check --device cuda --out DIR

In this order, writing DIR/check.json after every step, so that a stop loses nothing: every kernel on fresh random ragged shapes
against float64 NumPy; gradients against differences; 30 steps of the `book` GPT against the CPU's losses; times by the GPU's own
clock, beside cuBLAS, a plain copy, and PyTorch where it is installed; compute-sanitizer's four tools on small shapes; a table.

Needs numpy, numba and cupy, and nothing from the network. `--device emulator` runs the same steps on a machine without a GPU, small,
and measures nothing: it is there so that the command cannot fail on a typo on the day it matters.
"""
