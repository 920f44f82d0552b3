"""How many threads the CPU's kernels use, and compiling them ahead: chapters reach kernels through minigrad alone.

These are not among minigrad's own names, because they import the kernels' compiler, Numba, which `import minigrad` leaves.
"""

from kernels.launch import get_num_threads, set_num_threads
from kernels.precompile import precompile

__all__ = ["precompile", "get_num_threads", "set_num_threads"]
