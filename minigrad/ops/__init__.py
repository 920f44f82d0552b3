"""Every differentiable operation, one file per family.

A file holds the Functions (forward and backward) and the functions that check their operands and call them. Most files also
hold a class with these functions as methods; Tensor (minigrad/tensor.py) inherits from all these classes.
"""
