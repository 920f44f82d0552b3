"""Where new tensors are made unless told otherwise, and how a GPU rounds the factors of its matrix products."""

import numpy as np

import kernels
from kernels import gpu

_default = "cpu"
_PRECISIONS = {"highest": "fp32", "high": "tf32", "medium": "bf16"}


def set_default_device(device):
    """From now on new tensors, and the parameters of new modules, are made on `device`: "cpu", "cuda" or "emulator".

    (from_numpy, which shares the array's memory, stays on the CPU, as in PyTorch; as_tensor and tensor do not.)
    Raises DeviceError, in one sentence, where the device cannot be had.
    """
    global _default
    kernels.to_device(np.zeros(1, np.float32), device)  # asked now, not after the data has been prepared
    _default = device


def get_default_device():
    return _default


def set_float32_matmul_precision(precision):
    """How matrix products on a GPU round their float32 factors: "highest" (not at all), "high" (to TF32, 10 bits of mantissa)
    or "medium" (to BF16, 7 bits), the last two through its tensor cores. Sums stay float32. The CPU always takes the first."""
    if precision not in _PRECISIONS:
        raise ValueError(f"the precision of matrix products is one of {', '.join(_PRECISIONS)}, got {precision!r}")
    gpu.set_matmul_precision(_PRECISIONS[precision])


def get_float32_matmul_precision():
    return {ours: name for name, ours in _PRECISIONS.items()}[gpu.matmul_precision()]


class device(str):  # noqa: N801  (PyTorch's name)
    """device("cuda"): the name of a device, and inside `with device("cuda"):` the default one."""

    def __enter__(self):
        self.before = [*getattr(self, "before", ()), _default]  # a list: the same one may be entered again inside
        set_default_device(self)
        return self

    def __exit__(self, *_):
        set_default_device(self.before.pop())


def placed(array, device=None):
    """The array on `device`, on the default one where None."""
    return kernels.to_device(array, device or _default)


def zeros(shape, dtype, device=None):
    """An array of zeros, made on `device`, on the default one where None."""
    return kernels.require(device or _default).zeros(shape, dtype)
