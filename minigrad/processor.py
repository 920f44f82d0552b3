"""The CPU kernels' threads and compiler, so that chapters reach the kernels through minigrad alone.

`import minigrad` leaves this module out, because it imports Numba.
"""

from kernels.launch import cpu_name, get_num_threads, set_num_threads
from kernels.precompile import precompile, without_interrupt

__all__ = ["cpu_name", "get_num_threads", "precompile", "set_num_threads", "without_interrupt"]
