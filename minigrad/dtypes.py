"""The dtypes of tensors, under PyTorch's names; each is a NumPy dtype."""

import numpy as np

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
int32, int64, bool_ = np.dtype("int32"), np.dtype("int64"), np.dtype("bool")


class _BFloat16:
    """A name that settings may mention; an error wherever an array would need it, because NumPy has no such dtype."""

    @property
    def dtype(self):  # NumPy asks for it when this is passed as a dtype
        raise TypeError("bfloat16: NumPy has no such dtype; use float32, or float16")

    def __repr__(self) -> str:
        return "bfloat16"


bfloat16 = _BFloat16()
