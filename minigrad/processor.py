"""The CPU kernels' threads, compiling ahead, starting processes: chapters reach kernels through minigrad alone.

These are not among minigrad's own names, because they import the kernels' compiler, Numba, which `import minigrad` leaves.
"""

from kernels.launch import get_num_threads, set_num_threads
from kernels.precompile import precompile, without_interrupt

__all__ = ["get_num_threads", "precompile", "set_num_threads", "without_interrupt"]
