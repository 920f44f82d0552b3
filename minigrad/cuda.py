"""The GPU under PyTorch's names: whether there is one, which one, and waiting for it.

minigrad uses one GPU, number 0. All random numbers are drawn on the CPU (random.py), so the GPU has no generator to seed.
"""

import typing as _typing
from typing import Any

import kernels
from minigrad.random import Generator

__all__ = ["current_device", "device_count", "empty_cache", "get_device_capability", "get_device_name", "is_available"]
__all__ += ["is_bf16_supported", "manual_seed", "manual_seed_all", "memory_allocated", "memory_reserved", "set_device"]
__all__ += ["synchronize"]


def is_available() -> bool:
    """Whether tensors can be moved to "cuda": CuPy is installed, and finds a driver and a GPU."""
    try:
        kernels.require("cuda")
    except kernels.DeviceError:
        return False
    return True


def device_count() -> int:
    """The number of GPUs that minigrad can use: 0 or 1."""
    return int(is_available())


def current_device() -> int:
    """The number of the GPU in use, 0."""
    kernels.require("cuda")
    return 0


def set_device(device: Any) -> None:
    """Choose a GPU; the only choice is number 0."""
    _check_number("set_device", device)
    kernels.require("cuda")


def get_device_name(device: Any = None) -> str:
    """The GPU's name, such as "NVIDIA A100-SXM4-80GB"."""
    _check_number("get_device_name", device)
    return kernels.require("cuda").cuda.runtime.getDeviceProperties(0)["name"].decode()


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The GPU's compute capability, such as (8, 0)."""
    _check_number("get_device_capability", device)
    digits = kernels.require("cuda").cuda.Device(0).compute_capability
    return int(digits[:-1]), int(digits[-1])


def is_bf16_supported() -> bool:
    """Whether the GPU multiplies bfloat16 numbers on its tensor cores; see set_float32_matmul_precision("medium")."""
    return is_available() and get_device_capability() >= (8, 0)


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has finished all work given to it, for example before reading a clock."""
    _check_number("synchronize", device)
    kernels.require("cuda").cuda.runtime.deviceSynchronize()


def empty_cache() -> None:
    """Give memory that no array uses back to the driver. Without a GPU this does nothing."""
    if is_available():
        kernels.require("cuda").get_default_memory_pool().free_all_blocks()


def memory_allocated(device: Any = None) -> int:
    """Bytes of GPU memory that arrays use now; 0 without a GPU."""
    _check_number("memory_allocated", device)
    return kernels.require("cuda").get_default_memory_pool().used_bytes() if is_available() else 0


def memory_reserved(device: Any = None) -> int:
    """Bytes of GPU memory that this process holds, in use or not; 0 without a GPU."""
    _check_number("memory_reserved", device)
    return kernels.require("cuda").get_default_memory_pool().total_bytes() if is_available() else 0


def manual_seed(seed: int) -> None:
    """Has no effect beyond checking the seed: tensors on the GPU get their random numbers from mg.manual_seed's generator."""
    Generator(seed)


def manual_seed_all(seed: int) -> None:
    """The same as manual_seed."""
    manual_seed(seed)


def _check_number(name: str, device: Any) -> None:
    if device not in (None, 0, "cuda", "cuda:0"):
        raise ValueError(f"cuda.{name}: expected GPU number 0, got {device!r}; minigrad uses one GPU")


if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.cuda has no {name!r}; it has {', '.join(__all__)}")
