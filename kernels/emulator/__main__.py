"""python -m kernels.emulator kernels/softmax/cuda.cu: a short lesson in CUDA, for a machine without a GPU."""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from kernels import emulator, gpu

FIRST = """\
extern "C" __global__ void reversed_in_blocks(const float* x, float* y) {
    __shared__ float tile[8];
    const int t = threadIdx.x;
    tile[t] = x[blockIdx.x * 8 + t];
    %s
    y[blockIdx.x * 8 + t] = tile[7 - t];
}
"""


def lesson(path):
    source = gpu.Source(path)
    print(f"""1. What a kernel is

{path} holds {len(source.signatures)} kernels: functions that a GPU runs once for every thread, thousands at a time.
A thread learns from threadIdx and blockIdx which one it is, and from that which numbers are its own.
""")
    for name, parameters in source.signatures.items():
        print(f"   {name}({', '.join(p.ctype + ' ' + p.name for p in parameters)})")
    print("""
2. Threads of a block share memory, and wait for one another

This kernel turns every 8 numbers round. A thread puts one number into the block's shared memory and takes another out:
""")
    print(FIRST % "__syncthreads();  // nobody reads before all have written")
    x = np.arange(16, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        right, wrong = Path(folder, "right.cu"), Path(folder, "wrong.cu")
        right.write_text(FIRST % "__syncthreads();")
        wrong.write_text(FIRST % "")
        y = np.zeros_like(x)
        with emulator.settings(checked=True, seed=1):
            gpu.Source(right).launch("reversed_in_blocks", (2,), (8,), x, y)
        print(f"   x = {x.astype(int).tolist()}\n   y = {y.astype(int).tolist()}\n")
        print("3. The same without __syncthreads\n\nThe threads run in no particular order. In three drawn orders:\n")
        for seed in (1, 2, 3):
            y = np.zeros_like(x)
            with emulator.settings(seed=seed):
                gpu.Source(wrong).launch("reversed_in_blocks", (2,), (8,), x, y)
            print(f"   y = {y.tolist()}")
        print("""
nan is what nobody had written yet. On a GPU this may come out right a thousand times. The checked mode does not wait for bad
luck: it knows what was written, by which thread, and which barriers stand between, and it stops at the first fault:
""")
        try:
            with emulator.settings(checked=True, seed=2):
                gpu.Source(wrong).launch("reversed_in_blocks", (2,), (8,), x, np.zeros_like(x))
        except emulator.LaunchError as error:
            print(f"   {error}")
    print(f"""
4. Look further

Change a line of {path} (leave out a barrier, read one place too far) and run
   python -m pytest tests/kernels/test_cuda_kernels.py
The emulator names the line, without a GPU: out of bounds, misaligned, unset, a race, a barrier that not all reach.
What it cannot tell is how fast the kernel is: for that, python -m kernels.check --device cuda on a machine that has one.""")


def main():
    parser = argparse.ArgumentParser(prog="python -m kernels.emulator", description="A short lesson in CUDA, without a GPU.")
    parser.add_argument("file", nargs="?", default="kernels/softmax/cuda.cu", help="the .cu file to look at")
    path = parser.parse_args().file
    if not emulator.available():
        raise SystemExit("the emulator compiles kernels with g++, which is not installed here")
    if not Path(path).exists():
        raise SystemExit(f"there is no file {path}; try kernels/softmax/cuda.cu")
    lesson(path)


if __name__ == "__main__":
    main()
