"""Seeded generators. All random numbers come from a generator that the caller passes, or from the default generator."""

from typing import Any

import numpy as np

from kernels import DEVICES


class Generator:
    """A seeded source of random numbers, whose state can be saved and restored.

    It draws on the CPU, so a seed gives the same numbers on every device. The attribute `numpy` is the
    numpy.random.Generator (PCG64) inside. `device` has no effect.
    """

    def __init__(self, seed: int = 0, device: str = "cpu"):
        if device not in DEVICES:
            raise ValueError(f"Generator: expected a device ({', '.join(DEVICES)}), got {device!r}")
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> "Generator":
        """Reset the generator to a seed."""
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"manual_seed: expected a whole number of at least 0, got {seed!r}")
        self.numpy = np.random.Generator(np.random.PCG64(int(seed)))
        return self

    def draw_seed(self) -> int:
        """A fresh 64-bit seed, for an operation that generates its own numbers (dropout)."""
        return int(self.numpy.integers(2**64, dtype=np.uint64))

    def get_state(self) -> Any:
        """The state as a dict that JSON can hold."""
        return self.numpy.bit_generator.state

    def set_state(self, state: Any) -> "Generator":
        """Restore a state from get_state()."""
        try:
            self.numpy.bit_generator.state = state
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"set_state: expected a state from get_state(), got another value: {error}") from error
        return self


default_generator = Generator(0)


def manual_seed(seed: int) -> Generator:
    """Seed the default generator, and return it."""
    return default_generator.manual_seed(seed)
