"""The processor's part in it all: how many threads kernels use, and compiling them ahead on several cores.

Importing this imports the kernels' compiler (Numba); `import minigrad` alone does not.
"""

from kernels.launch import get_num_threads, set_num_threads
from kernels.precompile import precompile

__all__ = ["precompile", "get_num_threads", "set_num_threads"]
