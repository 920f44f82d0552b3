"""What training needs compiled, compiled on several cores: see kernels/ahead.py."""

from kernels.ahead import compile_ahead

__all__ = ["compile_ahead"]
