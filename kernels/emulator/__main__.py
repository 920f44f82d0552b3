"""python -m kernels.emulator kernels/softmax/cuda.cu: a short lesson in CUDA, for a machine without a GPU."""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from kernels.emulator import LaunchError, available, settings
from kernels.gpu import Source
from kernels.terminal import fail, guard_streams

REVERSE = """\
extern "C" __global__ void reverse_blocks(const float* x, float* y) {
    __shared__ float tile[8];
    const int t = threadIdx.x;
    tile[t] = x[blockIdx.x * 8 + t];
    %s
    y[blockIdx.x * 8 + t] = tile[7 - t];
}
"""

KERNELS = """\
1. What a kernel is

{path} holds {n} kernels. A GPU runs a kernel once for every thread, thousands of threads at a time. A thread reads
its own number from threadIdx and blockIdx, and computes from it which elements to work on.
"""

SHARED = """
2. Threads of a block share memory, and wait for one another

This kernel reverses every 8 numbers. Each thread writes one number to the block's shared memory and reads another:
"""

UNORDERED = """\
3. The same kernel without __syncthreads

Threads run in no particular order. Three random orders give:
"""

CHECKED = """
nan marks memory that no thread has written yet. On a GPU the result may be right a thousand times. The checked mode does not
depend on luck. It records which thread wrote each word, and the barriers since, and stops at the first fault:
"""

NEXT = """
4. Try it yourself

Change a line of {path} (leave out a barrier, read one element too far) and run
   python -m pytest tests/kernels/test_cuda_kernels.py
The emulator names the line of an access out of bounds or misaligned, a read of unwritten memory, a race, or a barrier that some
threads never reach. It cannot measure speed: for that, run
   python -m kernels.check --device cuda
on a machine with a GPU."""


def lesson(path: str) -> None:
    source = Source(path)
    print(KERNELS.format(path=path, n=len(source.signatures)))
    for name, parameters in source.signatures.items():
        print(f"   {name}({', '.join(f'{p.ctype} {p.name}' for p in parameters)})")
    print(SHARED)
    print(REVERSE % "__syncthreads();  // every thread has written its number")
    x = np.arange(16, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        right = _reverse(Path(folder, "right.cu"), "__syncthreads();")
        wrong = _reverse(Path(folder, "wrong.cu"), "")
        print(f"   x = {x.astype(int).tolist()}\n   y = {_launch(right, x, checked=True, seed=1).astype(int).tolist()}\n")
        print(UNORDERED)
        for seed in (1, 2, 3):
            print(f"   y = {_launch(wrong, x, checked=False, seed=seed).tolist()}")
        print(CHECKED)
        try:
            _launch(wrong, x, checked=True, seed=2)
        except LaunchError as error:
            print(f"   {error}")
    print(NEXT.format(path=path))


def _reverse(path: Path, barrier: str) -> Source:
    path.write_text(REVERSE % barrier)
    return Source(path)


def _launch(source: Source, x: np.ndarray, checked: bool, seed: int) -> np.ndarray:
    y = np.zeros_like(x)
    with settings(checked=checked, seed=seed):
        source.launch("reverse_blocks", (2,), (8,), x, y)
    return y


def main() -> None:
    description = "A short lesson in CUDA, without a GPU: kernels, shared memory, barriers, and how the emulator finds a fault."
    guard_streams()
    parser = argparse.ArgumentParser(prog="python -m kernels.emulator", description=description)
    parser.add_argument("file", nargs="?", default="kernels/softmax/cuda.cu", help=".cu file whose kernels are listed")
    path = parser.parse_args().file
    if not available():
        fail("kernels.emulator: expected g++, which compiles the kernels; it is not installed here")
    if not Path(path).is_file():
        fail(f"kernels.emulator: expected a .cu file, got {path}; try kernels/softmax/cuda.cu")
    lesson(path)


if __name__ == "__main__":
    main()
