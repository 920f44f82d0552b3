"""The switches that listings look up under torch.backends: other devices, and the precision of a GPU's matrix products."""

import typing as _typing
from typing import Any

from minigrad.devices import get_float32_matmul_precision, set_float32_matmul_precision


class _Absent:
    """A device or library that minigrad does not use."""

    __slots__ = ()

    def is_available(self) -> bool:
        """False."""
        return False

    def is_built(self) -> bool:
        """False."""
        return False


class _CuDNN(_Absent):
    """cuDNN's switches. minigrad's kernels are its own and always deterministic, so the switches change nothing."""

    __slots__ = ("allow_tf32", "benchmark", "deterministic", "enabled")

    def __init__(self) -> None:
        self.allow_tf32, self.benchmark, self.deterministic, self.enabled = False, False, True, False


class _Matmul:
    """allow_tf32: whether a GPU's matrix products may round their factors; see set_float32_matmul_precision."""

    __slots__ = ()

    @property
    def allow_tf32(self) -> bool:
        return get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, value: Any) -> None:
        set_float32_matmul_precision("high" if value else "highest")


class _CUDA:
    """torch.backends.cuda holds the switch `matmul.allow_tf32`."""

    __slots__ = ()
    matmul = _Matmul()


mps, cudnn, cuda = _Absent(), _CuDNN(), _CUDA()

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.backends has no {name!r}; it has cuda, cudnn and mps")
