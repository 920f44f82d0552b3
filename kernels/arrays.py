"""An array's device, transfers between devices, and the reverse of broadcasting."""

import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

# For annotations. An Array may be on any device: CuPy's and the emulated device's arrays have the interface of NumPy's.
Array: TypeAlias = np.ndarray
Arrays: TypeAlias = Sequence[Array]
Gradients: TypeAlias = tuple[Array | None, ...]  # for each input of a backward pass: an array, or None


class DeviceError(RuntimeError):
    """The device is not available on this machine; the message says what is missing."""


# A device is a module that makes arrays. The emulator's module has CuPy's interface.
DEVICES = {"cpu": "numpy", "cuda": "cupy", "emulator": "kernels.emulator.memory"}
_DEVICE_OF_MODULE = {module: device for device, module in DEVICES.items()}
_MODULE_OF_TYPE: dict[type, ModuleType] = {np.ndarray: np}  # a training step calls this thousands of times


def array_module(array: Array) -> Any:
    """The module that made the array: NumPy, CuPy or kernels.emulator.memory.

    `xp = array_module(x)` lets one expression serve all three.
    """
    module = _MODULE_OF_TYPE.get(type(array))
    if module is None:
        module = _MODULE_OF_TYPE[type(array)] = _module_of(array)
    return module


def _module_of(array: Array) -> ModuleType:
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    for name in ("cupy", "kernels.emulator.memory"):
        module = sys.modules.get(name)  # an array of this module exists only after the module was imported
        if module is not None and isinstance(array, module.ndarray):
            return module
    raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__name__}")


def device_of(array: Array) -> str:
    """The array's device: "cpu" for NumPy, "cuda" for CuPy, "emulator" for kernels.emulator.memory."""
    return _DEVICE_OF_MODULE[array_module(array).__name__]


def to_device(array: Array, device: str) -> Array:
    """The array on `device` ("cpu", "cuda" or "emulator"); the same object if it is already there.

    Raises:
        ValueError: if there is no such device.
        DeviceError: if this machine lacks CuPy, a driver or a GPU, or the emulator's g++.
    """
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(map(repr, DEVICES))}, got {device!r}")
    source_device = device_of(array)
    if device == source_device:
        return array
    source: Any = array
    on_host = source if source_device == "cpu" else source.get()
    return on_host if device == "cpu" else require(device).asarray(on_host)


def require(device: str) -> Any:
    """The module whose arrays live on `device`.

    Raises:
        DeviceError: if this machine lacks CuPy, the driver or a GPU, or the emulator's g++.
    """
    if device == "cuda":
        _require_gpu()
    if device == "emulator":
        from kernels.emulator import available

        if not available():
            raise DeviceError("device 'emulator' compiles the CUDA kernels with g++, which is not installed here")
    return import_module(DEVICES[device])


def _require_gpu() -> None:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError("device 'cuda' needs CuPy, which is not installed: pip install -e '.[gpu]'") from error
    missing = "no GPU was found"
    try:
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return
    except cupy.cuda.runtime.CUDARuntimeError as error:
        missing = f"the NVIDIA driver does not answer ({error})"
    raise DeviceError(f"device 'cuda' is not available: {missing}; choose --device cpu")


def address(array: Array) -> int:
    """The address of the array's first element, in bytes."""
    return array.__array_interface__["data"][0] if isinstance(array, (np.ndarray, np.generic)) else array.data.ptr


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays are the same view of the same memory."""
    return a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype and address(a) == address(b)


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` down to `shape`: the backward pass of NumPy's broadcasting.

    Broadcasting repeats an element along every stretched or prepended axis. Every copy influences the result, so the
    gradient is summed over exactly those axes. Returns `grad` itself if nothing was stretched.
    """
    if grad.shape == tuple(shape):
        return grad
    prepended = grad.ndim - len(shape)
    stretched = tuple(i + prepended for i, n in enumerate(shape) if n == 1 and grad.shape[i + prepended] != 1)
    return grad.sum(axis=tuple(range(prepended)) + stretched, keepdims=True).reshape(shape)
