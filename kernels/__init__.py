"""The arithmetic: one folder an operation, one file a device, and the choice of which file serves an array.

    kernels/softmax/reference.py   NumPy, any float dtype: the specification
    kernels/softmax/cpu.py         Numba, float32: the same signatures, fast
    kernels/softmax/cuda.py        CUDA C (cuda.cu) on a GPU, or on the CPU through kernels/emulator

A caller asks `kernels.serving(x)` for the set of kernels that fits its arrays and calls functions on it by name:

    y = kernels.serving(x).softmax_forward(x)

The choice is made by the array alone: a CuPy array is served by `cuda`, a float32 NumPy array by `cpu`, any other NumPy
array by `reference`, and one on the device "emulator" (CUDA's kernels, run on the CPU) by `emulator`.
`with kernels.use("reference"):` forces a set.

The contract that every set keeps, so that one can stand in for another:

- Arrays come in, arrays go out, of the same dtype as the first float argument; float32 is never promoted.
- Inputs may be any strided view (a transposed or sliced array); no kernel writes to an input.
- `out=` names a buffer (or a tuple of buffers) to write the result into, and is returned. Without it the result is new.
- `accumulate=True` adds to `out` in place of overwriting it, as a gradient that arrives twice must be.
- Sizes of zero are allowed wherever NumPy allows them.
"""

from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from kernels.arrays import DEVICES, DeviceError, array_module, device_of, require, same_memory, to_device, unbroadcast

__all__ = ["DEVICES", "OPERATIONS", "DeviceError", "KernelSet", "serving", "use"]
__all__ += ["array_module", "device_of", "require", "same_memory", "to_device", "unbroadcast"]

# Every kernel there is, by the folder it lives in.
OPERATIONS = {
    "matmul": ("matmul", "matmul_backward", "linear_forward", "linear_backward"),
    "softmax": ("softmax_forward", "softmax_backward", "log_softmax_forward", "log_softmax_backward"),
    "layernorm": ("layernorm_forward", "layernorm_backward"),
    "rms_norm": ("rms_norm_forward", "rms_norm_backward"),
    "rotary": ("rotary",),
    "swiglu": ("swiglu_forward", "swiglu_backward"),
    "attention": ("attention_forward", "attention_backward"),
    "decode": ("Decoder", "quantize_rows"),
    "cross_entropy": ("cross_entropy_forward", "cross_entropy_backward"),
    "gelu": ("gelu_forward", "gelu_backward"),
    "embedding": ("embedding_forward", "embedding_backward"),
    "dropout": ("dropout",),
    "adamw": ("adamw_step", "global_norm", "scale_arrays"),
}
_FOLDER = {function: folder for folder, functions in OPERATIONS.items() for function in functions}


class KernelSet:
    """The kernels of one device, as attributes: `KernelSet("cpu").softmax_forward`.

    Modules are imported when first asked for, so that `import kernels` needs neither Numba nor CuPy. An operation that has
    no `cpu.py` is served by its `reference.py`; the CUDA sets have no such stand-in, since the arrays live elsewhere.
    """

    def __init__(self, name, module=None, floats=None):
        self.name = name
        self.module = module or name
        self.floats = floats  # the float dtypes this set serves, None for all

    def __repr__(self):
        return f"KernelSet({self.name!r})"

    def __getattr__(self, function):
        if function not in _FOLDER:
            raise AttributeError(f"there is no kernel named {function!r}; the kernels are {', '.join(sorted(_FOLDER))}")
        path = f"kernels.{_FOLDER[function]}.{self.module}"
        if self.module == "cpu" and find_spec(path) is None:
            path = f"kernels.{_FOLDER[function]}.reference"
        kernel = getattr(import_module(path), function)
        setattr(self, function, kernel)  # looked up once
        return kernel


SETS = {
    "reference": KernelSet("reference"),
    "cpu": KernelSet("cpu", floats=(np.dtype("float32"),)),
    "cuda": KernelSet("cuda", floats=(np.dtype("float32"),)),
    "emulator": KernelSet("emulator", module="cuda", floats=(np.dtype("float32"),)),
}
_forced = None


def serving(array):
    """The KernelSet for this array's device and dtype, or the forced one if it can take it."""
    device = device_of(array)
    if device != "cpu":
        chosen = SETS[device]
    elif _forced is not None:
        chosen = _forced
    else:
        chosen = SETS["cpu" if array.dtype == np.float32 else "reference"]
    if chosen.floats and array.dtype.kind == "f" and array.dtype not in chosen.floats:
        raise TypeError(
            f"the {chosen.name} kernels take {' or '.join(map(str, chosen.floats))} but the array is {array.dtype}; "
            "convert it with .float(), or use the reference kernels (`with kernels.use('reference'):`)"
        )
    return chosen


@contextmanager
def use(name):
    """Force the set `name` ("reference", "cpu" or "emulator") for every NumPy array inside the with block.

    A CuPy array is always served by "cuda", which `use` therefore also accepts and which changes nothing for NumPy arrays.
    """
    global _forced
    if name not in SETS:
        raise ValueError(f"there are no kernels named {name!r}; choose one of {', '.join(SETS)}")
    before, _forced = _forced, None if name == "cuda" else SETS[name]
    try:
        yield SETS[name]
    finally:
        _forced = before
