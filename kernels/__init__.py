"""The arithmetic: a folder for each operation, a file for each device.

    kernels/softmax/reference.py   NumPy, any float dtype: the specification
    kernels/softmax/ladder.py      from the plainest loop to the fast kernel, one idea per rung
    kernels/softmax/cpu.py         Numba, float32: the same signatures, fast
    kernels/softmax/cuda.py        CUDA C (cuda.cu) on a GPU, or on the CPU through kernels/emulator

`serving` returns the kernels for an array, which are then called by name:

>>> import numpy as np, kernels
>>> x = np.array([[0.0, 0.0, 0.0, 0.0]])
>>> kernels.serving(x)
KernelSet('reference')
>>> kernels.serving(x).softmax_forward(x)
array([[0.25, 0.25, 0.25, 0.25]])

The array alone decides: "cuda" serves a CuPy array, "emulator" an array on the emulated device, "cpu" a float32 NumPy array,
and "reference" any other NumPy array. `with kernels.use("reference"):` chooses another set for all NumPy arrays.

Every set keeps the same contract, so any set can replace another:

- Arrays come in and arrays go out, in the dtype of the first float argument; float32 is never promoted.
- Inputs may be any strided view (a transposed or sliced array); no kernel writes to an input.
- `out=` names a buffer (or a tuple of buffers) for the result, and is returned. Without it the result is a new array.
- `accumulate=True` adds to `out` instead of overwriting it, for gradients that arrive in parts.
- Sizes of zero are allowed wherever NumPy allows them.

kernels/collectives is the exception: its operations belong to a group of processes and not to an array's device.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from kernels.arrays import DEVICES, DeviceError, array_module, device_of, require, same_memory, to_device, unbroadcast

__all__ = ["DEVICES", "OPERATIONS", "DeviceError", "KernelSet", "serving", "use"]
__all__ += ["array_module", "device_of", "require", "same_memory", "to_device", "unbroadcast"]

# All kernels, by folder.
OPERATIONS = {
    "matmul": ("matmul", "matmul_backward", "linear_forward", "linear_backward"),
    "softmax": ("softmax_forward", "softmax_backward", "log_softmax_forward", "log_softmax_backward"),
    "layernorm": ("layernorm_forward", "layernorm_backward"),
    "rms_norm": ("rms_norm_forward", "rms_norm_backward"),
    "rotary": ("rotary",),
    "swiglu": ("swiglu_forward", "swiglu_backward"),
    "attention": ("attention_forward", "attention_backward"),
    "block": ("block_forward", "block_with_cache", "block_backward"),
    "decode": ("Decoder", "quantize_rows"),
    "cross_entropy": ("cross_entropy_forward", "cross_entropy_backward"),
    "gelu": ("gelu_forward", "gelu_backward"),
    "embedding": ("embedding_forward", "embedding_backward"),
    "dropout": ("dropout",),
    "adamw": ("adamw_step", "square_sums", "global_norm", "scale_arrays"),
}
_FOLDER = {function: folder for folder, functions in OPERATIONS.items() for function in functions}


class KernelSet:
    """The kernels of one device, as attributes: `KernelSet("cpu").softmax_forward`.

    A module is imported on first use, so `import kernels` needs neither Numba nor CuPy.
    """

    def __init__(self, name: str, module: str, float32_only: bool = True):
        self.name, self.float32_only = name, float32_only
        self.module = module  # the file in each operation's folder

    def __repr__(self) -> str:
        return f"KernelSet({self.name!r})"

    def __getattr__(self, function: str) -> Callable:
        if function not in _FOLDER:
            names = ", ".join(sorted(_FOLDER))
            raise AttributeError(f"kernels: expected the name of a kernel, got {function!r}; the kernels are {names}")
        module = self.module
        if module == "cpu":
            from kernels.launch import DISABLED

            module = "reference" if DISABLED else module
        kernel = getattr(import_module(f"kernels.{_FOLDER[function]}.{module}"), function)
        setattr(self, function, kernel)  # the next access is a plain attribute
        return kernel


SETS = {
    "reference": KernelSet("reference", "reference", float32_only=False),
    "cpu": KernelSet("cpu", "cpu"),
    "cuda": KernelSet("cuda", "cuda"),
    "emulator": KernelSet("emulator", "cuda"),
}


class _Override(threading.local):
    """The set that `use` lets serve the NumPy arrays of a thread."""

    kernel_set: KernelSet | None = None


_override = _Override()


def serving(array: Any) -> KernelSet:
    """The kernels for this array's device and dtype.

    Raises:
        TypeError: if it is not an array, or the kernels do not take its float dtype.
    """
    device = device_of(array)
    if device != "cpu":
        kernel_set = SETS[device]
    elif _override.kernel_set is not None:
        kernel_set = _override.kernel_set
    else:
        kernel_set = SETS["cpu" if array.dtype == np.float32 else "reference"]
    if kernel_set.float32_only and array.dtype.kind == "f" and array.dtype != np.float32:
        raise TypeError(
            f"the {kernel_set.name} kernels: expected float32, got {array.dtype}; "
            "convert the array with .float(), or use the reference kernels (`with kernels.use('reference'):`)"
        )
    return kernel_set


@contextmanager
def use(name: str) -> Iterator[KernelSet]:
    """Let the set "reference", "cpu" or "emulator" serve this thread's NumPy arrays inside the with block.

    Raises:
        ValueError: for any other name, including "cuda", which cannot serve NumPy arrays.
    """
    if name == "cuda":
        raise ValueError("kernels.use: expected kernels for NumPy arrays, got 'cuda'; move the arrays to the GPU instead")
    if name not in SETS:
        raise ValueError(f"kernels.use: expected 'reference', 'cpu' or 'emulator', got {name!r}; choose one of them")
    before, _override.kernel_set = _override.kernel_set, SETS[name]
    try:
        yield SETS[name]
    finally:
        _override.kernel_set = before
