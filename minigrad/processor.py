"""The processor's part in it all: how many threads kernels use, and compiling them ahead on several cores.

Importing this imports the kernels' compiler (Numba); `import minigrad` alone does not.
"""

from kernels.ahead import compile_ahead
from kernels.launch import get_num_threads, set_num_threads

__all__ = ["compile_ahead", "get_num_threads", "set_num_threads"]
