"""Every differentiable operation, one file per family.

A file holds the Functions (forward and backward), the functions that check their operands and call them, and a class with
those functions as methods. Tensor (minigrad/tensor.py) inherits from all these classes.
"""
