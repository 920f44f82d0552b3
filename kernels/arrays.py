"""What every kernel needs to know about an array: where it lives, and how broadcasting is undone."""

import sys
from importlib import import_module

import numpy as np


class DeviceError(RuntimeError):
    """What was asked for cannot be had on this machine; the message says what is missing."""


# A device is a module that makes arrays. The emulator's has CuPy's interface over memory that a GPU might have.
DEVICES = {"cpu": "numpy", "cuda": "cupy", "emulator": "kernels.emulator.memory"}
_DEVICE_OF_MODULE = {module: device for device, module in DEVICES.items()}


_MODULE_OF_TYPE = {np.ndarray: np}  # asked a thousand times in a training step


def array_module(array):
    """numpy or cupy, whichever made the array: `xp = array_module(x)` lets one expression serve both."""
    module = _MODULE_OF_TYPE.get(type(array))
    if module is None:
        module = _MODULE_OF_TYPE[type(array)] = _module_of(array)
    return module


def _module_of(array):
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    for name in ("cupy", "kernels.emulator.memory"):
        module = sys.modules.get(name)  # an array of its can only exist once it was imported
        if module is not None and isinstance(array, module.ndarray):
            return module
    raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__name__}")


def device_of(array):
    """ "cpu" for a NumPy array, "cuda" for a CuPy one, "emulator" for one of kernels/emulator/memory.py."""
    return _DEVICE_OF_MODULE[array_module(array).__name__]


def to_device(array, device):
    """The array on `device` ("cpu", "cuda" or "emulator"); the very same array if it is there already.

    Raises DeviceError in one sentence where CuPy, a driver or a GPU is missing, or the emulator's g++.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(map(repr, DEVICES))}, got {device!r}")
    here = device_of(array)
    if device == here:
        return array
    array = array if here == "cpu" else array.get()
    return array if device == "cpu" else require(device).asarray(array)


def require(device):
    """The module whose arrays live on `device`; DeviceError, in one sentence, where the device cannot be had."""
    if device == "cuda":
        return require_cupy()
    if device == "emulator":
        from kernels import emulator

        if not emulator.available():
            raise DeviceError("device 'emulator' compiles the CUDA kernels with g++, which is not installed here")
    return import_module(DEVICES[device])


def require_cupy():
    """Import CuPy and make sure that a GPU answers; otherwise say in one sentence what is missing."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError("device 'cuda' needs CuPy, which is not installed: pip install -e '.[gpu]'") from error
    try:
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return cupy
        missing = "no GPU was found"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        missing = f"the NVIDIA driver does not answer ({error})"
    raise DeviceError(f"device 'cuda' cannot be used here: {missing}; choose --device cpu")


def same_memory(a, b):
    """Whether two arrays are the same view of the same memory."""
    if a.shape != b.shape or a.strides != b.strides or a.dtype != b.dtype:
        return False
    if isinstance(a, np.ndarray):
        return a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    return a.data.ptr == b.data.ptr


def unbroadcast(grad, shape):
    """Sum `grad` down to `shape`: the backward of NumPy's broadcasting.

    Broadcasting repeats an element along every stretched or prepended axis; each copy had its own influence on the result,
    and influences add, so the gradient is summed over exactly those axes. Returns `grad` itself where nothing was stretched.
    """
    if grad.shape == tuple(shape):
        return grad
    prepended = grad.ndim - len(shape)
    stretched = tuple(i + prepended for i, n in enumerate(shape) if n == 1 and grad.shape[i + prepended] != 1)
    return grad.sum(axis=tuple(range(prepended)) + stretched, keepdims=True).reshape(shape)
