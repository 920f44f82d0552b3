"""The default device of new tensors, and the precision of a GPU's matrix products."""

from typing import Any

import numpy as np

import kernels
from kernels import gpu

_default = "cpu"
_PRECISIONS = {"highest": "fp32", "high": "tf32", "medium": "bf16"}


def set_default_device(device: str) -> None:
    """Make new tensors, and the parameters of new modules, on `device` from now on: "cpu", "cuda" or "emulator".

    A tensor from from_numpy stays on the CPU, as in PyTorch, because it shares its array's memory.

    Raises:
        DeviceError: if the device is not available.
    """
    global _default
    kernels.to_device(np.zeros(1, np.float32), device)  # fails now rather than after the data has been prepared
    _default = device


def get_default_device() -> str:
    """The device of new tensors."""
    return _default


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how a GPU's matrix products round their float32 factors. Sums stay float32, and the CPU never rounds.

    Args:
        precision: "highest" (no rounding), "high" (TF32, 10 bits of mantissa) or "medium" (BF16, 7 bits); the last two use
            the tensor cores.
    """
    if precision not in _PRECISIONS:
        expected = ", ".join(map(repr, _PRECISIONS))
        raise ValueError(f"set_float32_matmul_precision: expected one of {expected}, got {precision!r}")
    gpu.set_matmul_precision(_PRECISIONS[precision])


def get_float32_matmul_precision() -> str:
    """The current precision, by its name in set_float32_matmul_precision."""
    return next(name for name, mode in _PRECISIONS.items() if mode == gpu.matmul_precision())


class device(str):  # PyTorch's name
    """device("cuda"): the name of a device; `with device("cuda"):` makes it the default inside the block."""

    _previous: tuple[str, ...] = ()  # a stack, since the same object may be entered again inside its block

    def __enter__(self) -> "device":
        self._previous = (*self._previous, _default)
        set_default_device(self)
        return self

    def __exit__(self, *_: Any) -> None:
        previous, self._previous = self._previous[-1], self._previous[:-1]
        set_default_device(previous)


def on_device(array: Any, device: str | None = None) -> Any:
    """The array on `device`; on the default device if None."""
    return kernels.to_device(array, device or _default)


def zeros(shape: tuple[int, ...], dtype: Any, device: str | None = None) -> Any:
    """An array of zeros, made on `device`; on the default device if None."""
    return kernels.require(device or _default).zeros(shape, dtype)
